//! Readers of messages, fed with what a broken or hostile daemon may send. What libvirtd 9.0 really
//! sent is where the mutations start.

use proptest::prelude::*;

use super::frame::{self, LONGEST};
use super::messages::{self, DomainState, Life, News, event};
use super::xdr::XdrError;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The domain `test` of the test driver, running.
const TEST: &str = "0000000474657374 6695eb01f6a4830479aa97f2502e193f 00000001";

/// Bodies as they were seen on the socket, each with the procedure that they answer or tell.
fn seen() -> Vec<(u32, Vec<u8>)> {
    let with_callback = |tail: &str| bytes(&format!("00000000 {TEST} {tail}"));
    vec![
        (66, bytes("00000001 00000000")),
        (212, bytes("00000001 00000000")),
        (273, bytes(&format!("00000001 {TEST} 00000001"))),
        (283, bytes("00000001 0000000764656661756c7400 dd8fe8846c02601e7551cca97df1c5df 00000001")),
        (
            353,
            bytes(
                "00000001 00000008746573746e657430 00000001 0000001161613a62623a63633a64643a65653a
                 6666000000 00000001 00000000 0000000d3139322e3136382e3132322e33000000 00000018",
            ),
        ),
        (
            341,
            bytes(
                "00000001 00000006766972627230 0000 000000006566ffaa 00000000
                 00000001 0000001135323a35343a30303a30303a30303a3031000000 00000000
                 0000000e3139322e3136382e3132322e3131 0000 00000018 00000000 00000000 00000001",
            ),
        ),
        (event::LIFE, with_callback("00000003 00000000")),
        (event::AGENT, with_callback("00000001 00000001")),
        (event::METADATA, with_callback("00000002 00000001 0000000475726e3a")),
        (event::DEVICE_ADDED, with_callback("00000004 6e657430")),
        (event::REBOOT, with_callback("")),
    ]
}

/// An error as it was seen on the socket.
const REFUSED: &str = "
    00000003 00000013 00000001 0000005074686973206675 6e6374696f6e206973206e6f7420737570706f72746564
    2062792074686520636f6e6e656374696f6e206472697665723a207669724e6574776f726b476574444843504c656173
    6573 00000002 00000000";

/// Feeds a body to every reader: none may panic, and what it makes is bounded by what it got.
fn read_as_everything(body: &[u8]) {
    ignore(messages::auths(body));
    ignore(messages::nothing(body));
    ignore(messages::number(body));
    ignore(messages::state(body));
    ignore(messages::complaint(body));
    let fits = |count: usize| assert!(count <= body.len());
    fits(messages::domains(body).map_or(0, |all| all.len()));
    fits(messages::networks(body).map_or(0, |all| all.len()));
    fits(messages::addressed(body).map_or(0, |all| all.len()));
    fits(messages::leases(body).map_or(0, |all| all.len()));
    // A byte that is no UTF-8 becomes a character of three.
    assert!(messages::xml(body).map_or(0, |text| text.len()) <= body.len() * 3);
    for procedure in 310..=390 {
        ignore(messages::news(procedure, body));
    }
}

/// Whatever it is, it is no panic.
fn ignore<T>(_read: Result<T, XdrError>) {}

#[test]
fn what_libvirtd_sends_is_understood() {
    let all = seen();
    let body = |procedure: u32| {
        let found = all.iter().find(|(one, _)| *one == procedure);
        found.map(|(_, body)| body.as_slice()).unwrap()
    };
    assert_eq!(messages::auths(body(66)), Ok(vec![messages::Auth::None]));
    assert_eq!(messages::state(body(212)), Ok(DomainState::Running));
    let domains = messages::domains(body(273)).unwrap();
    assert_eq!((domains[0].name.as_slice(), domains[0].id), (&b"test"[..], 1));
    assert_eq!(domains[0].uuid.to_string(), "6695eb01-f6a4-8304-79aa-97f2502e193f");
    assert_eq!(messages::networks(body(283)).unwrap()[0].name, b"default");
    let addressed = messages::addressed(body(353)).unwrap();
    assert_eq!(addressed[0].mac.to_string(), "aa:bb:cc:dd:ee:ff");
    assert_eq!(addressed[0].address.to_string(), "192.168.122.3");
    let lease = messages::leases(body(341)).unwrap()[0];
    assert_eq!(
        (lease.address.to_string().as_str(), lease.expires),
        ("192.168.122.11", 0x6566_ffaa)
    );
    let domain = domains[0].clone();
    let news = |procedure: u32| messages::news(procedure, body(procedure)).unwrap().unwrap();
    let suspended = News::Life { domain: domain.clone(), life: Life::Suspended };
    assert_eq!(news(event::LIFE), suspended);
    let connected = News::Agent { domain: domain.clone(), connected: true };
    assert_eq!(news(event::AGENT), connected);
    for changed in [event::METADATA, event::DEVICE_ADDED, event::REBOOT] {
        assert_eq!(news(changed), News::Changed { domain: domain.clone() });
    }
    let refused = messages::complaint(&bytes(REFUSED)).unwrap();
    assert_eq!(refused.code, messages::code::NO_SUPPORT);
    assert!(refused.message.starts_with("this function is not supported"), "{refused}");
}

#[test]
fn what_is_cut_off_or_goes_on_is_an_error() {
    for (procedure, body) in seen() {
        let read = |body: &[u8]| match procedure {
            66 => messages::auths(body).map(drop),
            212 => messages::state(body).map(drop),
            273 => messages::domains(body).map(drop),
            283 => messages::networks(body).map(drop),
            341 => messages::leases(body).map(drop),
            353 => messages::addressed(body).map(drop),
            other => messages::news(other, body).map(drop),
        };
        assert_eq!(read(&body), Ok(()), "{procedure}");
        for length in 0..body.len() {
            assert!(read(&body[..length]).is_err(), "{procedure} cut at {length}");
        }
        let longer: Vec<u8> = body.iter().copied().chain([0; 4]).collect();
        assert!(read(&longer).is_err(), "{procedure} goes on");
    }
}

#[test]
fn an_errors_text_is_bounded_and_of_one_line() {
    let long = format!("00000001 00000000 00000001 00000fa0 {}", "0a".repeat(4000));
    let complaint = messages::complaint(&bytes(&long)).unwrap();
    assert_eq!(complaint.message.chars().count(), 300);
    assert!(!complaint.message.contains('\n'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_as_everything(&body);
    }

    #[test]
    fn no_change_of_a_real_message_makes_a_reader_panic(
        which in 0..11_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let (_, mut body) = seen().swap_remove(which);
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if cuts {
            body.truncate(cut.index(body.len()));
        }
        read_as_everything(&body);
    }

    #[test]
    fn no_stream_of_bytes_makes_the_framing_panic_or_reserve_much(
        stream in proptest::collection::vec(any::<u8>(), 0..200),
        length in prop_oneof![Just(None), (0..LONGEST * 2).prop_map(Some)],
    ) {
        let mut bytes = stream;
        if let Some(length) = length {
            bytes.splice(..bytes.len().min(4), length.to_be_bytes());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let mut from = &bytes[..];
        let read = runtime.unwrap().block_on(frame::read(&mut from));
        if let Ok(frame) = read {
            prop_assert!(frame.body.len() <= bytes.len());
            prop_assert!(frame.body.capacity() <= bytes.len() * 2 + 64 * 1024);
        }
    }
}

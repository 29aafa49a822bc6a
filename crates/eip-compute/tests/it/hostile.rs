//! Daemons that hang, lie, flood, or are none.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eip_compute::Sight;
use eip_compute::libvirt::UserPlaces;
use eip_model::{AddressSource, InstanceState, Unusable};
use eip_testkit::eventually;

use crate::fake::{
    Answer, Domain, Fake, Gate, World, agent_came_or_went, frame, life, procedure, reference, text,
    uint,
};
use crate::follow::{A_MOMENT, AT_ONCE, Followed, SOON, named};

/// How long a daemon that says nothing is given.
const PATIENCE: Duration = Duration::from_secs(9);

const RUNNING: i32 = 1;
const PAUSED: i32 = 3;
const SHUT_OFF: i32 = 5;
const STARTED: i32 = 2;
const RESUMED: i32 = 4;
const STOPPED: i32 = 5;

const NETWORK: &str = "<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
    <ip address='192.168.122.1' prefix='24'><dhcp/></ip></network>";

fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

fn vm(number: u8, agent: &str) -> Domain {
    let xml = format!(
        "<domain id='{number}'><name>vm-{number}</name><devices>
           <interface type='network'><mac address='{}'/><source network='default'/></interface>
           <channel><target name='org.qemu.guest_agent.0' state='{agent}'/></channel>
         </devices></domain>",
        mac(number)
    );
    Domain { number, state: RUNNING, xml }
}

fn world(domains: Vec<Domain>) -> World {
    let networks = vec![("default", NETWORK.to_owned())];
    let leases = vec![
        ("52:54:00:00:00:01", "192.168.122.11"),
        ("52:54:00:00:00:02", "192.168.122.12"),
        ("52:54:00:00:00:03", "192.168.122.13"),
    ];
    World { domains, networks, leases, ..World::default() }
}

/// Follows a daemon that is honest but for one answer, and returns why that was given up.
fn why_lost(number: u32, answer: impl Fn() -> Answer + Send + Sync + 'static) -> String {
    let fake = Fake::start(world(vec![vm(1, "disconnected")]), move |one, _, _| {
        (one == number).then(&answer)
    });
    Followed::start(&fake.uri()).until_unreachable(PATIENCE)
}

#[test]
fn a_daemon_that_hangs_is_given_up_whether_before_or_within_an_answer() {
    for number in [procedure::AUTHS, procedure::DOMAINS, procedure::DOMAIN_XML] {
        let never = why_lost(number, || Answer::Never);
        assert!(never.contains("no answer within 5 s"), "{never}");
        let part = frame(0x2000_8086, number, 1, 1, 0, &[0; 400])[..100].to_vec();
        let within = why_lost(number, move || Answer::Raw(part.clone()));
        assert!(within.contains("5 s"), "{within}");
    }
}

#[test]
fn frames_that_are_cut_too_long_or_of_another_protocol_are_said() {
    let whole = frame(0x2000_8086, procedure::DOMAINS, 1, 1, 0, &[0; 400]);
    let cut = why_lost(procedure::DOMAINS, move || Answer::RawAndGone(whole[..100].to_vec()));
    assert!(cut.contains("within a message"), "{cut}");
    for length in [0, 27, 0x0200_0001, u32::MAX] {
        let long = why_lost(procedure::DOMAINS, move || Answer::Raw(uint(length)));
        assert!(long.contains(&format!("a message of {length} bytes")), "{long}");
    }
    let foreign = frame(0x1234_5678, procedure::DOMAINS, 1, 1, 0, &[]);
    let foreign = why_lost(procedure::DOMAINS, move || Answer::Raw(foreign.clone()));
    assert!(foreign.contains("another protocol"), "{foreign}");
}

#[test]
fn answers_that_make_no_sense_are_said() {
    for number in [procedure::AUTHS, procedure::DOMAINS, procedure::STATE, procedure::NETWORKS] {
        for body in [vec![], uint(u32::MAX), vec![0xff; 64], vec![0; 3]] {
            let why = why_lost(number, move || Answer::Body(body.clone()));
            assert!(why.contains("makes no sense"), "{number}: {why}");
        }
    }
}

#[test]
fn what_is_no_daemon_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let uri = |name: &str| format!("qemu+unix:///system?socket={}", at(name).display());
    let none = Followed::start(&uri("none")).until_unreachable(SOON);
    assert!(none.contains("none") && none.contains("Is the daemon running?"), "{none}");
    std::fs::write(at("file"), "not a socket").unwrap();
    let file = Followed::start(&uri("file")).until_unreachable(SOON);
    assert!(file.contains("cannot reach"), "{file}");
    let listener = UnixListener::bind(at("http")).unwrap();
    std::thread::spawn(move || {
        // Closed too soon, it would be known as gone before it is known as another's.
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
            open.push(stream);
        }
    });
    let http = Followed::start(&uri("http")).until_unreachable(SOON);
    assert!(http.contains("is it libvirt's socket?"), "{http}");
}

#[test]
fn a_daemon_that_does_not_let_us_in_is_said_with_what_to_do() {
    let fake = Fake::start(World::default(), |number, _, _| match number {
        procedure::AUTHS => Some(Answer::Body([uint(1), uint(2)].concat())),
        procedure::POLKIT => Some(Answer::Refused(94, "no polkit agent available")),
        _ => None,
    });
    let why = Followed::start(&fake.uri()).until_unreachable(SOON);
    assert!(why.contains("polkit agent") && why.contains("group libvirt"), "{why}");
}

#[test]
fn every_ping_is_answered() {
    let fake = Fake::start(world(vec![vm(1, "none")]), |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |_| true);
    for _ in 0..3 {
        fake.ping();
    }
    eventually("the answers", AT_ONCE, || (fake.world.lock().unwrap().pongs == 3).then_some(()));
}

#[test]
fn agents_that_hang_hold_up_neither_the_list_nor_each_other() {
    let mut world = world((1..=3).map(|number| vm(number, "connected")).collect());
    world.agents = vec![(1, None), (2, Some(("52:54:00:00:00:02", "192.168.122.99"))), (3, None)];
    let fake = Fake::start(world, |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    let start = Instant::now();
    let source = |number: u8, source| {
        followed.until_one(&format!("vm-{number}"), Duration::from_secs(4), |one| {
            one.address_source == Some(source) && one.target().is_some()
        })
    };
    source(1, AddressSource::Lease);
    source(3, AddressSource::Lease);
    let told = source(2, AddressSource::Agent);
    assert_eq!(told.private_ip, Some([192, 168, 122, 99].into()));
    assert!(start.elapsed() < Duration::from_secs(4));
    // Both places are taken by those that hang; the rest goes on.
    fake.lives(3, SHUT_OFF, STOPPED);
    followed.until_state("vm-3", InstanceState::Stopped);
    fake.lives(3, RUNNING, STARTED);
    followed.until_state("vm-3", InstanceState::Running);
    followed.is_unmoved_by(A_MOMENT, || {});
    assert_eq!(fake.world.lock().unwrap().agent_questions, 3);
}

#[test]
fn an_agent_is_heard_when_it_comes_and_asked_again_when_a_lease_says_otherwise() {
    let mut world = world(vec![vm(1, "disconnected")]);
    world.agents = vec![(1, Some(("52:54:00:00:00:01", "192.168.122.99")))];
    let fake = Fake::start(world, |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    let at = |last: u8, source| {
        followed.until_one("vm-1", AT_ONCE, |one| {
            one.private_ip == Some([192, 168, 122, last].into())
                && one.address_source == Some(source)
        })
    };
    followed.until_one("vm-1", SOON, |one| one.address_source == Some(AddressSource::Lease));
    assert_eq!(fake.world.lock().unwrap().agent_questions, 0);
    fake.world.lock().unwrap().domains = vec![vm(1, "connected")];
    fake.tell(procedure::AGENT_CAME_OR_WENT, &agent_came_or_went(1, true));
    at(99, AddressSource::Agent);
    assert_eq!(fake.world.lock().unwrap().agent_questions, 1);
    {
        let mut world = fake.world.lock().unwrap();
        world.leases[0].1 = "192.168.122.50";
        world.agents[0].1 = Some(("52:54:00:00:00:01", "192.168.122.50"));
    }
    at(50, AddressSource::Agent);
    fake.world.lock().unwrap().domains = vec![vm(1, "disconnected")];
    fake.tell(procedure::AGENT_CAME_OR_WENT, &agent_came_or_went(1, false));
    at(50, AddressSource::Lease);
}

#[test]
fn a_death_is_believed_while_the_daemon_hangs() {
    let fake = Fake::start(world(vec![vm(1, "none"), vm(2, "none")]), |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    followed.until("both", SOON, |all| (all.instances.len() == 2).then_some(()));
    // It answers nothing any more, as if everything in it waited for one lock.
    let held = fake.world.lock().unwrap();
    fake.tell(procedure::LIFE, &life(1, STOPPED));
    followed.until_state("vm-1", InstanceState::Stopped);
    let why = followed.until_unreachable(PATIENCE);
    assert!(why.contains("no question for 5 s"), "{why}");
    fake.tell(procedure::LIFE, &life(2, STOPPED));
    eventually("the second death to be known", AT_ONCE, || match followed.now() {
        Sight::Unreachable { known: Some(known), .. } => named(&known, "vm-2")
            .is_some_and(|one| one.state == InstanceState::Stopped)
            .then_some(()),
        Sight::Unseen | Sight::Listed(_) | Sight::Unreachable { .. } => None,
    });
    drop(held);
    // It is looked at again, and they run: what was told was a lie.
    followed.until_state("vm-1", InstanceState::Running);
    followed.until_state("vm-2", InstanceState::Running);
}

#[test]
fn an_answer_from_before_a_death_does_not_bring_anybody_back() {
    let gates = [Gate::default(), Gate::default()];
    let asked = Arc::new(AtomicUsize::new(usize::MAX));
    let (held, count) = (gates.clone(), Arc::clone(&asked));
    let fake = Fake::start(world(vec![vm(1, "none")]), move |number, _, world| {
        if number != procedure::STATE || count.load(Ordering::Relaxed) == usize::MAX {
            return None;
        }
        let gate = held.get(count.fetch_add(1, Ordering::Relaxed))?.clone();
        let state = world.domains[0].state.cast_unsigned();
        Some(Answer::Held(gate, [uint(state), uint(0)].concat()))
    });
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |one| one.state == InstanceState::Running);
    asked.store(0, Ordering::Relaxed);
    let questions = |wanted: usize| {
        eventually("the question", AT_ONCE, || {
            (asked.load(Ordering::Relaxed) == wanted).then_some(())
        });
    };
    fake.tell(procedure::REBOOT, &[uint(0), reference(1)].concat());
    questions(1);
    fake.lives(1, SHUT_OFF, STOPPED);
    followed.until_state("vm-1", InstanceState::Stopped);
    followed.is_unmoved_by(A_MOMENT / 2, || {
        gates[0].open();
        questions(2);
    });
    followed.is_unmoved_by(A_MOMENT / 2, || gates[1].open());
}

#[test]
fn news_that_make_no_sense_or_never_end_lead_to_a_new_list() {
    let fake = Fake::start(world(vec![vm(1, "none")]), |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |_| true);
    fake.tell(procedure::LIFE, &[0xff; 40]);
    let why = followed.until_unreachable(AT_ONCE);
    assert!(why.contains("makes no sense"), "{why}");
    followed.until_one("vm-1", SOON, |one| one.state == InstanceState::Running);
    let flood: Vec<u8> =
        std::iter::repeat_with(|| frame(0x2000_8086, procedure::LIFE, 2, 1, 0, &life(1, STARTED)))
            .take(100_000)
            .flatten()
            .collect();
    fake.send(&flood);
    fake.lives(1, SHUT_OFF, STOPPED);
    followed.until_one("vm-1", SOON, |one| one.state == InstanceState::Stopped);
    // Of what is unknown nothing follows.
    fake.tell(9999, &[1, 2, 3]);
    fake.send(&frame(0x2000_8086, 9999, 7, 1, 0, &[]));
    fake.lives(1, RUNNING, STARTED);
    followed.until_state("vm-1", InstanceState::Running);
}

#[test]
fn xml_that_cannot_be_read_concerns_its_own_domain_alone() {
    let laughs = "<!DOCTYPE d [<!ENTITY a 'ha'>]><domain><name>&a;</name></domain>";
    let broken = Domain { number: 2, state: RUNNING, xml: laughs.to_owned() };
    let fake = Fake::start(world(vec![vm(1, "none"), broken]), |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-2", SOON, |one| one.unusable == Some(Unusable::BadMetadata));
    followed.until_one("vm-1", SOON, |one| one.target().is_some());
}

#[test]
fn a_daemon_that_refuses_everything_about_one_domain_is_followed_for_the_others() {
    let domains = vec![vm(1, "none"), vm(2, "none")];
    let fake = Fake::start(world(domains), |number, body, _| {
        let forbidden = number == procedure::STATE && body.starts_with(&reference(2));
        forbidden.then_some(Answer::Refused(88, "access denied"))
    });
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |one| one.target().is_some());
    followed.is_unmoved_by(PATIENCE / 2, || {});
}

#[test]
fn networks_are_asked_for_at_their_own_daemon_where_the_driver_s_has_none() {
    let fake = Fake::start(world(vec![vm(1, "none")]), |_, _, _| None);
    let runtime_dir = fake.folder.path().join("run");
    let sockets = runtime_dir.join("libvirt");
    std::fs::create_dir_all(&sockets).unwrap();
    // One is left of a daemon that is not run any more.
    drop(UnixListener::bind(sockets.join("libvirt-sock")).unwrap());
    fake.listen(&sockets.join("virtqemud-sock"), |number, _, _| {
        let network = [procedure::NETWORKS, procedure::NETWORK_XML, procedure::LEASES];
        network.contains(&number).then_some(Answer::Refused(3, "not supported"))
    });
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    fake.listen(&sockets.join("virtnetworkd-sock"), move |number, body, _| {
        let wrong = number == procedure::OPEN
            && !body.ends_with(&[text("network:///session"), uint(0)].concat());
        match is_down.load(Ordering::Relaxed) {
            true => Some(Answer::RawAndGone(Vec::new())),
            false => wrong.then_some(Answer::Refused(5, "no such driver")),
        }
    });
    let user = UserPlaces { runtime_dir: Some(runtime_dir), home: None };
    let followed = Followed::start_for("qemu:///session", &user, None);
    let one = followed.until_one("vm-1", SOON, |one| one.target().is_some());
    assert_eq!(one.address_source, Some(AddressSource::Lease));
    // When it has gone, what was known of networks is kept.
    down.store(true, Ordering::Relaxed);
    std::fs::remove_file(sockets.join("virtnetworkd-sock")).unwrap();
    fake.world.lock().unwrap().domains.push(vm(2, "none"));
    fake.tell(procedure::LIFE, &life(2, STARTED));
    followed.until_one("vm-2", AT_ONCE, |one| one.target().is_some());
    followed.is_unmoved_by(A_MOMENT * 5, || {});
}

#[test]
fn a_domain_that_no_news_told_of_is_found_by_the_list() {
    let fake = Fake::start(world(vec![vm(1, "none")]), |_, _, _| None);
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |_| true);
    fake.world.lock().unwrap().domains = vec![vm(2, "none")];
    followed.until("the other one", Duration::from_secs(4), |all| {
        (named(all, "vm-2").is_some() && named(all, "vm-1").is_none()).then_some(())
    });
    eventually("it to be told as listed", SOON, || {
        matches!(followed.now(), Sight::Listed(_)).then_some(())
    });
}

#[test]
fn a_list_from_before_a_start_does_not_drop_who_has_started() {
    let gate = Gate::default();
    let (asked, held) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let count = Arc::clone(&asked);
    let fake = Fake::start(world(vec![vm(1, "none")]), move |number, _, _| {
        // The first list is honest, the second is held back, and later ones never come.
        match (number == procedure::DOMAINS).then(|| count.fetch_add(1, Ordering::Relaxed)) {
            None | Some(0) => None,
            Some(1) => Some(Answer::Held(held.clone(), [uint(1), reference(1), uint(1)].concat())),
            Some(_) => Some(Answer::Never),
        }
    });
    let followed = Followed::start(&fake.uri());
    followed.until_one("vm-1", SOON, |one| one.target().is_some());
    eventually("a second list to be asked for", Duration::from_secs(4), || {
        (asked.load(Ordering::Relaxed) == 2).then_some(())
    });
    fake.world.lock().unwrap().domains.push(vm(2, "none"));
    fake.tell(procedure::LIFE, &life(2, STARTED));
    followed.until_one("vm-2", AT_ONCE, |one| one.target().is_some());
    followed.is_unmoved_by(A_MOMENT, || gate.open());
}

#[test]
fn a_look_that_is_refused_once_is_repeated_soon() {
    let is_locked = Arc::new(AtomicBool::new(false));
    let locked = Arc::clone(&is_locked);
    // So many that the one in question is hardly looked at by chance.
    let fake =
        Fake::start(world((1..=80).map(|n| vm(n, "none")).collect()), move |one, body, _| {
            let is_it = one == procedure::STATE && body.starts_with(&reference(40));
            (is_it && locked.swap(false, Ordering::Relaxed))
                .then_some(Answer::Refused(38, "cannot acquire state change lock"))
        });
    let followed = Followed::start(&fake.uri());
    followed.until("all", SOON, |all| (all.instances.len() == 80).then_some(()));
    is_locked.store(true, Ordering::Relaxed);
    // That it was paused is seen by a look alone.
    fake.lives(40, PAUSED, RESUMED);
    followed.until_one("vm-40", Duration::from_secs(4), |one| one.state == InstanceState::Paused);
    assert!(!is_locked.load(Ordering::Relaxed), "it was refused before");
}

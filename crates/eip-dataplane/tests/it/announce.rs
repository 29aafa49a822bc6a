//! What neighbours on the link are told, and what they are answered.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use eip_dataplane::{Announce, Options};
use eip_testkit::eventually;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::world::{CLIENT, SOON, WEB_1, WEB_2, World, ask, desired, eip, hears_nothing};

/// One ARP frame that the client saw come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    at: Instant,
    operation: u8,
    sender_mac: [u8; 6],
    source_mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

/// Has the client note every ARP frame of the host from now on.
pub(crate) fn listen(world: &World) -> Receiver<Frame> {
    let (tell, heard) = channel();
    let host = mac(world);
    let socket = world.client.run(|| {
        let every = Some(SockProtocol::EthAll);
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, every);
        let socket = socket.expect("a socket that hears frames");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a limit");
        socket
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let frame = recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty());
            let length = frame.unwrap_or_default();
            let ours = length >= 42 && buffer[12..14] == [8, 6] && buffer[6..12] == host;
            let address = |at: usize| Ipv4Addr::from(*buffer[at..].first_chunk::<4>().expect("4"));
            let mac = |at: usize| *buffer[at..].first_chunk::<6>().expect("6");
            let frame = Frame {
                at: Instant::now(),
                operation: buffer[21],
                source_mac: mac(6),
                sender_mac: mac(22),
                sender: address(28),
                target: address(38),
            };
            if length > 0 && !ours {
                continue;
            }
            // Nothing heard for a while is told, too: that the test is over must be noticed.
            if ours && tell.send(frame).is_err() {
                return;
            }
        }
    });
    heard
}

fn mac(world: &World) -> [u8; 6] {
    let shown = world.host.sh("ip -br link show u0");
    let text = shown.split_whitespace().nth(2).expect("a MAC address");
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    bytes.collect::<Vec<_>>().try_into().expect("six bytes")
}

pub(crate) fn next(heard: &Receiver<Frame>, about: Ipv4Addr) -> Frame {
    let deadline = Instant::now() + 4 * SOON;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let frame = heard.recv_timeout(left).expect("an announcement in time");
        if frame.sender == about {
            return frame;
        }
    }
}

/// Counts the frames about an address until no more of them can come.
pub(crate) fn frames_about(heard: &Receiver<Frame>, about: Ipv4Addr) -> usize {
    next(heard, about);
    let (mut count, over) = (1, Instant::now() + Duration::from_millis(2500));
    while let Ok(frame) = heard.recv_timeout(over.saturating_duration_since(Instant::now())) {
        count += usize::from(frame.sender == about);
    }
    count
}

#[test]
fn an_address_that_comes_is_announced_in_both_forms_at_once_and_three_times_more() {
    let world = World::with(&[]);
    let heard = listen(&world);
    let applied = world.apply(&[(eip(1), WEB_1)]);
    assert_eq!(applied.announced, 1);
    let frames: Vec<Frame> = (0..8).map(|_| next(&heard, eip(1))).collect();
    for (number, frame) in frames.iter().enumerate() {
        // Sender and target: else it is no announcement of this address.
        assert_eq!((frame.sender, frame.target), (eip(1), eip(1)));
        assert_eq!((frame.source_mac, frame.sender_mac), (mac(&world), mac(&world)));
        assert_eq!(usize::from(frame.operation), number % 2 + 1, "{frames:?}");
    }
    for (number, after) in [(2, 100), (4, 1000), (6, 2000)] {
        // Noted later than sent on a busy machine, the first like the others.
        let passed = frames[number].at.duration_since(frames[0].at);
        assert!(2 * passed > Duration::from_millis(after), "{passed:?}");
    }
}

#[test]
fn a_move_within_the_host_is_no_news_to_the_link() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let applied = world.apply(&[(eip(1), WEB_2)]);
    assert_eq!((applied.attached, applied.announced), (1, 0));
}

#[test]
fn what_has_gone_is_not_announced_again() {
    let world = World::with(&[]);
    let heard = listen(&world);
    world.apply(&[(eip(1), WEB_1)]);
    next(&heard, eip(1));
    world.apply(&[(eip(2), WEB_2)]);
    // By the time of the other's last announcement, all of the first would have been heard.
    let (mut gone, mut here) = (1, 0);
    while here < 8 {
        let frame = heard.recv_timeout(4 * SOON).expect("an announcement in time");
        gone += usize::from(frame.sender == eip(1));
        here += usize::from(frame.sender == eip(2));
    }
    assert!(gone < 8, "announced to the end");
}

#[test]
fn a_neighbour_that_believes_another_machine_is_put_right() {
    let world = World::with(&[]);
    world.client.ip(&["neigh replace 100.64.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud reachable"]);
    world.apply(&[(eip(1), WEB_1)]);
    let here: Vec<String> = mac(&world).iter().map(|byte| format!("{byte:02x}")).collect();
    eventually("the client to believe it", SOON, || {
        world.client.sh("ip neigh show 100.64.0.1").contains(&here.join(":")).then_some(())
    });
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn an_interface_that_comes_up_later_hears_of_everything() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.host.ip(&["link set u0 down"]);
    assert_eq!(world.apply(&[(eip(1), WEB_1)]).announced, 0);
    let heard = listen(&world);
    world.host.ip(&["link set u0 up"]);
    eventually("the announcement", SOON, || {
        (world.apply(&[(eip(1), WEB_1)]).announced == 1).then_some(())
    });
    next(&heard, eip(1));
}

#[test]
fn only_addresses_that_are_associated_are_answered_for() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let known = |last: u8| {
        let answered = ask_who_has(&world, eip(last));
        answered.contains(" lladdr ")
    };
    assert!(known(1));
    assert!(!known(2));
    world.apply(&[(eip(2), WEB_1)]);
    assert!(known(2));
    assert!(!known(1));
}

/// Makes the client ask by ARP, and returns what it has learnt when it knows or has given up.
fn ask_who_has(world: &World, address: Ipv4Addr) -> String {
    world.client.ip(&["neigh flush dev eth0"]);
    // It ends with the answer, or when the kernel has asked three times in vain.
    world.client.try_sh(&format!("ping -c 1 -W 10 {address}"));
    world.client.sh(&format!("ip neigh show {address}"))
}

#[test]
fn where_the_upstream_routes_the_pool_nothing_is_announced_and_the_guards_stay() {
    let world = World::opened_with(Options { announce: Announce::None, ..Options::default() });
    world.client.ip(&["route replace 100.64.0.0/16 via 192.0.2.1"]);
    let heard = listen(&world);
    assert_eq!(world.apply(&[(eip(1), WEB_1)]).announced, 0);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    // An address that is not associated neither reaches the host nor goes back to the router.
    world.host.serve_tcp(crate::world::TCP);
    world.host.serve_udp(crate::world::UDP);
    hears_nothing(&world.client, eip(2));
    let guard = world.host.sh("nft list chain ip eip fwd_guard");
    let dropped = guard.lines().find(|line| line.contains("fib daddr")).expect("the rule");
    assert!(!dropped.contains("packets 0"), "{dropped}");
    world.apply(&[]);
    hears_nothing(&world.client, eip(1));
    // Over all that, longer than the last announcement would take, no frame about the pool.
    let quiet = Instant::now() + Duration::from_millis(2500);
    while let Ok(frame) = heard.recv_timeout(quiet.saturating_duration_since(Instant::now())) {
        assert!(frame.sender.octets()[0] != 100, "{frame:?}");
    }
}

#[test]
fn a_host_that_does_not_answer_neighbours_says_which_setting_is_in_the_way() {
    let world = World::new();
    world.host.sh("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore");
    let applied = world.apply_state(desired(&[(eip(1), WEB_1)])).expect("an apply");
    let said = applied.warnings.first().expect("a warning").to_string();
    assert!(said.starts_with("net.ipv4.conf.u0.arp_ignore is 1"), "{said}");
}

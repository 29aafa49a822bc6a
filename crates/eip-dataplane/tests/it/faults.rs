//! Each step of the talk with the kernel goes wrong, once and twice; the next turn converges.

use eip_dataplane::DataPlane;
use eip_dataplane::faults::{When, arm, disarm};
use eip_testkit::netns::fetch;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::announce::{listen, next};
use crate::world::{CLIENT, NEVER, TCP, WEB_1, WEB_2, WEB_3, World, ask, desired, eip};

type Pairs<'p> = &'p [(Ipv4Addr, Ipv4Addr)];

/// Has step after step fail on the way from one state to the next, until there are no more steps.
/// Returns how many there are.
fn every_step_fails(begins_anew: bool, from: Pairs<'_>, to: Pairs<'_>) -> usize {
    let mut most = 0;
    for errno in [libc::EBUSY, libc::ENOBUFS, libc::EPERM] {
        for when in [When::Before, When::After] {
            for times in [1, 2] {
                most = most.max(steps_of_one_kind(begins_anew, from, to, (errno, when, times)));
            }
        }
    }
    most
}

fn steps_of_one_kind(
    begins_anew: bool,
    from: Pairs<'_>,
    to: Pairs<'_>,
    (errno, when, times): (i32, When, usize),
) -> usize {
    let world = World::with(from);
    for step in 0.. {
        let told = format!("step {step}, {times} times, errno {errno}, {when:?}");
        world.apply(from);
        if begins_anew {
            world.plane(DataPlane::forget);
        }
        let (mut struck, mut failed) = (false, false);
        for _ in 0..times {
            let state = desired(to);
            let (hit, outcome) = world.plane(move |plane| {
                arm(step, errno, when);
                let outcome = plane.apply(&state).map(|_| ());
                (disarm(), outcome)
            });
            struck |= hit;
            failed |= outcome.is_err();
        }
        if !struck {
            assert!(!failed, "{told}");
            return step;
        }
        world.apply(to);
        assert!(world.apply(to).changed_nothing(), "{told}");
        assert!(world.plane(|plane| plane.intact()).expect("an answer"), "{told}");
        let maps = world.elements("dn");
        assert_eq!(maps.matches("100.64.").count(), to.len(), "{told}: {maps}");
        for (public, private) in to {
            assert!(maps.contains(&format!(r#"["{public}","{private}"]"#)), "{told}: {maps}");
            assert!(world.routes().contains(&public.to_string()), "{told}");
        }
        assert_eq!(world.routes().lines().count(), to.len(), "{told}");
    }
    unreachable!("a turn has an end")
}

#[test]
fn a_first_turn_and_a_replacement_converge_whichever_step_fails() {
    let pairs = [(eip(1), WEB_1), (eip(3), WEB_3)];
    assert!(every_step_fails(true, &pairs[..1], &pairs) >= 6);
}

#[test]
fn a_move_an_attach_and_a_detach_converge_whichever_step_fails() {
    let from = [(eip(1), WEB_1), (eip(3), WEB_3)];
    let to = [(eip(1), WEB_2), (eip(2), WEB_1)];
    assert!(every_step_fails(false, &from, &to) >= 5);
}

#[test]
fn what_a_turn_that_failed_has_left_unsaid_is_announced_by_the_next() {
    let world = World::with(&[]);
    for when in [When::Before, When::After] {
        for step in 0.. {
            world.apply(&[]);
            let heard = listen(&world);
            let number = u8::try_from(step + 1).expect("not so many steps");
            let state = desired(&[(eip(number), WEB_1)]);
            let struck = world.plane(move |plane| {
                arm(step, libc::ENOBUFS, when);
                let _failed = plane.apply(&state);
                disarm()
            });
            world.apply(&[(eip(number), WEB_1)]);
            next(&heard, eip(number));
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn traffic_flows_before_and_after_a_turn_that_failed() {
    let world = World::with(&[(eip(1), WEB_1)]);
    for step in 0..4 {
        let state = desired(&[(eip(1), WEB_2)]);
        world.plane(move |plane| {
            arm(step, libc::ENOBUFS, When::Before);
            let _failed = plane.apply(&state);
            disarm();
        });
        let page = world.client.run(move || fetch(SocketAddrV4::new(eip(1), TCP), 10 * NEVER));
        assert!(page.is_ok(), "step {step}: {page:?}");
        world.apply(&[(eip(1), WEB_1)]);
        assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    }
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
}

#[test]
fn a_bridge_that_vanishes_takes_nothing_else_along_and_may_come_back() {
    let world = World::with(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    world.host.ip(&["link del br1"]);
    for _ in 0..2 {
        world.apply(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
        assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    }
    world.host.bridge("br1", "10.0.1.1/24");
    world.host.ip(&["link set v-web-3 master br1"]);
    world.apply(&[(eip(1), WEB_1), (eip(3), WEB_3)]);
    assert_eq!(ask(&world.client, eip(3)), "web-3 saw 192.0.2.2");
    assert_eq!(ask(&world.web_3, eip(1)), "web-1 saw 100.64.0.3");
}

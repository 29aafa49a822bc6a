//! Each step of the threads that help the data plane goes wrong, once and twice; they converge all the
//! same.

use std::net::Ipv4Addr;

use eip_dataplane::faults::{When, arm_helper, disarm_helper};
use eip_testkit::eventually;

use crate::announce::{frames_about, listen};
use crate::counting::{ping, volume};
use crate::world::{CLIENT, SOON, WEB_1, WEB_2, World, ask, eip};

/// Has step after step of a thread go wrong, until there are no more steps: `change` has it do all of
/// them, and returns when what it does is done. The number tells one round from the next.
/// Returns how many steps there are.
fn every_step_fails(world: &World, thread: &'static str, mut change: impl FnMut(usize)) -> usize {
    let (mut most, mut round) = (0, 0);
    for when in [When::Before, When::After] {
        for times in [1, 2] {
            for step in 0.. {
                let fault = (step, libc::ENOBUFS, when);
                world.host.run(move || arm_helper(thread, times, fault));
                round += 1;
                change(round);
                if world.host.run(move || disarm_helper(thread)) == times {
                    most = most.max(step);
                    break;
                }
            }
        }
    }
    most
}

/// Where an elastic IP leads in a round: each time to the other.
fn target(round: usize) -> (Ipv4Addr, Ipv4Addr) {
    if round.is_multiple_of(2) { (WEB_1, WEB_2) } else { (WEB_2, WEB_1) }
}

#[test]
fn stale_flows_are_deleted_whichever_step_fails() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let steps = every_step_fails(&world, "eip-sweep", |round| {
        let (to, from) = target(round);
        ask(&world.client, eip(1));
        world.apply(&[(eip(1), to)]);
        eventually("no flow of the instance that it was taken from", SOON, || {
            let flows = world.host.sh("conntrack -L 2>/dev/null");
            let of_it =
                |flow: &str| flow.contains("100.64.0.1") && flow.contains(&from.to_string());
            (!flows.lines().any(of_it)).then_some(())
        });
    });
    assert!(steps >= 2, "a list and a deletion, not {steps}");
}

#[test]
fn bridge_ports_are_in_hairpin_mode_whichever_step_fails() {
    let world = World::with(&[(eip(1), WEB_1)]);
    world.filter_bridged_frames(1);
    let is_on =
        |port: &str| world.host.sh(&format!("ip -d link show {port}")).contains("hairpin on");
    let steps = every_step_fails(&world, "eip-hairpin", |round| {
        let (to, _) = target(round);
        world.apply(&[(eip(1), to)]);
        // The host and the bridge must know where they are.
        ask(&world.web_1, CLIENT);
        ask(&world.web_2, CLIENT);
        eventually("the port of the instance that has it to be in hairpin mode", SOON, || {
            let (first, second) = (is_on("v-web-1"), is_on("v-web-2"));
            ((first, second) == (to == WEB_1, to == WEB_2)).then_some(())
        });
    });
    assert!(steps >= 4, "ports, neighbours, MAC addresses and a change, not {steps}");
}

#[test]
fn traffic_is_counted_whichever_step_fails() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let steps = every_step_fails(&world, "eip-traffic", |round| {
        world.restart();
        let fresh = eip(u8::try_from(round).expect("not so many steps") + 1);
        world.apply(&[(fresh, WEB_1)]);
        eventually("packets to be counted", SOON, || {
            ping(&world.client, fresh, 1);
            (volume(&world, fresh).packets_in > 0).then_some(())
        });
    });
    assert!(steps >= 4, "two lists, a change and two readings, not {steps}");
}

#[test]
fn an_announcement_that_fails_is_not_the_last() {
    let world = World::with(&[]);
    for (number, (step, times)) in (1..).zip([(0, 1), (1, 1), (6, 1), (0, 2), (3, 2)]) {
        let heard = listen(&world);
        world.host.run(move || {
            arm_helper("eip-announce", times, (step, libc::ENOBUFS, When::Before));
        });
        world.apply(&[(eip(number), WEB_1)]);
        assert_eq!(frames_about(&heard, eip(number)), 8 - times, "step {step}, {times} times");
        assert_eq!(world.host.run(|| disarm_helper("eip-announce")), 0);
    }
}

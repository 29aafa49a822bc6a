//! Many at once, and how long one takes. No figure is asserted: machines differ.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::world::{WEB_1, WEB_2, World, ask, desired, eip};

const MANY: u32 = 65_536;

fn many(count: u32) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    (0..count)
        .map(|n| (Ipv4Addr::from_bits(0x6450_0000 + n), Ipv4Addr::from_bits(0x0a10_0000 + n)))
        .chain([(eip(1), WEB_1)])
        .collect()
}

#[test]
fn sixty_five_thousand_attachments_load_and_carry_traffic() {
    let world = World::new();
    let state = desired(&many(MANY));
    let begun = Instant::now();
    let applied = world.apply_state(state.clone()).expect("an apply");
    println!("first apply of {MANY} attachments: {:?}, {applied:?}", begun.elapsed());
    assert!(applied.warnings.is_empty());
    world.plane(eip_dataplane::DataPlane::forget);
    let begun = Instant::now();
    assert!(world.apply_state(state.clone()).expect("an apply").replaced);
    println!("the same again after forgetting: {:?}", begun.elapsed());
    assert!(world.apply_state(state).expect("an apply").changed_nothing());
    assert_eq!(world.routes().lines().count(), usize::try_from(MANY).expect("fits") + 1);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
}

#[test]
fn one_move_takes_as_long_as_it_takes() {
    for count in [0, 1000, MANY] {
        let world = World::new();
        let mut state = desired(&many(count));
        world.apply_state(state.clone()).expect("an apply");
        let mut times: Vec<Duration> = world.plane(move |plane| {
            (0..400)
                .map(|turn| {
                    let target = if turn % 2 == 0 { WEB_2 } else { WEB_1 };
                    state.targets.insert(eip(1), target);
                    let begun = Instant::now();
                    plane.apply(&state).expect("an apply");
                    begun.elapsed()
                })
                .collect()
        });
        times.sort_unstable();
        println!("one move among {count}: p50 {:?}, p99 {:?}", times[200], times[396]);
    }
}

#[test]
fn one_attach_with_its_route_and_its_announcement_takes_as_long_as_it_takes() {
    let world = World::with(&[(eip(1), WEB_1)]);
    let state = desired(&[(eip(1), WEB_1)]);
    let mut times: Vec<Duration> = world.plane(move |plane| {
        (0..400)
            .map(|_| {
                let mut with = state.clone();
                with.targets.insert(eip(2), WEB_2);
                let begun = Instant::now();
                plane.apply(&with).expect("an apply");
                let took = begun.elapsed();
                plane.apply(&state).expect("an apply");
                took
            })
            .collect()
    });
    times.sort_unstable();
    println!("one attach: p50 {:?}, p99 {:?}", times[200], times[396]);
}

#[test]
fn shrinking_and_growing_take_as_long_as_they_take() {
    const LARGE: u32 = 100_000;
    let world = World::new();
    let all = many(LARGE);
    let apply = |what: &str, pairs: &[(Ipv4Addr, Ipv4Addr)]| {
        let state = desired(pairs);
        let begun = Instant::now();
        let applied = world.apply_state(state).expect("an apply");
        let took = begun.elapsed();
        println!("{what}: {took:?}, {applied:?}");
        applied
    };
    apply("loading", &all);
    for left in [LARGE - 1000, LARGE - 11_000, LARGE / 2, 0] {
        let from = usize::try_from(LARGE - left).expect("fits");
        apply(&format!("shrinking to {left}"), &all[from..]);
        assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    }
    apply("growing to a half", &all[all.len() / 2..]);
    apply("growing past capacity", &all);
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(world.routes().lines().count(), all.len());
}

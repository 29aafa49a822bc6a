//! Who reaches whom, and what happens to flows that run while something changes.

use crate::scene::{CLIENT, Flow, HOST, ONE, Scene, TWO, ask, private};

#[test]
fn an_elastic_ip_works_in_both_directions_and_from_everywhere() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1), (TWO, 2)]);
    scene.apply(&mut plane, &[(ONE, 1), (TWO, 2)]);
    let [one, two, plain] = &scene.instances[..] else { panic!("three instances") };
    let web = |number: u8| format!("web-{number}");
    assert_eq!(ask(&scene.client, ONE), Some((web(1), CLIENT)), "from outside");
    assert_eq!(ask(one, CLIENT), Some(("client".into(), ONE)), "to the outside");
    assert_eq!(ask(plain, CLIENT), Some(("client".into(), HOST)), "without one, as the host");
    assert_eq!(ask(two, ONE), Some((web(1), TWO)), "between two that have one");
    assert_eq!(ask(plain, ONE).unwrap().0, web(1), "from one that has none");
    assert_eq!(ask(&scene.host, ONE).unwrap().0, web(1), "from the host");
    assert_eq!(ask(one, private(2)), Some((web(2), private(1))), "privately, untouched");
}

#[test]
fn a_running_flow_goes_to_the_new_instance_as_soon_as_apply_returns() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let flow = Flow::new(&scene.client, ONE);
    assert_eq!(flow.ask("before").unwrap().0, "web-1");
    for round in 0..20 {
        let number = if round % 2 == 0 { 2 } else { 1 };
        scene.apply(&mut plane, &[(ONE, number)]);
        let who = flow.ask(&format!("after {round}")).expect("the next word is answered").0;
        assert_eq!(who, format!("web-{number}"), "round {round}");
    }
}

#[test]
fn a_running_flow_ends_when_the_address_is_detached() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let inwards = Flow::new(&scene.client, ONE);
    let outwards = Flow::new(&scene.instances[0], CLIENT);
    assert!(inwards.ask("before").is_some());
    assert_eq!(outwards.ask("before").unwrap().1, ONE);
    scene.apply(&mut plane, &[]);
    assert_eq!(inwards.ask("after"), None);
    let seen = outwards.ask("after").map(|(_, seen)| seen);
    assert!(seen.is_none() || seen == Some(HOST), "it no longer carries the address: {seen:?}");
}

#[test]
fn a_running_flow_inside_the_host_moves_too() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let flow = Flow::new(&scene.instances[2], ONE);
    assert_eq!(flow.ask("before").unwrap().0, "web-1");
    scene.apply(&mut plane, &[(ONE, 2)]);
    let limit = std::time::Duration::from_secs(10);
    let answered = eip_testkit::eventually("the flow to begin anew", limit, || flow.ask("after"));
    assert_eq!(answered.0, "web-2");
}

#[test]
fn a_new_process_finds_the_flows_of_the_old_one() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1), (TWO, 2)]);
    let flow = Flow::new(&scene.client, ONE);
    let outwards = Flow::new(&scene.instances[0], CLIENT);
    assert!(flow.ask("before").is_some() && outwards.ask("before").is_some());
    drop(plane);
    let mut plane = scene.plane();
    assert_eq!(flow.ask("between").unwrap().0, "web-1");
    scene.apply(&mut plane, &[(ONE, 1)]);
    assert_eq!(flow.ask("after"), Some(("web-1".into(), CLIENT)));
    assert_eq!(outwards.ask("after"), Some(("client".into(), ONE)));
}

#[test]
fn replacing_the_table_loses_no_packet() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    std::thread::scope(|scope| {
        let asking =
            scope.spawn(|| (0..3000).filter(|_| ask(&scene.client, ONE).is_none()).count());
        let mut replaced = 0;
        while !asking.is_finished() {
            plane.forget();
            scene.apply(&mut plane, &[(ONE, 1)]);
            replaced += 1;
        }
        assert_eq!(asking.join().unwrap(), 0, "lost while the table was replaced {replaced} times");
        assert!(replaced > 10, "only {replaced} times");
    });
}

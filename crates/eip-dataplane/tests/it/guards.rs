//! What must never happen.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::scene::{CLIENT, HOST, ONE, Scene, TWO, ask, echo};

#[test]
fn the_hosts_own_services_never_answer_on_an_elastic_ip() {
    let scene = Scene::new();
    let over = Arc::new(AtomicBool::new(false));
    echo(&scene.host, "host".to_owned(), over);
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    scene.client.sh("ip route replace 100.64.0.0/10 via 192.0.2.1");
    assert_eq!(ask(&scene.client, HOST), Some(("host".into(), CLIENT)), "on its own it does");
    assert_eq!(ask(&scene.client, TWO), None, "never attached");
    scene.host.sh(&format!("ip route add local {TWO} dev lo"));
    assert_eq!(ask(&scene.client, TWO), None, "never attached, though the host takes it");
    scene.apply(&mut plane, &[]);
    assert_eq!(ask(&scene.client, ONE), None, "detached");
}

#[test]
fn an_instance_cannot_speak_as_an_elastic_ip_that_is_not_its_own() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let liar = &scene.instances[1];
    assert!(ask(liar, CLIENT).is_some());
    liar.sh(&format!(
        "ip addr add {ONE}/32 dev lo && ip route replace default via 10.0.0.1 src {ONE}"
    ));
    scene.client.sh("ip route replace 100.64.0.0/10 via 192.0.2.1");
    assert_eq!(ask(liar, CLIENT), None);
    assert!(scene.host.sh("nft -j list chain ip eip pre_raw").contains("\"packets\": "));
}

#[test]
fn the_private_address_of_an_instance_never_leaves_the_host() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    for (number, instance) in scene.instances.iter().enumerate() {
        let (_, seen) = ask(instance, CLIENT).unwrap();
        assert!([ONE, HOST].contains(&seen), "web-{} was seen as {seen}", number + 1);
    }
    scene.apply(&mut plane, &[]);
    assert_eq!(ask(&scene.instances[0], CLIENT).unwrap().1, HOST);
}

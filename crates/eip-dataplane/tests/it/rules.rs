//! What is in the kernel: exactly what is wanted, whatever was before.

use std::time::Instant;

use eip_dataplane::DesiredState;

use crate::scene::{ONE, Scene, TWO, ask, desired, many};

#[test]
fn applying_the_same_again_changes_nothing() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let before = scene.table();
    scene.apply(&mut plane, &[(ONE, 1)]);
    assert_eq!(scene.table(), before);
    assert!(plane.intact().unwrap());
}

#[test]
fn a_smaller_set_leaves_nothing_of_the_larger_one() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1), (TWO, 2)]);
    assert!(scene.holds(ONE) && scene.holds(TWO));
    scene.apply(&mut plane, &[(ONE, 1)]);
    assert!(scene.holds(ONE) && !scene.holds(TWO), "by a change");
    scene.apply(&mut plane, &[(ONE, 1), (TWO, 2)]);
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    assert!(scene.holds(ONE) && !scene.holds(TWO), "by a new process");
    let routes = scene.host.sh("ip route show table local proto 225");
    assert!(routes.contains("100.64.0.1") && !routes.contains("100.64.0.2"), "{routes}");
}

#[test]
fn what_others_do_to_the_table_is_noticed_and_mended() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    scene.host.sh("nft add table ip other");
    assert!(plane.intact().unwrap(), "the tables of others are theirs");
    for deed in [
        "nft flush ruleset",
        "nft delete table ip eip",
        "nft flush map ip eip dn",
        "nft flush chain ip eip pre",
        "nft add rule ip eip post drop",
    ] {
        scene.host.sh(deed);
        assert!(!plane.intact().unwrap(), "{deed}");
        scene.apply(&mut plane, &[(ONE, 1)]);
        assert!(plane.intact().unwrap(), "after {deed}");
        assert_eq!(ask(&scene.client, ONE).unwrap().0, "web-1", "after {deed}");
    }
}

#[test]
fn a_route_that_others_removed_and_a_switch_that_they_turned_are_put_right() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    scene.host.sh(&format!("ip route del local {ONE} table local"));
    scene.host.sh("sysctl -q -w net.ipv4.ip_forward=0");
    scene.client.sh("ip neigh flush all");
    assert_eq!(ask(&scene.client, ONE), None);
    plane.distrust_routes();
    scene.apply(&mut plane, &[(ONE, 1)]);
    assert_eq!(ask(&scene.client, ONE).unwrap().0, "web-1");
}

#[test]
fn the_tables_and_routes_of_others_are_left_alone() {
    let scene = Scene::new();
    scene.host.sh("nft add table inet theirs && nft add chain inet theirs kept");
    scene.host.sh("ip route add local 203.0.113.7 dev lo proto static");
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    plane.forget();
    scene.apply(&mut plane, &[]);
    assert!(scene.host.sh("nft list tables").contains("inet theirs"));
    assert!(scene.host.sh("ip route show table local").contains("203.0.113.7"));
}

#[test]
fn the_surroundings_may_change_without_a_packet_lost() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let mut state = desired(&[(ONE, 1)]);
    state.ranges.push("203.0.113.0/24".parse().unwrap());
    let other = "10.9.0.0/24".parse().unwrap();
    state.networks.push(eip_model::LocalNetwork { interface: "br9".to_owned(), subnet: other });
    scene.host.inside(|| plane.apply(&state).unwrap());
    let shown = scene.table().to_string();
    assert!(shown.contains("br9") && shown.contains("203.0.113.0") && shown.contains("10.9.0.0"));
    assert_eq!(ask(&scene.client, ONE).unwrap().0, "web-1");
}

#[test]
fn two_elastic_ips_for_one_private_address_are_refused_and_nothing_changes() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    scene.apply(&mut plane, &[(ONE, 1)]);
    let wrong = desired(&[(ONE, 1), (TWO, 1)]);
    let refused = scene.host.inside(|| plane.apply(&wrong)).unwrap_err();
    assert!(refused.to_string().contains("cannot share the private address"), "{refused}");
    assert_eq!(ask(&scene.client, ONE).unwrap().0, "web-1");
}

#[test]
fn sixty_five_thousand_attachments_are_loaded_grow_and_shrink() {
    let scene = Scene::new();
    let mut plane = scene.plane();
    let state = |count| DesiredState { targets: many(count), ..desired(&[]) };
    for count in [65_536, 100_000, 3] {
        let begun = Instant::now();
        let wanted = state(count);
        scene.host.inside(|| plane.apply(&wanted).unwrap());
        println!("{count} attachments in {:?}", begun.elapsed());
        let last = format!(
            "100.{}.{}.{}",
            65 + (count - 1) / 65_536,
            (count - 1) / 256 % 256,
            (count - 1) % 256
        );
        let found = scene.host.try_sh(&format!("nft get element ip eip dn '{{ {last} }}'"));
        assert!(found.status.success(), "{last} of {count}");
        let next = scene.host.try_sh("nft get element ip eip dn '{ 100.66.200.0 }'");
        assert!(!next.status.success());
        let routes = scene.host.sh("ip route show table local proto 225 | wc -l");
        assert_eq!(routes.trim(), count.to_string());
    }
}

//! The data plane against the kernel: what it shows, and what packets do. Must run as root.

mod world;

use world::{CLIENT, HOST, WEB_1, WEB_2, WEB_3, World, ask, eip};

#[test]
fn what_comes_in_reaches_the_instance_and_what_goes_out_carries_the_elastic_ip() {
    let world = World::with(&[(eip(1), WEB_1)]);
    println!("{}", world.host.sh("nft list table ip eip"));
    assert_eq!(ask(&world.client, eip(1)), "web-1 saw 192.0.2.2");
    assert_eq!(ask(&world.web_1, CLIENT), "client saw 100.64.0.1");
    let _ = (HOST, WEB_2, WEB_3);
}

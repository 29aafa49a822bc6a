//! The whole story with sandbox instances: no Docker anywhere.

use eip_testkit::eventually;

use crate::scene::{SOON, Scene, WHO, fetch};

#[test]
fn an_address_is_allocated_pointed_reached_moved_and_given_back() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    scene.sandbox("web-2");

    let (status, made) =
        scene.curl(r#"-X POST http://localhost:8080/elastic-ips -H "X-API-Key: $API_KEY""#);
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap();
    let address = made["public_ip"].as_str().unwrap();
    assert_eq!(scene.page(address), None, "nobody answers before it is pointed at something");

    let web_1 = scene.eip_json("instance show web-1")["id"].as_str().unwrap().to_owned();
    let (status, after) = scene.curl(&format!(
        r#"-X POST http://localhost:8080/elastic-ips/{id}/associate -H "X-API-Key: $API_KEY" \
           -d '{{"instance_id": "{web_1}"}}'"#
    ));
    assert_eq!(status, 200, "{after}");
    assert_eq!(after["data_plane"]["state"], "active", "{after}\n{}", scene.log());
    assert_eq!(scene.page(address).unwrap(), "web-1\nyou are 192.0.2.9\n");
    let seen_as = scene.eip(&format!("sandbox exec web-1 -- curl -sf -m 2 {WHO}"));
    assert_eq!(seen_as.trim(), address, "what it sends carries the elastic IP");

    let (status, _) = scene
        .curl(&format!(r#"-X DELETE localhost:8080/elastic-ips/{id} -H "X-API-Key: $API_KEY""#));
    assert_eq!(status, 409);

    let moved = scene.eip_json(&format!("move {address} sandbox:web-2"));
    assert_eq!(moved["data_plane"]["state"], "active");
    assert!(scene.page(address).unwrap().starts_with("web-2\n"));
    let seen_as = scene.eip(&format!("sandbox exec web-2 -- curl -sf -m 2 {WHO}"));
    assert_eq!(seen_as.trim(), address);
    let counted = eventually("what it carried to be counted", SOON * 6, || {
        let path = format!("localhost:8080/elastic-ips/{id}/traffic");
        let (status, traffic) = scene.curl(&format!(r#"{path} -H "X-API-Key: $API_KEY""#));
        assert_eq!(status, 200, "{traffic}");
        (traffic["bytes_in"].as_u64()? > 0 && traffic["bytes_out"].as_u64()? > 0).then_some(traffic)
    });
    assert!(counted["since"].is_string(), "{counted}");
    let shown = scene.eip(&format!("show {address}"));
    assert!(shown.contains("received") && !shown.contains("0 packets, 0 bytes"), "{shown}");
    let seen_as = scene.eip(&format!("sandbox exec web-1 -- curl -sf -m 2 {WHO}"));
    assert_eq!(seen_as.trim(), "192.0.2.1", "the old one is seen as its host again");

    let (status, after) = scene.curl(&format!(
        r#"-X POST http://localhost:8080/elastic-ips/{id}/disassociate -H "X-API-Key: $API_KEY""#
    ));
    assert_eq!((status, &after["status"]), (200, &"allocated".into()));
    assert_eq!(scene.page(address), None);

    let release = format!(r#"-X DELETE localhost:8080/elastic-ips/{id} -H "X-API-Key: $API_KEY""#);
    assert_eq!(scene.curl(&release).0, 204);
    assert_eq!(scene.curl(&release).0, 404);
}

#[test]
fn an_address_is_reached_from_everywhere_it_should_be() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    for name in ["web-1", "web-2", "plain"] {
        scene.sandbox(name);
    }
    let one = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    let two = scene.eip_json("up web-2")["public_ip"].as_str().unwrap().to_owned();

    let from_host = fetch(&scene.host, &format!("http://{one}/")).expect("from the host itself");
    assert!(from_host.starts_with("web-1\n"), "{from_host}");
    let inside = |name: &str, url: &str| {
        scene.eip(&format!("sandbox exec {name} -- curl -sf -m 2 http://{url}/"))
    };
    assert_eq!(inside("web-2", &one), format!("web-1\nyou are {two}\n"), "both carry theirs");
    assert!(inside("plain", &one).starts_with("web-1\n"), "from an instance without one");
    assert!(inside("web-1", &one).starts_with("web-1\n"), "from itself, through its own");
    let private = scene.eip_json("instance show web-2")["private_ip"].as_str().unwrap().to_owned();
    let web_1 = scene.eip_json("instance show web-1")["private_ip"].as_str().unwrap().to_owned();
    assert_eq!(inside("web-1", &private), format!("web-2\nyou are {web_1}\n"), "untouched");
}

#[test]
fn an_address_that_points_at_nothing_is_not_the_hosts() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox", "--listen", "0.0.0.0:8080"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    // The service itself listens everywhere, but an elastic IP is not the host.
    let own = fetch(&scene.world, "http://192.0.2.1:8080/healthz");
    assert_eq!(own.as_deref(), Some("ok\n"));
    assert_eq!(fetch(&scene.world, &format!("http://{address}:8080/healthz")), None);
    scene.eip(&format!("disassociate {address}"));
    assert_eq!(fetch(&scene.world, &format!("http://{address}:8080/healthz")), None);
}

#[test]
fn an_instance_that_dies_is_unmapped_and_one_that_returns_is_mapped() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    assert!(scene.page(&address).is_some());
    scene.eip("sandbox stop web-1");
    // Another one inherits the private address; the elastic IP must not lead there.
    scene.sandbox("heir");
    let private =
        |name: &str| scene.eip_json(&format!("instance show {name}"))["private_ip"].clone();
    assert_eq!(private("heir"), "10.213.0.2", "{}", scene.eip("sandbox list"));
    assert_eq!(scene.page(&address), None);
    let told = scene.eip_json(&format!("show {address}"));
    assert_eq!(told["status"], "associated");
    assert_eq!(told["data_plane"]["state"], "failing");
    assert_eq!(told["data_plane"]["reason"], "sandbox:web-1 is stopped");
    scene.eip("sandbox add web-1");
    eventually("the elastic IP to follow it", SOON, || scene.page(&address));
    scene.eip("sandbox remove web-1");
    eventually("the association to end", SOON, || {
        (scene.eip_json(&format!("show {address}"))["status"] == "allocated").then_some(())
    });
}

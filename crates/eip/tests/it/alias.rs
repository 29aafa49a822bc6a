//! Elastic IPs on the instances' own interfaces: sandboxes, a Docker container, a virtual machine.

use eip_testkit::eventually;
use eip_testkit::vm::{Guest, Libvirt};

use crate::engine::Engine;
use crate::scene::{SOON, Scene, WHO, fetch};

/// The name of the page that an address leads to.
fn who_is(scene: &Scene, address: &str) -> Option<String> {
    let page = scene.page(address)?;
    page.lines().next().map(str::to_owned)
}

fn state(scene: &Scene, address: &str) -> (String, String) {
    let plane = scene.eip_json(&format!("show {address}"))["data_plane"].clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&plane["state"]), text(&plane["reason"]))
}

#[test]
fn a_sandbox_has_the_address_itself_and_it_is_moved_and_changed_under_load() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    for name in ["web-1", "web-2", "plain"] {
        scene.sandbox(name);
    }
    let modes = scene.eip_json("instance show web-1")["modes"].clone();
    assert_eq!(modes, serde_json::json!(["nat", "alias"]));
    let made = scene.eip_json("allocate");
    let address = made["public_ip"].as_str().unwrap();
    assert!(made["mode"].is_null());
    let after = scene.eip_json(&format!("associate {address} web-1 --mode alias"));
    assert_eq!(
        (&after["mode"], &after["data_plane"]["state"]),
        (&"alias".into(), &"active".into())
    );

    let inside = |name: &str, line: &str| scene.eip(&format!("sandbox exec {name} -- {line}"));
    let addresses = |name: &str| inside(name, "ip -4 addr show dev eth0");
    assert!(addresses("web-1").contains(&format!("inet {address}/32")));
    assert_eq!(scene.page(address).unwrap(), "web-1\nyou are 192.0.2.9\n");
    assert_eq!(inside("web-1", &format!("curl -sf -m 2 {WHO}")).trim(), address);
    let from_host = fetch(&scene.host, &format!("http://{address}/")).expect("from the host");
    assert!(from_host.starts_with("web-1\n"), "{from_host}");
    for name in ["web-1", "plain"] {
        let page = inside(name, &format!("curl -sf -m 2 http://{address}/"));
        assert!(page.starts_with("web-1\n"), "{name}: {page}");
    }

    // Moved, changed in place and back, while a client keeps asking.
    let ((), requests) = scene.while_asked(address, || {
        scene.eip(&format!("move {address} sandbox:web-2 --mode alias"));
        assert_eq!(who_is(&scene, address).as_deref(), Some("web-2"));
        scene.eip(&format!("associate {address} sandbox:web-2 --mode nat"));
        assert_eq!(who_is(&scene, address).as_deref(), Some("web-2"));
        scene.eip(&format!("associate {address} sandbox:web-2 --mode alias"));
        scene.eip(&format!("move {address} sandbox:web-1 --mode alias"));
        assert_eq!(who_is(&scene, address).as_deref(), Some("web-1"));
    });
    let lost: Vec<_> = requests.iter().filter(|request| request.page.is_none()).collect();
    assert!(lost.len() <= 4, "one can be under way at each of the four changes: {lost:?}");
    eventually("the address to be off the old one", SOON, || {
        (!addresses("web-2").contains(address)).then_some(())
    });
    assert_eq!(inside("web-2", &format!("curl -sf -m 2 {WHO}")).trim(), "192.0.2.1");
}

#[test]
fn a_sandbox_has_the_address_whatever_is_done_inside_until_it_is_disassociated() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("allocate")["public_ip"].as_str().unwrap().to_owned();
    scene.eip(&format!("associate {address} web-1 --mode alias"));
    let inside = |name: &str, line: &str| scene.eip(&format!("sandbox exec {name} -- {line}"));
    let addresses = |name: &str| inside(name, "ip -4 addr show dev eth0");

    let source = || scene.try_eip(&format!("sandbox exec web-1 -- curl -sf -m 2 {WHO}")).1;
    let is_back = || (source().trim() == address).then_some(());
    inside("web-1", "ip route replace default via 10.213.0.1");
    eventually("it to be the source again", SOON, is_back);
    // Linux removes the default route with the source that it prefers.
    inside("web-1", &format!("ip addr del {address}/32 dev eth0"));
    eventually("the address and the route to be back", SOON, is_back);
    scene.eip("sandbox stop web-1");
    eventually("it to be told", SOON, || (state(&scene, &address).0 == "failing").then_some(()));
    scene.eip("sandbox add web-1");
    eventually("it to follow", SOON, || scene.page(&address));

    scene.eip(&format!("disassociate {address}"));
    assert_eq!(scene.page(&address), None);
    eventually("the address to be off", SOON, || {
        (!addresses("web-1").contains(&address)).then_some(())
    });
    assert_eq!(inside("web-1", &format!("curl -sf -m 2 {WHO}")).trim(), "192.0.2.1");
    assert_eq!(scene.host.sh("ip route show proto 225; ip neigh show proxy"), "");
}

#[test]
fn a_mode_or_a_network_that_cannot_be_is_refused_by_name() {
    let scene = Scene::new();
    let serving = scene.serve(&["--compute", "sandbox", "--pool-mode", "alias"]);
    scene.sandbox("web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    assert_eq!(scene.eip_json(&format!("show {address}"))["mode"], "alias", "as its pool says");
    assert_eq!(scene.eip_json("pool list")["items"][0]["mode"], "alias");
    let (code, _, said) = scene.try_eip(&format!("associate {address} web-1 --network side"));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("eip-sandbox"), "the ones that there are: {said}");
    let (code, _, said) = scene.try_eip(&format!("associate {address} web-1 --mode bridge"));
    assert_eq!(code, 2, "{said}");
    let call = format!(
        r#"-X POST http://localhost:8080/elastic-ips/{address}/associate \
           -H "X-API-Key: $API_KEY" -d '{{"instance_id": "web-1", "mode": "bridge"}}'"#
    );
    let (status, body) = scene.curl(&call);
    assert_eq!((status, &body["code"]), (400, &"invalid_request".into()), "{body}");
    serving.kill();

    // An agent without the right to enter namespaces says so, and carries the rest.
    let _serving =
        scene.serve_by(&["setpriv", "--bounding-set", "-sys_ptrace"], &["--compute", "sandbox"]);
    eventually("it to be told", SOON, || {
        let (state, reason) = state(&scene, &address);
        (state == "failing" && reason.contains("CAP_SYS_PTRACE")).then_some(())
    });
    let modes = scene.eip_json("instance show web-1")["modes"].clone();
    assert_eq!(modes, serde_json::json!(["nat"]));
    assert!(scene.page(&address).is_some(), "what is in force stays");
    scene.sandbox("web-2");
    let (code, out, _) = scene.try_eip(&format!("-o json move {address} web-2 --mode alias"));
    assert_eq!((code, out.contains("mode_not_supported")), (5, true), "{out}");
}

#[test]
fn a_container_has_the_address_itself_on_the_network_that_was_named() {
    let scene = Scene::new();
    let engine = Engine::start(&scene);
    let serving = scene.serve(&["--compute", &engine.compute()]);
    engine.docker("network create --subnet 10.9.0.0/24 back");
    engine.web("web", "");
    engine.docker("network connect back web");
    engine.web("plain", "--network back");
    engine.docker("run -d --name on-host --network host eip-test httpd -f -p 8099");
    scene.known("on-host");
    assert_eq!(scene.eip_json("instance show on-host")["modes"], serde_json::json!([]));
    let interfaces = || scene.eip_json("instance show web")["interfaces"].clone();
    eventually("both networks to be known", SOON, || {
        (interfaces().as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let at = |network: &str| {
        let all = interfaces();
        let one = all.as_array().unwrap().iter().find(|one| one["network"] == network).cloned();
        one.unwrap()["private_ip"].as_str().unwrap().to_owned()
    };

    let address = scene.eip_json("allocate")["public_ip"].as_str().unwrap().to_owned();
    let aliased = format!("associate {address} docker:web --mode alias");
    let after = scene.eip_json(&aliased);
    assert_eq!(after["data_plane"]["state"], "active", "{after}\n{}", scene.log());
    assert_eq!(after["private_ip"], at("back"), "the first by name");
    let who = |from: &str| engine.docker(&format!("exec {from} wget -q -O - {WHO}"));
    let from_plain = || engine.docker(&format!("exec plain wget -q -O - http://{address}/"));
    assert_eq!(who_is(&scene, &address).as_deref(), Some("web"));
    assert_eq!(who("web"), address, "past Docker's masquerade");
    assert_eq!(who("plain"), "192.0.2.1");
    assert_eq!(from_plain(), "web");

    let after = scene.eip_json(&format!("{aliased} --network bridge"));
    assert_eq!(after["data_plane"]["state"], "active", "{after}");
    assert_eq!((&after["vpc_id"], &after["network"]), (&"bridge".into(), &"bridge".into()));
    assert_eq!(after["private_ip"], at("bridge"));
    assert_eq!(who_is(&scene, &address).as_deref(), Some("web"));
    assert_eq!(who("web"), address);
    assert_eq!(from_plain(), "web", "though Docker keeps its bridges apart");

    engine.docker("restart -t 0 web");
    eventually("it to be followed", SOON, || {
        (state(&scene, &address).0 == "active").then(|| scene.page(&address)).flatten()
    });
    assert_eq!(who("web"), address);
    engine.docker("network disconnect bridge web");
    let why = eventually("it to be told", SOON, || {
        let (state, why) = state(&scene, &address);
        (state == "failing").then_some(why)
    });
    assert!(why.contains("network bridge"), "{why}");
    engine.docker("network connect bridge web");
    eventually("it to be back", SOON, || scene.page(&address));

    // Killed while it has the address; disassociated while nobody is there to take it off.
    serving.kill();
    let serving = scene.serve(&["--no-agent"]);
    scene.eip(&format!("disassociate {address} --wait 0"));
    serving.kill();
    let _serving = scene.serve(&["--compute", &engine.compute()]);
    eventually("it to be silenced", SOON, || scene.page(&address).is_none().then_some(()));
    eventually("it to be taken off", SOON, || (who("web") == "192.0.2.1").then_some(()));
}

#[test]
fn a_machine_with_a_guest_agent_has_the_address_itself() {
    let scene = Scene::new();
    let libvirt = Libvirt::start(&scene.host);
    libvirt.default_network();
    libvirt.boot(&[Guest::new("web").with_agent(), Guest::new("mute")]);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    scene.known("libvirt:web");
    scene.known("libvirt:mute");
    let modes = |name: &str| scene.eip_json(&format!("instance show {name}"))["modes"].clone();
    eventually("its agent to be there", SOON, || {
        (modes("web") == serde_json::json!(["nat", "alias"])).then_some(())
    });
    assert_eq!(modes("mute"), serde_json::json!(["nat"]));

    let address = scene.eip_json("allocate")["public_ip"].as_str().unwrap().to_owned();
    let (code, out, _) = scene.try_eip(&format!("-o json associate {address} mute --mode alias"));
    assert_eq!(code, 5, "{out}");
    assert!(out.contains("mode_not_supported") && out.contains("guest agent"), "{out}");

    let after = scene.eip_json(&format!("associate {address} web --mode alias --wait 60"));
    assert_eq!(after["data_plane"]["state"], "active", "{after}\n{}", scene.log());
    let seen_as = || libvirt.sh("web", &format!("wget -q -O - {WHO}")).trim().to_owned();
    let addresses = || libvirt.sh("web", "ip addr show dev eth0");
    assert!(addresses().contains(&format!("inet {address}/32")));
    assert_eq!(who_is(&scene, &address).as_deref(), Some("web"));
    assert_eq!(seen_as(), address, "past libvirt's masquerade");

    // A reboot takes it away, and it is put there again.
    libvirt.try_sh("web", "reboot -f");
    eventually("it to go down", SOON, || scene.page(&address).is_none().then_some(()));
    eventually("it to be back", SOON * 3, || scene.page(&address));
    eventually("it to be told", SOON, || (state(&scene, &address).0 == "active").then_some(()));
    assert_eq!(seen_as(), address);

    libvirt.sh("web", "kill $(cat /run/qemu-ga.pid)");
    let why = eventually("the agent's end to be told", SOON, || {
        let (state, why) = state(&scene, &address);
        (state == "failing").then_some(why)
    });
    assert!(why.contains("guest agent"), "{why}");
    libvirt.sh("web", "qemu-ga -d -t /run -f /run/qemu-ga.pid -p /dev/vport*p1");
    eventually("it to be active again", SOON, || {
        (state(&scene, &address).0 == "active").then_some(())
    });

    scene.eip(&format!("disassociate {address}"));
    assert_eq!(scene.page(&address), None);
    eventually("the address to be gone from the guest", SOON, || {
        (!addresses().contains(&address)).then_some(())
    });
    assert_eq!(seen_as(), "192.0.2.1");
    let rules = scene.host.sh("iptables -S FORWARD");
    assert!(rules.contains("LIBVIRT_FWI"), "{rules}");
}

//! The whole story with virtual machines, under a libvirt of the test's own on the host machine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use eip_testkit::eventually;
use eip_testkit::machine::Daemon;
use eip_testkit::vm::{Guest, Libvirt};

use crate::engine::Engine;
use crate::scene::{SOON, Scene, WHO};

/// As soon as the host hears of it, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Boots guests on libvirt's default network.
fn machines<'s>(scene: &'s Scene, guests: &[Guest]) -> Libvirt<'s> {
    let libvirt = Libvirt::start(&scene.host);
    libvirt.default_network();
    libvirt.boot(guests);
    libvirt
}

fn known(scene: &Scene, names: &[&str]) {
    for name in names {
        scene.known(&format!("libvirt:{name}"));
    }
}

/// The address that the world sees a guest with.
fn seen_as(libvirt: &Libvirt<'_>, name: &str) -> String {
    libvirt.sh(name, &format!("wget -q -O - {WHO}")).trim().to_owned()
}

/// The rules of all firewalls but nftables' own, in whatever order.
fn rules(scene: &Scene) -> BTreeSet<String> {
    let saved = scene.host.sh("iptables-save");
    let rules = saved.lines().filter(|line| line.starts_with('-')).map(str::to_owned);
    rules.collect::<BTreeSet<_>>()
}

#[test]
fn an_address_is_pointed_at_a_machine_reached_moved_under_load_and_given_back() {
    let scene = Scene::new();
    let libvirt = machines(&scene, &[Guest::new("web-1"), Guest::new("web-2")]);
    let foreign = rules(&scene);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    known(&scene, &["web-1", "web-2"]);

    let web_1 = scene.eip_json("instance show web-1");
    assert_eq!(web_1["id"], libvirt.virsh("domuuid web-1"));
    let private = libvirt.address("web-1").unwrap().to_string();
    assert_eq!(web_1["private_ip"], private);
    assert_eq!(web_1["vpc_id"], "default");

    let made = scene.eip_json("allocate");
    let (id, address) = (made["id"].as_str().unwrap(), made["public_ip"].as_str().unwrap());
    assert_eq!(scene.page(address), None);
    let (status, after) = scene.curl(&format!(
        r#"-X POST http://localhost:8080/elastic-ips/{id}/associate -H "X-API-Key: $API_KEY" \
           -d '{{"instance_id": {}}}'"#,
        web_1["id"]
    ));
    assert_eq!((status, &after["data_plane"]["state"]), (200, &"active".into()), "{after}");
    assert_eq!(scene.page(address).as_deref(), Some("web-1\n"), "at once: it is active");
    assert_eq!(seen_as(&libvirt, "web-1"), address, "ahead of libvirt's masquerade");
    assert_eq!(seen_as(&libvirt, "web-2"), "192.0.2.1");

    scene.host.sh("iptables -D FORWARD -j LIBVIRT_FWI && iptables -I FORWARD -j LIBVIRT_FWI");
    eventually("the accept to be ahead again", Duration::from_secs(4), || scene.page(address));

    let ((called, returned), requests) = scene.while_asked(address, || {
        eventually("a few requests before", SOON, || scene.page(address));
        let called = Instant::now();
        let moved = scene.eip_json(&format!("move {address} libvirt:web-2"));
        assert_eq!(moved["data_plane"]["state"], "active");
        (called, Instant::now())
    });
    for request in &requests {
        let page = request.page.as_deref();
        if request.ended < called {
            assert_eq!(page, Some("web-1\n"));
        } else if request.began > returned {
            assert_eq!(page, Some("web-2\n"), "never the old one, once the API has said active");
        }
    }
    let lost = requests.iter().filter(|request| request.page.is_none()).count();
    assert!(lost <= 1, "one request can be under way when its machine is replaced: {requests:?}");
    assert_eq!(seen_as(&libvirt, "web-2"), address);
    assert_eq!(seen_as(&libvirt, "web-1"), "192.0.2.1");
    libvirt.virsh("destroy web-1");
    assert_eq!(scene.page(address).as_deref(), Some("web-2\n"));

    scene.eip(&format!("disassociate {address}"));
    assert_eq!(scene.page(address), None);
    assert_eq!(seen_as(&libvirt, "web-2"), "192.0.2.1");
    scene.eip(&format!("release {address}"));
    let mut theirs = rules(&scene);
    theirs.retain(|rule| !rule.contains("--comment eip"));
    assert_eq!(theirs, foreign, "libvirt's own rules stay");
}

#[test]
fn an_address_moves_from_a_container_to_a_machine_and_back() {
    let scene = Scene::new();
    // In this order libvirt's jumps are ahead of Docker's: DOCKER-USER helps no machine.
    let engine = Engine::start(&scene);
    let libvirt = machines(&scene, &[Guest::new("machine")]);
    let compute = format!("{},libvirt=qemu:///system", engine.compute());
    let _serving = scene.serve(&["--compute", &compute]);
    engine.web("container", "");
    known(&scene, &["machine"]);
    let address = scene.eip_json("up docker:container")["public_ip"].as_str().unwrap().to_owned();
    let (here, there) = (&address, scene.eip_json("up libvirt:machine")["public_ip"].clone());
    let there = there.as_str().unwrap();
    assert_eq!(scene.page(here).as_deref(), Some("container\n"));
    assert_eq!(scene.page(there).as_deref(), Some("machine\n"));
    let from_container = |url: &str| engine.docker(&format!("exec container wget -q -O - {url}"));
    let from_machine = |url: &str| libvirt.sh("machine", &format!("wget -q -O - {url}"));
    assert_eq!(from_container(&format!("http://{there}/")), "machine");
    assert_eq!(from_machine(&format!("http://{here}/")), "container\n");
    scene.eip(&format!("disassociate {there}"));

    scene.eip(&format!("move {address} libvirt:machine"));
    assert_eq!(scene.page(&address).as_deref(), Some("machine\n"));
    assert_eq!(seen_as(&libvirt, "machine"), address);
    assert_eq!(from_container(WHO), "192.0.2.1");
    assert_eq!(from_container(&format!("http://{address}/")), "machine");

    scene.eip(&format!("move {address} docker:container"));
    assert_eq!(scene.page(&address).as_deref(), Some("container\n"));
    assert_eq!(from_container(WHO), address);
    assert_eq!(seen_as(&libvirt, "machine"), "192.0.2.1");
}

#[test]
fn a_machine_is_followed_through_its_life() {
    let scene = Scene::new();
    let libvirt = machines(&scene, &[Guest::new("web")]);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    known(&scene, &["web"]);
    let address = scene.eip_json("up libvirt:web")["public_ip"].as_str().unwrap().to_owned();
    assert_eq!(scene.page(&address).as_deref(), Some("web\n"));

    libvirt.virsh("suspend web");
    let why = eventually("it to be told as paused", AT_ONCE, || failing(&scene, &address));
    assert_eq!(why, "libvirt:web is paused");
    libvirt.virsh("resume web");
    eventually("it to be reached again", SOON, || scene.page(&address));

    libvirt.virsh("destroy web");
    eventually("the address to be unmapped", AT_ONCE, || (!mapped(&scene, &address)).then_some(()));
    let why = eventually("why to be told", AT_ONCE, || failing(&scene, &address));
    assert_eq!(why, "libvirt:web is stopped");
    assert_eq!(scene.eip_json(&format!("show {address}"))["status"], "associated");

    // Its DHCP server has another address for it when it is back, and again while it runs.
    let mac = libvirt.virsh("domiflist web");
    let mac = mac.split_whitespace().last().unwrap();
    let lease = |how: &str, ip: &str| {
        let host = format!("<host mac='{mac}' ip='{ip}'/>");
        libvirt.virsh(&format!("net-update default {how} ip-dhcp-host --live \"{host}\""));
    };
    let private = || scene.eip_json("instance show web")["private_ip"].clone();
    lease("add", "192.168.122.77");
    libvirt.virsh("start web");
    libvirt.wait_for("web");
    eventually("the new address to be followed", SOON, || scene.page(&address));
    assert_eq!((private(), seen_as(&libvirt, "web")), ("192.168.122.77".into(), address.clone()));
    lease("delete", "192.168.122.77");
    lease("add", "192.168.122.78");
    libvirt.sh("web", "kill -USR1 $(cat /run/udhcpc)");
    eventually("the next one to be followed", SOON, || {
        (private() == "192.168.122.78").then(|| scene.page(&address)).flatten()
    });

    assert_eq!(libvirt.try_sh("web", "reboot -f"), None, "it has no time to answer");
    eventually("it to go down", SOON, || scene.page(&address).is_none().then_some(()));
    eventually("it to be back", SOON, || scene.page(&address));

    libvirt.virsh("undefine web");
    assert!(scene.page(&address).is_some(), "it runs on until it is stopped");
    libvirt.virsh("destroy web");
    eventually("the association to end", SOON, || {
        (scene.eip_json(&format!("show {address}"))["status"] == "allocated").then_some(())
    });
    assert_eq!(scene.page(&address), None);
}

#[test]
fn an_address_leads_to_the_network_that_the_request_names() {
    let scene = Scene::new();
    let libvirt = Libvirt::start(&scene.host);
    libvirt.default_network();
    libvirt.dhcp_network("second", "<forward mode='nat'/>", "virbr9", "192.168.139");
    libvirt.boot(&[Guest::new("web").on("second")]);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    known(&scene, &["web"]);
    // The lease alone: what takes an address in this guest knows one interface.
    libvirt.sh("web", "ip link set eth1 up && udhcpc -n -q -i eth1 -s /bin/true");
    let leases = libvirt.virsh("net-dhcp-leases second");
    let lease = leases.split_whitespace().find(|word| word.starts_with("192.168.139.")).unwrap();
    libvirt.sh("web", &format!("ip addr add {lease} dev eth1"));
    let second = lease.split('/').next().unwrap();
    eventually("its other address to be known", SOON, || {
        let interfaces = scene.eip_json("instance show web")["interfaces"].to_string();
        interfaces.contains(second).then_some(())
    });

    let address = scene.eip_json("allocate")["public_ip"].as_str().unwrap().to_owned();
    let first = scene.eip_json(&format!("associate {address} libvirt:web"));
    assert!(first["private_ip"].as_str().unwrap().starts_with("192.168.122."), "{first}");
    assert_eq!(scene.page(&address).as_deref(), Some("web\n"));

    let named = scene.eip_json(&format!("associate {address} libvirt:web --network second"));
    assert_eq!(
        (&named["private_ip"], &named["data_plane"]["state"]),
        (&second.into(), &"active".into())
    );
    // It answers by the way that it was asked.
    libvirt.sh("web", "ip route replace default via 192.168.139.1 dev eth1");
    assert_eq!(scene.page(&address).as_deref(), Some("web\n"));
    assert_eq!(seen_as(&libvirt, "web"), address);
    let again = scene.eip_json(&format!("associate {address} libvirt:web"));
    assert_eq!(again["private_ip"], second, "it stays where it is");
    let third = format!("-o json associate {address} libvirt:web --network third");
    let (code, said, _) = scene.try_eip(&third);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("default") && said.contains("second"), "{said}");
}

#[test]
fn a_libvirt_that_is_killed_costs_no_request_and_what_it_missed_is_made_up_for() {
    let scene = Scene::new();
    let mut libvirt = machines(&scene, &[Guest::new("web")]);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    known(&scene, &["web"]);
    let address = scene.eip_json("up libvirt:web")["public_ip"].as_str().unwrap().to_owned();
    let away = || eventually("it to be told", SOON, || state(&scene, &address, "unknown"));

    let ((), requests) = scene.while_asked(&address, || {
        libvirt.kill();
        let why = away();
        assert!(why.contains("libvirt does not answer"), "{why}");
        libvirt.resume();
        eventually("it to be back", SOON, || state(&scene, &address, "active"));
    });
    let lost: Vec<_> = requests.iter().filter(|request| request.page.is_none()).collect();
    assert!(lost.is_empty(), "{lost:?}");

    libvirt.kill();
    away();
    scene.host.sh("kill -9 $(cat /run/libvirt/qemu/web.pid)");
    assert!(mapped(&scene, &address), "nobody has told what became of it");
    libvirt.resume();
    let why = eventually("the crash to be found", SOON, || failing(&scene, &address));
    assert_eq!(why, "libvirt:web is stopped");
    assert!(!mapped(&scene, &address));
}

/// Why an elastic IP is not in force, if it is not.
fn failing(scene: &Scene, address: &str) -> Option<String> {
    state(scene, address, "failing")
}

/// Why the data plane is in a state, if it is in that.
fn state(scene: &Scene, address: &str, wanted: &str) -> Option<String> {
    let plane = scene.eip_json(&format!("show {address}"))["data_plane"].clone();
    (plane["state"] == wanted).then(|| plane["reason"].as_str().unwrap_or_default().to_owned())
}

/// Whether the kernel leads an address anywhere.
fn mapped(scene: &Scene, address: &str) -> bool {
    let look = format!("nft get element ip eip dn '{{ {address} }}'");
    scene.host.try_sh(&look).status.success()
}

#[test]
fn a_machine_on_any_network_of_libvirts_is_reached_or_says_why_not() {
    let scene = Scene::new();
    let libvirt = Libvirt::start(&scene.host);
    libvirt.dhcp_network("routed", "<forward mode='route'/>", "virbr1", "10.7.1");
    libvirt.dhcp_network("isolated", "", "virbr2", "10.7.2");
    let _dhcp = own_bridge(&scene);
    libvirt.network(
        "<network><name>own</name><forward mode='bridge'/><bridge name='br-own'/></network>",
    );
    let guest = |name: &str| Guest::bare(name).on(name);
    libvirt.boot(&[guest("routed"), guest("isolated"), guest("own").with_agent()]);
    let _serving = scene.serve(&["--compute", "libvirt=qemu:///system"]);
    known(&scene, &["routed", "isolated", "own"]);

    for name in ["routed", "own"] {
        let address = libvirt.address(name).unwrap().to_string();
        eventually("its address to be known", SOON, || {
            (scene.eip_json(&format!("instance show {name}"))["private_ip"] == address)
                .then_some(())
        });
        let made = scene.eip_json(&format!("up libvirt:{name}"));
        let address = made["public_ip"].as_str().unwrap();
        assert_eq!(scene.page(address), Some(format!("{name}\n")));
        assert_eq!(seen_as(&libvirt, name), address);
        scene.eip(&format!("disassociate {address}"));
    }
    let private = libvirt.address("routed").unwrap().to_string();
    scene.world.sh("ip route add 10.7.1.0/24 via 192.0.2.1");
    assert_eq!(
        seen_as(&libvirt, "routed"),
        private,
        "without an elastic IP it is routed as before"
    );

    let (code, _, said) = scene.try_eip("up libvirt:isolated");
    assert_eq!(code, 5, "{said}");
    let why = scene.eip_json("instance show isolated")["reason"].clone();
    assert!(why.as_str().unwrap_or_default().contains("isolated"), "{why}");
    let rules = rules(&scene);
    assert!(!rules.iter().any(|rule| rule.contains("-o virbr2") && rule.contains("eip")));
}

/// A bridge that is not libvirt's, on which the host is the router and gives addresses away.
fn own_bridge(scene: &Scene) -> Daemon {
    scene.host.sh("ip link add br-own type bridge && ip address add 10.7.3.1/24 dev br-own &&
         ip link set br-own up");
    let mut dnsmasq = scene.host.command("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
    dnsmasq.args(["--interface=br-own", "--bind-interfaces", "--no-ping"]);
    dnsmasq.args(["--dhcp-range=10.7.3.2,10.7.3.99", "--dhcp-leasefile=/run/own.leases"]);
    dnsmasq.args(["--pid-file=/run/own.pid", "--log-facility=/run/own.log"]);
    scene.host.daemon(dnsmasq)
}

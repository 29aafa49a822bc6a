//! Firewalls of others on the host: firewalld, and Docker's of engines that are not the one that the other
//! tests run. Of those it is the rules that are there, as Docker documents them, not the engine.

use std::time::{Duration, Instant};

use eip_testkit::eventually;
use eip_testkit::machine::Daemon;
use serde_json::Value;

use crate::scene::{SOON, Scene, WHO, fetch};

/// What engine 29 has in nftables for a bridge, as its repository documents it under
/// `integration/network/bridge/nftablesdoc`; `MARK` is where `--bridge-accept-fwmark` puts its rule. The
/// bridge is that of sandboxes.
const DOCKER_29: &str = r#"
table ip docker-bridges {
    map filter-forward-in-jumps {
        type ifname : verdict
        elements = { "eip-sandbox" : jump filter-forward-in__eip-sandbox }
    }
    map filter-forward-out-jumps {
        type ifname : verdict
        elements = { "eip-sandbox" : jump filter-forward-out__eip-sandbox }
    }
    map nat-postrouting-out-jumps {
        type ifname : verdict
        elements = { "eip-sandbox" : jump nat-postrouting-out__eip-sandbox }
    }
    chain filter-FORWARD {
        type filter hook forward priority filter; policy accept;
        oifname vmap @filter-forward-in-jumps
        iifname vmap @filter-forward-out-jumps
    }
    chain nat-POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        iifname vmap @nat-postrouting-out-jumps
    }
    chain raw-PREROUTING {
        type filter hook prerouting priority raw; policy accept;
        ip daddr PRIVATE iifname != "eip-sandbox" counter drop comment "DROP DIRECT ACCESS"
    }
    chain filter-forward-in__eip-sandbox {
        ct state established,related counter accept
        MARK
        iifname "eip-sandbox" counter accept comment "ICC"
        counter drop comment "UNPUBLISHED PORT DROP"
    }
    chain filter-forward-out__eip-sandbox {
        ct state established,related counter accept
        counter accept comment "OUTGOING"
    }
    chain nat-postrouting-out__eip-sandbox {
        oifname != "eip-sandbox" ip saddr 10.213.0.0/16 counter masquerade comment "MASQUERADE"
    }
}
"#;

/// What engine 28 has in iptables for a bridge and a container on it, as its repository documents it
/// under `integration/network/bridge/iptablesdoc`, where it was the one to turn forwarding on. New in
/// it: the drop of direct access in the table `raw`, ahead of whatever rewrites.
const DOCKER_28: &str = "
iptables -P FORWARD DROP
for chain in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD DOCKER-USER; do iptables -N $chain; done
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -j DOCKER-FORWARD
iptables -A DOCKER-FORWARD -j DOCKER-CT
iptables -A DOCKER-FORWARD -j DOCKER-BRIDGE
iptables -A DOCKER-FORWARD -i eip-sandbox -j ACCEPT
iptables -A DOCKER-CT -o eip-sandbox -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A DOCKER-BRIDGE -o eip-sandbox -j DOCKER
iptables -A DOCKER ! -i eip-sandbox -o eip-sandbox -j DROP
iptables -t raw -A PREROUTING -d PRIVATE ! -i eip-sandbox -j DROP
iptables -t nat -A POSTROUTING -s 10.213.0.0/16 ! -o eip-sandbox -j MASQUERADE
";

struct Reached {
    scene: Scene,
    _serving: Daemon,
    address: String,
    private: String,
}

impl Reached {
    /// A sandbox that is reached by its elastic IP.
    fn new(options: &[&str]) -> Self {
        let scene = Scene::new();
        let serving = scene.serve(&[&["--compute", "sandbox"], options].concat());
        scene.sandbox("web-1");
        let up = scene.eip_json("up web-1");
        let text = |field: &str| up[field].as_str().unwrap().to_owned();
        let (address, private) = (text("public_ip"), text("private_ip"));
        let reached = Self { scene, _serving: serving, address, private };
        reached.both_ways();
        reached
    }

    fn page(&self) -> Option<String> {
        self.scene.page(&self.address)
    }

    /// Waits until it is reached, and the world sees it as its elastic IP.
    #[track_caller]
    fn both_ways(&self) {
        eventually("the page of the sandbox", SOON, || self.page());
        eventually("the world to see the elastic IP", SOON, || {
            (self.seen() == self.address).then_some(())
        });
    }

    /// As what the world sees the sandbox.
    fn seen(&self) -> String {
        let (_, out, _) = self.scene.try_eip(&format!("sandbox exec web-1 -- curl -s -m 1 {WHO}"));
        out.trim().to_owned()
    }

    fn plane(&self) -> Value {
        self.scene.eip_json(&format!("show {}", self.address))["data_plane"].clone()
    }

    fn is_told(&self, state: &str) -> String {
        eventually(&format!("{state} to be told"), SOON, || {
            let plane = self.plane();
            let reason = plane["reason"].as_str().unwrap_or_default().to_owned();
            (plane["state"] == state).then_some(reason)
        })
    }

    /// Loads rules, with the private address of the sandbox in them.
    fn load(&self, program: &str, rules: &str) {
        let rules = rules.replace("PRIVATE", &self.private);
        self.scene.host.sh(&format!("{program} <<'END'\n{rules}\nEND"));
    }

    /// The world does not reach the sandbox by its private address.
    fn stays_hidden(&self) {
        self.scene.world.sh("ip route replace 10.213.0.0/16 via 192.0.2.1");
        let direct = fetch(&self.scene.world, &format!("http://{}/", self.private));
        assert_eq!(direct, None, "by its private address it is as unreachable as it was");
    }
}

#[test]
fn elastic_ips_pass_what_docker_28_has_in_iptables() {
    let reached = Reached::new(&[]);
    reached.load("sh -e", DOCKER_28);
    reached.both_ways();
    reached.stays_hidden();
    let raw = reached.scene.host.sh("iptables -t raw -nvL PREROUTING");
    let drops = raw.lines().find(|line| line.contains("DROP")).unwrap();
    assert!(!drops.trim_start().starts_with("0 "), "direct access was dropped there: {raw}");
    assert_eq!(reached.plane()["state"], "active");
}

#[test]
fn elastic_ips_pass_what_docker_29_has_in_nftables_where_it_accepts_the_mark_and_else_that_is_said()
{
    let reached = Reached::new(&[]);
    reached.load("nft -f -", &DOCKER_29.replace("MARK", ""));
    let why = reached.is_told("failing");
    assert!(why.contains("--bridge-accept-fwmark=0x10000/0x10000"), "{why}");
    assert_eq!(reached.page(), None, "it is as it says");
    assert_eq!(reached.seen(), reached.address, "what the instance begins goes out");

    // The engine was started with what it says.
    let mark = "meta mark & 0x10000 == 0x10000 counter accept comment \"ALLOW FW MARK\"";
    reached.scene.host.sh("nft delete table ip docker-bridges");
    reached.load("nft -f -", &DOCKER_29.replace("MARK", mark));
    reached.is_told("active");
    reached.both_ways();
    reached.stays_hidden();
}

/// firewalld with a D-Bus of its own, and nothing configured but what the package brings.
fn firewalld(scene: &Scene) -> [Daemon; 2] {
    scene.host.sh("mount -t tmpfs tmpfs /etc/firewalld && mkdir -p /run/dbus /etc/firewalld/zones");
    let bus = scene.host.command("dbus-daemon");
    let bus = with(bus, &["--system", "--nofork", "--nopidfile", "--nosyslog"]);
    let bus = scene.host.daemon(bus);
    eventually("the bus", SOON, || {
        scene.host.try_sh("[ -S /run/dbus/system_bus_socket ]").status.success().then_some(())
    });
    let log = std::fs::File::create(scene.folder.path().join("firewalld.log")).unwrap();
    let mut command = with(scene.host.command("firewalld"), &["--nofork", "--nopid"]);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let firewalld = scene.host.daemon(command);
    eventually("firewalld", SOON, || {
        scene.host.try_sh("firewall-cmd --state").status.success().then_some(())
    });
    [bus, firewalld]
}

fn with(mut command: std::process::Command, words: &[&str]) -> std::process::Command {
    command.args(words);
    command
}

#[test]
fn elastic_ips_pass_firewalld_and_outlive_its_reloads() {
    let reached = Reached::new(&[]);
    let scene = &reached.scene;
    let _firewalld = firewalld(scene);
    eventually("the page of the sandbox", SOON, || reached.page());
    assert_eq!(
        reached.seen(),
        "",
        "what the sandbox begins is rejected, in a zone that is not told of it"
    );
    // Any zone that accepts what its interfaces send will do.
    scene.host.sh("firewall-cmd --permanent --zone=trusted --add-interface=eip-sandbox");
    for reload in ["--reload", "--complete-reload"] {
        scene.host.sh(&format!("firewall-cmd {reload}"));
        let begun = Instant::now();
        reached.both_ways();
        assert!(begun.elapsed() < 5 * Duration::from_secs(2), "{reload}: {:?}", begun.elapsed());
        let rules = scene.host.sh("nft list table inet firewalld");
        assert!(rules.contains("reject with icmpx"), "it drops what it has no rule for: {rules}");
    }
    reached.stays_hidden();

    // What is sent to an alias is not rewritten: it takes a policy.
    scene.eip(&format!("associate {} web-1 --mode alias", reached.address));
    assert_eq!(reached.page(), None);
    for words in [
        "--new-policy eip",
        "--policy eip --add-ingress-zone ANY",
        "--policy eip --add-egress-zone trusted",
        "--policy eip --add-rich-rule \
         'rule family=ipv4 destination address=100.64.0.0/10 accept'",
    ] {
        scene.host.sh(&format!("firewall-cmd --permanent {words}"));
    }
    scene.host.sh("firewall-cmd --reload");
    reached.both_ways();
    reached.stays_hidden();
}

//! client -- host(bridge br0: web-1, web-2; bridge br1: web-3), each a namespace of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eip_dataplane::{Applied, DataPlane, DesiredState, Options};
use eip_model::{AliasTarget, InstanceId, LocalNetwork, MacAddress, OrdMap, Speaker};
use eip_testkit::eventually;
use eip_testkit::netns::{Namespace, fetch, fetch_udp, link};

pub(crate) const TCP: u16 = 8080;
pub(crate) const UDP: u16 = 9090;
/// Long enough for an answer on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Long enough to be sure that there is none: answers take well under a millisecond.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const WEB_1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
pub(crate) const WEB_2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
pub(crate) const WEB_3: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 13);

pub(crate) fn eip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, last)
}

pub(crate) struct World {
    pub(crate) client: Namespace,
    pub(crate) host: Namespace,
    pub(crate) web_1: Namespace,
    pub(crate) web_2: Namespace,
    pub(crate) web_3: Namespace,
    plane: Arc<Mutex<DataPlane>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::opened_with(Options::default())
    }

    pub(crate) fn opened_with(options: Options) -> Self {
        let client = Namespace::new("client");
        let host = Namespace::new("host");
        link(&client, &host, "eth0", "u0");
        client.ip(&[
            "addr add 192.0.2.2/24 dev eth0",
            // On the wire: the host must answer ARP for each elastic IP.
            "route add 100.64.0.0/16 dev eth0",
            // Sent to the host, whoever has it.
            "route add 100.65.0.0/16 via 192.0.2.1",
        ]);
        host.ip(&["addr add 192.0.2.1/24 dev u0", "route add default via 192.0.2.2"]);
        host.bridge("br0", "10.0.0.1/24");
        host.bridge("br1", "10.0.1.1/24");
        let [web_1, web_2, web_3] =
            [("web-1", "br0", WEB_1), ("web-2", "br0", WEB_2), ("web-3", "br1", WEB_3)].map(
                |(name, bridge, address)| {
                    let web = Namespace::new(name);
                    link(&host, &web, &format!("v-{name}"), "eth0");
                    host.ip(&[&format!("link set v-{name} master {bridge}")]);
                    let [a, b, c, _] = address.octets();
                    web.ip(&[
                        &format!("addr add {address}/24 dev eth0"),
                        &format!("route add default via {a}.{b}.{c}.1"),
                    ]);
                    web.serve_tcp(TCP);
                    web.serve_udp(UDP);
                    web
                },
            );
        client.serve_tcp(TCP);
        client.serve_udp(UDP);
        let plane = host.run(move || DataPlane::open_with(options).expect("a data plane"));
        let plane = Arc::new(Mutex::new(plane));
        Self { client, host, web_1, web_2, web_3, plane }
    }

    /// What a test begins with: these targets in force, applied twice.
    pub(crate) fn with(targets: &[(Ipv4Addr, Ipv4Addr)]) -> Self {
        let world = Self::new();
        assert!(world.apply(targets).replaced);
        assert!(world.apply(targets).changed_nothing());
        world
    }

    pub(crate) fn apply(&self, targets: &[(Ipv4Addr, Ipv4Addr)]) -> Applied {
        self.apply_state(desired(targets)).expect("an apply that succeeds")
    }

    pub(crate) fn apply_state(
        &self,
        state: DesiredState,
    ) -> Result<Applied, eip_dataplane::ApplyError> {
        self.plane(move |plane| plane.apply(&state))
    }

    pub(crate) fn plane<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut DataPlane) -> R + Send + 'static,
    ) -> R {
        let plane = Arc::clone(&self.plane);
        self.host.run(move || job(&mut plane.lock().expect("no test panics in here")))
    }

    /// Begins anew over what is in the kernel, as a process does that was restarted.
    pub(crate) fn restart(&self) {
        self.plane(|plane| *plane = DataPlane::open().expect("a data plane"));
    }

    /// What `nft` shows of our table.
    pub(crate) fn table(&self) -> serde_json::Value {
        let text = self.host.sh("nft -j list table ip eip");
        serde_json::from_str(&text).expect("JSON from nft")
    }

    /// The elements of a set or map of our table, as text.
    pub(crate) fn elements(&self, name: &str) -> String {
        let table = self.table();
        let items = table["nftables"].as_array().expect("a list");
        let is_it =
            |item: &&serde_json::Value| item["set"]["name"] == name || item["map"]["name"] == name;
        let found = items.iter().find(is_it).expect("a set of that name");
        let body = if found["set"].is_null() { &found["map"] } else { &found["set"] };
        body["elem"].to_string()
    }

    /// Ours among the local routes.
    pub(crate) fn routes(&self) -> String {
        self.host.sh("ip route show table local proto 225")
    }

    /// What `nft monitor` tells of commits in the host while `job` runs.
    pub(crate) fn commits_during(&self, job: impl FnOnce()) -> String {
        let mut monitor = self.host.command("nft");
        let mut monitor = monitor.arg("monitor").stdout(Stdio::piped()).spawn().expect("nft");
        let (said, lines) = std::sync::mpsc::channel();
        let stdout = BufReader::new(monitor.stdout.take().expect("a pipe"));
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody may listen any more: the last lines are about the end itself.
                let _sent = said.send(line);
            }
        });
        eventually("the monitor to hear something", SOON, || {
            self.host.sh("nft add table ip witness; nft delete table ip witness");
            lines.recv_timeout(NEVER).ok()
        });
        job();
        self.host.sh("nft add table ip finished");
        let heard: String = std::iter::from_fn(|| lines.recv_timeout(SOON).ok())
            .take_while(|line| !line.contains("add table ip finished"))
            .collect();
        monitor.kill().expect("it runs until it is stopped");
        monitor.wait().expect("it has ended");
        reader.join().expect("it reads to the end");
        heard
    }

    /// Whether the host filters frames between ports of a bridge as IP packets, as Docker has it.
    pub(crate) fn filter_bridged_frames(&self, how: u8) {
        self.host.sh(&format!("echo {how} > /proc/sys/net/bridge/bridge-nf-call-iptables"));
    }
}

pub(crate) fn desired(targets: &[(Ipv4Addr, Ipv4Addr)]) -> DesiredState {
    let network = |interface: &str, subnet: &str| {
        LocalNetwork::new(interface, subnet.parse().expect("a subnet"))
    };
    DesiredState {
        ranges: vec!["100.64.0.0/10".parse().expect("a range")],
        networks: vec![network("br0", "10.0.0.0/24"), network("br1", "10.0.1.0/24")],
        targets: targets.iter().copied().collect(),
        aliases: OrdMap::new(),
    }
}

pub(crate) fn mac_of(web: &Namespace) -> MacAddress {
    let links = web.sh("ip -j link show dev eth0");
    let links: serde_json::Value = serde_json::from_str(&links).expect("JSON from ip");
    links[0]["address"].as_str().expect("a MAC address").parse().expect("one")
}

/// Where an elastic IP leads that is on the interface of this instance.
pub(crate) fn alias_at(web: &Namespace, private_ip: Ipv4Addr) -> AliasTarget {
    let interface = if private_ip == WEB_3 { "br1" } else { "br0" };
    let mac = mac_of(web);
    AliasTarget {
        instance_id: InstanceId::new(uuid::Uuid::nil()),
        private_ip,
        speakers: [Speaker { interface: interface.to_owned(), mac }].into(),
    }
}

/// Asks the responder behind an address over TCP and UDP: both must say the same.
pub(crate) fn ask(from: &Namespace, address: Ipv4Addr) -> String {
    let tcp = from.run(move || fetch(SocketAddrV4::new(address, TCP), SOON));
    let udp = from.run(move || fetch_udp(SocketAddrV4::new(address, UDP), SOON));
    let name = from.name();
    let tcp = tcp.unwrap_or_else(|error| panic!("{name} asked {address} over TCP: {error}"));
    let udp = udp.unwrap_or_else(|error| panic!("{name} asked {address} over UDP: {error}"));
    assert_eq!(tcp, udp);
    tcp
}

/// The same over TCP alone: a UDP responder on a host with several addresses answers from any.
pub(crate) fn ask_over_tcp(from: &Namespace, address: Ipv4Addr) -> String {
    let answer = from.run(move || fetch(SocketAddrV4::new(address, TCP), SOON));
    answer.unwrap_or_else(|error| panic!("{} asked {address} over TCP: {error}", from.name()))
}

/// Asks, and is content only with no answer at all over either.
pub(crate) fn hears_nothing(from: &Namespace, address: Ipv4Addr) {
    let tcp = from.run(move || fetch(SocketAddrV4::new(address, TCP), NEVER));
    let udp = from.run(move || fetch_udp(SocketAddrV4::new(address, UDP), NEVER));
    assert!(tcp.is_err(), "{} asked {address} over TCP: {tcp:?}", from.name());
    assert!(udp.is_err(), "{} asked {address} over UDP: {udp:?}", from.name());
}

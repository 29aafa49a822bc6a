//! A client, a host with a bridge, and three instances on it that echo.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eip_dataplane::{DataPlane, DesiredState};
use eip_model::LocalNetwork;
use eip_testkit::machine::Machine;

/// Where everybody echoes.
pub(crate) const PORT: u16 = 7000;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) const ONE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(crate) const TWO: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) struct Scene {
    pub(crate) host: Machine,
    pub(crate) client: Machine,
    pub(crate) instances: Vec<Machine>,
    over: Arc<AtomicBool>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (host, client) = (Machine::start(), Machine::start());
        host.cable("192.0.2.1/24", &client, "192.0.2.9/24");
        client.sh("ip route add 100.64.0.0/10 dev eth0");
        host.sh(
            "ip link add br0 type bridge && ip addr add 10.0.0.1/24 dev br0 && ip link set br0 up",
        );
        let over = Arc::new(AtomicBool::new(false));
        let instances = (1..=3).map(|number| {
            let instance = Machine::start();
            host.plug(
                "br0",
                &format!("port{number}"),
                &instance,
                &format!("{}/24", private(number)),
            );
            instance.sh("ip route add default via 10.0.0.1");
            echo(&instance, format!("web-{number}"), over.clone());
            instance
        });
        let instances = instances.collect();
        echo(&client, "client".to_owned(), over.clone());
        Self { host, client, instances, over }
    }

    pub(crate) fn plane(&self) -> DataPlane {
        self.host.inside(|| DataPlane::open().unwrap())
    }

    pub(crate) fn apply(&self, plane: &mut DataPlane, pairs: &[(Ipv4Addr, u8)]) {
        let state = desired(pairs);
        self.host.inside(|| plane.apply(&state).unwrap());
    }

    /// Returns our table as nft shows it, without what counts packets.
    pub(crate) fn table(&self) -> serde_json::Value {
        let shown = self.host.sh("nft -s -j list table ip eip");
        serde_json::from_str(&shown).unwrap()
    }

    /// Whether an address is anywhere in our table.
    pub(crate) fn holds(&self, address: Ipv4Addr) -> bool {
        self.table().to_string().contains(&format!("\"{address}\""))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The private address of an instance.
pub(crate) fn private(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 10 + number)
}

pub(crate) fn desired(pairs: &[(Ipv4Addr, u8)]) -> DesiredState {
    let subnet = "10.0.0.0/24".parse().unwrap();
    DesiredState {
        ranges: vec!["100.64.0.0/10".parse().unwrap()],
        networks: vec![LocalNetwork { interface: "br0".to_owned(), subnet }],
        targets: pairs.iter().map(|(public, number)| (*public, private(*number))).collect(),
    }
}

/// Echoes "NAME saw ADDRESS" until the test is over.
pub(crate) fn echo(on: &Machine, name: String, over: Arc<AtomicBool>) {
    let socket = on.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !over.load(Ordering::Relaxed) {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let answer = format!("{name} saw {} say {text}", peer.ip());
                socket.send_to(answer.as_bytes(), peer).ok();
            }
        }
    });
}

/// A flow: one socket, so that conntrack knows it again.
pub(crate) struct Flow(UdpSocket);

impl Flow {
    pub(crate) fn new(from: &Machine, to: Ipv4Addr) -> Self {
        let socket = from.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(SocketAddr::from((to, PORT))).unwrap();
            socket
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Sends a word that was not sent before, and returns who answered it and whom that saw.
    pub(crate) fn ask(&self, word: &str) -> Option<(String, Ipv4Addr)> {
        // Refused by an ICMP error of an earlier word is no answer either.
        self.0.send(word.as_bytes()).ok()?;
        let mut buffer = [0; 128];
        loop {
            let length = self.0.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let (name, rest) = text.split_once(" saw ").unwrap();
            let (seen, said) = rest.split_once(" say ").unwrap();
            if said == word {
                return Some((name.to_owned(), seen.parse().unwrap()));
            }
        }
    }
}

/// Asks once, by a flow of its own.
pub(crate) fn ask(from: &Machine, to: Ipv4Addr) -> Option<(String, Ipv4Addr)> {
    Flow::new(from, to).ask("once")
}

pub(crate) fn many(count: u32) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let first = Ipv4Addr::new(100, 65, 0, 0).to_bits();
    let private = Ipv4Addr::new(10, 128, 0, 0).to_bits();
    (0..count).map(|n| (Ipv4Addr::from_bits(first + n), Ipv4Addr::from_bits(private + n))).collect()
}

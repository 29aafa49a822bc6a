//! Which IPv4 address this host last saw behind a hardware address: its own neighbour table.
//!
//! libvirt's way to ask for it (`arp`) fails on new kernels, and costs a question for each domain.
//! The kernel tells every change of the table, so it is kept here at no cost.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::mac::Mac;

/// How long to wait before a lost socket is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// An interface of this host, and an address on its link.
type Place = (u32, Ipv4Addr);

/// Who answers at which address, as far as this host has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Neighbours {
    /// Who, and how new that is: higher is newer.
    known: BTreeMap<Place, (Mac, u64)>,
    newest: BTreeMap<Mac, (u64, Ipv4Addr)>,
    count: u64,
}

impl Neighbours {
    /// Returns the address that was last seen to become this one's.
    pub(super) fn address_of(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.newest.get(&mac).map(|(_, address)| *address)
    }

    /// Whether somebody else was seen at this address.
    pub(super) fn is_anothers(&self, address: Ipv4Addr, mac: Mac) -> bool {
        self.newest.iter().any(|(other, (_, at))| *at == address && *other != mac)
    }

    /// Takes in one entry. Returns whether it says something new.
    fn see(&mut self, place: Place, mac: Option<Mac>) -> bool {
        let before = self.known.get(&place).map(|(mac, _)| *mac);
        if before == mac {
            return false;
        }
        if let Some(before) = before {
            self.known.remove(&place);
            self.find_newest(before);
        }
        if let Some(mac) = mac {
            self.count += 1;
            self.known.insert(place, (mac, self.count));
            self.newest.insert(mac, (self.count, place.1));
        }
        true
    }

    /// Looks for what is left of one of whose addresses one is gone.
    fn find_newest(&mut self, mac: Mac) {
        let of_it = self.known.iter().filter(|(_, (one, _))| *one == mac);
        match of_it.map(|((_, address), (_, age))| (*age, *address)).max() {
            Some(newest) => self.newest.insert(mac, newest),
            None => self.newest.remove(&mac),
        };
    }
}

/// Follows the table until told to stop. A kernel that will not tell it is told once.
pub(super) async fn follow(tell: watch::Sender<Neighbours>, stop: CancellationToken) {
    let mut said = false;
    loop {
        let Some(followed) = stop.run_until_cancelled(try_follow(&tell)).await else { return };
        let Err(lost) = followed else { continue };
        if !said {
            warn!(error = %lost, "The neighbour table cannot be followed; will retry");
        }
        said = true;
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

/// Reads the table and follows it until changes were missed: then it is to be read anew.
async fn try_follow(tell: &watch::Sender<Neighbours>) -> io::Result<()> {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]);
    let (connection, handle, mut changes) = opened?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut table = Neighbours::default();
    let mut whole = Vec::new();
    let mut listed = handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    while let Some(one) = listed.try_next().await.map_err(io::Error::other)? {
        whole.push(one);
    }
    // The kernel lists in no order; what was confirmed last shall count as newest.
    whole.sort_by_key(|one| std::cmp::Reverse(unconfirmed_for(one)));
    for one in &whole {
        take(&mut table, one, false);
    }
    debug!(neighbours = table.known.len(), "Read the neighbour table");
    tell.send_replace(table);
    while let Some((message, _)) = changes.next().await {
        if change(tell, &message) == Told::Missed {
            return Ok(());
        }
    }
    Err(io::Error::other("the kernel closed the socket"))
}

/// Whether the kernel has told everything.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    All,
    Missed,
}

/// Takes in what the kernel tells.
fn change(tell: &watch::Sender<Neighbours>, message: &NetlinkMessage<RouteNetlinkMessage>) -> Told {
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(one)) = &message.payload {
        tell.send_if_modified(|table| take(table, one, false));
    }
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(one)) = &message.payload {
        tell.send_if_modified(|table| take(table, one, true));
    }
    // What was missed cannot be told: the table is read anew.
    if matches!(&message.payload, NetlinkPayload::Overrun(_)) { Told::Missed } else { Told::All }
}

/// Returns whether the table says something else than before.
fn take(table: &mut Neighbours, one: &NeighbourMessage, gone: bool) -> bool {
    let mut address = None;
    let mut mac = None;
    for attribute in &one.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
            address = Some(*ip);
        }
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = Mac::from_bytes(bytes);
        }
    }
    let Some(address) = address else { return false };
    let answers = [
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
        NeighbourState::Permanent,
    ];
    let stands = answers.contains(&one.header.state) && !gone;
    table.see((one.header.ifindex, address), mac.filter(|_| stands))
}

fn unconfirmed_for(one: &NeighbourMessage) -> u32 {
    for attribute in &one.attributes {
        if let NeighbourAttribute::CacheInfo(info) = attribute {
            return info.confirmed;
        }
    }
    u32::MAX
}

#[cfg(test)]
impl Neighbours {
    /// A table of one interface, oldest first.
    pub(super) fn of(all: &[(Ipv4Addr, Mac)]) -> Self {
        let mut table = Self::default();
        for (address, mac) in all {
            table.see((1, *address), Some(*mac));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eip_testkit::netns::Namespace;

    const A: &str = "52:54:00:00:00:0a";
    const B: &str = "52:54:00:00:00:0b";

    fn mac(text: &str) -> Mac {
        Mac::parse(text.as_bytes()).unwrap()
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn the_newest_address_counts_and_the_one_before_when_that_goes() {
        let mut table = Neighbours::of(&[(ip(1), mac(A)), (ip(2), mac(A)), (ip(3), mac(B))]);
        assert_eq!(table.address_of(mac(A)), Some(ip(2)));
        assert!(!table.see((1, ip(1)), Some(mac(A))), "that it is confirmed is no news");
        assert_eq!(table.address_of(mac(A)), Some(ip(2)));
        assert!(table.see((1, ip(2)), None));
        assert_eq!(table.address_of(mac(A)), Some(ip(1)));
        assert!(table.see((1, ip(1)), Some(mac(B))), "another one has taken it");
        assert_eq!((table.address_of(mac(A)), table.address_of(mac(B))), (None, Some(ip(1))));
        assert!(table.is_anothers(ip(1), mac(A)) && !table.is_anothers(ip(1), mac(B)));
    }

    #[test]
    fn the_kernels_table_is_read_and_every_change_of_it_is_told() {
        let namespace = Namespace::new("neighbours");
        namespace.bridge("br0", "10.0.0.254/24");
        let stale = |address: &str, mac: &str| {
            format!("neigh replace {address} lladdr {mac} dev br0 nud stale")
        };
        namespace.ip(&[&stale("10.0.0.1", A)]);
        let (tell, seen) = watch::channel(Neighbours::default());
        let stop = CancellationToken::new();
        let until = stop.clone();
        let following = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // It waits while somebody reads what it told.
            runtime.unwrap().block_on(follow(tell, until));
        });
        let limit = Duration::from_secs(5);
        let at = |mac: Mac, address: Option<Ipv4Addr>| {
            eip_testkit::eventually(&format!("{mac} at {address:?}"), limit, || {
                (seen.borrow().address_of(mac) == address).then_some(())
            });
        };
        at(mac(A), Some(ip(1)));
        namespace.ip(&[&stale("10.0.0.2", B), &stale("10.0.0.3", A)]);
        at(mac(B), Some(ip(2)));
        at(mac(A), Some(ip(3)));
        namespace.ip(&["neigh del 10.0.0.3 dev br0", &stale("10.0.0.1", B)]);
        at(mac(A), None);
        at(mac(B), Some(ip(1)));
        // More at once than the socket holds: what was missed is read anew.
        let many: Vec<String> = (0..60_000)
            .map(|n| stale(&format!("10.0.0.{}", 10 + n % 200), [A, B][n / 200 % 2]))
            .collect();
        let held = seen.borrow();
        namespace.ip(&many.iter().map(String::as_str).collect::<Vec<_>>());
        namespace.ip(&["neigh flush dev br0", &stale("10.0.0.9", B)]);
        drop(held);
        at(mac(B), Some(ip(9)));
        at(mac(A), None);
        stop.cancel();
        following.join().unwrap();
    }
}

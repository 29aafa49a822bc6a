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
        let Some(lost) = stop.run_until_cancelled(try_follow(&tell)).await else { return };
        if !said {
            warn!(error = %lost, "The neighbour table cannot be followed; will retry");
        }
        said = true;
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

/// Reads the table and follows it until the socket is lost.
async fn try_follow(tell: &watch::Sender<Neighbours>) -> io::Error {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]);
    let (connection, handle, mut changes) = match opened {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let driving = tokio::spawn(connection);
    let mut table = Neighbours::default();
    let mut whole = Vec::new();
    let mut listed = handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
    loop {
        match listed.try_next().await {
            Ok(Some(one)) => whole.push(one),
            Ok(None) => break,
            Err(error) => return io::Error::other(error),
        }
    }
    // The kernel lists in no order; what was confirmed last shall count as newest.
    whole.sort_by_key(|one| std::cmp::Reverse(unconfirmed_for(one)));
    for one in &whole {
        take(&mut table, one, false);
    }
    debug!(neighbours = table.known.len(), "Read the neighbour table");
    tell.send_replace(table);
    while let Some((message, _)) = changes.next().await {
        if let Err(error) = change(tell, &message) {
            driving.abort();
            return error;
        }
    }
    io::Error::other("the kernel closed the socket")
}

/// Takes in what the kernel tells.
fn change(
    tell: &watch::Sender<Neighbours>,
    message: &NetlinkMessage<RouteNetlinkMessage>,
) -> io::Result<()> {
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(one)) = &message.payload {
        tell.send_if_modified(|table| take(table, one, false));
    }
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(one)) = &message.payload {
        tell.send_if_modified(|table| take(table, one, true));
    }
    // What was missed cannot be told: the table is read anew.
    if let NetlinkPayload::Overrun(_) = &message.payload {
        return Err(io::Error::other("changes were missed"));
    }
    Ok(())
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

//! Telling the server what elastic IPs have carried.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use eip_dataplane::TrafficReader;
use eip_model::{Counted, Desired, TrafficReport, Volume, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::server::ServerLink;

/// How often it is looked whether the kernel's counters have been read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many elastic IPs go into one report.
const AT_ONCE: usize = 10_000;

/// Sends what has changed, each time that the counters have been read, until told to stop.
pub(crate) async fn tell_traffic(
    reader: TrafficReader,
    desired: watch::Receiver<Option<Desired>>,
    server: ServerLink,
    stop: CancellationToken,
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut told: BTreeMap<Ipv4Addr, Counted> = BTreeMap::new();
    // Of all that was ever here, since this agent began: the kernel has counted on over earlier ones,
    // who have told it, so what the first reading has is where this one begins.
    let (mut seen, mut total) = (BTreeMap::new(), Volume::default());
    let mut first = true;
    let mut before = reader.latest();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let now = reader.latest();
        if Arc::ptr_eq(&now, &before) {
            continue;
        }
        before = Arc::clone(&now);
        let Some(desired) = desired.borrow().clone() else { continue };
        let here = counted(&desired, &now);
        told.retain(|address, _| here.contains_key(address));
        for (address, one) in &here {
            let begins = if first { one.volume } else { Volume::default() };
            let counted = seen.insert(*address, one.volume).unwrap_or(begins);
            total = total.plus(one.volume.since(counted));
        }
        first = false;
        seen.retain(|address, _| here.contains_key(address));
        let news: Vec<Counted> = here
            .into_iter()
            .filter(|(address, one)| told.get(address) != Some(one))
            .map(|(_, one)| one)
            .filter(|one| one.volume != Volume::default())
            .collect();
        for part in news.chunks(AT_ONCE) {
            let report = TrafficReport { counted: part.to_vec(), total };
            match server.put("traffic", &report).await {
                Ok(()) => told.extend(part.iter().map(|one| (one.public_ip, *one))),
                // The next reading tells all of it.
                Err(error) => debug!(error = %chain(&error), "What was counted did not arrive"),
            }
        }
    }
}

fn counted(desired: &Desired, volumes: &BTreeMap<Ipv4Addr, Volume>) -> BTreeMap<Ipv4Addr, Counted> {
    let one = |public_ip, elastic_ip_id, volume| Counted { public_ip, elastic_ip_id, volume };
    desired
        .attachments()
        .values()
        .filter_map(|attachment| {
            let (address, id) = (attachment.public_ip, attachment.elastic_ip_id);
            Some((address, one(address, id, *volumes.get(&address)?)))
        })
        .collect()
}

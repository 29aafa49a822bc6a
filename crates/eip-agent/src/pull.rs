//! Asking the server for the desired set, and taking what may be trusted.

use std::cmp::Ordering;
use std::time::Duration;

use eip_model::{Desired, DesiredNews, Generation, HostName, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::server::{Ask, DEADLINE, Fetched, LinkError, REPORT_DEADLINE, ServerLink};
use crate::{FIRST_RETRY, LONGEST_RETRY};

/// How long a question for a new desired set stays open, in seconds.
const LONG_POLL_SECONDS: u64 = 25;

/// Asks for the desired set again and again, and passes on what may be trusted. What may not is
/// told to `refused`, until something that may has come.
pub(crate) async fn pull(
    server: ServerLink,
    host: HostName,
    desired: watch::Sender<Option<Desired>>,
    refused: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    let mut trouble: Option<String> = None;
    let mut ask = Ask::ForChanges;
    let mut late = false;
    loop {
        let known = desired.borrow().as_ref().map(|set| (set.cluster_id, set.generation));
        // All of it may be very much. To who has it, a server that says nothing is one to be asked again.
        let patience = if known.is_none() || late { REPORT_DEADLINE } else { DEADLINE };
        let asked = server.desired(known, ask, LONG_POLL_SECONDS, patience);
        let Some(answer) = stop.run_until_cancelled(asked).await else { return };
        late = answer.as_ref().is_err_and(LinkError::is_late);
        let pause = match answer {
            Ok(fetched) => {
                if trouble.take().is_some() {
                    info!("The server answers again");
                }
                retry = FIRST_RETRY;
                match fetched {
                    Fetched::Unchanged => {
                        refused.send_if_modified(|why| why.take().is_some());
                        None
                    }
                    Fetched::News(news) => {
                        let taken = successor(&host, desired.borrow().as_ref(), news);
                        // Changes that cannot be taken are no reason to stay behind for ever.
                        ask = if taken.is_ok() { Ask::ForChanges } else { Ask::ForAll };
                        take(taken, &desired, &refused, &server)
                    }
                }
            }
            Err(error) => {
                let said = chain(&error);
                if trouble.as_ref() != Some(&said) {
                    let hint = error.hint();
                    warn!(
                        error = said,
                        hint, "No desired set from the server; rules stay as they are"
                    );
                }
                trouble = Some(said);
                retry = (retry * 2).min(LONGEST_RETRY);
                Some(retry)
            }
        };
        if let Some(pause) = pause
            && stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
        {
            return;
        }
    }
}

/// Passes a desired set on, or says why not. Returns how long to wait before the next question.
fn take(
    set: Result<Desired, String>,
    desired: &watch::Sender<Option<Desired>>,
    refused: &watch::Sender<Option<String>>,
    server: &ServerLink,
) -> Option<Duration> {
    let (set, why_not) = match set {
        Ok(set) => (Some(set), None),
        Err(why_not) => (None, Some(format!("turned down a desired set: {why_not}"))),
    };
    let news = refused.send_if_modified(|last| {
        let news = *last != why_not;
        last.clone_from(&why_not);
        news
    });
    if let Some(reason) = why_not {
        if news {
            error!(reason, "Turned down a desired set; rules stay as they are");
        }
        return Some(LONGEST_RETRY);
    }
    let set = set?;
    if desired.borrow().as_ref().is_some_and(|known| known.cluster_id != set.cluster_id) {
        server.resume_from(Generation::default());
    }
    desired.send_replace(Some(set));
    None
}

/// Returns the desired set that comes after the one that is known.
///
/// An empty set may well be one. But a server that lost its record, an old copy of it, another one at the
/// same address, or an answer that was overtaken must not clear a host.
///
/// # Errors
/// In words, for people: why what was answered cannot be the successor.
fn successor(
    host: &HostName,
    known: Option<&Desired>,
    news: DesiredNews,
) -> Result<Desired, String> {
    let set = match news {
        DesiredNews::Whole(set) => set,
        DesiredNews::Changes(changes) => {
            let known = known.ok_or("it has only what changed")?;
            // A mistake in it is found as it is in a whole set, but without going through all of it.
            return known.with(&changes);
        }
    };
    if set.host != *host {
        return Err("it is another host's".to_owned());
    }
    let set = Desired::new(set)?;
    let Some(known) = known else { return Ok(set) };
    if known.cluster_id != set.cluster_id {
        return match set.replaces {
            Some(replaced) if replaced == known.cluster_id => Ok(set),
            Some(_) | None => Err("it is of another record".to_owned()),
        };
    }
    match set.generation.cmp(&known.generation) {
        Ordering::Less => Err("it is older than the one in force".to_owned()),
        Ordering::Equal if set != *known => {
            Err("it has the generation of the one in force, and says something else".to_owned())
        }
        Ordering::Equal | Ordering::Greater => Ok(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eip_model::{Attachment, ClusterId, DesiredChanges, DesiredSet, ElasticIpId, InstanceId};
    use uuid::Uuid;

    fn set(cluster: u128, generation: u64, addresses: &[u8]) -> DesiredSet {
        let attachment = |last: &u8| Attachment {
            public_ip: std::net::Ipv4Addr::new(100, 64, 0, *last),
            elastic_ip_id: ElasticIpId::new(Uuid::from_u128(u128::from(*last))),
            instance_id: InstanceId::new(Uuid::from_u128(u128::from(*last))),
            mode: eip_model::Mode::Nat,
            network: None,
        };
        DesiredSet {
            cluster_id: ClusterId::new(Uuid::from_u128(cluster)),
            host: "hv1".parse().unwrap(),
            generation: Generation::new(generation),
            replaces: None,
            ranges: vec!["100.64.0.0/10".parse().unwrap()],
            attachments: addresses.iter().map(attachment).collect(),
        }
    }

    fn reason(known: &DesiredSet, set: &DesiredSet) -> Option<String> {
        let news = DesiredNews::Whole(set.clone());
        let known = Desired::new(known.clone()).unwrap();
        successor(&"hv1".parse().unwrap(), Some(&known), news).err()
    }

    #[test]
    fn only_a_successor_of_what_is_known_is_taken() {
        let known = set(1, 5, &[1, 2]);
        for fine in [set(1, 5, &[1, 2]), set(1, 6, &[1]), set(1, 6, &[]), set(1, 99, &[1, 2, 3])] {
            assert_eq!(reason(&known, &fine), None, "{fine:?}");
        }
        let told = |set: &DesiredSet| reason(&known, set).expect("a reason");
        assert!(told(&set(1, 4, &[1, 2])).contains("older than the one in force"));
        assert!(told(&set(1, 5, &[1])).contains("says something else"));
        assert!(told(&set(1, 5, &[])).contains("says something else"));
        assert!(told(&set(2, 6, &[1, 2])).contains("of another record"));
        assert!(told(&set(1, 6, &[2, 1])).contains("not sorted"));
        assert!(told(&set(1, 6, &[1, 1])).contains("twice"));
        let another = DesiredSet { host: "hv2".parse().unwrap(), ..set(1, 6, &[]) };
        assert!(told(&another).contains("another host's"));
    }

    #[test]
    fn changes_are_taken_for_the_set_that_they_are_for_and_lead_to_the_next() {
        let known = Desired::new(set(1, 5, &[1, 2, 4])).unwrap();
        let changes = |cluster, since, removed: &[u8], new: &[u8]| {
            let DesiredSet { cluster_id, host, generation, ranges, attachments, .. } =
                set(cluster, 6, new);
            let since = Generation::new(since);
            let ip = |last: &u8| std::net::Ipv4Addr::new(100, 64, 0, *last);
            let removed = removed.iter().map(ip).collect();
            let changes = DesiredChanges {
                cluster_id,
                host,
                since,
                generation,
                ranges,
                removed,
                attachments,
            };
            successor(&"hv1".parse().unwrap(), Some(&known), DesiredNews::Changes(changes))
        };
        let to = |addresses| Desired::new(set(1, 6, addresses));
        assert_eq!(changes(1, 5, &[2, 4], &[3, 4]), to(&[1, 3, 4]));
        assert_eq!(changes(1, 5, &[], &[]), to(&[1, 2, 4]));
        let told = |outcome: Result<Desired, String>| outcome.expect_err("a reason");
        assert!(told(changes(1, 4, &[2], &[])).contains("generation 4 of another set"));
        assert!(told(changes(2, 5, &[2], &[])).contains("another set"));
        assert!(told(changes(1, 5, &[], &[3, 3])).contains("twice"));
        let news = DesiredNews::Changes(DesiredChanges {
            cluster_id: known.cluster_id,
            host: known.host.clone(),
            since: known.generation,
            generation: Generation::new(6),
            ranges: Vec::new(),
            removed: Vec::new(),
            attachments: Vec::new(),
        });
        let taken = successor(&"hv1".parse().unwrap(), None, news);
        assert!(told(taken).contains("only what changed"));
    }

    #[test]
    fn another_record_is_taken_where_it_was_accepted_in_place_of_this_one() {
        let known = set(1, 5, &[1, 2]);
        let replacing = |cluster: u128| DesiredSet {
            replaces: Some(ClusterId::new(Uuid::from_u128(cluster))),
            ..set(2, 1, &[])
        };
        assert_eq!(reason(&known, &replacing(1)), None);
        assert!(reason(&known, &replacing(3)).expect("a reason").contains("another record"));
    }
}

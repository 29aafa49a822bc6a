//! Guests that are slow, fail, or come back.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use eip_compute::Sight;
use eip_model::{Attachment, ClusterId, DesiredSet, ElasticIpId, Generation};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// A backend whose guests end what they have begun when they may.
#[derive(Debug, Default)]
struct Slow {
    begun: Mutex<Vec<(u128, Option<Ipv4Addr>)>>,
    may_end: watch::Sender<usize>,
}

impl Slow {
    fn begun(&self) -> Vec<(u128, Option<Ipv4Addr>)> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl ComputeBackend for Slow {
    fn backend(&self) -> Backend {
        Backend::Docker
    }

    fn place(&self) -> String {
        "the test".to_owned()
    }

    async fn watch(&self, _: watch::Sender<Sight>, _: CancellationToken) {}

    async fn settle(&self, task: &GuestTask) -> Result<(), GuestError> {
        let number = {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            let public_ip = task.alias.map(|alias| alias.public_ip);
            begun.push((task.instance_id.uuid().as_u128(), public_ip));
            begun.len()
        };
        self.may_end.subscribe().wait_for(|may| *may >= number).await.unwrap();
        Ok(())
    }

    fn looks_freely(&self) -> bool {
        true
    }
}

fn id(n: impl Into<u16>) -> InstanceId {
    InstanceId::new(Uuid::from_u128(u128::from(n.into())))
}

fn private(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, n)
}

/// Running containers, and whether each can be reached in mode `alias`.
fn running(all: &[(u8, bool)]) -> Instances {
    let report = |(n, within_reach): &(u8, bool)| InstanceReport {
        id: id(*n),
        backend: Backend::Docker,
        name: format!("web-{n}"),
        project: None,
        state: InstanceState::Running,
        private_ip: Some(private(*n)),
        vpc_id: None,
        address_source: None,
        unusable: None,
        modes: if *within_reach { Mode::ALL.to_vec() } else { Mode::nat_alone() },
        interfaces: Vec::new(),
    };
    all.iter().map(|one| (id(one.0), Arc::new(report(one)))).collect()
}

fn want(guests: &mut Guests, instances: &Instances, alias: Option<u8>) {
    let lives = instances.keys().map(|id| (*id, 1_u64)).collect();
    let target = |n| {
        let (instance_id, private_ip) = (id(n), private(n));
        (PUBLIC, AliasTarget { instance_id, private_ip, speakers: BTreeSet::new() })
    };
    let aliases = alias.map(target).into_iter().collect();
    guests.want(&aliases, Known { instances, lives: &lives, ranges: &[] });
}

/// What is said of the elastic IP while it points at this instance.
fn said(guests: &Guests, n: u8) -> Option<(ProblemKind, String)> {
    let attachment = Attachment {
        public_ip: PUBLIC,
        elastic_ip_id: ElasticIpId::new(Uuid::nil()),
        instance_id: id(n),
        mode: Mode::Alias,
        network: None,
    };
    let desired = Desired::new(DesiredSet {
        cluster_id: ClusterId::new(Uuid::nil()),
        host: "hv1".parse().unwrap(),
        generation: Generation::default(),
        replaces: None,
        ranges: vec!["100.64.0.0/10".parse().unwrap()],
        attachments: vec![attachment],
    });
    guests.problems(&desired.unwrap()).pop().map(|one| (one.kind, one.reason))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_on_a_guest_before_what_took_too_long_has_ended() {
    let slow = Arc::new(Slow::default());
    let backend: Arc<dyn ComputeBackend> = Arc::<Slow>::clone(&slow);
    let mut guests = Guests::new(&[backend]);
    let instances = running(&[(2, true)]);
    guests.swept.insert(id(2_u8));
    want(&mut guests, &instances, Some(2));
    guests.changed().await;
    let (kind, why) = said(&guests, 2).unwrap();
    assert_eq!(kind, ProblemKind::Failing);
    assert!(why.ends_with("a change of it takes more than 10 s"), "{why}");

    want(&mut guests, &instances, None);
    assert!(said(&guests, 2).is_some(), "it may yet get there");
    tokio::time::sleep(LAST_RETRY * 4).await;
    assert_eq!(slow.begun(), [(2, Some(PUBLIC))], "the take-off waits");
    slow.may_end.send_replace(1);
    guests.changed().await;
    // The next one is begun by the task that was started.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(slow.begun(), [(2, Some(PUBLIC)), (2, None)]);
    slow.may_end.send_replace(2);
    guests.changed().await;
    assert_eq!(said(&guests, 2), None);
}

#[tokio::test(start_paused = true)]
async fn each_instance_is_looked_at_for_leftovers_once_it_is_within_reach() {
    let slow = Arc::new(Slow::default());
    slow.may_end.send_replace(usize::MAX);
    let backend: Arc<dyn ComputeBackend> = Arc::<Slow>::clone(&slow);
    let mut guests = Guests::new(&[backend]);
    for (all, looked_at) in [
        (&[(2, true), (3, false)][..], &[(2, None)][..]),
        (&[(2, true), (3, true)], &[(2, None), (3, None)]),
        (&[(2, true), (3, true), (4, true)], &[(2, None), (3, None), (4, None)]),
    ] {
        want(&mut guests, &running(all), None);
        let news = tokio::time::timeout(LIMIT, guests.changed()).await;
        assert!(news.is_err(), "nothing is said of what was looked at by chance");
        assert_eq!(slow.begun(), looked_at);
    }
}

#[tokio::test(start_paused = true)]
async fn of_very_many_the_first_are_looked_at_at_once_and_the_others_one_by_one() {
    let slow = Arc::new(Slow::default());
    slow.may_end.send_replace(usize::MAX);
    let backend: Arc<dyn ComputeBackend> = Arc::<Slow>::clone(&slow);
    let mut guests = Guests::new(&[backend]);
    let one = running(&[(1, true)]).values().next().cloned().unwrap();
    let many = u16::try_from(AT_FIRST).unwrap() + 10;
    let mut instances: Instances = (0..many)
        .map(|n| (id(n), Arc::new(InstanceReport { id: id(n), ..(*one).clone() })))
        .collect();
    want(&mut guests, &instances, None);
    let moment = async |guests: &mut Guests, time| {
        let news = tokio::time::timeout(time, guests.changed()).await;
        assert!(news.is_err(), "nothing is said of what was looked at by chance");
        slow.begun().len()
    };
    assert_eq!(moment(&mut guests, LATER / 2).await, AT_FIRST);
    assert_eq!(moment(&mut guests, LATER * 3).await, AT_FIRST + 3);
    // One of those that are left goes.
    instances.remove(&id(many - 1));
    want(&mut guests, &instances, None);
    assert_eq!(moment(&mut guests, LIMIT).await, AT_FIRST + 9);
    let looked_at: BTreeSet<u128> = slow.begun().into_iter().map(|one| one.0).collect();
    assert_eq!(looked_at, (0..u128::from(many) - 1).collect());
}

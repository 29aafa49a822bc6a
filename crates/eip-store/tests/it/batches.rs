//! What is settled together keeps its own outcome.

use eip_model::{ElasticIpRef, InstanceRef};
use eip_store::{AssociateCommand, NewAllocation, Refusal};
use rstest::rstest;

use crate::races::{at_once, split};
use crate::world::{Kind, World, address, associate, new_allocation, take};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_name_that_is_taken_stands_in_the_way_of_no_other(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let named = |offset, name: &str| NewAllocation {
        name: Some(name.parse().unwrap()),
        ..new_allocation(offset, "default")
    };
    take(&world.repo, &named(1, "web")).await.unwrap();
    let calls = (2..80).map(|offset| {
        let repo = world.repo.clone();
        let name = if offset % 3 == 0 { "web".to_owned() } else { format!("web-{}", offset / 2) };
        let new = named(offset, &name);
        async move { take(&repo, &new).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert!(lost.iter().all(|refusal| *refusal == Refusal::NameInUse), "{lost:?}");
    let names: std::collections::BTreeSet<_> = won.iter().map(|one| one.name.clone()).collect();
    assert_eq!(names.len(), won.len());
    // Every other name came once or twice; one of each got through.
    let wanted: std::collections::BTreeSet<u32> =
        (2..80).filter(|offset| offset % 3 != 0).map(|offset| offset / 2).collect();
    assert_eq!(won.len(), wanted.len());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn associations_of_all_kinds_at_once_are_each_decided_by_themselves(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &(1..=40).collect::<Vec<_>>()).await;
    for offset in 1..=60 {
        world.hold(offset).await;
    }
    let calls = (1..=60_u32).map(|n| {
        let repo = world.repo.clone();
        let target = ElasticIpRef::Address(address(n));
        // By id, by name, of an instance that is not there; each instance wanted once.
        let instance = match n {
            1..=20 => associate(target, u128::from(n)).instance,
            21..=40 => InstanceRef::parse(&format!("docker:web-{n}")),
            _ => InstanceRef::parse("nobody"),
        };
        let command = AssociateCommand { instance, ..associate(target, 1) };
        async move { repo.associate(&command).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!((won.len(), lost.len()), (40, 20));
    assert!(lost.iter().all(|refusal| *refusal == Refusal::InstanceNotFound), "{lost:?}");
    assert_eq!(world.wanted("hv1").await, (1..=40).map(address).collect::<Vec<_>>());
    for wish in won {
        let record = wish.record.unwrap();
        assert_eq!(world.show(&record).await, record);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_of_one_elastic_ip_at_once_follow_one_another(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &(1..=30).collect::<Vec<_>>()).await;
    let eip = world.hold(1).await;
    let calls = (1..=30_u128).map(|n| {
        let repo = world.repo.clone();
        let command = AssociateCommand {
            allow_reassociation: true,
            ..associate(ElasticIpRef::Id(eip.id), n)
        };
        async move { repo.associate(&command).await }
    });
    let (won, lost) = split(at_once(calls).await);
    assert_eq!((won.len(), lost.len()), (30, 0));
    let mut told = vec!["allocated", "associated"];
    told.resize(31, "moved");
    assert_eq!(world.told(&eip).await, told);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_who_disassociate_or_release_the_same_one_does(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = std::sync::Arc::new(World::new(kind).await);
    world.report("hv1", &(1..=20).collect::<Vec<_>>()).await;
    for n in 1..=20 {
        let eip = world.hold(n).await;
        world.point(&eip, u128::from(n)).await;
    }
    let all = world.repo.list_elastic_ips(&crate::world::list_all()).await.unwrap();
    let twice = || all.iter().chain(&all).cloned().collect::<Vec<_>>().into_iter();
    let parting = twice().map(|eip| {
        let world = world.clone();
        async move { world.part(&eip).await }
    });
    let (won, lost) = split(at_once(parting).await);
    assert_eq!((won.len(), lost), (20, vec![Refusal::NotAssociated; 20]));
    let releasing = twice().map(|eip| {
        let world = world.clone();
        async move { world.release(&eip).await }
    });
    let (won, lost) = split(at_once(releasing).await);
    assert_eq!((won.len(), lost), (20, vec![Refusal::ElasticIpNotFound; 20]));
}

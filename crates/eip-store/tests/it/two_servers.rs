//! Two servers on one database answer as one.

use std::sync::Arc;
use std::time::Duration;

use eip_model::ElasticIpRef;
use eip_store::{NewAllocation, News, Refusal, Repository, Scope, StoreError, open};
use rstest::rstest;
use tokio::time::timeout;

use crate::world::{Kind, World, address, at, host, new_allocation, refusal, take};

/// Opens what the world is of once more, as another server.
async fn second(world: &World) -> Arc<dyn Repository> {
    let other = open(&world.url).await.unwrap();
    assert_eq!(other.cluster_id(), world.repo.cluster_id());
    other
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_want_an_address_through_either_server_one_gets_it(
    #[values(Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let servers = [world.repo.clone(), second(&world).await];
    let calls: Vec<_> = (0..400_u32)
        .map(|n| {
            let repo = servers[(n % 2) as usize].clone();
            // Eight want each address, four of them through either server.
            tokio::spawn(async move { take(&repo, &new_allocation(n / 8, "default")).await })
        })
        .collect();
    let mut won = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(eip) => won.push(eip.address),
            Err(StoreError::Refused(Refusal::AddressInUse)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    won.sort();
    assert_eq!(won, (0..50).map(address).collect::<Vec<_>>());
}

#[rstest]
#[tokio::test]
async fn what_is_released_through_one_server_is_free_through_the_other(
    #[values(Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let other = second(&world).await;
    let eip = world.hold(1).await;
    let again = NewAllocation { now: at(40), ..new_allocation(1, "other") };
    assert_eq!(refusal(take(&other, &again).await), Refusal::AddressInUse);
    world.release(&eip).await.unwrap();
    let gone = other.find_elastic_ip(ElasticIpRef::Id(eip.id), &Scope::Everything).await.unwrap();
    assert_eq!(gone, None);
    assert_eq!(take(&other, &again).await.unwrap().address, eip.address);
}

#[rstest]
#[tokio::test]
async fn an_association_through_one_server_is_desired_through_the_other(
    #[values(Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let other = second(&world).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let desired = other.desired_set(&host("hv1")).await.unwrap();
    assert_eq!(desired.generation, wish.generation);
    assert_eq!(desired.attachments[0].public_ip, eip.address);
    // Both ways.
    let theirs = World { repo: other, ..world };
    theirs.part(&eip).await.unwrap();
    let back = open(&theirs.url).await.unwrap();
    assert!(back.desired_set(&host("hv1")).await.unwrap().attachments.is_empty());
}

#[tokio::test]
async fn a_commit_of_one_server_is_news_to_the_other_within_a_second() {
    let world = World::new(Kind::Postgres).await;
    let other = second(&world).await;
    let mut news = other.news();
    // It listens from here on.
    let began = timeout(Duration::from_secs(5), news.recv()).await.unwrap().unwrap();
    assert_eq!(began, News::Anything);
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let of_host = async { while news.recv().await.unwrap() != News::Of([host("hv1")].into()) {} };
    timeout(Duration::from_secs(5), of_host).await.unwrap();
}

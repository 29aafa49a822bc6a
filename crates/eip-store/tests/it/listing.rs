//! Pages and filters.

use eip_model::{ElasticIpStatus, Tags};
use eip_store::{ElasticIpFilter, ListPlace, NewAllocation, Scope};
use rstest::rstest;

use crate::world::{
    Kind, World, address, at, instance_id, list_all, new_allocation, range, scope, take,
};

async fn offsets(world: &World, filter: ElasticIpFilter) -> Vec<u32> {
    let found = world.repo.list_elastic_ips(&filter).await.unwrap();
    found.iter().map(|one| range().offset_of(one.address).unwrap()).collect()
}

#[rstest]
#[tokio::test]
async fn pages_follow_one_another_by_time_and_skip_nothing(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    // Some at the same moment, which come by address.
    for (second, offset) in [(1, 5), (2, 3), (3, 900_000), (4, 1), (5, 4), (5, 2)] {
        let new = NewAllocation { now: at(second), ..new_allocation(offset, "default") };
        take(&world.repo, &new).await.unwrap();
    }
    let released = world.hold(10).await;
    world.release(&released).await.unwrap();
    for scope in [Scope::Everything, scope("default")] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = ElasticIpFilter { after, limit: 2, scope: scope.clone(), ..list_all() };
            let page = world.repo.list_elastic_ips(&page).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(ListPlace { allocated_at: last.allocated_at, address: last.address });
            assert!(page.len() <= 2);
            seen.extend(page.iter().map(|one| range().offset_of(one.address).unwrap()));
        }
        assert_eq!(seen, [5, 3, 900_000, 1, 2, 4]);
    }
}

#[rstest]
#[tokio::test]
async fn every_filter_finds_its_own_and_they_add_up(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let tags = |text: &str| -> Tags { serde_json::from_str(text).unwrap() };
    let named = NewAllocation {
        name: Some("mail".parse().unwrap()),
        tags: tags(r#"{"team": "post", "a'b\"$.x": "1"}"#),
        ..new_allocation(1, "default")
    };
    take(&world.repo, &named).await.unwrap();
    let tagged = NewAllocation { tags: tags(r#"{"team": "web"}"#), ..new_allocation(2, "default") };
    let pointed = take(&world.repo, &tagged).await.unwrap();
    world.point(&pointed, 1).await;
    take(&world.repo, &new_allocation(3, "other")).await.unwrap();

    let list = async |filter| offsets(&world, filter).await;
    let tag = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
    assert_eq!(list(list_all()).await, [1, 2, 3]);
    assert_eq!(list(ElasticIpFilter { scope: scope("default"), ..list_all() }).await, [1, 2]);
    let status = Some(ElasticIpStatus::Associated);
    assert_eq!(list(ElasticIpFilter { status, ..list_all() }).await, [2]);
    let status = Some(ElasticIpStatus::Allocated);
    assert_eq!(list(ElasticIpFilter { status, ..list_all() }).await, [1, 3]);
    let at_instance = Some(instance_id(1));
    assert_eq!(list(ElasticIpFilter { instance_id: at_instance, ..list_all() }).await, [2]);
    let public_ip = Some(address(3));
    assert_eq!(list(ElasticIpFilter { public_ip, ..list_all() }).await, [3]);
    let name = Some("mail".parse().unwrap());
    assert_eq!(list(ElasticIpFilter { name, ..list_all() }).await, [1]);
    let pool = Some("public".parse().unwrap());
    assert_eq!(list(ElasticIpFilter { pool, ..list_all() }).await, [1, 2, 3]);
    let pool = Some("nowhere".parse().unwrap());
    assert!(list(ElasticIpFilter { pool, ..list_all() }).await.is_empty());
    assert_eq!(list(ElasticIpFilter { tag: tag("team", "web"), ..list_all() }).await, [2]);
    assert_eq!(list(ElasticIpFilter { tag: tag("a'b\"$.x", "1"), ..list_all() }).await, [1]);
    assert!(list(ElasticIpFilter { tag: tag("team", "we"), ..list_all() }).await.is_empty());
    let all_at_once = ElasticIpFilter {
        scope: scope("default"),
        status: Some(ElasticIpStatus::Associated),
        instance_id: Some(instance_id(1)),
        public_ip: Some(address(2)),
        pool: Some("public".parse().unwrap()),
        tag: tag("team", "web"),
        after: Some(ListPlace { allocated_at: at(0), address: address(1) }),
        ..list_all()
    };
    assert_eq!(list(all_at_once.clone()).await, [2]);
    let one_wrong = ElasticIpFilter { scope: scope("other"), ..all_at_once };
    assert!(list(one_wrong).await.is_empty());
}

#[rstest]
#[tokio::test]
async fn the_addresses_in_use_are_read_whole(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    assert!(world.repo.addresses_in_use().await.unwrap().is_empty());
    for offset in [0, 1, 64, 4_194_303] {
        world.hold(offset).await;
    }
    let mut found = world.repo.addresses_in_use().await.unwrap();
    found.sort();
    assert_eq!(found, [0, 1, 64, 4_194_303].map(address));
}

//! Allocating, releasing, quarantine, names.

use eip_model::{ElasticIpId, ElasticIpRef, Label, Tags};
use eip_store::{NewAllocation, Refusal, Scope, StoreError, UpdateCommand};
use rstest::rstest;
use uuid::Uuid;

use crate::world::{Kind, QUARANTINE, World, address, at, new_allocation, refusal, scope, take};

#[rstest]
#[tokio::test]
async fn an_elastic_ip_is_found_by_id_and_by_address_as_it_was_allocated(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let tags: Tags = serde_json::from_str(r#"{"team": "mail", "ä": "\"ö\""}"#).unwrap();
    let now = at(0) + jiff::SignedDuration::from_nanos(123_456_789);
    let new = NewAllocation {
        name: Some("mail".parse().unwrap()),
        tags: tags.clone(),
        now,
        ..new_allocation(77, "default")
    };
    let made = take(&world.repo, &new).await.unwrap();
    assert_eq!(made.address, address(77));
    assert_eq!(made.tags, tags);
    assert_eq!(made.revision, 1);
    for target in [ElasticIpRef::Id(made.id), ElasticIpRef::Address(made.address)] {
        let found = world.repo.find_elastic_ip(target, &scope("default")).await.unwrap();
        assert_eq!(found.as_ref(), Some(&made));
    }
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [address(77)]);
}

#[rstest]
#[tokio::test]
async fn what_belongs_to_another_project_is_not_found_and_cannot_be_changed(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let theirs = take(&world.repo, &new_allocation(5, "other")).await.unwrap();
    for target in [ElasticIpRef::Id(theirs.id), ElasticIpRef::Address(theirs.address)] {
        assert_eq!(world.repo.find_elastic_ip(target, &scope("default")).await.unwrap(), None);
        assert!(world.repo.find_elastic_ip(target, &scope("other")).await.unwrap().is_some());
        let update = UpdateCommand {
            target,
            scope: scope("default"),
            name: Some(Some("mine".parse().unwrap())),
            tags: None,
            protected: None,
            actor: "key-1".into(),
            now: at(9),
        };
        assert_eq!(refusal(world.repo.update(&update).await), Refusal::ElasticIpNotFound);
        let associate = crate::world::associate(target, 1);
        assert_eq!(refusal(world.repo.associate(&associate).await), Refusal::ElasticIpNotFound);
    }
    assert_eq!(refusal(world.release(&theirs).await), Refusal::ElasticIpNotFound);
    assert_eq!(refusal(world.part(&theirs).await), Refusal::ElasticIpNotFound);
    assert!(
        world.repo.events_of(theirs.id, &scope("default"), 0, 10_000).await.unwrap().is_empty()
    );
    assert_eq!(world.told(&theirs).await, ["allocated"]);
}

#[rstest]
#[tokio::test]
async fn an_address_that_is_held_is_refused_to_everyone(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let held = world.hold(1).await;
    for owner in ["default", "other"] {
        let again = NewAllocation { asked_for: true, ..new_allocation(1, owner) };
        assert_eq!(refusal(take(&world.repo, &again).await), Refusal::AddressInUse);
    }
    assert_eq!(world.show(&held).await, held);
}

#[rstest]
#[tokio::test]
async fn an_id_that_does_not_stand_for_the_address_cannot_be_stored(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    // Whatever the offset, including ones with letters among their hexadecimal digits.
    for offset in [0, 1, 0x0a_bcde, 0x3f_ffff] {
        world.hold(offset).await;
    }
    let wrong = NewAllocation { id: new_allocation(8, "default").id, ..new_allocation(9, "other") };
    let error = take(&world.repo, &wrong).await.unwrap_err();
    let StoreError::Corrupt { table: "elastic_ip", what } = &error else {
        panic!("{error:?}");
    };
    assert!(what.contains("elastic_ip_id_stands_for_address"), "{what}");
    assert!(!error.retryable());
    assert_eq!(world.repo.addresses_in_use().await.unwrap().len(), 4);
}

#[rstest]
#[tokio::test]
async fn a_range_that_no_pool_has_cannot_be_stored(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let range: eip_model::Ipv4Range = "203.0.113.0/28".parse().unwrap();
    let id = eip_model::craft_id(*Uuid::new_v4().as_bytes(), 3, range.size()).unwrap();
    let id = ElasticIpId::new(id);
    let address = range.at(3).unwrap();
    let strange = NewAllocation { id, address, range, ..new_allocation(0, "default") };
    assert_eq!(refusal(take(&world.repo, &strange).await), Refusal::PoolNotFound);
}

#[rstest]
#[tokio::test]
async fn a_released_address_sleeps_for_everyone_but_its_last_holder_who_asks_for_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let first = world.hold(1).await;
    world.release_at(&first, at(100)).await.unwrap();
    assert_eq!(refusal(world.release_at(&first, at(101)).await), Refusal::ElasticIpNotFound);
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [address(1)]);
    let wanting = |owner, asked_for, second| NewAllocation {
        asked_for,
        now: at(second),
        ..new_allocation(1, owner)
    };
    let allocate = async |new: NewAllocation| take(&world.repo, &new).await;
    assert_eq!(refusal(allocate(wanting("default", false, 101)).await), Refusal::AddressInUse);
    assert_eq!(refusal(allocate(wanting("other", true, 101)).await), Refusal::AddressInUse);
    let last = 100 + QUARANTINE - 1;
    assert_eq!(refusal(allocate(wanting("other", true, last)).await), Refusal::AddressInUse);
    let woken = allocate(wanting("default", true, 102)).await.unwrap();
    assert_ne!(woken.id, first.id);
    assert_eq!(world.show(&woken).await, woken);
    let old = world.repo.find_elastic_ip(ElasticIpRef::Id(first.id), &Scope::Everything).await;
    assert_eq!(old.unwrap(), None);
}

#[rstest]
#[tokio::test]
async fn when_the_quarantine_has_ended_the_address_is_free_for_all(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    for offset in [1, 2, 3] {
        let held = world.hold(offset).await;
        world.release_at(&held, at(100)).await.unwrap();
    }
    // Also when nobody has tidied up yet.
    let now = at(100 + QUARANTINE);
    let new = NewAllocation { now, ..new_allocation(1, "other") };
    take(&world.repo, &new).await.unwrap();
    let early = world.repo.end_quarantines(at(100 + QUARANTINE - 1)).await.unwrap();
    assert!(early.is_empty());
    let freed = world.repo.end_quarantines(now).await.unwrap();
    assert_eq!(freed, [address(2), address(3)]);
    assert!(world.repo.end_quarantines(now).await.unwrap().is_empty());
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [address(1)]);
    take(&world.repo, &new_allocation(2, "other")).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_name_is_used_once_in_a_project_and_is_free_after_the_release(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let named = |offset, owner| NewAllocation {
        name: Some("mail".parse().unwrap()),
        ..new_allocation(offset, owner)
    };
    let first = take(&world.repo, &named(1, "default")).await.unwrap();
    let again = take(&world.repo, &named(2, "default")).await;
    assert_eq!(refusal(again), Refusal::NameInUse);
    assert_eq!(world.repo.addresses_in_use().await.unwrap(), [address(1)]);
    take(&world.repo, &named(3, "other")).await.unwrap();
    world.release(&first).await.unwrap();
    take(&world.repo, &named(2, "default")).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn an_update_changes_what_is_given_and_counts_once(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let held = world.hold(1).await;
    let command = |name: Option<Option<Label>>, tags: Option<Tags>| UpdateCommand {
        target: ElasticIpRef::Id(held.id),
        scope: scope("default"),
        name,
        tags,
        protected: None,
        actor: "key-2".into(),
        now: at(40),
    };
    let mail: Label = "mail".parse().unwrap();
    let tags: Tags = serde_json::from_str(r#"{"a": "b"}"#).unwrap();
    let named = world.repo.update(&command(Some(Some(mail.clone())), None)).await.unwrap();
    assert_eq!((named.name.as_ref(), named.revision), (Some(&mail), 2));
    assert_eq!(named.updated_at, at(40));
    let tagged = world.repo.update(&command(None, Some(tags.clone()))).await.unwrap();
    assert_eq!((tagged.name.as_ref(), &tagged.tags), (Some(&mail), &tags));
    let same = world.repo.update(&command(Some(Some(mail)), Some(tags))).await.unwrap();
    assert_eq!(same, tagged);
    let bare = world.repo.update(&command(Some(None), None)).await.unwrap();
    assert_eq!((bare.name, bare.revision), (None, 4));
    assert_eq!(world.told(&held).await, ["allocated", "updated", "updated", "updated"]);
    let other =
        NewAllocation { name: Some("taken".parse().unwrap()), ..new_allocation(2, "default") };
    take(&world.repo, &other).await.unwrap();
    let clash = world.repo.update(&command(Some(Some("taken".parse().unwrap())), None)).await;
    assert_eq!(refusal(clash), Refusal::NameInUse);
    assert_eq!(world.show(&held).await.revision, 4);
}

#[rstest]
#[tokio::test]
async fn a_pool_counts_what_is_held_pointed_and_asleep(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let first = world.hold(1).await;
    world.hold(2).await;
    let third = world.hold(3).await;
    world.point(&first, 1).await;
    world.release(&third).await.unwrap();
    let counts = world.repo.pool_counts(&"public".parse().unwrap()).await.unwrap();
    assert_eq!((counts.allocated, counts.associated, counts.quarantined), (2, 1, 1));
    let none = world.repo.pool_counts(&"nowhere".parse().unwrap()).await.unwrap();
    assert_eq!((none.allocated, none.associated, none.quarantined), (0, 0, 0));
}

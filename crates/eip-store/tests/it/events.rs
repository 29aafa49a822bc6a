//! What happened, who did it and when.

use eip_model::{ElasticIpRef, EventKind, KeyId, Role};
use eip_store::{AssociateCommand, NewAllocation, NewApiKey, Scope};
use rstest::rstest;

use crate::world::{
    Kind, World, address, associate, at, host, instance_id, new_allocation, project, scope, take,
};

#[rstest]
#[tokio::test]
async fn every_change_is_told_once_with_who_made_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let new = NewAllocation { actor: "key-a".into(), ..new_allocation(1, "default") };
    let eip = take(&world.repo, &new).await.unwrap();
    let command =
        AssociateCommand { actor: "key-b".into(), ..associate(ElasticIpRef::Id(eip.id), 1) };
    world.repo.associate(&command).await.unwrap();
    world.part(&eip).await.unwrap();
    world.release(&eip).await.unwrap();
    let events = world.repo.events_of(eip.id, &scope("default")).await.unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.kind, e.actor.as_str(), e.at)).collect();
    assert_eq!(
        told,
        [
            (EventKind::Allocated, "key-a", at(0)),
            (EventKind::Associated, "key-b", at(10)),
            (EventKind::Disassociated, "key-1", at(20)),
            (EventKind::Released, "key-1", at(30)),
        ]
    );
    assert!(events.is_sorted_by(|one, next| one.id < next.id));
    for event in &events {
        assert_eq!((event.elastic_ip_id, event.public_ip), (eip.id, address(1)));
        assert_eq!(event.project, project("default"));
    }
    for event in &events[1..3] {
        assert_eq!(event.instance_id, Some(instance_id(1)));
        assert_eq!(event.instance_name.as_deref(), Some("web-1"));
        assert_eq!(event.host, Some(host("hv1")));
    }
    assert_eq!(events[0].instance_id, None);
}

#[rstest]
#[tokio::test]
async fn two_holders_of_one_address_have_a_story_each(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let first = world.hold(1).await;
    world.release(&first).await.unwrap();
    let new = NewAllocation { now: at(31), ..new_allocation(1, "other") };
    let second = take(&world.repo, &new).await.unwrap();
    assert_eq!(world.told(&first).await, ["allocated", "released"]);
    assert_eq!(world.told(&second).await, ["allocated"]);
    assert!(world.repo.events_of(first.id, &scope("other")).await.unwrap().is_empty());
    assert_eq!(world.repo.events_of(second.id, &Scope::Everything).await.unwrap().len(), 1);
}

#[rstest]
#[tokio::test]
async fn a_key_is_found_by_its_digest_and_replaced_under_its_id(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let key = |id: &str, digest, role| NewApiKey {
        id: KeyId::new(id),
        digest: [digest; 32],
        role,
        now: at(1),
    };
    let owner = || project("default");
    let roles = [
        Role::Admin { project: owner() },
        Role::Member { project: owner() },
        Role::Reader { project: owner() },
        Role::Agent { host: host("hv1") },
    ];
    for (n, role) in (1..).zip(roles) {
        world.repo.put_api_key(&key(&format!("k{n}"), n, role.clone())).await.unwrap();
        let found = world.repo.find_api_key(&[n; 32]).await.unwrap().unwrap();
        assert_eq!((found.id, found.role), (KeyId::new(format!("k{n}")), role));
        assert_eq!((found.expires_at, found.revoked_at), (None, None));
    }
    let changed = key("k1", 99, Role::Agent { host: host("hv9") });
    world.repo.put_api_key(&changed).await.unwrap();
    assert_eq!(world.repo.find_api_key(&[1; 32]).await.unwrap(), None);
    let found = world.repo.find_api_key(&[99; 32]).await.unwrap().unwrap();
    assert_eq!((found.id, found.role), (changed.id, changed.role));
}

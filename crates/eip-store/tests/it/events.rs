//! What happened, who did it and when.

use eip_model::{ElasticIpRef, EventKind, KeyId, Mend, Role};
use eip_store::{AssociateCommand, NewAllocation, NewApiKey, Scope};
use rstest::rstest;

use crate::raw::try_execute;
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
    let events = world.repo.events_of(eip.id, &scope("default"), 0, 10_000).await.unwrap();
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
        assert_eq!((event.elastic_ip_id, event.public_ip), (Some(eip.id), Some(address(1))));
        assert_eq!(event.project, Some(project("default")));
        assert_eq!(event.detail, None);
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
    assert!(world.repo.events_of(first.id, &scope("other"), 0, 10_000).await.unwrap().is_empty());
    assert_eq!(
        world.repo.events_of(second.id, &Scope::Everything, 0, 10_000).await.unwrap().len(),
        1
    );
}

#[rstest]
#[tokio::test]
async fn what_a_host_has_mended_is_told_once_and_is_of_no_elastic_ip(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let last = world.repo.last_event().await.unwrap();
    let mend = |second, what: &str, times| {
        let nanos = jiff::SignedDuration::from_nanos(1_999);
        Mend { at: at(second) + nanos, what: what.to_owned(), times }
    };
    let table = mend(5, "the table", 1);
    let routes = mend(6, "the routes", 3);
    world.repo.record_mends(&host("hv1"), std::slice::from_ref(&table)).await.unwrap();
    // The answer was lost, and more was mended since.
    let both = [table.clone(), routes.clone(), table.clone()];
    world.repo.record_mends(&host("hv1"), &both).await.unwrap();
    world.repo.record_mends(&host("hv1"), &both).await.unwrap();
    // Of another host, known or not, it is another thing.
    world.repo.record_mends(&host("hv2"), &[table]).await.unwrap();
    let events = world.repo.events_after(last, 100).await.unwrap();
    let told = events.iter().map(|event| {
        let (host, detail) = (event.host.as_ref().unwrap(), event.detail.as_deref().unwrap());
        (host.as_str(), event.actor.as_str(), event.at.as_microsecond(), detail)
    });
    let time = |second| at(second).as_microsecond() + 1;
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("hv1", "agent:hv1", time(5), "the table"),
            ("hv1", "agent:hv1", time(6), "the routes (3 times)"),
            ("hv2", "agent:hv2", time(5), "the table"),
        ]
    );
    for event in &events {
        assert_eq!(event.kind, EventKind::DataPlaneMended);
        let of = (&event.project, event.elastic_ip_id, event.public_ip, event.instance_id);
        assert_eq!(of, (&None, None, None, None));
    }
    assert_eq!(world.told(&eip).await, ["allocated"]);
}

/// What the schema itself refuses.
#[rstest]
#[case::of_no_elastic_ip("'released', NULL, NULL, NULL, NULL, NULL")]
#[case::of_no_host("'data_plane_mended', NULL, NULL, NULL, NULL, 'the table'")]
#[case::without_saying_what("'data_plane_mended', NULL, NULL, NULL, 'hv1', NULL")]
#[case::of_no_subject("'project_created', 'acme', NULL, NULL, NULL, 'with no quota'")]
#[tokio::test]
async fn an_event_is_of_an_elastic_ip_or_says_what_it_is_about(
    #[case] wrong: &str,
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    let now = match kind {
        Kind::Sqlite => "1",
        Kind::Postgres | Kind::Bouncer => "now()",
    };
    let insert = |row: &str| {
        format!(
            "INSERT INTO event (at, actor, kind, project, elastic_ip_id, address, host, detail)
             VALUES ({now}, 'somebody', {row})"
        )
    };
    let right = "'data_plane_mended', NULL, NULL, NULL, 'hv1', 'the table'";
    try_execute(&world.url, &insert(right)).await.unwrap();
    let refused = try_execute(&world.url, &insert(wrong)).await.unwrap_err();
    assert!(refused.contains("event_says_what_it_is_about"), "{refused}");
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
        name: None,
        expires_at: None,
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

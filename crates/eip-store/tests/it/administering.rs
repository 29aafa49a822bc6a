//! What administrators do: each change has one event, and what changes nothing has none.

use eip_model::{EventKind, Generation, KeyId, PoolConfig, Role};
use eip_store::{Acceptance, Ahead, NewApiKey, Page, PoolChange, Refusal, Terms};
use rstest::rstest;

use crate::world::{Kind, World, at, by, host, project, refusal};

fn key(id: &str, role: Role) -> NewApiKey {
    NewApiKey {
        id: KeyId::new(id),
        digest: [u8::try_from(id.len()).unwrap(); 32],
        role,
        name: Some("ci".parse().unwrap()),
        expires_at: None,
        now: at(3),
    }
}

#[rstest]
#[tokio::test]
async fn every_change_by_an_administrator_has_one_event_with_who_made_it(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let (repo, terms) = (&world.repo, Terms::default());
    let before = repo.last_event().await.unwrap();
    let brief = project("brief");
    repo.make_project(&terms, &brief, Some(5), &by(1)).await.unwrap();
    for quota in [Some(Some(6)), Some(Some(6)), None] {
        repo.set_quota(&terms, &brief, quota, &by(2)).await.unwrap();
    }
    let member = Role::Member { project: project("fresh") };
    repo.make_api_key(&terms, &key("k-new", member), "", Some(20), "key:k1").await.unwrap();
    for second in [4, 5] {
        repo.revoke_api_key(&terms, &KeyId::new("k-new"), &by(second)).await.unwrap();
    }
    let spare = PoolConfig::of("spare".parse().unwrap(), vec!["10.9.0.0/24".parse().unwrap()]);
    repo.make_pool(&terms, &spare, &by(6)).await.unwrap();
    let change = PoolChange {
        add_ranges: vec!["10.9.1.0/24".parse().unwrap()],
        draining: Some(true),
        ..PoolChange::default()
    };
    repo.change_pool(&terms, &spare.name, &change, &by(7)).await.unwrap();
    let same = PoolChange { draining: Some(true), ..PoolChange::default() };
    repo.change_pool(&terms, &spare.name, &same, &by(8)).await.unwrap();
    repo.delete_pool(&terms, &spare.name, &by(9)).await.unwrap();
    repo.delete_project(&terms, &brief, &by(10)).await.unwrap();

    let events = repo.events_after(before, 100).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|one| {
            let project = one.project.as_ref().map_or("-", |name| name.as_str());
            (one.kind, one.subject.as_deref().unwrap(), project, one.detail.as_deref().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            (EventKind::ProjectCreated, "brief", "brief", "with a quota of 5"),
            (EventKind::ProjectUpdated, "brief", "brief", "a quota of 6 in place of a quota of 5"),
            (EventKind::ProjectCreated, "fresh", "fresh", "with a quota of 20"),
            (EventKind::ApiKeyCreated, "k-new", "fresh", "role member, called ci"),
            (EventKind::ApiKeyRevoked, "k-new", "fresh", "role member, called ci"),
            (EventKind::PoolCreated, "spare", "-", "of 10.9.0.0/24"),
            (EventKind::PoolUpdated, "spare", "-", "grown by 10.9.1.0/24; draining"),
            (EventKind::PoolDeleted, "spare", "-", "nothing of it was held"),
            (EventKind::ProjectDeleted, "brief", "brief", "with its webhooks"),
        ]
    );
    assert!(events.iter().all(|one| one.actor == "key:k1"), "{events:?}");
    let times: Vec<_> = events.iter().map(|one| one.at).collect();
    assert_eq!(times, [1, 2, 3, 3, 4, 6, 7, 9, 10].map(at));
}

#[rstest]
#[tokio::test]
async fn a_rehearsed_or_refused_change_has_no_event(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    let before = world.repo.last_event().await.unwrap();
    let rehearsed = Terms { rehearse: true, ..Terms::default() };
    world.repo.make_project(&rehearsed, &project("brief"), None, &by(1)).await.unwrap();
    let again = world.repo.make_project(&Terms::default(), &project("default"), None, &by(1)).await;
    assert!(again.is_err());
    let member = Role::Member { project: project("fresh") };
    let made = world.repo.make_api_key(&rehearsed, &key("k", member), "", None, "key:k1").await;
    made.unwrap();
    assert_eq!(world.repo.last_event().await.unwrap(), before);
    let projects = world.repo.projects(&Page::WHOLE).await.unwrap();
    assert!(projects.iter().all(|one| !["brief", "fresh"].contains(&one.name.as_str())));
}

#[rstest]
#[tokio::test]
async fn a_host_that_is_accepted_has_an_event_and_one_that_was_not_ahead_none(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    let (hv1, terms) = (host("hv1"), Terms::default());
    world.report("hv1", &[]).await;
    let before = world.repo.last_event().await.unwrap();
    let accept =
        async |second| world.repo.accept_host(&terms, &hv1, &by(second)).await.unwrap().answer;
    assert_eq!(accept(5).await, Acceptance::NotAhead);
    let ahead = Ahead { generation: Generation::new(900), cluster: None };
    world.repo.mark_ahead(&hv1, ahead, "it is ahead", at(6)).await.unwrap();
    assert_eq!(accept(7).await, Acceptance::Accepted);
    assert_eq!(accept(8).await, Acceptance::NotAhead);
    let events = world.repo.events_after(before, 10).await.unwrap();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.kind, &event.host), (EventKind::HostAccepted, &Some(hv1)));
}

#[rstest]
#[tokio::test]
async fn a_key_never_takes_the_place_of_another_and_one_that_ends_administers_for_a_while_only(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    let (repo, terms) = (&world.repo, Terms::default());
    let make = async |key: &NewApiKey| repo.make_api_key(&terms, key, "", None, "key:k1").await;
    let admin = || Role::Admin { project: project("default") };
    let first = key("k-1", admin());
    make(&first).await.unwrap();
    let same_id = NewApiKey { digest: [99; 32], ..key("k-1", admin()) };
    assert_eq!(refusal(make(&same_id).await), Refusal::Exists);
    assert_eq!(repo.find_api_key(&[99; 32]).await.unwrap(), None);
    assert!(repo.find_api_key(&first.digest).await.unwrap().is_some());
    // By the time that the other one has ended, nobody would be left.
    make(&NewApiKey { expires_at: Some(at(1_000)), ..key("k-22", admin()) }).await.unwrap();
    let last = repo.revoke_api_key(&terms, &KeyId::new("k-1"), &by(5)).await;
    assert_eq!(refusal(last), Refusal::LastAdminKey);
    let over = NewApiKey { expires_at: Some(at(2)), ..key("k-333", admin()) };
    assert_eq!(refusal(make(&over).await), Refusal::Expired);
}

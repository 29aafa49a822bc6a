//! Webhooks: made, changed, held by one server at a time, and never ahead of what was noted.

use eip_model::{Event, EventKind, KeyId, SigningSecret, WebhookId};
use eip_store::{
    Deliveries, DeliveryFailure, Hold, MOST_WEBHOOKS, NewWebhook, OnceKey, Refusal, Scope, Terms,
    WebhookChange, WebhookRecord,
};
use rstest::rstest;
use uuid::Uuid;

use crate::races::{at_once, split};
use crate::raw::ask;
use crate::world::{Kind, World, at, by, new_allocation, project, refusal, scope, take};

pub(crate) fn webhook(n: u128, of: Option<&str>) -> NewWebhook {
    NewWebhook {
        id: WebhookId::new(Uuid::from_u128(n)),
        project: of.map(project),
        name: None,
        url: "https://hooks.example.com/eip".parse().unwrap(),
        kinds: None,
        secret: SigningSecret::new([7; 32]),
    }
}

/// A record with the project `acme`.
async fn world(kind: Kind) -> World {
    let world = World::new(kind).await;
    world.repo.ensure_project(&project("acme"), None, at(0)).await.unwrap();
    world
}

async fn made(world: &World, new: &NewWebhook) -> WebhookRecord {
    world.repo.make_webhook(&Terms::default(), new, &by(10)).await.unwrap().answer
}

fn hold(id: WebhookId, holder: u128, now: i64, until: i64) -> Hold {
    Hold { id, holder: Uuid::from_u128(holder), now: at(now), until: at(until) }
}

async fn last(world: &World) -> Event {
    let last = world.repo.last_event().await.unwrap();
    world.repo.events_after(last - 1, 1).await.unwrap().remove(0)
}

#[rstest]
#[tokio::test]
async fn a_webhook_is_told_of_from_its_making_on_and_belongs_to_its_project(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = world(kind).await;
    take(&world.repo, &new_allocation(1, "acme")).await.unwrap();
    let before = world.repo.last_event().await.unwrap();
    let new = NewWebhook { kinds: Some(vec![EventKind::Moved]), ..webhook(1, Some("acme")) };
    let one = made(&world, &new).await;
    assert_eq!((one.seen, one.kinds.as_deref()), (before, Some(&[EventKind::Moved][..])));
    let event = last(&world).await;
    assert_eq!((event.kind, event.actor.as_str()), (EventKind::WebhookCreated, "key:k1"));
    assert_eq!(event.subject, Some(one.id.to_string()));
    assert_eq!(event.project, Some(project("acme")));
    assert!(!format!("{new:?} {one:?}").contains("[7"), "the secret is told: {one:?}");

    assert_eq!(event.detail.as_deref(), Some("to https://hooks.example.com"), "no path is told");

    let everyones = made(&world, &webhook(2, None)).await;
    let listed = async |scope: &Scope, after| world.repo.webhooks(scope, after, 10).await.unwrap();
    assert_eq!(listed(&scope("acme"), None).await, std::slice::from_ref(&one));
    assert_eq!(listed(&Scope::Everything, Some(one.id)).await, std::slice::from_ref(&everyones));
    for (id, whose) in [(one.id, "default"), (everyones.id, "acme")] {
        let found = world.repo.find_webhook(id, &scope(whose)).await;
        assert_eq!(refusal(found), Refusal::WebhookNotFound);
        let gone = world.repo.delete_webhook(&Terms::default(), id, &scope(whose), &by(11)).await;
        assert_eq!(refusal(gone), Refusal::WebhookNotFound);
    }
    let unknown = webhook(3, Some("nobody"));
    let refused = world.repo.make_webhook(&Terms::default(), &unknown, &by(10)).await;
    assert_eq!(refusal(refused), Refusal::ProjectNotFound);
    world.repo.delete_webhook(&Terms::default(), one.id, &scope("acme"), &by(12)).await.unwrap();
    assert_eq!(last(&world).await.kind, EventKind::WebhookDeleted);
    assert_eq!(listed(&scope("acme"), None).await, []);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_project_never_has_more_webhooks_than_it_may(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = world(kind).await;
    let calls = (0..32).map(|n| {
        let (repo, new) = (world.repo.clone(), webhook(n, Some("acme")));
        async move { repo.make_webhook(&Terms::default(), &new, &by(1)).await }
    });
    let (made, refused) = split(at_once(calls).await);
    assert_eq!(u64::try_from(made.len()).unwrap(), MOST_WEBHOOKS);
    assert!(refused.iter().all(|one| *one == Refusal::TooManyWebhooks), "{refused:?}");
    // Those of another are not counted.
    self::made(&world, &webhook(100, None)).await;
}

#[rstest]
#[tokio::test]
async fn one_server_holds_a_webhook_until_it_lets_go_or_its_time_is_up(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = world(kind).await;
    let id = made(&world, &webhook(1, None)).await.id;
    let held = async |hold: Hold| world.repo.hold_webhook(&hold).await.unwrap().is_some();
    let until = async || world.repo.find_webhook(id, &Scope::Everything).await.unwrap().held_until;
    assert_eq!(until().await, None);
    assert!(held(hold(id, 1, 20, 50)).await);
    assert_eq!(until().await, Some(at(50)));
    assert!(!held(hold(id, 2, 49, 80)).await);
    assert!(held(hold(id, 1, 49, 60)).await);
    assert!(held(hold(id, 2, 60, 90)).await, "its time is up");
    // The first one does not know yet.
    let progress = Deliveries { seen: 9, accepted_at: Some(at(61)), failure: None };
    let late = world.repo.note_deliveries(&hold(id, 1, 61, 91), &progress).await.unwrap();
    assert_eq!(late, None);
    assert!(world.repo.find_webhook(id, &Scope::Everything).await.unwrap().seen < 9);
    let noted = world.repo.note_deliveries(&hold(id, 2, 62, 62), &progress).await.unwrap();
    assert_eq!(noted.map(|one| (one.seen, one.delivered_at)), Some((9, Some(at(61)))));
    assert_eq!(until().await, None, "it was let go of");
    // What was dealt with is never dealt with less.
    let less = Deliveries { seen: 5, accepted_at: None, failure: None };
    assert!(held(hold(id, 3, 63, 90)).await);
    let noted = world.repo.note_deliveries(&hold(id, 3, 63, 90), &less).await.unwrap();
    assert_eq!(noted.unwrap().seen, 9);
}

#[rstest]
#[tokio::test]
async fn one_that_fails_waits_and_one_that_is_given_up_says_so(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = world(kind).await;
    let id = made(&world, &webhook(1, Some("acme"))).await.id;
    let fail = async |now: i64, next: Option<i64>| {
        assert!(world.repo.hold_webhook(&hold(id, 1, now, now + 30)).await.unwrap().is_some());
        let next_at = next.map(at);
        let failure = DeliveryFailure { why: "x".repeat(2_000), next_at, updated_at: at(10) };
        let progress = Deliveries { seen: 1, accepted_at: None, failure: Some(failure) };
        let noted = world.repo.note_deliveries(&hold(id, 1, now, now + 30), &progress).await;
        assert_eq!(noted.unwrap(), None);
        world.repo.find_webhook(id, &Scope::Everything).await.unwrap()
    };
    let first = fail(20, Some(25)).await;
    assert_eq!(
        (first.failures, first.failing_since, first.next_at),
        (1, Some(at(20)), Some(at(25)))
    );
    assert_eq!(first.last_error.map(|why| why.len()), Some(512));
    assert_eq!(world.repo.hold_webhook(&hold(id, 2, 24, 30)).await.unwrap(), None);
    let second = fail(25, Some(35)).await;
    assert_eq!((second.failures, second.failing_since), (2, Some(at(20))));
    let events = world.repo.last_event().await.unwrap();
    let third = fail(35, None).await;
    assert_eq!((third.enabled, third.failures), (false, 3));
    assert_eq!(world.repo.last_event().await.unwrap(), events + 1);
    let event = last(&world).await;
    assert_eq!((event.kind, event.actor.as_str()), (EventKind::WebhookUpdated, "server"));
    assert_eq!(world.repo.hold_webhook(&hold(id, 2, 1_000, 1_030)).await.unwrap(), None);

    // Enabled again it is as new, and has forgotten nothing of what it has seen.
    let change = WebhookChange { enabled: Some(true), ..WebhookChange::default() };
    let changed = world
        .repo
        .change_webhook(&Terms::default(), id, &scope("acme"), &change, &by(40))
        .await
        .unwrap()
        .answer;
    assert_eq!((changed.failures, changed.next_at, changed.seen), (0, None, third.seen));
    assert!(world.repo.hold_webhook(&hold(id, 2, 40, 70)).await.unwrap().is_some());
    // Once more, and nothing is changed.
    let events = world.repo.last_event().await.unwrap();
    let again =
        world.repo.change_webhook(&Terms::default(), id, &scope("acme"), &change, &by(41)).await;
    assert_eq!(again.unwrap().answer.updated_at, at(40));
    assert_eq!(world.repo.last_event().await.unwrap(), events);
}

#[rstest]
#[tokio::test]
async fn what_failed_before_a_change_says_nothing_about_the_webhook_as_it_is(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = world(kind).await;
    let id = made(&world, &webhook(1, None)).await.id;
    world.repo.hold_webhook(&hold(id, 1, 20, 50)).await.unwrap().unwrap();
    let new = SigningSecret::new([9; 32]);
    let change = WebhookChange {
        url: Some("https://other.example.com/".parse().unwrap()),
        kinds: Some(Some(vec![EventKind::Allocated, EventKind::Released])),
        name: Some(Some("audit".parse().unwrap())),
        secret: Some((new.clone(), at(1_000))),
        ..WebhookChange::default()
    };
    let everyone = Scope::Everything;
    let changed =
        world.repo.change_webhook(&Terms::default(), id, &everyone, &change, &by(21)).await;
    let changed = changed.unwrap().answer;
    assert_eq!(changed.secret, new);
    assert_eq!(changed.old_secret, Some((SigningSecret::new([7; 32]), at(1_000))));
    let why = "the old place is gone".to_owned();
    let failure = DeliveryFailure { why, next_at: Some(at(900)), updated_at: at(10) };
    let progress = Deliveries { seen: 1, accepted_at: None, failure: Some(failure) };
    let now = world.repo.note_deliveries(&hold(id, 1, 22, 52), &progress).await.unwrap().unwrap();
    assert_eq!((now.failures, now.next_at), (0, None), "what failed was the webhook as it was");
    assert_eq!((now.seen, now.held_until), (1.max(changed.seen), Some(at(52))));
    // Disabled, it is let go of with what was sent: whoever enables it again waits for nothing.
    let disabled = WebhookChange { enabled: Some(false), ..WebhookChange::default() };
    world.repo.change_webhook(&Terms::default(), id, &everyone, &disabled, &by(23)).await.unwrap();
    let progress = Deliveries { seen: 70, accepted_at: Some(at(23)), failure: None };
    let noted = world.repo.note_deliveries(&hold(id, 1, 23, 53), &progress).await.unwrap();
    assert_eq!(noted, None);
    let now = world.repo.find_webhook(id, &everyone).await.unwrap();
    assert_eq!((now.seen, now.held_until), (70, None));
    let change = WebhookChange { kinds: Some(None), name: Some(None), ..WebhookChange::default() };
    let changed =
        world.repo.change_webhook(&Terms::default(), id, &everyone, &change, &by(23)).await;
    let changed = changed.unwrap().answer;
    assert_eq!(
        (changed.kinds, changed.name, changed.url.as_str()),
        (None, None, "https://other.example.com/")
    );
}

#[rstest]
#[tokio::test]
async fn the_webhooks_of_a_project_go_with_it(#[values(Kind::Sqlite, Kind::Postgres)] kind: Kind) {
    let world = world(kind).await;
    let terms = Terms::default();
    world.repo.make_project(&terms, &project("brief"), None, &by(1)).await.unwrap();
    let (gone, stays) = (webhook(1, Some("brief")), webhook(2, None));
    made(&world, &gone).await;
    made(&world, &stays).await;
    world.repo.delete_project(&terms, &project("brief"), &by(2)).await.unwrap();
    let left = world.repo.webhooks(&Scope::Everything, None, 10).await.unwrap();
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [stays.id]);
    let event = last(&world).await;
    assert_eq!((event.kind, event.subject.as_deref()), (EventKind::ProjectDeleted, Some("brief")));
}

#[rstest]
#[tokio::test]
async fn what_is_kept_for_who_asks_again_has_no_secret(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = world(kind).await;
    let once = OnceKey { owner: KeyId::new("k1"), key: "a".to_owned(), fingerprint: [1; 32] };
    let terms = Terms { once: Some(once), ..Terms::default() };
    let new = webhook(1, Some("acme"));
    let first = world.repo.make_webhook(&terms, &new, &by(10)).await.unwrap();
    assert_eq!((first.repeated, &first.answer.secret), (false, &new.secret));
    let again = world.repo.make_webhook(&terms, &webhook(2, Some("acme")), &by(11)).await.unwrap();
    assert_eq!((again.repeated, again.answer.id), (true, new.id));
    let answers = ask(&world.url, "SELECT CAST(outcome AS text) FROM answer").await;
    assert!(answers[0][0].contains("hooks.example.com"), "{answers:?}");
    assert!(!answers[0][0].contains("secret"), "{answers:?}");
}

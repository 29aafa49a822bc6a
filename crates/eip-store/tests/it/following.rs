//! Following the events while others write.

use std::collections::BTreeSet;
use std::time::Duration;

use eip_store::News;
use rstest::rstest;

use crate::raw::execute;
use crate::world::{Kind, World, host, new_allocation, project, take};

const WRITERS: u32 = 64;
const EACH: u32 = 40;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_sixty_four_writers_no_event_is_missed_and_none_is_seen_twice(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let mut servers = vec![world.repo.clone()];
    if matches!(kind, Kind::Postgres) {
        servers.push(eip_store::open(&world.url).await.unwrap());
    }
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let repo = servers[writer as usize % servers.len()].clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    take(&repo, &new_allocation(writer * EACH + n, "default")).await.unwrap();
                }
            })
        })
        .collect();
    let reader = servers[servers.len() - 1].clone();
    let (mut after, mut seen) = (0, Vec::new());
    while seen.len() < (WRITERS * EACH) as usize {
        let page = reader.events_after(after, 100).await.unwrap();
        if let Some(last) = page.last() {
            after = last.id.parse().unwrap();
        } else if writing.iter().all(tokio::task::JoinHandle::is_finished) {
            // Whatever there was is committed now.
            let rest = reader.events_after(after, 10_000).await.unwrap();
            seen.extend(rest.into_iter().map(|event| event.elastic_ip_id));
            break;
        }
        seen.extend(page.into_iter().map(|event| event.elastic_ip_id));
    }
    let different: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), different.len()), ((WRITERS * EACH) as usize, seen.len()));
}

#[rstest]
#[tokio::test]
async fn a_commit_is_news_and_says_which_hosts_it_concerns(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let other = match kind {
        // By way of pgbouncer nobody listens: a server hears of its own commits only.
        Kind::Sqlite | Kind::Bouncer => world.repo.clone(),
        Kind::Postgres => eip_store::open(&world.url).await.unwrap(),
    };
    let mut news = other.news();
    if matches!(kind, Kind::Postgres) {
        // It listens from here on.
        assert_eq!(within_seconds(news.recv()).await.unwrap(), News::Anything);
    }
    let eip = world.hold(1).await;
    assert_eq!(within_seconds(news.recv()).await.unwrap(), News::Of(BTreeSet::new()));
    world.report("hv1", &[1]).await;
    world.point(&eip, 1).await;
    assert_eq!(within_seconds(news.recv()).await.unwrap(), News::Of([host("hv1")].into()));
    // The general way tells the same as the swift one.
    world.report("hv2", &[2]).await;
    world.shift(&eip, 2).await;
    let both = [host("hv1"), host("hv2")].into();
    assert_eq!(within_seconds(news.recv()).await.unwrap(), News::Of(both));
}

async fn within_seconds<A>(waiting: impl Future<Output = A>) -> A {
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap()
}

/// One look ends after so many events, whoever they are of.
#[rstest]
#[tokio::test]
async fn a_look_for_the_events_of_a_project_ends_among_those_of_others(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    let own = take(&world.repo, &new_allocation(1, "default")).await.unwrap();
    let (rows, now) = match kind {
        Kind::Sqlite => {
            ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 45000)", "1")
        }
        Kind::Postgres | Kind::Bouncer => {
            ("WITH n(i) AS (SELECT generate_series(1, 45000))", "now()")
        }
    };
    let insert = format!(
        "{rows} INSERT INTO event (at, actor, kind, host, detail)
           SELECT {now}, 'agent:hv1', 'data_plane_mended', 'hv1', 'x' FROM n"
    );
    execute(&world.url, &insert).await;
    let last = take(&world.repo, &new_allocation(2, "default")).await.unwrap();
    let (mut looks, mut seen, mut after) = (0, Vec::new(), 0);
    loop {
        let (events, reached) =
            world.repo.events_of_project(&project("default"), after, 100).await.unwrap();
        seen.extend(events.into_iter().filter_map(|event| event.elastic_ip_id));
        let Some(reached) = reached else { break };
        assert!(reached > after && reached <= after + 20_000, "{after} to {reached}");
        (after, looks) = (reached, looks + 1);
    }
    assert_eq!((looks, seen), (3, vec![own.id, last.id]));
}

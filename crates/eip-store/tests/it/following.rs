//! Following the events while others write.

use std::collections::BTreeSet;
use std::time::Duration;

use eip_store::News;
use rstest::rstest;

use crate::world::{Kind, World, host, new_allocation, take};

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

//! The order to stop ends what waits, and lets end what works.

use std::time::Duration;

use crate::world::{Store, World, container};

#[tokio::test]
async fn an_agent_that_waits_does_not_keep_the_server() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let set = host.desired(None).await.unwrap();
    let waiting = tokio::spawn({
        let host = host.clone();
        let request = host.request(reqwest::Method::GET, "desired");
        let query = [("known", set.generation.to_string()), ("wait_seconds", "60".to_owned())];
        async move { request.query(&query).send().await }
    });
    // The wait has begun when a second request on the same server has been answered.
    host.desired(None).await.unwrap();
    world.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), world.ended()).await.expect("it stops");
    let answered = waiting.await.unwrap();
    assert!(answered.is_err() || answered.unwrap().status() == 503);
}

//! Those who ask and do not read.

use std::time::Duration;

use eip_server::Limits;
use eip_testkit::eventually_async;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::world::{Store, World, plain_client};

const SOON: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);
/// How much the system keeps for whoever does not read, on either side.
const ROOM: u32 = 8 << 10;

/// A world with one connection to give away, and that one in use by a client who has sent `head` and
/// reads nothing.
async fn silent(head: &str) -> (World, TcpStream) {
    let limits = Limits { head: PATIENCE, write: PATIENCE, connections: 1, ..Limits::default() };
    let world = World::cramped(Store::Sqlite, limits, ROOM).await;
    for _ in 0..400 {
        world.allocate().await;
    }
    // What filled the record has a connection that stays open for a while.
    let stream = eventually_async("room for the one connection", SOON, async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(ROOM).unwrap();
        let mut stream = socket.connect(world.address()).await.unwrap();
        let ask = "GET /version HTTP/1.1\r\nHost: eip\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.ok()?;
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.ok()?;
        answer[..n].starts_with(b"HTTP/1.1 200").then_some(stream)
    });
    let mut stream = stream.await;
    let head = format!("{head} HTTP/1.1\r\nHost: eip\r\nX-API-Key: {}\r\n\r\n", world.key);
    stream.write_all(head.as_bytes()).await.unwrap();
    (world, stream)
}

/// Whether a new connection is let in.
async fn is_served(world: &World) -> bool {
    let asked = plain_client().get(format!("{}/version", world.base)).send().await;
    asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[tokio::test]
async fn who_asks_for_much_and_reads_nothing_is_cut_off() {
    let (world, mut stream) = silent("GET /elastic-ips?limit=400").await;
    assert!(!is_served(&world).await, "the only connection is in use");
    let freed = async || is_served(&world).await.then_some(());
    eventually_async("the connection to be ended", SOON, freed).await;
    let mut rest = Vec::new();
    // What the system had taken may still come, and no more.
    stream.read_to_end(&mut rest).await.ok();
    let whole = rest.windows(11).any(|part| part == b"next_cursor");
    assert!(!whole, "all {} bytes came", rest.len());
}

#[tokio::test]
async fn who_follows_events_and_reads_none_is_cut_off_and_can_resume() {
    let (world, mut stream) = silent("GET /events/stream?after=0").await;
    let freed = async || is_served(&world).await.then_some(());
    eventually_async("the stream to be ended", SOON, freed).await;
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).await.ok();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    let ids = |text: &str| -> Vec<u64> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok());
        lines.collect()
    };
    let last = *ids(&seen).last().expect("some had come before");
    assert!(last < 400, "all of them came");
    let mut rest = eventually_async("another connection", SOON, async || {
        let url = format!("{}/events/stream", world.base);
        let ask = plain_client().get(url).header("X-API-Key", &world.key);
        let answer = ask.header("Last-Event-ID", last.to_string()).send().await.unwrap();
        (answer.status() == StatusCode::OK).then_some(answer)
    })
    .await;
    let first = tokio::time::timeout(SOON, rest.chunk()).await.unwrap().unwrap().unwrap();
    assert_eq!(ids(&String::from_utf8_lossy(&first))[0], last + 1);
}

#[tokio::test]
async fn who_reads_slowly_is_waited_for() {
    let (world, mut stream) = silent("GET /elastic-ips?limit=400").await;
    let mut got = Vec::new();
    let began = tokio::time::Instant::now();
    let whole = async {
        while !got.windows(11).any(|part| part == b"next_cursor") {
            let mut some = [0; 4 << 10];
            let n = stream.read(&mut some).await.unwrap();
            assert!(n > 0, "cut off after {} bytes and {:?}", got.len(), began.elapsed());
            got.extend_from_slice(&some[..n]);
            // A pause that is one: how slow it is read is what this is about.
            tokio::time::sleep(PATIENCE / 20).await;
        }
    };
    tokio::time::timeout(SOON, whole).await.unwrap();
    assert!(began.elapsed() > PATIENCE, "it was not slow: {:?}", began.elapsed());
    drop(world);
}

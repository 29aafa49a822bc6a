//! The stream of events: how long after the request a subscriber knows, and that one who comes back
//! has missed nothing and is told nothing twice.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::{JoinSet, LocalSet};
use uuid::Uuid;

use crate::bench::{Bench, LARGE};
use crate::callers::{Allocate, id};
use crate::http::{Connection, field, with_header};
use crate::latencies::{Latencies, median, micros};
use crate::load::{Repeat, Until};
use crate::report::{Table, Target, count, time, whole};
use crate::server::Server;
use crate::sse::Subscription;
use crate::world::Store;

/// Allocations in a second while the delay is measured.
const PACE: u32 = 400;
const PACED: u32 = 8;
const WRITERS: usize = 64;
/// How often the subscriber hangs up in the middle, and comes back.
const HANG_UPS: usize = 4;
/// After how long without an event nothing more is expected.
const QUIET: Duration = Duration::from_secs(10);

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    Ok(vec![delay(bench).await?, loss(bench).await?])
}

/// Who follows the stream.
struct Subscriber<'a> {
    server: &'a Server,
    last: Option<String>,
    /// When each elastic IP was first told to have been allocated, and how often.
    seen: HashMap<Uuid, (Instant, u32)>,
    connections: usize,
}

impl<'a> Subscriber<'a> {
    fn of(server: &'a Server) -> Self {
        Self { server, last: None, seen: HashMap::new(), connections: 0 }
    }

    async fn connect(&mut self) -> Result<Subscription> {
        let mut request = self.server.request("GET", "/events/stream", "");
        with_header(&mut request, "Accept", "text/event-stream");
        if let Some(last) = &self.last {
            with_header(&mut request, "Last-Event-ID", last);
        }
        self.connections += 1;
        Subscription::open(self.server.at, &request).await
    }

    /// Follows until so many are seen, or nothing comes any more after all was written; hangs up
    /// and comes back after every `hang_up_after` events.
    async fn follow(
        &mut self,
        mut subscription: Subscription,
        wanted: usize,
        hang_up_after: usize,
        written: &Cell<bool>,
    ) -> Result<()> {
        let mut told = 0;
        let mut heard = Instant::now();
        loop {
            let event = subscription.next(Duration::from_millis(500)).await?;
            if let Some(event) = event {
                heard = Instant::now();
                told += 1;
                self.note(&event.data, heard)?;
                self.last = Some(event.id);
                if told % hang_up_after == 0 {
                    subscription = self.connect().await?;
                }
            } else if subscription.has_ended() {
                // A server may send a slow subscriber away; it is to miss nothing by that.
                subscription = self.connect().await?;
            }
            let over = heard.elapsed() > QUIET;
            if written.get() && (self.seen.len() >= wanted || over) {
                return Ok(());
            }
        }
    }

    fn note(&mut self, data: &str, now: Instant) -> Result<()> {
        let data = data.as_bytes();
        if field(data, "kind") == Some("allocated") {
            let id = field(data, "elastic_ip_id").context("an event tells no elastic_ip_id")?;
            let (_, times) = self.seen.entry(Uuid::try_parse(id)?).or_insert((now, 0));
            *times += 1;
        }
        Ok(())
    }
}

async fn delay(bench: &mut Bench) -> Result<Table> {
    let record = bench.world.record(Store::Postgres, "stream_delay")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let request = server.request("POST", "/elastic-ips", "");
    bench.warm_up(server.at, Repeat(request.clone())).await?;
    let (mut p50, mut p99, mut worst, mut lost) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..bench.args.runs {
        let mut subscriber = Subscriber::of(&server);
        let subscription = subscriber.connect().await?;
        let time = bench.args.burst();
        let wanted = usize::try_from(u64::from(PACE) * time.as_secs())?;
        let written = Cell::new(false);
        let writing = async {
            let sent = paced(&server, &request, time).await;
            written.set(true);
            sent
        };
        let following = subscriber.follow(subscription, wanted, usize::MAX, &written);
        let (sent, followed) = tokio::join!(writing, following);
        followed?;
        let mut delays = Vec::new();
        for (id, sent) in sent? {
            match subscriber.seen.get(&id) {
                Some((seen, _)) => delays.push(micros(seen.saturating_duration_since(sent))),
                None => lost += 1,
            }
        }
        let delays = Latencies::of(delays);
        bench.note("from request to event: p50", f64::from(delays.p50()), "us")?;
        bench.note("from request to event: p99", f64::from(delays.p99()), "us")?;
        p50.push(f64::from(delays.p50()));
        p99.push(f64::from(delays.p99()));
        worst = worst.max(delays.max());
    }
    server.stop().await?;
    bench.world.forget(Store::Postgres, &record)?;
    let title = format!("stream: delay at {PACE} allocations/s on {PACED} connections, PostgreSQL");
    let mut table = Table::new(title);
    let (p50, p99) = (median(&p50), median(&p99));
    table.tell("from sending the request to having the event: p50", time(p50));
    table.judge("p99", time(p99), Target::within(p99, 5_000.0));
    table.tell("max", time(f64::from(worst)));
    table.judge("events that did not come", count(lost), Target::exactly(lost, 0));
    Ok(table)
}

/// Allocates at an even pace, and returns when each request was sent.
async fn paced(server: &Server, request: &[u8], time: Duration) -> Result<Vec<(Uuid, Instant)>> {
    let here = LocalSet::new();
    let begun = Instant::now() + Duration::from_millis(50);
    here.run_until(async {
        let mut tasks = JoinSet::new();
        for at in 0..PACED {
            let first = begun + Duration::from_secs(1) * at / PACE;
            let (at, request) = (server.at, request.to_vec());
            tasks.spawn_local(async move {
                let mut connection = Connection::open(at).await?;
                let mut sent = Vec::new();
                let step = Duration::from_secs(1) * PACED / PACE;
                let mut next = first;
                while next < first + time {
                    tokio::time::sleep_until(next.into()).await;
                    let now = Instant::now();
                    let answer = connection.ask(&request).await?;
                    ensure!(answer.is_success(), "{}: {}", answer.status, answer.text());
                    sent.push((id(answer).context("what was allocated has no id")?, now));
                    next += step;
                }
                Ok(sent)
            });
        }
        let mut all = Vec::new();
        while let Some(sent) = tasks.join_next().await {
            all.extend(sent??);
        }
        Ok(all)
    })
    .await
}

async fn loss(bench: &mut Bench) -> Result<Table> {
    let record = bench.world.record(Store::Postgres, "stream_loss")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let number = bench.args.events;
    let caller = Allocate::some(&server.request("POST", "/elastic-ips", ""), number);
    let made = caller.made();
    let mut subscriber = Subscriber::of(&server);
    let subscription = subscriber.connect().await?;
    let written = Cell::new(false);
    let begun = Instant::now();
    let writing = async {
        let callers = vec![caller; WRITERS];
        let run = bench.burst("allocations with a subscriber", &server, callers, Until::Done).await;
        written.set(true);
        run
    };
    let hang_up_after = (number / (HANG_UPS + 1) + 1).max(1);
    let following = subscriber.follow(subscription, number, hang_up_after, &written);
    let (run, followed) = tokio::join!(writing, following);
    followed?;
    let run = run?;
    let behind = begun.elapsed().as_secs_f64() - run.burst.seconds;
    let Subscriber { seen, connections, .. } = subscriber;
    let (mut lost, mut repeated) = (0, 0);
    for id in made.borrow().iter() {
        match seen.get(id) {
            None => lost += 1,
            Some((_, 1)) => {}
            Some(_) => repeated += 1,
        }
    }
    server.stop().await?;
    bench.world.forget(Store::Postgres, &record)?;
    let number = count(number as u64);
    let mut table = Table::new(format!("stream: loss over {number} allocations, PostgreSQL"));
    table.tell("allocations, 64 conn", format!("{} /s", whole(run.burst.rate())));
    table.tell("the last event behind the last answer", time(behind.max(0.0) * 1e6));
    table.tell("connections of the subscriber", count(connections as u64));
    table.judge("events lost", count(lost), Target::exactly(lost, 0));
    table.judge("events repeated", count(repeated), Target::exactly(repeated, 0));
    bench.note("events lost", lost as f64, "")?;
    bench.note("events repeated", repeated as f64, "")?;
    Ok(table)
}

//! Moving one elastic IP to and fro between two instances, seen by clients that go on asking.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::bench::{Bench, LARGE};
use crate::crowd::{self, Crowd};
use crate::http::{Connection, field};
use crate::lab::{Lab, Sandbox};
use crate::latencies::{Latencies, micros};
use crate::probe::{Probe, widest_gap};
use crate::report::{Table, Target, count, progress, time, whole};
use crate::server::{Program, Server};
use crate::visits::Visitor;
use crate::witness::{Move, Seen, Unanswered, Visits};
use crate::world::{Record, Store};

/// How many datagrams are sent in a second.
const RATE: u32 = 5_000;
/// How long a move is left alone: time for 60 datagrams.
const REST: Duration = Duration::from_millis(12);
/// Moves before those that count: code and pages are in memory, connections are there.
const WARM: u32 = 20;
/// How long the service may take to know an instance.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let others = bench.args.others;
    Ok(vec![
        on(bench, Store::Sqlite, 0).await?,
        on(bench, Store::Postgres, 0).await?,
        on(bench, Store::Postgres, others).await?,
    ])
}

async fn on(bench: &mut Bench, store: Store, others: u32) -> Result<Table> {
    let lab = Lab::enter()?;
    let name = format!("moves_{}_{others}", store.as_str().to_lowercase());
    let record = bench.world.record(store, &name)?;
    let crowd = if others > 0 { Some(gathered(bench, &lab, &record, others).await?) } else { None };
    let backends = crowd.iter().map(Crowd::compute).chain(["sandbox".to_owned()]);
    let compute = Some(backends.collect::<Vec<_>>().join(","));
    let server = Server::start(&Program { compute, ..bench.program(LARGE) }, &record).await?;
    let sandboxes = [("web-1", 1), ("web-2", 2)]
        .map(|(name, mark)| Sandbox::start(&bench.eip, &record.folder, name, mark));
    let [one, two] = sandboxes;
    let sandboxes = [one?, two?];
    let seen = observed(bench, &lab, &server, &sandboxes).await?;
    let cost = crate::process::memory(server.pid())?;
    let table = table(bench, store, others, &seen, cost)?;
    server.stop().await?;
    drop((sandboxes, crowd, lab));
    bench.world.forget(store, &record)?;
    Ok(table)
}

/// Makes so many others, in the record and on the host.
async fn gathered(bench: &Bench, lab: &Lab, record: &Record, others: u32) -> Result<Crowd> {
    // For the tables of the record.
    Server::start(&bench.program(LARGE), record).await?.stop().await?;
    crowd::enrol(&bench.world, record, others, 0)?;
    Crowd::gather(lab, &record.folder, others, &[])
}

async fn observed(
    bench: &Bench,
    lab: &Lab,
    server: &Server,
    sandboxes: &[Sandbox; 2],
) -> Result<Seen> {
    let instances = [id_of(server, &sandboxes[0]).await?, id_of(server, &sandboxes[1]).await?];
    let held = server.call("POST", "/elastic-ips", "").await?;
    let address: Ipv4Addr = held["public_ip"].as_str().context("it has no address")?.parse()?;
    let path = format!("/elastic-ips/{address}/associate");
    let requests = instances.each_ref().map(|instance| {
        let body = json!({
            "instance_id": instance, "allow_reassociation": true, "wait_seconds": 30,
        });
        server.request("POST", &path, &body.to_string())
    });
    let mut connection = Connection::open(server.at).await?;
    let mut moves = Vec::new();
    let mut clients = None;
    for turn in 0..=WARM + bench.args.moves {
        let at = usize::from(turn % 2 == 1);
        let asked = Instant::now();
        let answer = connection.ask(&requests[at]).await?;
        let active = Instant::now();
        let state = field(answer.body, "state");
        if !answer.is_success() || state != Some("active") {
            bail!("a move was answered with {}: {}", answer.status, answer.text());
        }
        if turn == WARM {
            clients = Some((
                Probe::start(&lab.client, &[address], RATE),
                Visitor::afresh(&lab.client, address, Duration::from_millis(4)),
                Visitor::keeping(&lab.client, address, Duration::from_millis(1)),
            ));
            tokio::time::sleep(REST * 10).await;
        } else if turn > WARM {
            moves.push(Move { asked, active, to: sandboxes[at].mark });
        }
        tokio::time::sleep(REST).await;
    }
    let (probe, fresh, kept) = clients.context("there was no move")?;
    let (fresh, kept) = (fresh.finish()?, kept.finish()?);
    let packets = probe.finish()?.pop().context("nothing was sent")?;
    Ok(Seen { moves, packets, fresh, kept })
}

/// Waits until the service knows a sandbox, and returns its id.
async fn id_of(server: &Server, sandbox: &Sandbox) -> Result<String> {
    let path = format!("/instances/sandbox:{}", sandbox.name);
    let begun = Instant::now();
    loop {
        match server.call("GET", &path, "").await {
            Ok(instance) => {
                return Ok(instance["id"].as_str().context("it has no id")?.to_owned());
            }
            Err(error) => {
                ensure!(begun.elapsed() < PATIENCE, "{} stays unknown: {error}", sandbox.name);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn table(bench: &mut Bench, store: Store, others: u32, seen: &Seen, memory: u64) -> Result<Table> {
    let moves = seen.moves.len() as u64;
    let among =
        if others == 0 { String::new() } else { format!(" among {}", count(others.into())) };
    let store = store.as_str();
    let mut table =
        Table::new(format!("moves: {} of one elastic IP{among}, {store}", count(moves)));
    let firsts = seen.firsts();
    ensure!(firsts.len() as u64 == moves, "the client saw {} of {moves} moves", firsts.len());
    let first = Latencies::of(firsts);
    let api = seen.moves.iter().map(|one| micros(one.active - one.asked));
    let api = Latencies::of(api.collect());
    let [p50, p99] = [first.p50(), first.p99()].map(f64::from);
    let what = "request to the new instance's first answer";
    table.judge(format!("{what}: p50"), time(p50), Target::within(p50, 5_000.0));
    table.judge(format!("{what}: p99"), time(p99), Target::within(p99, 10_000.0));
    table.tell(format!("{what}: max"), time(first.max().into()));
    table.tell("request to the API's answer: p50", time(api.p50().into()));
    table.tell("request to the API's answer: p99", time(api.p99().into()));
    datagrams(&mut table, seen, moves);
    visits(&mut table, seen);
    let gap = micros(widest_gap(&seen.packets));
    table.tell("the client's widest gap between two datagrams", time(gap.into()));
    table.tell("memory: server with its agent", format!("{} MB", whole(memory as f64 / 1e6)));
    let of = [("first", first.p50()), ("first, p99", first.p99()), ("API", api.p50())];
    for (what, figure) in of {
        bench.note(&format!("{store}, {others} others: {what}"), figure.into(), "us")?;
    }
    Ok(table)
}

fn datagrams(table: &mut Table, seen: &Seen, moves: u64) {
    let (settled, stale) = seen.after_active();
    let enough = Target::at_least(settled as f64, (moves * 50) as f64, "");
    table.judge("datagrams of a running flow, sent after `active`", count(settled), enough);
    let none = Target::exactly(stale, 0);
    table.judge("of those, answered by the old instance", count(stale), none);
    let Unanswered { overtaken, lost } = seen.unanswered();
    let sent = count(seen.packets.len() as u64);
    table.judge(format!("datagrams lost, of {sent}"), count(lost), Target::exactly(lost, 0));
    let what = "datagrams whose answer by the old instance a move overtook";
    table.tell(what, count(overtaken));
}

fn visits(table: &mut Table, seen: &Seen) {
    let fresh = Visits::of(&seen.fresh, &seen.moves);
    let failed = fresh.failed - fresh.cut;
    let what = format!("requests over new connections that failed, of {}", count(fresh.all));
    table.judge(what, count(failed), Target::exactly(failed, 0));
    table.tell("requests that a move cut after they had begun", count(fresh.cut));
    let kept = Visits::of(&seen.kept, &seen.moves);
    let (settled, stale) = (fresh.settled + kept.settled, fresh.stale + kept.stale);
    let what =
        format!("requests after `active` that the old instance answered, of {}", count(settled));
    table.judge(what, count(stale), Target::exactly(stale, 0));
    let what = format!("kept connections that a move ended, of {} requests", count(kept.all));
    table.tell(what, count(kept.failed));
    let examples = seen.fresh.iter().chain(&seen.kept).filter(|visit| visit.answer.is_err());
    for visit in examples.take(3) {
        progress(&format!("moves: for example: {:?}", visit.answer));
    }
}

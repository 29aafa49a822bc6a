//! Killing the agent in the middle of changes: what did not change must lose nothing.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::task::LocalSet;

use crate::agent::AgentProgram;
use crate::bench::{Bench, LARGE};
use crate::crowd::{self, Crowd};
use crate::http::{Connection, field};
use crate::lab::Lab;
use crate::latencies::{Latencies, micros};
use crate::probe::{Packet, Probe, lost, widest_gap};
use crate::report::{Table, Target, count, time};
use crate::server::{Server, end_of};
use crate::world::Store;

/// How many associations there are.
const HELD: u32 = 1_000;
/// How many are moved to and fro all the time, the first ones: as many instances have none.
const MOVED: u32 = 8;
/// Those that are asked, and never moved.
const ASKED: [u32; 4] = [100, 400, 700, 999];
/// How many datagrams are sent to each of them in a second.
const RATE: u32 = 1_000;
/// How long an agent may take until a move is in force again.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let lab = Lab::enter()?;
    let record = bench.world.record(Store::Postgres, "kills")?;
    Server::start(&bench.program(LARGE), &record).await?.stop().await?;
    crowd::enrol(&bench.world, &record, HELD, MOVED)?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let crowd = Crowd::gather(&lab, &record.folder, HELD + MOVED, &ASKED)?;
    let folder = record.folder.join("agent");
    let program = AgentProgram::prepare(&bench.eip, &server, folder, crowd.compute()).await?;
    let outcome = killed(bench, &lab, &server, &program).await?;
    server.stop().await?;
    drop((crowd, lab));
    bench.world.forget(Store::Postgres, &record)?;
    let mut table = Table::new(format!(
        "kills: {} of the agent among {} associations, PostgreSQL",
        bench.args.kills,
        count(HELD.into())
    ));
    let packets: Vec<&Packet> = outcome.packets.iter().flatten().collect();
    let lost: u64 = outcome.packets.iter().map(|packets| lost(packets)).sum();
    table.judge(
        format!("datagrams lost of {}", count(packets.len() as u64)),
        count(lost),
        Target::exactly(lost, 0),
    );
    table.tell("moves asked for meanwhile", count(outcome.moves));
    let back = Latencies::of(outcome.back);
    table.tell("from the kill to the next move in force: p50", time(back.p50().into()));
    table.tell("max", time(back.max().into()));
    let gap = outcome.packets.iter().map(|packets| widest_gap(packets)).max().unwrap_or_default();
    table.tell("the client's widest gap between two datagrams", time(micros(gap).into()));
    Ok(vec![table])
}

struct Outcome {
    packets: Vec<Vec<Packet>>,
    moves: u64,
    /// From each kill until a move that was asked for after it was in force, in microseconds.
    back: Vec<u32>,
}

async fn killed(
    bench: &mut Bench,
    lab: &Lab,
    server: &Server,
    program: &AgentProgram,
) -> Result<Outcome> {
    let mut agent = program.start()?;
    let mut mover = Mover::new(server, 0).await?;
    mover.until_active(program).await?;
    let targets: Vec<Ipv4Addr> = ASKED.iter().map(|at| crowd::public(*at)).collect();
    let probe = Probe::start(&lab.client, &targets, RATE);
    let moves = Rc::new(Cell::new(0));
    let mut back = Vec::new();
    let here = LocalSet::new();
    for at in 1..MOVED {
        let mut mover = Mover::new(server, at).await?;
        let moves = moves.clone();
        here.spawn_local(async move {
            while mover.ask(0).await.is_ok() {
                moves.set(moves.get() + 1);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
    }
    let agent = here.run_until(async {
        for kill in 0..bench.args.kills {
            // Another moment of its work each time, the start of it included.
            let life = Duration::from_micros(u64::from(kill) * 7_919 % 40_000);
            tokio::time::sleep(life).await;
            drop(agent);
            let killed = Instant::now();
            agent = program.start()?;
            // Every other one is killed before it has done anything that could be seen.
            if kill % 2 == 1 {
                mover.until_active(program).await?;
                back.push(micros(killed.elapsed()));
            }
        }
        mover.until_active(program).await?;
        anyhow::Ok(agent)
    });
    let agent = agent.await?;
    // A while longer: what the last one left behind would show now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let packets = probe.finish()?;
    drop(agent);
    let moves = moves.get();
    bench.note("moves asked for", moves as f64, "")?;
    bench.note(
        "datagrams lost",
        packets.iter().map(|packets| lost(packets)).sum::<u64>() as f64,
        "",
    )?;
    Ok(Outcome { packets, moves, back })
}

/// Moves one elastic IP to and fro between two instances.
struct Mover {
    connection: Connection,
    /// Without waiting, and with.
    requests: [[Vec<u8>; 2]; 2],
    at: usize,
}

impl Mover {
    async fn new(server: &Server, number: u32) -> Result<Self> {
        let path = format!("/elastic-ips/{}/associate", crowd::elastic_ip(number));
        let request = |to: u32, wait: u32| {
            let body = json!({
                "instance_id": crowd::instance(to), "allow_reassociation": true,
                "wait_seconds": wait,
            });
            server.request("POST", &path, &body.to_string())
        };
        let both = |wait| [request(HELD + number, wait), request(number, wait)];
        let connection = Connection::open(server.at).await?;
        Ok(Self { connection, requests: [both(0), both(30)], at: 0 })
    }

    /// Moves it, and returns what state the API told.
    async fn ask(&mut self, waiting: usize) -> Result<String> {
        let request = &self.requests[waiting][self.at];
        self.at = 1 - self.at;
        let answer = self.connection.ask(request).await?;
        ensure!(answer.is_success(), "a move was answered with {}", answer.text());
        Ok(field(answer.body, "state").context("an answer tells no state")?.to_owned())
    }

    async fn until_active(&mut self, program: &AgentProgram) -> Result<()> {
        let begun = Instant::now();
        while self.ask(1).await? != "active" {
            let patient = begun.elapsed() < PATIENCE;
            ensure!(patient, "the agent does not get to work: {}", end_of(&program.log()));
        }
        Ok(())
    }
}

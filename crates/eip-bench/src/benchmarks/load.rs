//! The whole table from the record to the kernel, and a thousand changes at once.

use std::net::{Ipv4Addr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::agent::{Agent, AgentProgram};
use crate::bench::{Bench, LARGE};
use crate::callers::Each;
use crate::crowd::{self, Crowd};
use crate::gate::Gate;
use crate::http::{Answer, field};
use crate::lab::{Lab, UDP, overflowed};
use crate::latencies::{median, micros};
use crate::load::{Caller, Until};
use crate::probe::{Packet, Probe, lost};
use crate::process::{memory, until_it_rests};
use crate::report::{Table, Target, count, progress, time, whole};
use crate::server::{Server, end_of};
use crate::world::{Record, Store};

/// How many associations are moved at once, the first ones: as many instances have none.
const MOVED: u32 = 1_000;
/// How many datagrams are sent in a second to each association that is watched.
const RATE: u32 = 1_000;
/// How long a table may take until it is said not to come.
const PATIENCE: Duration = Duration::from_secs(90);
/// What 65,536 associations may take, and a million, in microseconds.
const WANTED: [(u32, f64); 2] = [(65_536, 500_000.0), (1_000_000, 5_000_000.0)];
const WANTED_MOVED: f64 = 100_000.0;

/// Everything that a table of so many needs.
struct Scene {
    number: u32,
    server: Server,
    program: AgentProgram,
    /// The first association that is never moved, one in the middle, and the last.
    watched: [Ipv4Addr; 3],
    record: Record,
    crowd: Crowd,
    lab: Lab,
}

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for number in bench.args.loads.clone() {
        ensure!(number > MOVED, "there must be more than {MOVED} in each of --loads");
        let scene = Scene::set(bench, number).await?;
        let title = format!("load: {} associations, PostgreSQL", count(number.into()));
        let mut table = Table::new(title);
        let ready = f64::from(micros(scene.server.ready_after));
        table.tell("server: start to ready", time(ready));
        let (agent, told) = scene.first(bench, &mut table).await?;
        scene.again(bench, &mut table, agent, told).await?;
        scene.record_to_kernel(bench, &mut table).await?;
        scene.server.stop().await?;
        drop((scene.crowd, scene.lab));
        bench.world.forget(Store::Postgres, &scene.record)?;
        tables.push(table);
    }
    Ok(tables)
}

impl Scene {
    async fn set(bench: &Bench, number: u32) -> Result<Self> {
        let lab = Lab::enter()?;
        let record = bench.world.record(Store::Postgres, &format!("load_{number}"))?;
        Server::start(&bench.program(LARGE), &record).await?.stop().await?;
        progress(&format!("load: writing {number} associations into the record"));
        crowd::enrol(&bench.world, &record, number, MOVED)?;
        let watched = [MOVED, number / 2 + MOVED / 2, number - 1];
        let crowd = Crowd::gather(&lab, &record.folder, number + MOVED, &watched)?;
        let server = Server::start(&bench.program(LARGE), &record).await?;
        let folder = record.folder.join("agent");
        let program = AgentProgram::prepare(&bench.eip, &server, folder, crowd.compute()).await?;
        let watched = watched.map(crowd::public);
        Ok(Self { number, server, program, watched, record, crowd, lab })
    }

    /// An agent that knows nothing starts beside a server that runs. Returns it, and whether it has
    /// told that everything is in force.
    async fn first(&self, bench: &mut Bench, table: &mut Table) -> Result<(Agent, bool)> {
        let probe = Probe::start(&self.lab.client, &self.watched, RATE);
        let begun = Instant::now();
        let agent = self.program.start()?;
        let told = self.until_told(begun).await?;
        let all = last_first_answer(probe, begun)?;
        let what = "agent: start to the last association in force";
        table.tell(what, told_or_not(all));
        bench.note(&format!("{}: {what}", self.number), in_micros(all) / 1e6, "s")?;
        table.tell("agent: start to all reported", told_or_not(told));
        Ok((agent, told.is_some()))
    }

    /// An agent that knows what runs here, and nothing of associations, gets to the server. There is no table.
    async fn record_to_kernel(&self, bench: &mut Bench, table: &mut Table) -> Result<()> {
        let listed = self.program.listed();
        let gate = Gate::before(self.server.at)?;
        let agent = self.program.start_afresh(gate.at)?;
        let begun = Instant::now();
        while self.program.listed() == listed && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_it_rests(agent.pid(), PATIENCE).await?;
        self.lab.host.sh("nft delete table ip eip");
        let probe = Probe::start(&self.lab.client, &self.watched, RATE);
        let begun = Instant::now();
        gate.open();
        // Before that it may well rest because it waits for the server.
        let last = self.watched[2];
        let answered = self.lab.client.spawn(move || until_answered(last, begun));
        while !answered.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_it_rests(agent.pid(), PATIENCE).await?;
        let all = last_first_answer(probe, begun)?;
        let what = "record to kernel: to the last association in force";
        let (figure, text) = (in_micros(all), told_or_not(all));
        match WANTED.iter().find(|(number, _)| *number == self.number) {
            Some((_, wanted)) => table.judge(what, text, Target::within(figure, *wanted)),
            None => table.tell(what, text),
        }
        bench.note(&format!("{}: {what}", self.number), figure / 1e6, "s")
    }

    /// Waits until the host has told that it has everything in force; gives up in the end.
    async fn until_told(&self, begun: Instant) -> Result<Option<Duration>> {
        while begun.elapsed() < PATIENCE {
            let hosts = self.server.call("GET", "/hosts", "").await?;
            let host = &hosts["items"][0];
            let told = host["observed_generation"] == host["desired_generation"];
            if told && host["data_plane"] == "ready" {
                return Ok(Some(begun.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        progress(&format!("load: the agent said: {}", end_of(&self.program.log())));
        Ok(None)
    }

    /// What happens with everything in force: changes, and another start of the agent.
    async fn again(
        &self,
        bench: &mut Bench,
        table: &mut Table,
        agent: Agent,
        told: bool,
    ) -> Result<()> {
        // It announces what it has got, and tells and counts it, for a while after it is in force.
        until_it_rests(agent.pid(), PATIENCE).await?;
        let before = self.overflowed()?;
        let probe = Probe::start(&self.lab.client, &self.watched, RATE);
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for _ in 0..if told { bench.args.runs } else { 0 } {
            one.push(self.by_one_call(bench).await?);
            many.push(self.by_calls(bench).await?);
        }
        let moved = format!("{} moved", count(MOVED.into()));
        let [middle, each] =
            [&one, &many].map(|times| if times.is_empty() { f64::INFINITY } else { median(times) });
        let text = |time_taken: f64| if told { time(time_taken) } else { "not tried".to_owned() };
        let what = format!("{moved} by one call: request to all `active`");
        table.judge(what, text(middle), Target::within(middle, WANTED_MOVED));
        table.tell(format!("{moved} by as many calls at once: to the last `active`"), text(each));
        let megabytes = |bytes: u64| format!("{} MB", whole(bytes as f64 / 1e6));
        let (server, host) = (memory(self.server.pid())?, memory(agent.pid())?);
        table.tell("memory: server", megabytes(server));
        table.tell("memory: agent", megabytes(host));
        bench.note(&format!("{}: memory of the server", self.number), server as f64 / 1e6, "MB")?;
        bench.note(&format!("{}: memory of the agent", self.number), host as f64 / 1e6, "MB")?;

        drop(agent);
        let begun = Instant::now();
        let agent = self.program.start()?;
        let moved = self.until_moved(begun).await?;
        table.tell("agent killed and started: to the next move in force", told_or_not(moved));
        let seen = probe.finish()?;
        drop(agent);
        let lost: u64 = seen.iter().map(|packets| lost(packets)).sum();
        let sent: usize = seen.iter().map(Vec::len).sum();
        table.judge(
            format!("datagrams lost meanwhile, of {}", count(sent as u64)),
            count(lost),
            Target::exactly(lost, 0),
        );
        table.tell(
            "datagrams for which the client or the instance came too late",
            count(self.overflowed()? - before),
        );
        bench.note(&format!("{}: datagrams lost", self.number), lost as f64, "")
    }

    /// How many datagrams were lost because who should have read them did not get to run.
    fn overflowed(&self) -> Result<u64> {
        Ok(overflowed(&self.lab.client)? + self.crowd.answering.overflowed()?)
    }

    /// Moves a thousand to instances that have none, by one call; in microseconds.
    async fn by_one_call(&self, bench: &mut Bench) -> Result<f64> {
        let one = |at: u32| json!({ "elastic_ip": crowd::elastic_ip(at), "instance_id": crowd::instance(self.number + at) });
        let body = json!({
            "associations": (0..MOVED).map(one).collect::<Vec<_>>(),
            "allow_reassociation": true, "wait_seconds": 60,
        });
        let body = body.to_string();
        let path = "/elastic-ips/associate";
        let (answer, took) = self.server.timed_call("POST", path, &body).await?;
        let took = f64::from(micros(took));
        let items = answer["items"].as_array().context("the answer has no items")?;
        let active = |item: &&Value| item["elastic_ip"]["data_plane"]["state"] == "active";
        let active = items.iter().filter(active).count();
        ensure!(active == MOVED as usize, "only {active} of {MOVED} are active: {}", items[0]);
        bench.note(&format!("{}: {MOVED} moved by one call", self.number), took / 1e3, "ms")?;
        Ok(took)
    }

    /// Moves them back, each by a call of its own, all of them at once; in microseconds.
    async fn by_calls(&self, bench: &mut Bench) -> Result<f64> {
        let nil = Uuid::nil();
        let body = json!({
            "instance_id": nil, "allow_reassociation": true, "wait_seconds": 60,
        });
        let path = format!("/elastic-ips/{nil}/associate");
        let request = self.server.request("POST", &path, &body.to_string());
        let pairs = (0..MOVED).map(|at| [crowd::elastic_ip(at), crowd::instance(at)]);
        let caller = Active(Each::of(request, Rc::new(pairs.collect())));
        let callers = vec![caller; MOVED as usize];
        let what = format!("{}: {MOVED} moved by as many calls", self.number);
        let run = bench.burst(&what, &self.server, callers, Until::Done).await?;
        Ok(run.burst.seconds * 1e6)
    }

    /// Moves one to and fro until that is in force; gives up in the end.
    async fn until_moved(&self, begun: Instant) -> Result<Option<Duration>> {
        let path = format!("/elastic-ips/{}/associate", crowd::elastic_ip(0));
        for turn in 0.. {
            let to = if turn % 2 == 0 { self.number } else { 0 };
            let body = json!({
                "instance_id": crowd::instance(to), "allow_reassociation": true,
                "wait_seconds": 30,
            });
            match self.server.call("POST", &path, &body.to_string()).await {
                Ok(answer) if answer["data_plane"]["state"] == "active" => {
                    return Ok(Some(begun.elapsed()));
                }
                Ok(_) => {}
                Err(error) => progress(&format!("load: {error:#}")),
            }
            if begun.elapsed() > PATIENCE {
                break;
            }
        }
        Ok(None)
    }
}

/// Asks one target now and then until it answers; gives up in the end.
fn until_answered(target: Ipv4Addr, begun: Instant) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((target, UDP))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    while begun.elapsed() < PATIENCE {
        // Refused or unanswered: it is asked again.
        socket.send(b"?").ok();
        if socket.recv(&mut [0; 64]).is_ok() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(())
}

/// How long after that moment each target had answered once; none if one never has.
fn last_first_answer(probe: Probe, begun: Instant) -> Result<Option<Duration>> {
    let first = |packets: &Vec<Packet>| {
        let mut answers = packets.iter().filter_map(|packet| packet.answer);
        answers.find(|answer| answer.at > begun).map(|answer| answer.at - begun)
    };
    let firsts: Option<Vec<Duration>> = probe.finish()?.iter().map(first).collect();
    Ok(firsts.and_then(|firsts| firsts.into_iter().max()))
}

fn in_micros(took: Option<Duration>) -> f64 {
    took.map_or(f64::INFINITY, |took| micros(took).into())
}

fn told_or_not(took: Option<Duration>) -> String {
    let never = || format!("not within {} s", PATIENCE.as_secs());
    took.map_or_else(never, |took| time(micros(took).into()))
}

/// What must be answered with `active`.
#[derive(Debug, Clone)]
struct Active(Each<2>);

impl Caller for Active {
    fn ask(&mut self) -> Option<&[u8]> {
        self.0.ask()
    }

    fn hear(&mut self, answer: Answer<'_>) {
        self.0.hear(answer);
    }

    fn expects(&self, answer: Answer<'_>) -> bool {
        answer.is_success() && field(answer.body, "state") == Some("active")
    }
}

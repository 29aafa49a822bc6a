//! What keys, limits, terms, log and metrics cost a request, in time on processors.
//!
//! Each of them is the difference between two kinds of request that are alike but for it, measured
//! one right after the other, many times in turn: what disturbs the machine disturbs both.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::bench::{Bench, LARGE, Series};
use crate::http::{self, Answer};
use crate::latencies::median;
use crate::load::{Caller, Repeat, Until};
use crate::report::{Table, Target};
use crate::server::{Program, Server};
use crate::world::{Record, Store};

/// What they may cost together, in microseconds.
const TOGETHER: f64 = 4.0;
/// How often all kinds take their turn, for each run that is asked for.
const TURNS: u32 = 3;
/// How long a turn of one kind is. Short, so that there are many; `/proc` counts hundredths of it.
const TURN: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 64;
/// Needs a key, and is for agents only: whoever has another key is known, and refused.
const REFUSED: &str = "/agent/v1/desired";
/// Needs a key, and is one of the requests of which only so many are worked on at once; those of
/// agents are not.
const COUNTED: &str = "/instances";
/// A change that is understood and refused before the record is asked: a pool needs a range.
const NO_POOL: &str = r#"{"name": "edge", "ranges": []}"#;
/// How many requests a second are never too many.
const NEVER_TOO_MANY: u32 = 1_000_000;
/// What makes the service write a line for every request.
const EVERY_REQUEST: &str = "info,eip_server=debug";

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Sqlite, "overhead")?;
    let lines = bench.world.record(Store::Sqlite, "overhead_lines")?;
    let limits = bench.world.record(Store::Sqlite, "overhead_limits")?;
    let servers = Servers::start(bench, [&record, &lines, &limits]).await?;
    let mut kinds = Kinds::default();
    for _ in 0..TURNS * bench.args.runs {
        kinds.take_turns(bench, &servers).await?;
    }
    let Servers { usual, logging, limiting, bare, .. } = servers;
    for server in [usual, logging, limiting] {
        server.stop().await?;
    }
    drop(bare);
    for record in [&record, &lines, &limits] {
        bench.world.forget(Store::Sqlite, record)?;
    }
    Ok(vec![kinds.table()])
}

struct Servers {
    /// As it is shipped: a log in JSON, without a line for a request that went well.
    usual: Server,
    /// With a line for every request.
    logging: Server,
    /// As the usual one, and it counts the requests of each key.
    limiting: Server,
    /// A key of a project on each of the two.
    uncounted_key: String,
    counted_key: String,
    /// Neither keys, log nor metrics.
    bare: Server,
}

impl Servers {
    async fn start(bench: &Bench, records: [&Record; 3]) -> Result<Self> {
        let program = bench.program(LARGE);
        let [record, lines, limits] = records;
        let usual = Server::start(&program, record).await?;
        let verbose = Program { log: Some(EVERY_REQUEST), ..program.clone() };
        let logging = Server::start(&verbose, lines).await?;
        let counting = Program { rate_limit: NEVER_TOO_MANY, ..program };
        let limiting = Server::start(&counting, limits).await?;
        let bare = Server::bare(&bare()?, &bench.world.folder.join("bare")).await?;
        let request = Repeat(usual.request("GET", "/healthz", ""));
        for server in [&usual, &logging, &limiting, &bare] {
            bench.warm_up(server.at, request.clone()).await?;
        }
        let member = json!({ "role": "member", "project": "bench" });
        let uncounted_key = usual.make_key(&member).await?;
        let counted_key = limiting.make_key(&member).await?;
        Ok(Self { usual, logging, limiting, uncounted_key, counted_key, bare })
    }
}

/// The bare program is built with this one, whatever program is measured.
fn bare() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find myself")?.with_file_name("bare");
    ensure!(path.exists(), "there is no {}: build all of eip-bench", path.display());
    Ok(path)
}

/// The kinds of request, each with its turns.
#[derive(Default)]
struct Kinds {
    bare: Series,
    open: Series,
    logged: Series,
    anonymous: Series,
    known: Series,
    in_the_room: Series,
    uncounted: Series,
    counted: Series,
    plain: Series,
    once: Series,
}

impl Kinds {
    async fn take_turns(&mut self, bench: &mut Bench, servers: &Servers) -> Result<()> {
        let Servers { usual, logging, limiting, bare, uncounted_key, counted_key } = servers;
        let anonymous = |path| format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes();
        let open = usual.request("GET", "/healthz", "");
        let known = usual.request("GET", REFUSED, "");
        let plain = usual.request("POST", "/pools", NO_POOL);
        let once = with_field(&plain, "Idempotency-Key: 0195d8a3-7c1e-7bd2-8f55-1c0e5b7a9d21")?;
        for (what, server, request, status, series) in [
            ("GET /healthz, bare", bare, open.clone(), 200, &mut self.bare),
            ("GET /healthz", usual, open.clone(), 200, &mut self.open),
            ("GET /healthz, logged", logging, open, 200, &mut self.logged),
            ("refused without a key", usual, anonymous(REFUSED), 401, &mut self.anonymous),
            ("refused with a key", usual, known, 403, &mut self.known),
            ("refused, in the room", usual, anonymous(COUNTED), 401, &mut self.in_the_room),
            ("refused, not counted", usual, of(uncounted_key), 403, &mut self.uncounted),
            ("refused, counted", limiting, of(counted_key), 403, &mut self.counted),
            ("no pool", usual, plain, 400, &mut self.plain),
            ("no pool, once", usual, once, 400, &mut self.once),
        ] {
            let caller = Expecting { request, status };
            let callers = vec![caller; CONNECTIONS];
            series.push(bench.burst(what, server, callers, Until::Elapsed(TURN)).await?);
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let title = format!("overhead: CPU of the server per request, {CONNECTIONS} conn");
        let mut table = Table::new(title);
        for (what, series) in [
            ("GET /healthz of a bare server", &self.bare),
            ("GET /healthz", &self.open),
            ("GET /healthz, a line for each request", &self.logged),
            ("refused, without a key", &self.anonymous),
            ("refused, with a key", &self.known),
            ("refused, without a key, one of so many at once", &self.in_the_room),
            ("refused, with a key of a project", &self.uncounted),
            ("refused, with a key whose requests are counted", &self.counted),
            ("a change that is refused", &self.plain),
            ("a change that is refused, with an Idempotency-Key", &self.once),
        ] {
            table.tell(what, format!("{:.1} us", series.median(|run| run.server)));
        }
        self.judge(&mut table);
        table
    }

    /// Tells part by part what is added to a request.
    fn judge(&self, table: &mut Table) {
        let layers = self.open.over(&self.bare);
        let key = self.known.over(&self.anonymous);
        let room = self.in_the_room.over(&self.anonymous);
        let rate = self.counted.over(&self.uncounted);
        let terms = self.once.over(&self.plain);
        let line = self.logged.over(&self.open);
        table.tell("metrics, request id, answers to panics", span(&layers));
        table.tell("the key", span(&key));
        table.tell("so many requests at once", span(&room));
        table.tell("so many requests of a key, and telling it", span(&rate));
        table.tell("the terms: an Idempotency-Key, read and hashed", span(&terms));
        table.tell("a line of JSON in a file", span(&line));
        let target = |cost: &[f64]| Target::at_most(median(cost), TOGETHER, " us");
        let usual = sum(&[&layers, &key, &room]);
        let limited = sum(&[&usual, &rate]);
        let lines = sum(&[&limited, &line]);
        table.judge("together, of an administrator", span(&usual), target(&usual));
        table.judge("together, as shipped, of a project", span(&limited), target(&limited));
        table.judge("together, a line for each request", span(&lines), target(&lines));
    }
}

/// Asks for what is for agents only, with the key of a project.
fn of(key: &str) -> Vec<u8> {
    http::request("GET", REFUSED, key, "")
}

/// The same request with one field more.
fn with_field(request: &[u8], field: &str) -> Result<Vec<u8>> {
    let head = request.windows(4).position(|end| end == b"\r\n\r\n");
    let (head, body) = request.split_at(head.context("a request has no end of its head")?);
    Ok([head, b"\r\n", field.as_bytes(), body].concat())
}

/// The same request over and over, which is answered with this status.
#[derive(Debug, Clone)]
struct Expecting {
    request: Vec<u8>,
    status: u16,
}

impl Caller for Expecting {
    fn ask(&mut self) -> Option<&[u8]> {
        Some(&self.request)
    }

    fn hear(&mut self, _: Answer<'_>) {}

    fn expects(&self, answer: Answer<'_>) -> bool {
        answer.status == self.status
    }
}

/// Adds up what was measured in the same turns.
fn sum(parts: &[&[f64]]) -> Vec<f64> {
    let turns = parts.iter().map(|part| part.len()).min().unwrap_or(0);
    (0..turns).map(|turn| parts.iter().map(|part| part[turn]).sum()).collect()
}

/// The median, and the least and the most of all turns.
fn span(costs: &[f64]) -> String {
    let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.1} us ({least:.1} to {most:.1})", median(costs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_comes_behind_the_others_and_ahead_of_the_body() {
        let request = b"POST / HTTP/1.1\r\nHost: bench\r\n\r\n{}";
        let more = with_field(request, "If-Match: *").unwrap();
        assert_eq!(more, b"POST / HTTP/1.1\r\nHost: bench\r\nIf-Match: *\r\n\r\n{}");
        assert!(with_field(b"GET", "If-Match: *").is_err());
    }

    #[test]
    fn what_belongs_to_one_turn_is_added_up() {
        assert_eq!(sum(&[&[1.0, 2.0, 3.0], &[10.0, 20.0]]), [11.0, 22.0]);
        assert_eq!(span(&[2.0, -1.0, 0.5]), "0.5 us (-1.0 to 2.0)");
    }
}

//! What keys, log and metrics cost a request, in time on processors.
//!
//! Each of them is the difference between two kinds of request that are alike but for it, measured
//! one right after the other, many times in turn: what disturbs the machine disturbs both.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bench::{Bench, LARGE, Series};
use crate::http::Answer;
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
/// What makes the service write a line for every request.
const EVERY_REQUEST: &str = "info,eip_server=debug";

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Sqlite, "overhead")?;
    let lines = bench.world.record(Store::Sqlite, "overhead_lines")?;
    let servers = Servers::start(bench, &record, &lines).await?;
    let mut kinds = Kinds::default();
    for _ in 0..TURNS * bench.args.runs {
        kinds.take_turns(bench, &servers).await?;
    }
    let Servers { usual, logging, bare } = servers;
    for server in [usual, logging] {
        server.stop().await?;
    }
    drop(bare);
    for record in [&record, &lines] {
        bench.world.forget(Store::Sqlite, record)?;
    }
    Ok(vec![kinds.table()])
}

struct Servers {
    /// As it is shipped: a log in JSON, without a line for a request that went well.
    usual: Server,
    /// With a line for every request.
    logging: Server,
    /// Neither keys, log nor metrics.
    bare: Server,
}

impl Servers {
    async fn start(bench: &Bench, record: &Record, lines: &Record) -> Result<Self> {
        let program = bench.program(LARGE);
        let usual = Server::start(&program, record).await?;
        let program = Program { log: Some(EVERY_REQUEST), ..program };
        let logging = Server::start(&program, lines).await?;
        let bare = Server::bare(&bare()?, &bench.world.folder.join("bare")).await?;
        let request = Repeat(usual.request("GET", "/healthz", ""));
        for server in [&usual, &logging, &bare] {
            bench.warm_up(server.at, request.clone()).await?;
        }
        Ok(Self { usual, logging, bare })
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
}

impl Kinds {
    async fn take_turns(&mut self, bench: &mut Bench, servers: &Servers) -> Result<()> {
        let Servers { usual, logging, bare } = servers;
        let open = usual.request("GET", "/healthz", "");
        let known = usual.request("GET", REFUSED, "");
        let anonymous = format!("GET {REFUSED} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes();
        for (what, server, request, status, series) in [
            ("GET /healthz, bare", bare, &open, 200, &mut self.bare),
            ("GET /healthz", usual, &open, 200, &mut self.open),
            ("GET /healthz, logged", logging, &open, 200, &mut self.logged),
            ("refused without a key", usual, &anonymous, 401, &mut self.anonymous),
            ("refused with a key", usual, &known, 403, &mut self.known),
        ] {
            let caller = Expecting { request: request.clone(), status };
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
        ] {
            table.tell(what, format!("{:.1} us", series.median(|run| run.server)));
        }
        let layers = self.open.over(&self.bare);
        let line = self.logged.over(&self.open);
        let key = self.known.over(&self.anonymous);
        table.tell("metrics, request id, answers to panics", span(&layers));
        table.tell("the key", span(&key));
        table.tell("a line of JSON in a file", span(&line));
        let usual = sum(&[&layers, &key]);
        let all = sum(&[&layers, &key, &line]);
        let target = |cost: &[f64]| Target::at_most(median(cost), TOGETHER, " us");
        table.judge("together, as shipped", span(&usual), target(&usual));
        table.judge("together, a line for each request", span(&all), target(&all));
        table
    }
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
    fn what_belongs_to_one_turn_is_added_up() {
        assert_eq!(sum(&[&[1.0, 2.0, 3.0], &[10.0, 20.0]]), [11.0, 22.0]);
        assert_eq!(span(&[2.0, -1.0, 0.5]), "0.5 us (-1.0 to 2.0)");
    }
}

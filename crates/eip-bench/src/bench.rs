//! What every benchmark is handed: the world, servers, bursts that are counted and told.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::args::Args;
use crate::baseline;
use crate::latencies::median;
use crate::load::{self, Burst, Caller, Refused, Until};
use crate::process::Usage;
use crate::report::{Output, progress, whole};
use crate::server::{Program, Server};
use crate::world::World;

/// The pool that holds four million.
pub(crate) const LARGE: &str = "100.64.0.0/10";

/// Clients of pgbench where it is what a rate is compared with.
pub(crate) const CLIENTS: u32 = 64;

#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) args: Args,
    pub(crate) eip: PathBuf,
    pub(crate) output: Output,
    /// The benchmark that runs.
    pub(crate) name: &'static str,
    /// What was refused although nothing should be.
    pub(crate) refused: Refused,
    pub(crate) postmaster: u32,
}

/// One burst, and what it cost.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) burst: Burst,
    /// Microseconds on processors per request.
    pub(crate) server: f64,
    pub(crate) postgres: f64,
    pub(crate) own: f64,
}

impl Bench {
    /// How to start a server whose released addresses do not sleep.
    pub(crate) fn program(&self, pool: &'static str) -> Program {
        Program {
            path: self.eip.clone(),
            pool,
            quarantine: 0,
            compute: None,
            log: None,
            rate_limit: 0,
        }
    }

    /// Runs a burst against a server, counts what it cost, and tells it.
    pub(crate) async fn burst<C>(
        &mut self,
        what: &str,
        server: &Server,
        callers: Vec<C>,
        until: Until,
    ) -> Result<Run>
    where
        C: Caller + 'static,
    {
        let usage = || Usage::now(server.pid(), self.postmaster);
        let connections = callers.len();
        let before = usage()?;
        let burst = load::burst(server.at, callers, until).await?;
        let used = usage()? - before;
        let requests = burst.latencies.count().max(1) as f64;
        let run = Run {
            server: used.server as f64 / requests,
            postgres: used.postgres as f64 / requests,
            own: used.own as f64 / requests,
            burst,
        };
        self.tell_run(what, connections, &run)?;
        self.refused.merge(run.burst.refused.clone());
        Ok(run)
    }

    /// The same request on every connection, for as long as a burst lasts.
    pub(crate) async fn repeat<C>(
        &mut self,
        what: &str,
        server: &Server,
        connections: usize,
        caller: C,
    ) -> Result<Run>
    where
        C: Caller + Clone + 'static,
    {
        let until = Until::Elapsed(self.args.burst());
        self.burst(what, server, vec![caller; connections], until).await
    }

    /// A burst that is not counted: pools of connections are filled, code and pages are in memory.
    pub(crate) async fn warm_up<C>(&self, at: SocketAddr, caller: C) -> Result<()>
    where
        C: Caller + Clone + 'static,
    {
        let until = Until::Elapsed(std::time::Duration::from_millis(700));
        load::burst(at, vec![caller; 64], until).await.map(drop)
    }

    /// Lets PostgreSQL insert rows, a commit each, and returns how many in a second.
    pub(crate) fn inserts(&mut self) -> Result<f64> {
        let inserts = baseline::pgbench(&self.world, CLIENTS, self.args.burst())?;
        let what = format!("pgbench, {CLIENTS} clients");
        progress(&format!("{}: {what}: {:.0} /s", self.name, inserts.rate));
        self.output.line(&json!({ "benchmark": self.name, "what": what, "rate": inserts.rate }))?;
        Ok(inserts.rate)
    }

    /// Tells a single figure that is no burst.
    pub(crate) fn note(&mut self, what: &str, figure: f64, unit: &str) -> Result<()> {
        progress(&format!("{}: {what}: {figure:.2} {unit}", self.name));
        self.output.line(&json!({
            "benchmark": self.name, "what": what, "figure": figure, "unit": unit,
        }))
    }

    fn tell_run(&mut self, what: &str, connections: usize, run: &Run) -> Result<()> {
        let Run { burst, server, postgres, own } = run;
        let (rate, latencies) = (burst.rate(), &burst.latencies);
        let (p50, p99, max) = (latencies.p50(), latencies.p99(), latencies.max());
        progress(&format!("{}: {what}: {rate:.0} /s, p50 {p50} us, p99 {p99} us", self.name));
        for (status, (count, sample)) in &burst.refused.0 {
            progress(&format!("{}: {what}: {count} times {status}: {sample}", self.name));
        }
        self.output.line(&json!({
            "benchmark": self.name, "what": what, "connections": connections,
            "seconds": burst.seconds, "requests": latencies.count(), "rate": rate,
            "p50_us": p50, "p99_us": p99, "max_us": max,
            "cpu_us_per_request": { "server": server, "postgres": postgres, "generator": own },
            "refused": burst.refused.count(),
        }))
    }
}

/// The runs of one burst.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Run>);

impl Series {
    pub(crate) fn push(&mut self, run: Run) {
        self.0.push(run);
    }

    /// The median over the runs of something about them.
    pub(crate) fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(&self.0.iter().map(of).collect::<Vec<_>>())
    }

    pub(crate) fn rate(&self) -> f64 {
        self.median(|run| run.burst.rate())
    }

    pub(crate) fn p50(&self) -> f64 {
        self.median(|run| f64::from(run.burst.latencies.p50()))
    }

    pub(crate) fn p99(&self) -> f64 {
        self.median(|run| f64::from(run.burst.latencies.p99()))
    }

    /// How many microseconds more the server took for a request than in the same run of another.
    pub(crate) fn over(&self, other: &Self) -> Vec<f64> {
        self.0.iter().zip(&other.0).map(|(one, other)| one.server - other.server).collect()
    }

    /// The longest of all runs.
    pub(crate) fn max(&self) -> f64 {
        self.0.iter().map(|run| f64::from(run.burst.latencies.max())).fold(0.0, f64::max)
    }

    /// The median rate, and those of the slowest and the fastest run.
    pub(crate) fn rate_text(&self) -> String {
        rates(&self.0.iter().map(|run| run.burst.rate()).collect::<Vec<_>>())
    }

    /// Who took how many microseconds on processors for a request.
    pub(crate) fn cost_text(&self) -> String {
        let (server, postgres) = (self.median(|run| run.server), self.median(|run| run.postgres));
        let own = self.median(|run| run.own);
        format!("{server:.0} + {postgres:.0} + {own:.0}")
    }
}

/// What the three numbers of [`Series::cost_text`] are.
pub(crate) const COST: &str = "CPU us: server + PostgreSQL + generator";

pub(crate) fn rates(rates: &[f64]) -> String {
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    format!("{} /s ({} to {})", whole(median(rates)), whole(least), whole(most))
}

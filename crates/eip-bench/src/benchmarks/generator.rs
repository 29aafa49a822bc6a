//! What the load generator costs: it shares its processors with the server, so what it takes is
//! missing from every rate.

use std::process::Command;

use anyhow::Result;

use crate::bench::{Bench, LARGE, Series};
use crate::load::Repeat;
use crate::report::{Table, Target, time, whole};
use crate::server::Server;
use crate::world::{Store, run as run_program};

/// What it may take of a request, in microseconds on a processor.
const SHARE: f64 = 8.0;

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Sqlite, "generator")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let request = Repeat(server.request("GET", "/healthz", ""));
    bench.warm_up(server.at, request.clone()).await?;
    let mut ours = Series::default();
    let mut wrk = Vec::new();
    for _ in 0..bench.args.runs {
        ours.push(
            bench.repeat("GET /healthz, 64 connections", &server, 64, request.clone()).await?,
        );
        // Not installed for this alone.
        if let Ok(rate) = wrk_rate(bench, &server) {
            bench.note("wrk -t1 -c64", rate, "/s")?;
            wrk.push(rate);
        }
    }
    server.stop().await?;
    bench.world.forget(Store::Sqlite, &record)?;
    let mut table = Table::new("generator: GET /healthz at 64 connections");
    table.tell("rate", format!("{} /s", whole(ours.rate())));
    let own = ours.median(|run| run.own);
    table.judge(
        "generator per request",
        format!("{own:.1} us"),
        Target::at_most(own, SHARE, " us"),
    );
    table.tell("server per request", format!("{:.1} us", ours.median(|run| run.server)));
    table.tell("p50", time(ours.p50()));
    let theirs = match wrk.as_slice() {
        [] => "not installed".to_owned(),
        rates => format!("{} /s", whole(crate::latencies::median(rates))),
    };
    table.tell("rate of wrk -t1 -c64", theirs);
    Ok(vec![table])
}

fn wrk_rate(bench: &Bench, server: &Server) -> Result<f64> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c64", &format!("-d{}", bench.args.burst().as_secs())]);
    command.arg(format!("http://{}/healthz", server.at));
    let said = run_program(command)?;
    let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    Ok(rate.unwrap_or_default().trim().parse()?)
}

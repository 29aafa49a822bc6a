//! A quota is enforced by a counter that every allocation of the project changes. What does that
//! cost a project that allocates on many connections at once?

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::bench::{Bench, LARGE, Series};
use crate::http;
use crate::load::Repeat;
use crate::report::{Table, Target, time};
use crate::server::Server;
use crate::world::Store;

const PROJECT: &str = "hot";
const QUOTA: u32 = 10_000_000;
/// What a project with a quota should keep of the rate of one without.
const KEPT: f64 = 0.7;

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Postgres, "quota")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let key = server.make_key(&json!({ "role": "member", "project": PROJECT })).await?;
    server.stop().await?;
    let set = format!("UPDATE project SET quota = {QUOTA} WHERE name = '{PROJECT}'");
    bench.world.sql(&record.name, &set).context("cannot give a project a quota")?;
    // Started anew: what a server remembers of a project is from after the change.
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let without = Repeat(server.request("POST", "/elastic-ips", ""));
    let with = Repeat(http::request("POST", "/elastic-ips", &key, ""));
    bench.warm_up(server.at, without.clone()).await?;
    bench.warm_up(server.at, with.clone()).await?;
    let (mut free, mut counted) = (Series::default(), Series::default());
    for _ in 0..bench.args.runs {
        free.push(bench.repeat("without a quota, 64 conn", &server, 64, without.clone()).await?);
        counted.push(bench.repeat("with a quota, 64 conn", &server, 64, with.clone()).await?);
    }
    server.stop().await?;
    bench.world.forget(Store::Postgres, &record)?;
    let mut table = Table::new("quota: POST /elastic-ips in one project, PostgreSQL");
    for (name, series) in [("without a quota", &free), ("with a quota", &counted)] {
        table.tell(format!("{name}: rate at 64 conn"), series.rate_text());
        table.tell(format!("{name}: p50"), time(series.p50()));
        table.tell(format!("{name}: p99"), time(series.p99()));
    }
    let ratio = counted.rate() / free.rate();
    table.judge("with / without", format!("{ratio:.2}"), Target::at_least(ratio, KEPT, ""));
    Ok(vec![table])
}

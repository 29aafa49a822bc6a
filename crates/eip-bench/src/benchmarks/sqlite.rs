//! `POST /elastic-ips` on SQLite, beside PostgreSQL and beside SQLite with a commit for each row.

use anyhow::Result;

use crate::baseline;
use crate::bench::{Bench, COST, LARGE, Series, rates};
use crate::latencies::median;
use crate::load::Repeat;
use crate::report::{Table, Target, time, whole};
use crate::server::Server;
use crate::world::Store;

const CONNECTIONS: [usize; 2] = [64, 256];
/// How many times the rate of PostgreSQL's one-row inserts it should be.
const OF_POSTGRES: f64 = 1.3;
/// How many times the rate of SQLite's one-row commits it should be.
const OF_ROWS: f64 = 6.0;

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Sqlite, "sqlite")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let request = Repeat(server.request("POST", "/elastic-ips", ""));
    bench.warm_up(server.at, request.clone()).await?;
    let mut series = CONNECTIONS.map(|_| Series::default());
    let (mut inserts, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        for (connections, series) in CONNECTIONS.into_iter().zip(&mut series) {
            inserts.push(bench.inserts()?);
            let what = format!("POST /elastic-ips, {connections} conn");
            series.push(bench.repeat(&what, &server, connections, request.clone()).await?);
        }
        let rate = baseline::sqlite_rows(&bench.world.folder, bench.args.burst())?;
        bench.note("SQLite, a commit for each row", rate, "/s")?;
        rows.push(rate);
    }
    server.stop().await?;
    bench.world.forget(Store::Sqlite, &record)?;
    let (base, one) = (median(&inserts), median(&rows));
    let mut table = Table::new("sqlite: POST /elastic-ips on SQLite");
    table.tell("P: pgbench, one-row inserts, 64 clients", rates(&inserts));
    table.tell("SQLite, a commit for each row", format!("{} /s", whole(one)));
    for (connections, series) in CONNECTIONS.into_iter().zip(&series) {
        let name = |what: &str| format!("{connections} conn: {what}");
        let rate = series.rate();
        table.tell(name("rate"), series.rate_text());
        let of_postgres = rate / base;
        let target = Target::at_least(of_postgres, OF_POSTGRES, "");
        table.judge(name("rate / P"), format!("{of_postgres:.2}"), target);
        let of_rows = rate / one;
        let target = Target::at_least(of_rows, OF_ROWS, "");
        table.judge(name("rate / a commit for each row"), format!("{of_rows:.1}"), target);
        table.tell(name("p50"), time(series.p50()));
        table.tell(name("p99"), time(series.p99()));
        table.tell(name("max"), time(series.max()));
        table.tell(name(COST), series.cost_text());
    }
    Ok(vec![table])
}

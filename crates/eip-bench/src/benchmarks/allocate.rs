//! `POST /elastic-ips` on PostgreSQL, beside PostgreSQL inserting one row at a time.

use anyhow::Result;

use crate::baseline::{self, Inserts};
use crate::bench::{Bench, CLIENTS, COST, LARGE, Series, rates};
use crate::latencies::median;
use crate::load::Repeat;
use crate::report::{Table, Target, time, whole};
use crate::server::Server;
use crate::world::Store;

const CONNECTIONS: [usize; 4] = [1, 8, 64, 256];

/// Of the connections whose rate is compared: how many times P it should be.
fn wanted(connections: usize) -> Option<f64> {
    match connections {
        64 => Some(1.6),
        256 => Some(1.9),
        _ => None,
    }
}

/// What the machine does without eip.
struct Beside {
    /// Rates of pgbench, from between the bursts.
    inserts: Vec<f64>,
    many: Inserts,
    one: Inserts,
    /// The median time to overwrite a page on the disk, in microseconds.
    page: f64,
}

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let record = bench.world.record(Store::Postgres, "allocate")?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let request = Repeat(server.request("POST", "/elastic-ips", ""));
    bench.warm_up(server.at, request.clone()).await?;
    let mut series = CONNECTIONS.map(|_| Series::default());
    let mut inserts = Vec::new();
    for _ in 0..bench.args.runs {
        for (connections, series) in CONNECTIONS.into_iter().zip(&mut series) {
            if wanted(connections).is_some() {
                inserts.push(bench.inserts()?);
            }
            let what = format!("POST /elastic-ips, {connections} conn");
            series.push(bench.repeat(&what, &server, connections, request.clone()).await?);
        }
    }
    let beside = beside(bench, inserts)?;
    server.stop().await?;
    bench.world.forget(Store::Postgres, &record)?;
    Ok(vec![table(&series, &beside)])
}

fn beside(bench: &mut Bench, inserts: Vec<f64>) -> Result<Beside> {
    let time = bench.args.burst();
    let many = baseline::pgbench_latencies(&bench.world, CLIENTS, time)?;
    let one = baseline::pgbench_latencies(&bench.world, 1, time)?;
    let page = f64::from(baseline::page_writes(&bench.world.folder)?.p50());
    for (clients, inserts) in [(CLIENTS, &many), (1, &one)] {
        let name = |what| format!("pgbench, {clients} clients: {what}");
        bench.note(&name("p50"), f64::from(inserts.latencies.p50()), "us")?;
        bench.note(&name("p99"), f64::from(inserts.latencies.p99()), "us")?;
    }
    bench.note("overwrite of 8 kB and fdatasync: p50", page, "us")?;
    Ok(Beside { inserts, many, one, page })
}

fn table(series: &[Series; 4], beside: &Beside) -> Table {
    let mut table = Table::new("allocate: POST /elastic-ips on PostgreSQL");
    let base = median(&beside.inserts);
    let name = format!("P: pgbench, one-row inserts, {CLIENTS} clients");
    table.tell(name, rates(&beside.inserts));
    table.tell("P at one client", format!("{} /s", whole(beside.one.rate)));
    table.tell("F: overwrite of 8 kB and fdatasync, p50", time(beside.page));
    for (connections, series) in CONNECTIONS.into_iter().zip(series) {
        rows(&mut table, connections, series, base, beside);
    }
    table
}

fn rows(table: &mut Table, connections: usize, series: &Series, base: f64, beside: &Beside) {
    let name = |what: &str| format!("{connections} conn: {what}");
    table.tell(name("rate"), series.rate_text());
    let ratio = series.rate() / base;
    match wanted(connections) {
        Some(wanted) => table.judge(
            name("rate / P"),
            format!("{ratio:.2}"),
            Target::at_least(ratio, wanted, ""),
        ),
        None => table.tell(name("rate / P"), format!("{ratio:.2}")),
    }
    let (p50, p99) = (series.p50(), series.p99());
    if connections == 1 {
        table.judge(name("p50"), time(p50), Target::within(p50, 4.0 * beside.page));
        let (p50, p99) = (beside.one.latencies.p50(), beside.one.latencies.p99());
        table.tell("pgbench, 1 client: p50, p99", both(p50, p99));
    } else {
        table.tell(name("p50"), time(p50));
    }
    if connections == 64 {
        let (p50_pg, p99_pg) = (beside.many.latencies.p50(), beside.many.latencies.p99());
        table.judge(name("p99"), time(p99), Target::within(p99, f64::from(p99_pg)));
        table.tell("pgbench, 64 clients: p50, p99", both(p50_pg, p99_pg));
    } else {
        table.tell(name("p99"), time(p99));
    }
    table.tell(name("max"), time(series.max()));
    table.tell(name(COST), series.cost_text());
}

fn both(p50: u32, p99: u32) -> String {
    format!("{}, {}", time(f64::from(p50)), time(f64::from(p99)))
}

//! Allocating from a pool that is nearly used up is as fast as from an empty one, and hands out
//! the last address.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bench::{Bench, Series};
use crate::callers::{Allocate, Pairs};
use crate::http::Connection;
use crate::load::Until;
use crate::report::{Table, Target, count, progress, whole};
use crate::server::Server;
use crate::world::Store;

/// 262,144 addresses.
const POOL: &str = "100.64.0.0/14";
const CONNECTIONS: usize = 64;
/// What the pairs should keep of their rate in an empty pool.
const KEPT: f64 = 0.9;
/// The answer when a pool has nothing left.
const CONFLICT: u16 = 409;

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let beside = bench.world.record(Store::Postgres, "fill_empty")?;
    let record = bench.world.record(Store::Postgres, "fill_full")?;
    let empty = Server::start(&bench.program(POOL), &beside).await?;
    let full = Server::start(&bench.program(POOL), &record).await?;
    for server in [&empty, &full] {
        bench.warm_up(server.at, pairs(server)).await?;
    }
    let size = of_pool(&full, "size").await?;
    let mut table = Table::new("fill: allocate and release in turn, 64 connections, PostgreSQL");
    table.tell("addresses in the pool", count(size));
    let mut held = 0;
    let most = size - size / 1000;
    for (what, wanted) in [("99.9 % full", most), ("64 addresses free", size - 64)] {
        held += allocate(bench, &full, wanted - held).await?;
        ensure!(held == wanted, "{held} of {wanted} addresses were handed out");
        compare(bench, &mut table, what, [&empty, &full]).await?;
    }
    let rest = allocate(bench, &full, size - held).await?;
    let told = of_pool(&full, "allocated").await?;
    table.judge("handed out in the end", count(held + rest), Target::exactly(held + rest, size));
    table.judge("allocated, as the pool tells it", count(told), Target::exactly(told, size));
    let next = one_more(&full).await?;
    let target = Target::exactly(u64::from(next), u64::from(CONFLICT));
    table.judge("status of one more", next.to_string(), target);
    empty.stop().await?;
    full.stop().await?;
    for record in [&beside, &record] {
        bench.world.forget(Store::Postgres, record)?;
    }
    Ok(vec![table])
}

fn pairs(server: &Server) -> Pairs {
    let release = format!("/elastic-ips/{}", uuid::Uuid::nil());
    Pairs::new(server.request("POST", "/elastic-ips", ""), server.request("DELETE", &release, ""))
}

/// Holds so many more, and returns how many were handed out.
async fn allocate(bench: &mut Bench, server: &Server, number: u64) -> Result<u64> {
    let request = server.request("POST", "/elastic-ips", "");
    let caller = Allocate::some(&request, usize::try_from(number)?);
    let what = format!("allocating {number}");
    let connections = vec![caller.clone(); CONNECTIONS];
    bench.burst(&what, server, connections, Until::Done).await?;
    let made = caller.made().borrow().len();
    Ok(made as u64)
}

async fn compare(
    bench: &mut Bench,
    table: &mut Table,
    what: &str,
    [empty, full]: [&Server; 2],
) -> Result<()> {
    let (mut before, mut after) = (Series::default(), Series::default());
    let mut exhausted = 0;
    for _ in 0..bench.args.runs {
        let run = bench.repeat("pairs, empty pool", empty, CONNECTIONS, pairs(empty)).await?;
        before.push(run);
        let name = format!("pairs, {what}");
        let run = bench.repeat(&name, full, CONNECTIONS, pairs(full)).await?;
        exhausted += run.burst.refused.of_status(CONFLICT);
        after.push(run);
    }
    let (was, is) = (before.rate() / 2.0, after.rate() / 2.0);
    table
        .tell(format!("{what}: pairs while the other pool is empty"), format!("{} /s", whole(was)));
    table.tell(format!("{what}: pairs"), format!("{} /s", whole(is)));
    let ratio = is / was;
    let target = Target::at_least(ratio, KEPT, "");
    table.judge(format!("{what}: of those in an empty pool"), format!("{ratio:.2}"), target);
    table.judge(
        format!("{what}: answers \"pool_exhausted\""),
        count(exhausted),
        Target::exactly(exhausted, 0),
    );
    Ok(())
}

/// Asks for an address that is not there, and returns the status of the answer.
async fn one_more(server: &Server) -> Result<u16> {
    let mut connection = Connection::open(server.at).await?;
    let request = server.request("POST", "/elastic-ips", "");
    let answer = connection.ask(&request).await?;
    progress(&format!("one more: {} {}", answer.status, answer.text()));
    let told = !answer.is_success() && answer.text().contains("pool_exhausted");
    ensure!(told || answer.is_success(), "an empty pool is told as {}", answer.text());
    Ok(answer.status)
}

async fn of_pool(server: &Server, field: &str) -> Result<u64> {
    let pools: Value = server.call("GET", "/pools", "").await?;
    pools["items"][0][field].as_u64().with_context(|| format!("the pool tells no {field}"))
}

//! What a million elastic IPs cost: reads, pages, allocations, memory, and the next start.

use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use uuid::Uuid;

use super::operations;
use crate::bench::{Bench, COST, LARGE, Series, rates};
use crate::callers::{Allocate, Any};
use crate::http::{Connection, field};
use crate::latencies::median;
use crate::load::{Repeat, Until};
use crate::process::memory;
use crate::report::{Table, Target, time, whole};
use crate::server::Server;
use crate::world::{Record, Store};

const MEGABYTE: f64 = 1_000_000.0;
const PAGE: usize = 500;

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for store in [Store::Postgres, Store::Sqlite] {
        tables.extend(on(bench, store).await?);
    }
    Ok(tables)
}

/// What is measured, and with what.
struct Scene {
    store: Store,
    empty: Server,
    full: Server,
    record: Record,
    table: Table,
}

async fn on(bench: &mut Bench, store: Store) -> Result<[Table; 2]> {
    let suffix = store.as_str().to_lowercase();
    let beside = bench.world.record(store, &format!("million_empty_{suffix}"))?;
    let record = bench.world.record(store, &format!("million_{suffix}"))?;
    let empty = Server::start(&bench.program(LARGE), &beside).await?;
    let full = Server::start(&bench.program(LARGE), &record).await?;
    let number = whole(bench.args.held as f64);
    let table = Table::new(format!("million: {number} held, {}", store.as_str()));
    let mut scene = Scene { store, empty, full, record, table };
    let held = fill(bench, &mut scene).await?;
    let held = Rc::new(held);
    reads(bench, &mut scene, Rc::clone(&held)).await?;
    pages(bench, &mut scene).await?;
    allocations(bench, &mut scene).await?;
    let title = format!("operations: {number} held, {}, 8 connections", store.as_str());
    let operations = operations::run(bench, &scene.full, title, &held).await?;
    Ok([starts(bench, scene, &beside).await?, operations])
}

async fn fill(bench: &mut Bench, scene: &mut Scene) -> Result<Vec<Uuid>> {
    let before = memory(scene.empty.pid())? as f64 / MEGABYTE;
    bench.note("server's memory, empty", before, "MB")?;
    let target = Target::at_most(before, 40.0, " MB");
    scene.table.judge("server's memory, empty", format!("{before:.0} MB"), target);
    let number = bench.args.held;
    let caller = Allocate::some(&scene.full.request("POST", "/elastic-ips", ""), number);
    let made = caller.made();
    let what = format!("{}: allocating {number}", scene.store.as_str());
    let run = bench.burst(&what, &scene.full, vec![caller; 64], Until::Done).await?;
    scene.table.tell("allocating them, 64 conn", format!("{} /s", whole(run.burst.rate())));
    let after = memory(scene.full.pid())? as f64 / MEGABYTE;
    bench.note("server's memory, after allocating them", after, "MB")?;
    let target = Target::at_most(after, 150.0, " MB");
    scene.table.judge("server's memory, after allocating them", format!("{after:.0} MB"), target);
    let held = made.take();
    ensure!(held.len() == number, "only {} were allocated", held.len());
    Ok(held)
}

async fn reads(bench: &mut Bench, scene: &mut Scene, held: Rc<Vec<Uuid>>) -> Result<()> {
    let path = format!("/elastic-ips/{}", Uuid::nil());
    let any = Any::of(scene.full.request("GET", &path, ""), held);
    let (mut few, mut many) = (Series::default(), Series::default());
    let mut inserts = Vec::new();
    bench.warm_up(scene.full.at, any.clone()).await?;
    for _ in 0..bench.args.runs {
        let name = |connections| format!("{}: GET by id, {connections} conn", scene.store.as_str());
        few.push(bench.repeat(&name(8), &scene.full, 8, any.clone()).await?);
        inserts.push(bench.inserts()?);
        many.push(bench.repeat(&name(64), &scene.full, 64, any.clone()).await?);
    }
    let base = median(&inserts);
    let ratio = many.rate() / base;
    let table = &mut scene.table;
    table.tell("P: pgbench, one-row inserts, 64 clients", rates(&inserts));
    table.tell("GET by id, 8 conn: rate", few.rate_text());
    table.tell("GET by id, 8 conn: p50", time(few.p50()));
    table.judge("GET by id, 8 conn: p99", time(few.p99()), Target::within(few.p99(), 1_000.0));
    table.tell("GET by id, 64 conn: rate", many.rate_text());
    let target = Target::at_least(ratio, 1.5, "");
    table.judge("GET by id, 64 conn: rate / P", format!("{ratio:.2}"), target);
    table.tell(format!("GET by id, 64 conn: {COST}"), many.cost_text());
    Ok(())
}

async fn pages(bench: &mut Bench, scene: &mut Scene) -> Result<()> {
    let paths = walk(&scene.full, bench.args.held).await?;
    let last = paths.len().checked_sub(1).context("there is not one full page")?;
    let mut first_p50 = None;
    for (which, at) in [("first", 0), ("middle", last / 2), ("last", last)] {
        let request = Repeat(scene.full.request("GET", &paths[at], ""));
        let mut series = Series::default();
        for _ in 0..bench.args.runs {
            let what = format!("{}: page of {PAGE}, {which}", scene.store.as_str());
            series.push(bench.repeat(&what, &scene.full, 1, request.clone()).await?);
        }
        let name = |of: &str| format!("page of {PAGE}, {which}, 1 conn: {of}");
        let (p50, p99) = (series.p50(), series.p99());
        let like = 1.25 * *first_p50.get_or_insert(p50);
        if which == "last" {
            scene.table.judge(name("p50"), time(p50), Target::within(p50, like));
        } else {
            scene.table.tell(name("p50"), time(p50));
        }
        scene.table.judge(name("p99"), time(p99), Target::within(p99, 10_000.0));
    }
    Ok(())
}

/// Reads the whole list once, and returns the paths of its full pages.
async fn walk(server: &Server, held: usize) -> Result<Vec<String>> {
    let first = format!("/elastic-ips?limit={PAGE}");
    let mut connection = Connection::open(server.at).await?;
    let mut paths = vec![first.clone()];
    while let Some(path) = paths.last() {
        let answer = connection.ask(&server.request("GET", path, "")).await?;
        ensure!(answer.is_success(), "{path}: {} {}", answer.status, answer.text());
        // It stands behind the items, so what is before the end need not be read.
        let end = answer.body.len().saturating_sub(200);
        let Some(cursor) = field(&answer.body[end..], "next_cursor") else {
            break;
        };
        paths.push(format!("{first}&cursor={cursor}"));
    }
    let expected = held.div_ceil(PAGE);
    ensure!(paths.len() == expected, "{} pages were listed, not {expected}", paths.len());
    paths.truncate(held / PAGE);
    Ok(paths)
}

async fn allocations(bench: &mut Bench, scene: &mut Scene) -> Result<()> {
    let (mut empty, mut full) = (Series::default(), Series::default());
    let request = Repeat(scene.empty.request("POST", "/elastic-ips", ""));
    bench.warm_up(scene.empty.at, request.clone()).await?;
    bench.warm_up(scene.full.at, request.clone()).await?;
    for _ in 0..bench.args.runs {
        let name = |held| format!("{}: POST /elastic-ips, {held}, 64 conn", scene.store.as_str());
        let run = bench.repeat(&name("empty"), &scene.empty, 64, request.clone()).await?;
        empty.push(run);
        let run = bench.repeat(&name("all held"), &scene.full, 64, request.clone()).await?;
        full.push(run);
    }
    let ratio = full.rate() / empty.rate();
    scene.table.tell("allocate beside, empty record, 64 conn", empty.rate_text());
    scene.table.tell("allocate, 64 conn", full.rate_text());
    let target = Target::at_least(ratio, 0.9, "");
    scene.table.judge("allocate: of the rate when empty", format!("{ratio:.2}"), target);
    Ok(())
}

async fn starts(bench: &mut Bench, scene: Scene, beside: &Record) -> Result<Table> {
    let Scene { store, empty, full, record, mut table } = scene;
    empty.stop().await?;
    full.stop().await?;
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let server = Server::start(&bench.program(LARGE), &record).await?;
        let seconds = server.ready_after.as_secs_f64();
        bench.note(&format!("{}: from start to ready", store.as_str()), seconds, "s")?;
        times.push(seconds * 1e6);
        sizes.push(memory(server.pid())? as f64 / MEGABYTE);
        server.stop().await?;
    }
    let (ready, size) = (median(&times), median(&sizes));
    bench.note(&format!("{}: server's memory, started anew", store.as_str()), size, "MB")?;
    table.judge("from start to ready", time(ready), Target::within(ready, 1_500_000.0));
    let target = Target::at_most(size, 150.0, " MB");
    table.judge("server's memory, started anew", format!("{size:.0} MB"), target);
    for record in [&record, beside] {
        bench.world.forget(store, record)?;
    }
    Ok(table)
}

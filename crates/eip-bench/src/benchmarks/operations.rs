//! How long each operation takes with a million elastic IPs in the record.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use uuid::Uuid;

use super::associate::{introduce, report};
use crate::bench::{Bench, Run};
use crate::callers::{Any, Each};
use crate::load::{Caller, Repeat, Until};
use crate::report::{Table, time};
use crate::server::Server;

/// How many ask at once.
const CONNECTIONS: usize = 8;

/// How many are associated, and at last released.
const SOME: usize = 5_000;

/// Asks for every operation in turn; the elastic IPs that are released are the last of `held`.
pub(super) async fn run(
    bench: &mut Bench,
    server: &Server,
    title: String,
    held: &[Uuid],
) -> Result<Table> {
    let mut table = Table::new(title);
    looks(bench, server, &mut table, held).await?;
    changes(bench, server, &mut table, held).await?;
    Ok(table)
}

fn tell(table: &mut Table, what: &str, run: &Run) {
    let (p50, p99) = (run.burst.latencies.p50().into(), run.burst.latencies.p99().into());
    table.tell(format!("{what}: p50, p99"), format!("{}, {}", time(p50), time(p99)));
}

async fn looks(bench: &mut Bench, server: &Server, table: &mut Table, held: &[Uuid]) -> Result<()> {
    let nil = Uuid::nil();
    let ids = Rc::new(held.to_vec());
    for path in ["", "/events", "/traffic"] {
        let path = format!("/elastic-ips/{nil}{path}");
        let any = Any::of(server.request("GET", &path, ""), Rc::clone(&ids));
        let what = format!(
            "GET /elastic-ips/ID{}",
            path.rsplit_once(&nil.to_string()).map_or("", |p| p.1)
        );
        timed(bench, server, table, &what, any).await?;
    }
    for path in [
        "/elastic-ips",
        "/elastic-ips?limit=500",
        "/elastic-ips?name=nobody",
        "/addresses/100.64.12.15/history",
        "/pools",
        "/pools/public",
        "/projects",
        "/api-keys",
        "/hosts",
        "/instances",
        "/events?limit=50",
        "/metrics",
    ] {
        let request = Repeat(server.request("GET", path, ""));
        timed(bench, server, table, &format!("GET {path}"), request).await?;
    }
    // The first one counts every row; those that follow are shown the same map for a while.
    let begun = Instant::now();
    server.call("GET", "/pools/public/map", "").await?;
    table.tell("GET /pools/public/map, drawn", time(begun.elapsed().as_secs_f64() * 1e6));
    let request = Repeat(server.request("GET", "/pools/public/map", ""));
    let run = bench.repeat("GET /pools/public/map", server, 1, request).await?;
    tell(table, "GET /pools/public/map, 1 conn", &run);
    Ok(())
}

async fn timed<C>(
    bench: &mut Bench,
    server: &Server,
    table: &mut Table,
    what: &str,
    caller: C,
) -> Result<()>
where
    C: Caller + Clone + 'static,
{
    let run = bench.repeat(what, server, CONNECTIONS, caller).await?;
    tell(table, what, &run);
    Ok(())
}

async fn changes(
    bench: &mut Bench,
    server: &Server,
    table: &mut Table,
    held: &[Uuid],
) -> Result<()> {
    let nil = Uuid::nil();
    let allocate = Repeat(server.request("POST", "/elastic-ips", ""));
    timed(bench, server, table, "POST /elastic-ips", allocate).await?;
    let dry = Repeat(server.request("POST", "/elastic-ips?dry_run=true", ""));
    timed(bench, server, table, "POST /elastic-ips?dry_run=true", dry).await?;
    let tags = json!({ "tags": { "seen": "yes" } }).to_string();
    let patch = server.request("PATCH", &format!("/elastic-ips/{nil}"), &tags);
    let patch = Any::of(patch, Rc::new(held.to_vec()));
    timed(bench, server, table, "PATCH /elastic-ips/ID", patch).await?;

    let some = &held[held.len().saturating_sub(SOME)..];
    let instances: Vec<Uuid> = some.iter().map(|_| Uuid::new_v4()).collect();
    let hosts = introduce(server, 1, &instances).await?;
    let pairs: Vec<[Uuid; 2]> = some.iter().zip(&instances).map(|(a, b)| [*a, *b]).collect();
    let pairs = Rc::new(pairs);
    let to = json!({ "instance_id": nil, "wait_seconds": 0 }).to_string();
    let none = json!({ "wait_seconds": 0 }).to_string();
    for (what, body) in [("associate", &to), ("disassociate", &none)] {
        let request = server.request("POST", &format!("/elastic-ips/{nil}/{what}"), body);
        let callers = vec![Each::of(request, Rc::clone(&pairs)); CONNECTIONS];
        let what = format!("POST /elastic-ips/ID/{what}");
        let run = bench.burst(&what, server, callers, Until::Done).await?;
        tell(table, &what, &run);
        report(server, &hosts).await?;
    }
    let request = server.request("DELETE", &format!("/elastic-ips/{nil}"), "");
    let gone = Rc::new(some.iter().map(|id| [*id]).collect::<Vec<_>>());
    let callers = vec![Each::of(request, gone); CONNECTIONS];
    let run = bench.burst("DELETE /elastic-ips/ID", server, callers, Until::Done).await?;
    tell(table, "DELETE /elastic-ips/ID", &run);
    Ok(())
}

//! Pointing many elastic IPs at instances, and at nothing again, as fast as the record takes it.
//!
//! This program speaks for the hosts, as their agents would: it tells their instances, and that
//! they have let go. The hosts say that they have no data plane, so no answer waits for one.

use std::rc::Rc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bench::{Bench, COST, LARGE, Series, rates};
use crate::callers::{Allocate, Each};
use crate::latencies::median;
use crate::load::Until;
use crate::report::{Table, Target, time, whole};
use crate::server::Server;
use crate::world::Store;

const CONNECTIONS: usize = 64;
/// How many times P either should be.
const WANTED: f64 = 1.2;

/// A host that this program speaks for.
pub(super) struct Host {
    key: String,
    cluster: Value,
}

pub(super) async fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for hosts in [1, 16] {
        tables.push(with(bench, hosts).await?);
    }
    Ok(tables)
}

async fn with(bench: &mut Bench, number: usize) -> Result<Table> {
    let record = bench.world.record(Store::Postgres, &format!("associate_{number}"))?;
    let server = Server::start(&bench.program(LARGE), &record).await?;
    let instances: Vec<Uuid> = (0..bench.args.instances).map(|_| Uuid::new_v4()).collect();
    let hosts = introduce(&server, number, &instances).await?;
    let pairs = Rc::new(pairs(bench, &server, &instances).await?);

    let nil = Uuid::nil();
    let to = json!({ "instance_id": nil, "wait_seconds": 0 }).to_string();
    let associate = server.request("POST", &format!("/elastic-ips/{nil}/associate"), &to);
    let none = json!({ "wait_seconds": 0 }).to_string();
    let path = format!("/elastic-ips/{nil}/disassociate");
    let disassociate = server.request("POST", &path, &none);
    let mut series = [Series::default(), Series::default()];
    let mut inserts = Vec::new();
    for _ in 0..bench.args.runs {
        inserts.push(bench.inserts()?);
        let phases = [("associate", &associate), ("disassociate", &disassociate)];
        for ((what, request), series) in phases.into_iter().zip(&mut series) {
            let caller = Each::of(request.clone(), pairs.clone());
            let callers = vec![caller; CONNECTIONS];
            let what = format!("{what}, {number} hosts, {CONNECTIONS} connections");
            series.push(bench.burst(&what, &server, callers, Until::Done).await?);
            report(&server, &hosts).await?;
        }
    }
    server.stop().await?;
    bench.world.forget(Store::Postgres, &record)?;
    let title = format!(
        "associate: {} instances on {number} host(s), {CONNECTIONS} connections, PostgreSQL",
        whole(instances.len() as f64)
    );
    Ok(table(title, &series, &inserts))
}

/// Makes the hosts known, with the instances spread over them in turn.
pub(super) async fn introduce(
    server: &Server,
    number: usize,
    instances: &[Uuid],
) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for at in 0..number {
        let name = format!("bench-{at}");
        let key = server.make_key(&json!({ "role": "agent", "host": name })).await?;
        let desired = server.call_as(&key, "GET", "/agent/v1/desired", "").await?;
        hosts.push(Host { key, cluster: desired["cluster_id"].clone() });
    }
    report(server, &hosts).await?;
    for (at, host) in hosts.iter().enumerate() {
        let here = instances.iter().enumerate().skip(at).step_by(number);
        let listed: Vec<Value> = here.map(|(at, id)| instance(at, *id)).collect();
        let listing = json!({ "outcome": "listed", "instances": listed });
        let inventory = json!({ "backends": [{ "backend": "docker", "listing": listing }] });
        let body = inventory.to_string();
        server.call_as(&host.key, "PUT", "/agent/v1/inventory", &body).await?;
    }
    Ok(hosts)
}

fn instance(at: usize, id: Uuid) -> Value {
    // 10.0.0.1 and those behind it.
    let (high, middle, low) = ((at + 1) >> 16, ((at + 1) >> 8) & 255, (at + 1) & 255);
    json!({
        "id": id, "backend": "docker", "name": format!("instance-{at}"), "project": null,
        "state": "running", "private_ip": format!("10.{high}.{middle}.{low}"),
        "vpc_id": "bridge", "unusable": null,
    })
}

/// Tells for each host that it has in force what is desired, as far as it carries anything.
pub(super) async fn report(server: &Server, hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let desired = server.call_as(&host.key, "GET", "/agent/v1/desired", "").await?;
        let report = json!({
            "cluster_id": host.cluster, "generation": desired["generation"],
            "data_plane": { "state": "absent", "reason": "bench" }, "problems": [],
        });
        let body = report.to_string();
        server.call_as(&host.key, "PUT", "/agent/v1/applied", &body).await?;
    }
    Ok(())
}

/// Holds an elastic IP for each instance.
async fn pairs(bench: &mut Bench, server: &Server, instances: &[Uuid]) -> Result<Vec<[Uuid; 2]>> {
    let request = server.request("POST", "/elastic-ips", "");
    let caller = Allocate::some(&request, instances.len());
    let callers = vec![caller.clone(); CONNECTIONS];
    bench.burst("an elastic IP for each instance", server, callers, Until::Done).await?;
    let made = caller.made().take();
    ensure!(made.len() == instances.len(), "not all elastic IPs were allocated");
    Ok(made
        .into_iter()
        .zip(instances)
        .map(|(elastic_ip, instance)| [elastic_ip, *instance])
        .collect())
}

fn table(title: String, series: &[Series; 2], inserts: &[f64]) -> Table {
    let base = median(inserts);
    let mut table = Table::new(title);
    table.tell("P: pgbench, one-row inserts, 64 clients", rates(inserts));
    for (what, series) in ["associate", "disassociate"].into_iter().zip(series) {
        let name = |of: &str| format!("{what}: {of}");
        table.tell(name("rate"), series.rate_text());
        let ratio = series.rate() / base;
        let target = Target::at_least(ratio, WANTED, "");
        table.judge(name("rate / P"), format!("{ratio:.2}"), target);
        table.tell(name("p50"), time(series.p50()));
        table.tell(name("p99"), time(series.p99()));
        table.tell(name("max"), time(series.max()));
        table.tell(name(COST), series.cost_text());
    }
    table
}

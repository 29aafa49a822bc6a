//! What the same machine does without eip: PostgreSQL inserting one row at a time, SQLite doing so,
//! and the disk writing a page.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::latencies::{Latencies, micros};
use crate::world::{World, run};

const DATABASE: &str = "baseline";
const TABLE: &str = "CREATE TABLE held (
    id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    address bigint NOT NULL,
    project text NOT NULL,
    at      timestamptz NOT NULL)";
const INSERT: &str = "\\set address random(0, 4194303)
INSERT INTO held (address, project, at) VALUES (:address, 'default', now());
";

/// What one run of pgbench came to.
#[derive(Debug, Clone)]
pub(crate) struct Inserts {
    pub(crate) rate: f64,
    /// Empty unless asked for.
    pub(crate) latencies: Latencies,
}

/// Makes the table that pgbench writes to.
pub(crate) fn prepare(world: &World) -> Result<()> {
    world.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    world.sql(DATABASE, TABLE)?;
    fs::write(world.folder.join("insert.sql"), INSERT).context("cannot write pgbench's script")
}

/// Inserts rows with so many clients, a commit each, and returns how many in a second.
pub(crate) fn pgbench(world: &World, clients: u32, time: Duration) -> Result<Inserts> {
    let text = insert(world, clients, time, &[])?;
    Ok(Inserts { rate: rate(&text)?, latencies: Latencies::default() })
}

/// The same with a log of how long each took, which costs the rate a little.
pub(crate) fn pgbench_latencies(world: &World, clients: u32, time: Duration) -> Result<Inserts> {
    let text = insert(world, clients, time, &["-l", "--log-prefix=latency"])?;
    let mut times = Vec::new();
    for entry in fs::read_dir(&world.folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("latency.") {
            logged(&fs::read_to_string(&path)?, &mut times)?;
            fs::remove_file(&path)?;
        }
    }
    ensure!(!times.is_empty(), "pgbench wrote no log");
    Ok(Inserts { rate: rate(&text)?, latencies: Latencies::of(times) })
}

fn insert(world: &World, clients: u32, time: Duration, more: &[&str]) -> Result<String> {
    let mut command = world.client("pgbench", DATABASE);
    command.args(["-n", "-M", "prepared", "-f", "insert.sql", "-T"]);
    command.arg(time.as_secs().to_string()).args(["-c", &clients.to_string()]);
    command.args(["-j", &clients.min(2).to_string()]).args(more);
    run(command)
}

/// Reads how many transactions pgbench says it did in a second.
///
/// Before version 14 it says it twice; the second one is without the time to connect.
fn rate(text: &str) -> Result<f64> {
    if let Some(failed) =
        text.lines().find_map(|l| l.strip_prefix("number of failed transactions:"))
    {
        ensure!(failed.trim().starts_with("0 "), "pgbench had failures: {failed}");
    }
    let line = text.lines().filter_map(|line| line.strip_prefix("tps = ")).next_back();
    let number = line.and_then(|line| line.split(' ').next()?.parse().ok());
    number.with_context(|| format!("pgbench said no rate: {text}"))
}

/// Reads a log of pgbench: `client transaction MICROSECONDS script seconds microseconds`.
fn logged(text: &str, times: &mut Vec<u32>) -> Result<()> {
    for line in text.lines() {
        let time = line.split(' ').nth(2).and_then(|field| field.parse().ok());
        times.push(time.with_context(|| format!("not a line of pgbench's log: {line}"))?);
    }
    Ok(())
}

/// How long the disk takes to write a page of 8 kB over an old one, and to say that it is there.
pub(crate) fn page_writes(folder: &Path) -> Result<Latencies> {
    const PAGES: u64 = 500;
    let path = folder.join("pages");
    let mut file = File::create(&path)?;
    let page = [0x5a_u8; 8192];
    for _ in 0..PAGES {
        file.write_all(&page)?;
    }
    file.sync_all()?;
    let mut times = Vec::new();
    for at in 0..PAGES {
        let begun = Instant::now();
        file.seek(SeekFrom::Start(at * 8192))?;
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(micros(begun.elapsed()));
    }
    fs::remove_file(&path)?;
    Ok(Latencies::of(times))
}

/// Inserts rows into SQLite, a commit each, and returns how many in a second.
///
/// Set up as the record is: a write-ahead log that is on the disk before a commit returns, folded
/// in every 4,000 pages.
pub(crate) fn sqlite_rows(folder: &Path, time: Duration) -> Result<f64> {
    let path = folder.join("one-row.db");
    let connection = rusqlite::Connection::open(&path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS held (
            id BLOB PRIMARY KEY, address INTEGER NOT NULL, project TEXT NOT NULL,
            at INTEGER NOT NULL) STRICT",
    )?;
    let mut insert = connection
        .prepare("INSERT INTO held (id, address, project, at) VALUES (?1, ?2, 'default', ?3)")?;
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < time {
        let id = uuid::Uuid::new_v4();
        insert.execute((id.as_bytes(), count, 1_700_000_000_000_000_i64))?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_one_without_the_time_to_connect() {
        let new = "number of failed transactions: 0 (0.000%)\nlatency average = 5.1 ms\n\
                   tps = 12345.678901 (without initial connection time)\n";
        assert!((rate(new).unwrap() - 12_345.678_901).abs() < 1e-6);
        let old = "tps = 10.5 (including connections establishing)\n\
                   tps = 11.5 (excluding connections establishing)\n";
        assert!((rate(old).unwrap() - 11.5).abs() < 1e-6);
        assert!(rate("pgbench: error").is_err());
    }

    #[test]
    fn failures_are_not_passed_over() {
        let text = "number of failed transactions: 7 (0.100%)\ntps = 1.0 (without ...)\n";
        assert!(rate(text).is_err());
    }

    #[test]
    fn a_log_tells_microseconds_in_its_third_field() {
        let mut times = Vec::new();
        logged("0 1 5214 0 1700000000 123456\n3 1 99 0 1700000000 123999\n", &mut times).unwrap();
        assert_eq!(times, [5214, 99]);
        assert!(logged("0 1 skipped 0 1 2\n", &mut times).is_err());
    }
}

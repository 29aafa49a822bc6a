//! The benchmarks, a module each.

mod allocate;
mod associate;
mod fill;
mod generator;
mod kills;
mod load;
mod million;
mod moves;
mod operations;
mod overhead;
mod packets;
mod quota;
mod sqlite;
mod stream;

use anyhow::Result;

use crate::args::Name;
use crate::bench::Bench;
use crate::report::Table;

/// Runs one, and returns what it came to.
pub(crate) async fn run(name: Name, bench: &mut Bench) -> Result<Vec<Table>> {
    match name {
        Name::Generator => generator::run(bench).await,
        Name::Overhead => overhead::run(bench).await,
        Name::Allocate => allocate::run(bench).await,
        Name::Sqlite => sqlite::run(bench).await,
        Name::Fill => fill::run(bench).await,
        Name::Associate => associate::run(bench).await,
        Name::Quota => quota::run(bench).await,
        Name::Million => million::run(bench).await,
        Name::Stream => stream::run(bench).await,
        Name::Moves => moves::run(bench).await,
        Name::Packets => packets::run(bench),
        Name::Load => load::run(bench).await,
        Name::Kills => kills::run(bench).await,
    }
}

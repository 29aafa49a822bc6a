//! Benchmarks of eip's record, control plane and data plane. A tool beside the product, as the test kit is:
//! `./dev bench` runs it, docs/benchmarks.md says what a figure must have.

mod agent;
mod args;
mod baseline;
mod bench;
mod benchmarks;
mod callers;
mod crowd;
mod engine;
mod gate;
mod http;
mod lab;
mod latencies;
mod load;
mod machine;
mod probe;
mod process;
mod report;
mod server;
mod site;
mod sse;
mod traffic;
mod visits;
mod witness;
mod world;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::args::Args;
use crate::bench::Bench;
use crate::load::Refused;
use crate::machine::Facts;
use crate::report::{Output, progress, say};
use crate::world::World;

/// On one thread: what the generator does not take is the server's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            progress(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Allows as many open files as the administrator does: a socket for each end of each flow.
fn open_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot open more files")
}

/// Returns how many benchmarks broke.
async fn run(args: Args) -> Result<usize> {
    open_many_files()?;
    let (eip, revision) = match &args.eip {
        Some(path) => {
            let path = path.canonicalize().context("cannot find what --eip names")?;
            (path, "another build, named with --eip".to_owned())
        }
        None => (std::env::current_exe()?.with_file_name("eip"), machine::revision()),
    };
    ensure!(eip.exists(), "there is no {}: build it, or name one with --eip", eip.display());
    let mut output = Output::to(args.out.as_deref())?;
    let world = World::make(args.dir.as_deref())?;
    let facts = Facts::gather(&world, &eip, &revision)?;
    say(&facts.text())?;
    output.line(&json!({ "machine": facts.json() }))?;
    baseline::prepare(&world)?;
    let postmaster = world.postmaster()?;
    let chosen = args.chosen();
    let refused = Refused::default();
    let mut bench = Bench { world, args, eip, output, name: "", refused, postmaster };
    let mut broken = 0;
    for name in chosen {
        bench.name = name.as_str();
        bench.refused = Refused::default();
        match benchmarks::run(name, &mut bench).await {
            Ok(tables) => tables.iter().try_for_each(report::print)?,
            Err(error) => {
                broken += 1;
                say(&format!("\n## {}: it broke\n\n{error:#}\n", name.as_str()))?;
            }
        }
        if bench.refused.count() > 0 {
            broken += 1;
            say(&refusals(&bench.refused))?;
        }
    }
    Ok(broken)
}

fn refusals(refused: &Refused) -> String {
    let line = |(status, (count, sample)): (&u16, &(u64, String))| {
        format!("{count} answers were {status}, the first one: {sample}\n")
    };
    let lines: String = refused.0.iter().map(line).collect();
    format!("\nNot everything was answered as it should be:\n\n{lines}")
}

//! What a figure is worth nothing without: the machine, the versions, and what else ran.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::world::{World, file_system, is_memory, run};

/// What is told before the first table.
#[derive(Debug)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn gather(world: &World, eip: &Path, revision: &str) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let disk = file_system(&world.folder)?;
        let durable = if is_memory(&disk) { "; IN MEMORY: no figure here is durable" } else { "" };
        let mut version = Command::new(eip);
        version.arg("--version");
        let load = read("/proc/loadavg");
        let load: Vec<&str> = load.split(' ').take(3).collect();
        Ok(Self(vec![
            ("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
            (
                "processor",
                format!("{}, {cores} cores", value(&read("/proc/cpuinfo"), "model name")),
            ),
            ("memory", value(&read("/proc/meminfo"), "MemTotal")),
            ("disk", format!("{disk}{durable}")),
            ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
            ("PostgreSQL", world.version()?),
            ("eip", format!("{} ({})", run(version)?.trim(), revision)),
            ("load before", load.join(" ")),
        ]))
    }

    pub(crate) fn text(&self) -> String {
        let line = |(name, value): &(&str, String)| format!("{name:<12} {value}\n");
        self.0.iter().map(line).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let pair =
            |(name, value): &(&str, String)| ((*name).to_owned(), Value::from(value.clone()));
        Value::Object(self.0.iter().map(pair).collect::<Map<_, _>>())
    }
}

/// The revision of the folder that this runs in.
pub(crate) fn revision() -> String {
    let mut command = Command::new("git");
    command.args(["describe", "--always", "--dirty"]);
    // What was copied here has no history beside it.
    run(command).map_or_else(|_| "of an unknown revision".to_owned(), |text| text.trim().to_owned())
}

/// Finds `name : value` in a file of the kernel.
fn value(text: &str, name: &str) -> String {
    let named = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    text.lines().find_map(named).unwrap_or_else(|| "unknown".to_owned())
}

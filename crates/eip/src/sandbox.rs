//! `eip sandbox`.

use eip_compute::sandbox::{SandboxError, SandboxRecord, Sandboxes};
use serde_json::json;

use crate::args::{Global, Output, Sandbox, SandboxPlace};
use crate::client;
use crate::client::output::{print_json, print_line, print_table};
use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use eip_model::chain;

pub(crate) fn run(command: Sandbox, settings: &Settings, global: &Global) -> Result<(), Failure> {
    let output = global.output;
    let at = |place: &SandboxPlace| Sandboxes::of(&settings.data_dir(place.data_dir.as_deref()));
    let said = |error: SandboxError| failure(&error);
    match command {
        Sandbox::Add { name, project, place } => {
            let record = at(&place).add(&name, project.as_ref()).map_err(said)?;
            let data_dir = settings.data_dir(place.data_dir.as_deref());
            client::until_known(&record.id, &data_dir, global, settings);
            show(&[record], output)
        }
        Sandbox::List { place } => show(&at(&place).list().map_err(said)?, output),
        Sandbox::Stop { name, place } => at(&place).stop(&name).map_err(said),
        Sandbox::Remove { name, place } => at(&place).remove(&name).map_err(said),
        Sandbox::Exec { name, place, command } => at(&place).exec(&name, &command).map_err(said),
        Sandbox::Run { name, project, place, detach } => {
            let run = at(&place).run(&name, project.as_ref(), detach);
            if let (Err(error), true) = (&run, detach) {
                // Whoever started it reads one line.
                print_line(&chain(error));
            }
            run.map_err(said)
        }
    }
}

fn show(records: &[SandboxRecord], output: Output) -> Result<(), Failure> {
    let state = |one: &SandboxRecord| if one.runs() { "running" } else { "stopped" };
    match output {
        Output::Json => {
            let items = records.iter().map(|one| {
                json!({
                    "id": one.id, "name": one.name, "project": one.project,
                    "state": state(one), "private_ip": one.private_ip, "pid": one.pid,
                })
            });
            print_json(&json!({ "items": items.collect::<Vec<_>>() }))
        }
        Output::Table => {
            let rows = records.iter().map(|one| {
                let address = one.private_ip.to_string();
                vec![one.name.to_string(), state(one).to_owned(), address, one.id.to_string()]
            });
            print_table(&["NAME", "STATE", "PRIVATE IP", "ID"], rows.collect());
            Ok(())
        }
    }
}

fn failure(error: &SandboxError) -> Failure {
    let (exit, code, hint) = match error {
        SandboxError::NotFound(_) => (Exit::NotFound, "sandbox_not_found", "see eip sandbox list"),
        SandboxError::Running(_) => (Exit::Conflict, "sandbox_running", "choose another name"),
        SandboxError::NotRunning(_) => {
            (Exit::Conflict, "sandbox_not_running", "start it with eip sandbox add")
        }
        SandboxError::Full => (Exit::Exhausted, "sandbox_full", "remove some"),
        SandboxError::Io { .. } | SandboxError::Netlink { .. } | SandboxError::Said(_) => {
            (Exit::Other, "other", "a sandbox needs the rights of root")
        }
    };
    Failure::here(exit, code, chain(error), hint)
}

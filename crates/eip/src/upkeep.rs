//! `eip backup`: looking after the record.

use eip_model::chain;
use eip_store::BackupError;
use serde_json::json;

use crate::args::{self, Output};
use crate::client::output::{print_json, print_line};
use crate::exit::{Exit, Failure};
use crate::serve::cannot_open;
use crate::settings::Settings;

pub(crate) async fn backup(
    command: args::Backup,
    settings: &Settings,
    output: Output,
) -> Result<(), Failure> {
    let data_dir = settings.data_dir(command.data_dir.as_deref());
    let database = settings.database(command.database.as_deref(), &data_dir);
    let made = eip_store::backup(&database, &command.file).await;
    let made = made.map_err(|error| cannot_copy(&error))?;
    if output == Output::Json {
        return print_json(&json!({
            "file": made.path, "bytes": made.bytes,
            "elastic_ips": made.held, "last_event": made.last_event,
        }));
    }
    let file = made.path.display();
    print_line(&format!(
        "{file}: {} elastic IPs, events up to {}, {} bytes, checked",
        made.held, made.last_event, made.bytes
    ));
    Ok(())
}

fn cannot_copy(error: &BackupError) -> Failure {
    let here = |exit, code, hint: &str| {
        Failure::here(exit, code, format!("cannot copy the record: {}", chain(error)), hint)
    };
    match error {
        BackupError::Open(error) => cannot_open(error),
        BackupError::NotSqlite => here(Exit::Usage, "usage", "use pg_dump"),
        BackupError::NoRecord { .. } => {
            let hint = "name the record with --database sqlite:PATH, or its folder with --data-dir";
            here(Exit::NotFound, "record_not_found", hint)
        }
        BackupError::Exists { .. } => {
            here(Exit::Conflict, "file_exists", "name a file that is not there")
        }
        BackupError::NoSpace { .. } => {
            here(Exit::Other, "no_space", "make space, or name a file on another disk")
        }
        BackupError::Damaged { .. } | BackupError::Unsound { .. } => {
            let hint = "keep every earlier backup; restore the newest one that is sound";
            here(Exit::Other, "record_damaged", hint)
        }
        BackupError::File { .. } => here(
            Exit::Other,
            "other",
            "see that the folder of the file is there and may be written",
        ),
        BackupError::Database { .. } => {
            here(Exit::Other, "other", "see that the record may be read by you")
        }
    }
}

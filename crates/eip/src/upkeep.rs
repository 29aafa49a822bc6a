//! `eip backup` and `eip import`: looking after the record.

use eip_model::chain;
use eip_store::{BackupError, ImportError, OpenError};
use serde_json::json;

use crate::args::{self, Output};
use crate::client::output::{print_json, print_line, print_table};
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
        BackupError::Unsound { .. } => {
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

pub(crate) async fn import(command: args::Import, output: Output) -> Result<(), Failure> {
    let imported = eip_store::import(&command.from, &command.to).await;
    let imported = imported.map_err(|error| cannot_import(&error))?;
    // The URL may hold a password, so it is not said again.
    let next = "start eip serve with --database and the URL that --to had, and the same --data-dir";
    if output == Output::Json {
        let rows: serde_json::Map<_, _> =
            imported.rows.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
        return print_json(&json!({
            "place": imported.place, "rows": rows, "last_event": imported.last_event, "next": next,
        }));
    }
    let row = |(table, rows): &(&str, u64)| vec![(*table).to_owned(), rows.to_string()];
    print_table(&["TABLE", "ROWS"], imported.rows.iter().map(row).collect());
    print_line(&format!("imported into {}; counted on both sides", imported.place));
    print_line(&format!("next: {next}; serve the old record no more"));
    Ok(())
}

fn cannot_import(error: &ImportError) -> Failure {
    let here = |exit, code, hint: &str| {
        Failure::here(exit, code, format!("cannot import the record: {}", chain(error)), hint)
    };
    match error {
        ImportError::Direction => {
            here(Exit::Usage, "usage", "write --from sqlite:PATH --to postgres://USER@HOST/NAME")
        }
        ImportError::NoRecord { .. } => {
            here(Exit::NotFound, "record_not_found", "the default one is eip.db in the data folder")
        }
        ImportError::Source(OpenError::InUse { .. }) => {
            here(Exit::Conflict, "record_in_use", "stop the service first")
        }
        ImportError::Source(opening) => cannot_open_either("--from", error, opening),
        ImportError::Target(opening) => cannot_open_either("--to", error, opening),
        ImportError::Older { .. } => {
            let hint = "serve it once with this program, which brings it up to date, and stop";
            here(Exit::Conflict, "record_older", hint)
        }
        ImportError::NotEmpty { .. } => {
            let hint = "nothing was changed; name a new database, as made by createdb";
            here(Exit::Conflict, "database_not_empty", hint)
        }
        ImportError::Columns { .. } | ImportError::Cell { .. } | ImportError::Differs { .. } => {
            here(Exit::Other, "other", "nothing was imported; the record is as it was")
        }
        ImportError::Unconfirmed { .. } => {
            let hint = "import it into a new database, as made by createdb, before you serve it";
            here(Exit::Other, "unconfirmed", hint)
        }
        ImportError::Database { .. } => {
            here(Exit::Other, "other", "nothing was imported; see that both databases answer")
        }
    }
}

/// Says which of the two databases it is that cannot be opened.
fn cannot_open_either(option: &str, error: &ImportError, opening: &OpenError) -> Failure {
    let detail = format!("{option}: {}; nothing was imported", chain(error));
    let (exit, code, hint) = match (cannot_open(opening), opening) {
        (Failure::Here { exit, code, .. }, OpenError::File { .. } | OpenError::Sqlite { .. }) => {
            let hint = "the record must be on a disk that may be written; import a copy of it";
            (exit, code, hint.to_owned())
        }
        (Failure::Here { exit: Exit::Usage, code, .. }, _) => {
            let hint = match option {
                "--from" => "write --from sqlite:PATH",
                _ => "write --to postgres://USER@HOST/NAME",
            };
            (Exit::Usage, code, hint.to_owned())
        }
        (Failure::Here { exit, code, hint, .. }, _) => (exit, code, hint),
        (problem @ Failure::Problem(_), _) => return problem,
    };
    Failure::here(exit, code, detail, hint)
}

//! What the agent keeps on disk: the last desired set, and the last list of every backend.
//!
//! Two files: `agent.json` has all of it as it was once, `agent.log` what has changed since, a line for each
//! change. So a change costs a line, however much there is. When the log has grown to the size of the
//! whole, the whole is written anew and the log begins again.

mod changes;
mod log;
mod whole;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eip_compute::Listing;
use eip_model::{Backend, Desired, Generation, chain};
use tokio::sync::watch;
use tracing::{error, warn};

use self::changes::Change;
use self::log::Log;
use self::whole::Kept;
use crate::server::ServerLink;

/// How long what was acknowledged may be in no file.
const LATER: Duration = Duration::from_secs(2);
/// A log may have as many bytes as the whole, and at least these.
const SMALL: u64 = 256 << 10;

/// The files, and what is in them.
#[derive(Debug)]
pub(crate) struct Keep {
    path: PathBuf,
    kept: Kept,
    /// The log that goes on from what was written whole last. None where that has to be written.
    log: Option<Log>,
    /// The size of what was written whole last, in bytes.
    whole: u64,
}

/// The last desired set, and the last list of every backend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToKeep {
    pub(crate) desired: Desired,
    pub(crate) listings: BTreeMap<Backend, Listing>,
}

/// Writes what is to be kept, the newest of it when it comes faster than the disk, until nothing
/// more can come. Beside the loop, because a change must not wait for the disk.
pub(crate) async fn keep_up(
    mut keep: Keep,
    mut news: watch::Receiver<Option<ToKeep>>,
    server: ServerLink,
) {
    loop {
        let told = tokio::select! {
            changed = news.changed() => changed.is_ok(),
            // What was acknowledged since is worth a write of its own, but not at every change.
            () = tokio::time::sleep(LATER), if server.acknowledged() != keep.acknowledged() => true,
        };
        let kept = news.borrow_and_update().clone();
        let acknowledged = server.acknowledged();
        if let Some(kept) = kept {
            let save = move || {
                keep.save(kept, acknowledged);
                keep
            };
            match tokio::task::spawn_blocking(save).await {
                Ok(kept) => keep = kept,
                Err(error) => {
                    return error!(%error, "The file of the agent is not written any more");
                }
            }
        }
        if !told {
            return;
        }
    }
}

impl Keep {
    /// Reads the files of the agent. What cannot be read is set aside and said: the server is asked.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("agent.json");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (mut kept, size) = match fs::read(&path) {
            Ok(text) => (read(&path, &text), text.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Kept::default(), 0),
            Err(error) => {
                warn!(path = %path.display(), %error, "Could not read the file of the agent");
                (Kept::default(), 0)
            }
        };
        let mut log = Log::read(&data_dir.join("agent.log"), kept.serial, |change: Change| {
            kept.apply(change)
        });
        if kept.boot_id != boot_id {
            // Instances are where they were only until the host is started anew.
            kept.listings.clear();
            kept.boot_id = boot_id;
            log = None;
        }
        Self { path, kept, log, whole: u64::try_from(size).unwrap_or(u64::MAX) }
    }

    pub(crate) fn desired(&self) -> Option<Desired> {
        self.kept.desired.clone()
    }

    pub(crate) fn acknowledged(&self) -> Generation {
        self.kept.acknowledged
    }

    pub(crate) fn listings(&self) -> BTreeMap<Backend, Listing> {
        self.kept.listings.clone()
    }

    /// Writes what is new, if anything is, whole or not at all.
    pub(crate) fn save(&mut self, now: ToKeep, acknowledged: Generation) {
        let change = Change::between(&self.kept, &now, acknowledged);
        if change.as_ref().is_some_and(Change::is_empty) {
            return;
        }
        let ToKeep { desired, listings } = now;
        let kept = Kept { desired: Some(desired), listings, acknowledged, ..self.kept.clone() };
        let written = match (&change, &mut self.log) {
            (Some(change), Some(log)) if log.length() < self.whole.max(SMALL) => log.add(change),
            _ => self.write_whole(kept.clone()),
        };
        match written {
            Ok(()) => {
                let serial = self.kept.serial;
                self.kept = Kept { serial, ..kept };
            }
            Err(error) => {
                let path = self.path.display();
                warn!(%path, error = %chain(&error), "Could not write the file of the agent");
                // What the log has on the disk now is not known.
                self.log = None;
            }
        }
    }

    fn write_whole(&mut self, mut kept: Kept) -> io::Result<()> {
        // The log of an earlier one must not be taken for its own.
        kept.serial = kept.next_serial();
        self.log = None;
        self.whole = kept.write(&self.path)?;
        self.kept.serial = kept.serial;
        self.log = Some(Log::begin(&self.path.with_extension("log"), kept.serial)?);
        sync_folder(&self.path)
    }
}

fn read(path: &Path, text: &[u8]) -> Kept {
    Kept::read(text).unwrap_or_else(|error| {
        error!(path = %path.display(), error, "Set aside a file of the agent that is damaged");
        fs::rename(path, path.with_extension("damaged")).ok();
        Kept::default()
    })
}

/// Makes sure that a file is in its folder on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

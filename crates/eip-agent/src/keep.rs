//! What the agent keeps on disk: the last desired set, and the last list of every backend.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eip_compute::Listing;
use eip_model::{Backend, DesiredSet, Generation, InstanceReport, LocalNetwork, chain};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::server::ServerLink;
use crate::turn::Resolved;

/// The file, and what is in it.
#[derive(Debug)]
pub(crate) struct Keep {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Instances are where they were only until the host is started anew.
    boot_id: String,
    desired: Option<DesiredSet>,
    /// The newest generation that a server had acknowledged when this was written.
    #[serde(default)]
    acknowledged: Generation,
    listings: BTreeMap<Backend, KeptListing>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct KeptListing {
    instances: Vec<InstanceReport>,
    networks: Vec<LocalNetwork>,
}

/// How long what was acknowledged may be in no file.
const LATER: Duration = Duration::from_secs(2);

/// The last desired set, and the last list of every backend.
pub(crate) type ToKeep = (Arc<Resolved>, Arc<BTreeMap<Backend, Listing>>);

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
        if let Some((resolved, listings)) = kept {
            let save = move || {
                keep.save(resolved.desired(), acknowledged, &listings);
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
    /// Reads the file of the agent. What cannot be read is set aside and said: the server is asked.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("agent.json");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut kept = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                error!(path = %path.display(), %error, "Set aside a file of the agent that is damaged");
                fs::rename(&path, path.with_extension("damaged")).ok();
                Kept::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                warn!(path = %path.display(), %error, "Could not read the file of the agent");
                Kept::default()
            }
        };
        if kept.boot_id != boot_id {
            kept.listings.clear();
            kept.boot_id = boot_id;
        }
        Self { path, kept }
    }

    pub(crate) fn desired(&self) -> Option<DesiredSet> {
        self.kept.desired.clone()
    }

    pub(crate) fn acknowledged(&self) -> Generation {
        self.kept.acknowledged
    }

    pub(crate) fn listings(&self) -> BTreeMap<Backend, Listing> {
        let read = |(backend, kept): (&Backend, &KeptListing)| {
            let KeptListing { instances, networks } = kept.clone();
            (*backend, Listing { instances, networks, ..Listing::default() })
        };
        self.kept.listings.iter().map(read).collect()
    }

    /// Writes what is new, if anything is, whole or not at all.
    pub(crate) fn save(
        &mut self,
        desired: &DesiredSet,
        acknowledged: Generation,
        listings: &BTreeMap<Backend, Listing>,
    ) {
        let same = |(backend, kept): (&Backend, &KeptListing)| {
            listings
                .get(backend)
                .is_some_and(|now| now.instances == kept.instances && now.networks == kept.networks)
        };
        if self.kept.desired.as_ref() == Some(desired)
            && self.kept.acknowledged == acknowledged
            && self.kept.listings.len() == listings.len()
            && self.kept.listings.iter().all(same)
        {
            return;
        }
        let write = |(backend, listing): (&Backend, &Listing)| {
            let Listing { instances, networks, .. } = listing.clone();
            (*backend, KeptListing { instances, networks })
        };
        let now = Kept {
            boot_id: self.kept.boot_id.clone(),
            desired: Some(desired.clone()),
            acknowledged,
            listings: listings.iter().map(write).collect(),
        };
        match replace(&self.path, &now) {
            Ok(()) => self.kept = now,
            Err(error) => {
                let path = self.path.display();
                warn!(%path, error = %chain(&error), "Could not write the file of the agent");
            }
        }
    }
}

fn replace(path: &Path, kept: &Kept) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eip_model::ClusterId;

    fn desired(generation: u64) -> DesiredSet {
        DesiredSet {
            cluster_id: ClusterId::new("f47ac10b-58cc-4372-a567-0e02c7d2e3f4".parse().unwrap()),
            host: "hv1".parse().unwrap(),
            generation: Generation::new(generation),
            replaces: None,
            ranges: vec!["100.64.0.0/10".parse().unwrap()],
            attachments: Vec::new(),
        }
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let listings = BTreeMap::from([(Backend::Docker, Listing::default())]);
        Keep::open(dir.path()).save(&desired(3), Generation::new(2), &listings);
        let keep = Keep::open(dir.path());
        assert_eq!(keep.desired(), Some(desired(3)));
        assert_eq!(keep.acknowledged(), Generation::new(2));
        assert_eq!(keep.listings(), listings);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.json"), "{\"boot_id").unwrap();
        assert_eq!(Keep::open(dir.path()).desired(), None);
        assert!(dir.path().join("agent.damaged").exists());
    }

    #[test]
    fn another_boot_forgets_where_instances_were_but_not_what_is_wished() {
        let dir = tempfile::tempdir().unwrap();
        let mut keep = Keep::open(dir.path());
        keep.kept.boot_id = "an earlier one".into();
        keep.save(
            &desired(3),
            Generation::new(2),
            &BTreeMap::from([(Backend::Docker, Listing::default())]),
        );
        let keep = Keep::open(dir.path());
        assert_eq!(keep.desired(), Some(desired(3)));
        assert!(keep.listings().is_empty());
    }
}

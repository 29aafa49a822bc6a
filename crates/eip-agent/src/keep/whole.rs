//! All that is kept, in one file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use eip_compute::Listing;
use eip_model::{
    Backend, Desired, DesiredSet, Generation, InstanceReport, Instances, LocalNetwork,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use super::changes::Change;

#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) boot_id: String,
    /// Which file this was read from: the log names it.
    pub(super) serial: u64,
    pub(super) desired: Option<Desired>,
    /// The newest generation that a server had acknowledged when this was written.
    pub(super) acknowledged: Generation,
    /// Without lives, which are of one run.
    pub(super) listings: BTreeMap<Backend, Listing>,
}

/// What is in the file.
///
/// An agent that knows of no log would take the file for all there is, and bring back what has changed
/// since. It asks for `boot_id` and finds none, so it sets the file aside and asks the server.
#[derive(Deserialize)]
struct Read {
    /// As agents called it that knew of no log.
    #[serde(alias = "boot_id")]
    boot: String,
    #[serde(default)]
    serial: u64,
    desired: Option<DesiredSet>,
    #[serde(default)]
    acknowledged: Generation,
    listings: BTreeMap<Backend, ReadListing>,
}

#[derive(Deserialize)]
struct ReadListing {
    instances: Vec<InstanceReport>,
    networks: Vec<LocalNetwork>,
}

#[derive(Serialize)]
struct Written<'k> {
    boot: &'k str,
    serial: u64,
    desired: &'k Option<Desired>,
    acknowledged: Generation,
    listings: BTreeMap<Backend, WrittenListing<'k>>,
}

#[derive(Serialize)]
struct WrittenListing<'k> {
    #[serde(serialize_with = "values")]
    instances: &'k Instances,
    networks: &'k [LocalNetwork],
}

fn values<S: Serializer>(instances: &Instances, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(instances.values().map(|one| &**one))
}

impl Kept {
    /// # Errors
    /// In words: why this is not a file that was written whole.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let read: Read = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Read { boot: boot_id, serial, desired, acknowledged, listings } = read;
        let desired = desired.map(Desired::new).transpose()?;
        let listing = |(backend, ReadListing { instances, networks })| {
            let instances = instances.into_iter().map(|one| (one.id, Arc::new(one))).collect();
            (backend, Listing { instances, networks, ..Listing::default() })
        };
        let listings = listings.into_iter().map(listing).collect();
        Ok(Self { boot_id, serial, desired, acknowledged, listings })
    }

    /// Writes it in the place of the one before, whole or not at all. Returns how many bytes it has.
    pub(super) fn write(&self, path: &Path) -> io::Result<u64> {
        let Self { boot_id, serial, desired, acknowledged, listings } = self;
        let listings = listings.iter().map(|(backend, listing)| {
            let Listing { instances, networks, .. } = listing;
            (*backend, WrittenListing { instances, networks })
        });
        let listings = listings.collect();
        let (serial, acknowledged) = (*serial, *acknowledged);
        let boot = boot_id.as_str();
        let written = Written { boot, serial, desired, acknowledged, listings };
        let draft = path.with_extension("draft");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        serde_json::to_writer(&mut file, &written)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        let length = file.get_ref().metadata()?.len();
        fs::rename(&draft, path)?;
        super::sync_folder(path)?;
        Ok(length)
    }

    /// Returns a number that no file before has had.
    pub(super) fn next_serial(&self) -> u64 {
        let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
        now.max(self.serial + 1)
    }

    /// # Errors
    /// In words, when the change does not go on from this.
    pub(super) fn apply(&mut self, change: Change) -> Result<(), String> {
        let Change { desired, acknowledged, listings, .. } = change;
        if let Some(changes) = desired {
            let known = self.desired.as_ref().ok_or("there is no set that it could change")?;
            self.desired = Some(known.with(&changes)?);
        }
        self.acknowledged = acknowledged;
        for (backend, changes) in listings {
            let listing = self.listings.entry(backend).or_default();
            for id in changes.removed {
                listing.instances.remove(&id);
            }
            for instance in changes.instances {
                listing.instances.insert(instance.id, Arc::new(instance));
            }
            if let Some(networks) = changes.networks {
                listing.networks = networks;
            }
        }
        Ok(())
    }
}

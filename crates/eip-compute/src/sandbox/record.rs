//! What is remembered of a sandbox, in one small file each.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use eip_model::{
    Backend, InstanceId, InstanceInterface, InstanceReport, InstanceState, MacAddress, Mode,
    ProjectName,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{SUBNET, SandboxError, new_id};

/// The name of a sandbox: 1 to 32 of a-z, 0-9 and -, as a part of a file's name and of a page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxName(String);

impl SandboxName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text cannot name a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot name a sandbox: use 1 to 32 of a-z, 0-9 and -, not beginning with -")]
pub struct InvalidSandboxName(String);

impl FromStr for SandboxName {
    type Err = InvalidSandboxName;

    fn from_str(text: &str) -> Result<Self, InvalidSandboxName> {
        let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(fit) && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSandboxName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SandboxName {
    type Error = InvalidSandboxName;

    fn try_from(text: String) -> Result<Self, InvalidSandboxName> {
        text.parse()
    }
}

impl From<SandboxName> for String {
    fn from(name: SandboxName) -> Self {
        name.0
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: InstanceId,
    pub name: SandboxName,
    pub project: Option<ProjectName>,
    pub private_ip: Ipv4Addr,
    /// Of its interface. Earlier versions left that to the kernel.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    /// The process that is the sandbox, or was.
    pub pid: u32,
    /// When that process began, in ticks since boot: another one may have its number by now.
    pub started: u64,
    /// Whether it answers yet.
    pub ready: bool,
    /// Whether it was there before this process: then it is starting again, and is still there.
    pub returning: bool,
}

impl SandboxRecord {
    /// Whether its process is there and answers.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.ready && self.is_process()
    }

    /// Whether its process is there.
    pub(super) fn is_process(&self) -> bool {
        started(self.pid).is_some_and(|ticks| ticks == self.started)
    }

    /// Returns a handle of its process, if that is there: it becomes readable when the process ends.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Asked after the handle was opened: it cannot come to mean another process any more.
        self.is_process().then_some(handle)
    }

    /// Ends its process and waits until it is gone. Returns nothing when there was none.
    pub(super) fn kill(&self) -> Result<Option<()>, SandboxError> {
        let Some(process) = self.process() else { return Ok(None) };
        let doing = || format!("end sandbox {}", self.name);
        let io = |error: rustix::io::Errno| SandboxError::io(doing())(error.into());
        pidfd_send_signal(&process, Signal::KILL).map_err(io)?;
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).map_err(io)?;
        Ok(Some(()))
    }

    /// Opens its network namespace, if it runs.
    pub(super) fn namespace(&self) -> Option<File> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid)).ok()?;
        // Asked after it was opened: it cannot come to be another process's any more.
        self.runs().then_some(namespace)
    }

    /// `may_enter` says whether its network namespace can be changed from here.
    pub(super) fn report(&self, may_enter: bool) -> InstanceReport {
        let runs = self.runs();
        let interface = InstanceInterface {
            network: super::BRIDGE.to_owned(),
            private_ip: runs.then_some(self.private_ip),
            mac: self.mac,
        };
        InstanceReport {
            id: self.id,
            backend: Backend::Sandbox,
            name: self.name.to_string(),
            project: self.project.clone(),
            state: if runs { InstanceState::Running } else { InstanceState::Stopped },
            private_ip: runs.then_some(self.private_ip),
            vpc_id: Some(super::BRIDGE.to_owned()),
            address_source: None,
            unusable: None,
            modes: if may_enter { Mode::ALL.to_vec() } else { Mode::nat_alone() },
            interfaces: vec![interface],
        }
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)), if there is such a process and it is not a zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold spaces and brackets itself.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
pub(super) fn started_of(pid: u32) -> Option<u64> {
    started(pid)
}

/// Keeps others from changing the folder until the guard is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, SandboxError> {
    let doing = || SandboxError::io(format!("lock {}", dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(doing())?;
    let file = File::create(dir.join(".lock")).map_err(doing())?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| doing()(error.into()))?;
    Ok(file)
}

/// Remembers the calling process as the sandbox of this name, not yet ready.
pub(super) fn claim(
    dir: &Path,
    name: &SandboxName,
    project: Option<&ProjectName>,
) -> Result<SandboxRecord, SandboxError> {
    let _guard = lock(dir)?;
    let others = read_all(dir)?;
    let before = others.iter().find(|one| one.name == *name);
    if before.is_some_and(SandboxRecord::is_process) {
        return Err(SandboxError::Running(name.clone()));
    }
    let pid = std::process::id();
    let private_ip = free_address(&others).ok_or(SandboxError::Full)?;
    let record = SandboxRecord {
        id: before.map_or_else(new_id, |one| one.id),
        name: name.clone(),
        project: project.or(before.and_then(|one| one.project.as_ref())).cloned(),
        private_ip,
        mac: Some(mac_of(private_ip)),
        pid,
        started: started(pid).unwrap_or(0),
        ready: false,
        returning: before.is_some(),
    };
    write(dir, &record)?;
    Ok(record)
}

/// The hardware address of an interface follows from its address, as in Docker: 02:42 is local.
fn mac_of(address: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = address.octets();
    MacAddress::new([0x02, 0x42, a, b, c, d])
}

/// Returns the first address behind the host's own that no running sandbox has.
fn free_address(others: &[SandboxRecord]) -> Option<Ipv4Addr> {
    let taken: BTreeSet<Ipv4Addr> =
        others.iter().filter(|one| one.is_process()).map(|one| one.private_ip).collect();
    SUBNET.hosts().skip(1).find(|address| !taken.contains(address))
}

/// Writes the file of a sandbox whole or not at all.
pub(super) fn write(dir: &Path, record: &SandboxRecord) -> Result<(), SandboxError> {
    let path = file_of(dir, &record.name);
    let doing = || SandboxError::io(format!("write {}", path.display()));
    let text = serde_json::to_vec_pretty(record).map_err(|error| doing()(error.into()))?;
    let draft = dir.join(format!(".{}.draft", record.name));
    fs::write(&draft, text).map_err(doing())?;
    fs::rename(&draft, &path).map_err(doing())
}

pub(super) fn delete(dir: &Path, name: &SandboxName) -> Result<(), SandboxError> {
    let path = file_of(dir, name);
    fs::remove_file(&path).map_err(SandboxError::io(format!("remove {}", path.display())))
}

pub(super) fn read(dir: &Path, name: &SandboxName) -> Result<Option<SandboxRecord>, SandboxError> {
    read_file(&file_of(dir, name))
}

pub(super) fn read_all(dir: &Path) -> Result<Vec<SandboxRecord>, SandboxError> {
    let doing = || SandboxError::io(format!("read {}", dir.display()));
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(doing()(error)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(doing())?.path();
        if path.extension().is_some_and(|one| one == "json") {
            records.extend(read_file(&path)?);
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}

fn read_file(path: &Path) -> Result<Option<SandboxRecord>, SandboxError> {
    let doing = || SandboxError::io(format!("read {}", path.display()));
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| doing()(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(doing()(error)),
    }
}

fn file_of(dir: &Path, name: &SandboxName) -> PathBuf {
    dir.join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_fit_for_a_file() {
        assert!("web-1".parse::<SandboxName>().is_ok());
        for wrong in ["", "-a", "a/b", "..", "A", &"a".repeat(33)] {
            assert!(wrong.parse::<SandboxName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_process_that_has_another_ones_number_is_not_the_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = claim(dir.path(), &"web".parse().unwrap(), None).unwrap();
        assert!(record.is_process());
        record.started += 1;
        assert!(!record.is_process());
        assert!(record.process().is_none());
    }

    #[test]
    fn a_stopped_sandbox_comes_back_with_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let name: SandboxName = "web".parse().unwrap();
        let mut first = claim(dir.path(), &name, Some(&"team".parse().unwrap())).unwrap();
        assert!(matches!(claim(dir.path(), &name, None), Err(SandboxError::Running(_))));
        first.started += 1;
        write(dir.path(), &first).unwrap();
        let second = claim(dir.path(), &name, None).unwrap();
        assert_eq!((second.id, second.project), (first.id, first.project));
    }
}

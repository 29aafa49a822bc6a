//! The switches of the kernel that forwarding needs.
//!
//! `/proc/sys/net` shows the network namespace of whoever looks (proc(5), `Documentation/networking/
//! ip-sysctl.rst`).

use std::fs;
use std::io;

/// A switch could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}")]
pub(crate) struct NotSet {
    path: String,
    value: &'static str,
    #[source]
    source: io::Error,
}

/// Turns forwarding on, and the advice to go around the host off: a neighbour that took it would
/// send to a private address.
pub(crate) fn prepare<'a>(inside: impl Iterator<Item = &'a str>) -> Result<(), NotSet> {
    set("net/ipv4/ip_forward", "1")?;
    set("net/ipv4/conf/all/send_redirects", "0")?;
    for interface in inside {
        // A network that has just been removed has no switches.
        match set(&format!("net/ipv4/conf/{interface}/send_redirects"), "0") {
            Err(NotSet { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Writes only what differs: a value may be right where it may not be written.
fn set(name: &str, value: &'static str) -> Result<(), NotSet> {
    let path = format!("/proc/sys/{name}");
    let write = || match fs::read_to_string(&path)?.trim() {
        now if now == value => Ok(()),
        _ => fs::write(&path, value),
    };
    write().map_err(|source| NotSet { path: path.clone(), value, source })
}

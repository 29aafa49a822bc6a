//! The kernel settings without which nothing is forwarded.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens a file in it
//! (`net_ctl_header_lookup` in `net/sysctl_net.c` goes by `current`), so it is written from the
//! thread that is in the data plane's namespace.

use std::path::{Path, PathBuf};

use eip_model::LocalNetwork;

use crate::error::ApplyError;

/// Lets the host forward at all. Without it nothing else here has any effect.
pub(crate) fn forward() -> Result<(), ApplyError> {
    set("ip_forward".as_ref(), "1")
}

/// Keeps the host from telling instances to talk to each other directly: they would bypass NAT.
///
/// The larger of `all` and the interface's own counts, so both are needed.
pub(crate) fn no_redirects(networks: &[LocalNetwork]) -> Vec<ApplyError> {
    let inside = networks.iter().map(|network| network.interface.as_str());
    std::iter::once("all")
        .chain(inside)
        .filter_map(|name| {
            let file: PathBuf = ["conf", name, "send_redirects"].iter().collect();
            set(&file, "0").err()
        })
        .collect()
}

/// Returns the value that keeps the kernel from answering ARP for an address that is on no interface,
/// if it has one: any but 0 does (`arp_ignore` in `ip-sysctl`). The larger of `all` and the
/// interface's own counts.
pub(crate) fn ignores_arp(interface: &str) -> Option<u8> {
    let read = |name: &str| {
        let file = format!("/proc/sys/net/ipv4/conf/{name}/arp_ignore");
        std::fs::read_to_string(file).ok()?.trim().parse::<u8>().ok()
    };
    read("all").max(read(interface)).filter(|value| *value != 0)
}

/// Has the host answer at once for addresses that it is a proxy of on this interface.
pub(crate) fn no_proxy_delay(interface: &str) -> Result<(), ApplyError> {
    let file: PathBuf = ["neigh", interface, "proxy_delay"].iter().collect();
    set(&file, "0")
}

/// Writes only what differs, so that a read-only `/proc/sys` with the right values will do.
fn set(file: &Path, value: &'static str) -> Result<(), ApplyError> {
    let path = Path::new("/proc/sys/net/ipv4").join(file);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| ApplyError::Sysctl { path, value, source })
}

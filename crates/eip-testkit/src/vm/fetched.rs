//! What guests consist of that is not installed, where `./dev test` has put it.

use std::path::{Path, PathBuf};

/// Debian's kernel for virtual machines.
pub(crate) fn kernel() -> PathBuf {
    only_one_in(&folder().join("boot"))
}

/// A module of the kernel, by its path below `kernel/`.
pub(crate) fn module(path: &str) -> PathBuf {
    only_one_in(&folder().join("lib/modules")).join("kernel").join(path)
}

/// The QEMU guest agent.
pub(crate) fn agent() -> PathBuf {
    folder().join("usr/sbin/qemu-ga")
}

fn only_one_in(folder: &Path) -> PathBuf {
    let entry = std::fs::read_dir(folder).ok().and_then(|mut all| all.next()?.ok());
    entry.unwrap_or_else(|| panic!("there is nothing in {}", folder.display())).path()
}

/// Beside what cargo builds, and so beside this program.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program is a file");
    let found = program.ancestors().map(|above| above.join("vm/guest")).find(|path| path.is_dir());
    found.unwrap_or_else(|| {
        panic!("no kernel for guests beside {}: ./dev test fetches it", program.display())
    })
}

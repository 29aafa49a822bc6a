//! Debian's kernel for virtual machines, as `./dev test` fetched it.

use std::path::{Path, PathBuf};

/// The kernel itself.
pub(crate) fn image() -> PathBuf {
    let boot = folder().join("boot");
    let images = std::fs::read_dir(&boot).expect("a kernel in the folder");
    images
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("vmlinuz"))
        .expect("a kernel in the folder")
}

/// A module of the kernel, by its path below `kernel/`.
pub(crate) fn module(path: &str) -> Vec<u8> {
    let modules = folder().join("lib/modules");
    let version = std::fs::read_dir(&modules)
        .ok()
        .and_then(|mut versions| versions.next()?.ok())
        .expect("modules in the folder of the kernel");
    let file = version.path().join("kernel").join(path);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Beside what cargo builds, and so beside this program.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("this program is a file");
    let found = program.ancestors().map(|above| above.join("vm/kernel")).find(|path| path.is_dir());
    found.unwrap_or_else(|| {
        let beside = program.parent().unwrap_or(Path::new("/"));
        panic!("no kernel for guests above {}: ./dev test fetches it", beside.display())
    })
}

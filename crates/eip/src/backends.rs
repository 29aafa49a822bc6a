//! Which compute backends are meant by `--compute`, or are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eip_compute::ComputeBackend;
use eip_compute::docker::{DEFAULT_SOCKET, DockerBackend};
use eip_compute::libvirt::{LibvirtBackend, LibvirtUri, UserPlaces};
use eip_compute::sandbox::SandboxBackend;

use crate::args;
use crate::exit::Failure;
use crate::settings::Settings;

/// Returns the backends that were named, or without any name those that seem to be here.
pub(crate) fn backends(
    asked: &args::Host,
    settings: &Settings,
    data_dir: &Path,
) -> Result<Vec<Arc<dyn ComputeBackend>>, Failure> {
    let named = Some(asked.compute.clone()).filter(|named| !named.is_empty());
    let names = named.or_else(|| settings.compute.clone()).unwrap_or_default();
    if names.is_empty() {
        let mut found: Vec<Arc<dyn ComputeBackend>> = Vec::new();
        // Its socket may come later than this service.
        if [DEFAULT_SOCKET, "/usr/bin/dockerd", "/usr/sbin/dockerd"]
            .iter()
            .any(|at| Path::new(at).exists())
        {
            found.push(Arc::new(DockerBackend::new(DEFAULT_SOCKET)));
        }
        if LibvirtUri::seems_to_be_here() {
            found.push(libvirt(LibvirtUri::DEFAULT)?);
        }
        found.push(Arc::new(SandboxBackend::of(data_dir)));
        return Ok(found);
    }
    let mut backends: Vec<Arc<dyn ComputeBackend>> = Vec::new();
    for name in &names {
        let (kind, place) = match name.split_once('=') {
            Some((kind, place)) => (kind, Some(place)),
            None => (name.as_str(), None),
        };
        match (kind, place) {
            ("docker", place) => {
                let path = docker_socket(place.unwrap_or(DEFAULT_SOCKET))?;
                backends.push(Arc::new(DockerBackend::new(path)));
            }
            ("sandbox", None) => backends.push(Arc::new(SandboxBackend::of(data_dir))),
            ("libvirt", place) => backends.push(libvirt(place.unwrap_or(LibvirtUri::DEFAULT))?),
            _ => {
                let detail = format!("\"{name}\" is no compute backend");
                let hint = "use docker, libvirt, sandbox, docker=unix:///path or libvirt=URI";
                return Err(Failure::usage(detail, hint));
            }
        }
    }
    // Two lists of one backend would each be taken for the whole.
    let mut seen = BTreeSet::new();
    if let Some(twice) = backends.iter().find(|one| !seen.insert(one.backend())) {
        let detail = format!("the backend {} is named twice", twice.backend());
        return Err(Failure::usage(detail, "name each backend once"));
    }
    Ok(backends)
}

/// Returns the path of the socket that is meant. Docker over TCP is not spoken.
fn docker_socket(place: &str) -> Result<&str, Failure> {
    let path = place.strip_prefix("unix://").unwrap_or(place);
    if path.starts_with('/') {
        return Ok(path);
    }
    let detail = format!("\"docker={place}\" names no socket of this host");
    Err(Failure::usage(detail, "use docker=unix:///path or docker=/path"))
}

fn libvirt(uri: &str) -> Result<Arc<dyn ComputeBackend>, Failure> {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let user = UserPlaces { runtime_dir: path("XDG_RUNTIME_DIR"), home: path("HOME") };
    match LibvirtUri::parse(uri, &user) {
        Ok(uri) => Ok(Arc::new(LibvirtBackend::new(uri))),
        Err(error) => Err(Failure::usage(error.to_string(), error.hint())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_at_a_socket_with_a_whole_path() {
        for place in ["/run/docker.sock", "unix:///run/docker.sock"] {
            assert_eq!(docker_socket(place).ok(), Some("/run/docker.sock"), "{place}");
        }
        for place in ["", "unix://", "tcp://192.0.2.1:2375", "192.0.2.1:2375", "docker.sock"] {
            assert!(docker_socket(place).is_err(), "{place}");
        }
    }
}

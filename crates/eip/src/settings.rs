//! Settings: a flag wins over the environment, that over a file, that over what is built in. Clap
//! knows the first two; this reads the file and fills in the rest.

use std::path::{Path, PathBuf};

use eip_agent::ServerAddress;
use eip_model::{HostName, chain};
use serde::Deserialize;

use crate::args::{Announce, Counters};
use crate::exit::{Exit, Failure};

/// What a settings file may say. The one in the home folder wins over `/etc/eip/config.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) url: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) api_key_file: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<std::net::SocketAddr>,
    pub(crate) database: Option<String>,
    pub(crate) compute: Option<Vec<String>>,
    pub(crate) pool: Option<Vec<String>>,
    pub(crate) pool_mode: Option<eip_model::Mode>,
    pub(crate) host_name: Option<HostName>,
    pub(crate) announce: Option<Announce>,
    pub(crate) counters: Option<Counters>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) rate_limit: Option<u32>,
    pub(crate) webhook_allow: Option<Vec<eip_server::IpNet>>,
}

const BUILT_IN_URL: &str = "http://127.0.0.1:8080";

impl Settings {
    pub(crate) fn load() -> Result<Self, Failure> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let own = home.map(|home| home.join(".config/eip/config.toml"));
        let paths = own.into_iter().chain([PathBuf::from("/etc/eip/config.toml")]);
        for path in paths {
            // A home that is another user's, as after sudo or setpriv, has no settings for this one.
            let elsewhere = std::fs::metadata(&path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
            if !elsewhere && let Some(settings) = read(&path)? {
                return Ok(settings);
            }
        }
        Ok(Self::default())
    }

    /// Returns where the service answers, and who has to vouch for it.
    pub(crate) fn server(
        &self,
        url: Option<&str>,
        ca_file: Option<&Path>,
    ) -> Result<ServerAddress, Failure> {
        let url = url.or(self.url.as_deref()).unwrap_or(BUILT_IN_URL);
        address(url, ca_file.or(self.ca_file.as_deref()))
    }

    /// Returns the data folder as an absolute path: a daemon may change its working folder.
    pub(crate) fn data_dir(&self, given: Option<&Path>) -> PathBuf {
        let chosen = given.map(Path::to_owned).or_else(|| self.data_dir.clone());
        let chosen = chosen.unwrap_or_else(default_data_dir);
        std::path::absolute(&chosen).unwrap_or(chosen)
    }

    /// Returns the URL of the record.
    pub(crate) fn database(&self, given: Option<&str>, data_dir: &Path) -> String {
        let chosen = given.map(str::to_owned).or_else(|| self.database.clone());
        chosen.unwrap_or_else(|| format!("sqlite:{}/eip.db", data_dir.display()))
    }

    /// Returns the API key: from the environment, from the file that is named, or from the data
    /// folder of the service on this machine.
    pub(crate) fn api_key(&self, given: Option<&Path>) -> Result<String, Failure> {
        if given.is_none()
            && let Ok(key) = std::env::var("EIP_API_KEY")
        {
            return Ok(key);
        }
        let named = given.or(self.api_key_file.as_deref());
        let data_dir = std::env::var_os("EIP_DATA_DIR").map(PathBuf::from);
        let path = match named {
            Some(path) => path.to_owned(),
            None => self.data_dir(data_dir.as_deref()).join("admin.key"),
        };
        read_key(&path).map_err(|error| {
            Failure::here(
                Exit::Auth,
                "unauthenticated",
                format!("there is no API key: {error}"),
                "set EIP_API_KEY, or name its file with --api-key-file",
            )
        })
    }
}

/// Reads where a server answers, and who has to vouch for it.
pub(crate) fn address(url: &str, ca_file: Option<&Path>) -> Result<ServerAddress, Failure> {
    ServerAddress::new(url, ca_file).map_err(|error| Failure::usage(chain(&error), error.hint()))
}

/// Reads the key that a file holds.
pub(crate) fn read_key(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn read(path: &Path) -> Result<Option<Settings>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::other(&format!("cannot read {}", path.display()), &error));
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        let detail = format!("{} is not a settings file: {}", path.display(), error.message());
        Failure::usage(detail, "see docs/operating.md for what it may say")
    })
}

fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/eip");
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    state.unwrap_or_else(|| home.join(".local/state")).join("eip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "lisen = \"127.0.0.1:1\"").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("lisen"));
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nannounce = \"none\"").unwrap();
        let settings = read(&path).unwrap().unwrap();
        assert!(settings.listen.is_some() && settings.announce == Some(Announce::None));
        assert!(read(&dir.path().join("none")).unwrap().is_none());
    }
}

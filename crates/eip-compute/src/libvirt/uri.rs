//! What `libvirt=URI` means: which daemon is meant, and how it is reached.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The port on which libvirt speaks TLS.
const TLS_PORT: u16 = 16_514;
/// Drivers that a daemon on a socket has. A driver of the library alone (`esx`, `vz`) has none.
const DRIVERS: [&str; 6] = ["qemu", "lxc", "test", "xen", "ch", "bhyve"];

/// A URI that cannot be used, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct LibvirtUriError {
    what: String,
    hint: &'static str,
}

impl LibvirtUriError {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), hint }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        self.hint
    }
}

/// What the environment says of where a user's own things are.
///
/// It is read in the shell and handed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPlaces {
    /// `XDG_RUNTIME_DIR`
    pub runtime_dir: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
}

impl UserPlaces {
    /// Where libvirt has the sockets of a user's daemons.
    fn sockets(&self) -> Option<PathBuf> {
        let runtime = self.runtime_dir.as_ref().filter(|path| path.is_absolute()).cloned();
        let cache = || Some(self.home.as_ref()?.join(".cache"));
        Some(runtime.or_else(cache)?.join("libvirt"))
    }
}

/// A libvirt daemon, and the driver in it, as a URI names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtUri {
    /// As it was written.
    text: String,
    /// What the daemon is asked to open.
    pub(super) driver: String,
    pub(super) way: Way,
}

/// How a daemon is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// The first of these sockets that answers: the driver's own daemon, or the one for all.
    Unix {
        sockets: Vec<PathBuf>,
        /// Where networks are asked for when the driver's own daemon does not know any.
        networks: Option<PathBuf>,
    },
    Tls {
        host: String,
        port: u16,
        /// `cacert.pem`, `clientcert.pem` and `clientkey.pem`, by the places that may hold them.
        pki: Vec<Pki>,
    },
}

/// The files of a TLS client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pki {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pki {
    fn of_folder(folder: &Path) -> Self {
        Self {
            authority: folder.join("cacert.pem"),
            certificate: folder.join("clientcert.pem"),
            key: folder.join("clientkey.pem"),
        }
    }

    fn of_system() -> Self {
        Self {
            authority: "/etc/pki/CA/cacert.pem".into(),
            certificate: "/etc/pki/libvirt/clientcert.pem".into(),
            key: "/etc/pki/libvirt/private/clientkey.pem".into(),
        }
    }
}

impl fmt::Display for LibvirtUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl LibvirtUri {
    /// The daemon of this host.
    pub const DEFAULT: &'static str = "qemu:///system";

    /// Whether a daemon for virtual machines, or its socket, seems to be on this host.
    #[must_use]
    pub fn seems_to_be_here() -> bool {
        let places = [
            "/run/libvirt/libvirt-sock",
            "/run/libvirt/virtqemud-sock",
            "/usr/sbin/libvirtd",
            "/usr/sbin/virtqemud",
        ];
        places.iter().any(|place| Path::new(place).exists())
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// When libvirt has no such, or its way cannot be gone here.
    pub fn parse(text: &str, user: &UserPlaces) -> Result<Self, LibvirtUriError> {
        let hint = "write it as qemu:///system, lxc:///system or qemu+tls://HOST/system";
        let wrong = || LibvirtUriError::new(format!("{text:?} is no URI of libvirt"), hint);
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if text.chars().any(|one| one.is_control() || one.is_whitespace()) {
            return Err(wrong());
        }
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport)),
            None => (scheme, None),
        };
        if !DRIVERS.contains(&driver) {
            let what = format!("libvirt's driver \"{driver}\" is not one that a daemon has");
            return Err(LibvirtUriError::new(what, hint));
        }
        let asked = Query::parse(query)?;
        let place = Place { driver, path, authority, user, asked: &asked };
        let way = match (transport, authority) {
            (None | Some("unix"), "") => place.unix()?,
            (None | Some("tls"), host) if !host.is_empty() => place.tls()?,
            (Some("tls"), _) => {
                return Err(LibvirtUriError::new("qemu+tls needs a host", hint));
            }
            (Some("unix"), _) => {
                let what = format!("{text:?} names a host and a socket of this one");
                return Err(LibvirtUriError::new(what, hint));
            }
            (Some("ssh" | "libssh" | "libssh2" | "tcp" | "ext"), _) => {
                let what = format!("libvirt is not followed over {}", transport.unwrap_or(""));
                let hint = "run `eip agent` on that host, or use qemu+tls://HOST/system";
                return Err(LibvirtUriError::new(what, hint));
            }
            (None | Some(_), _) => return Err(wrong()),
        };
        let path = if path.is_empty() { "/" } else { path };
        let opened = match (driver, path) {
            // What virsh makes of it, too.
            ("lxc", "/") => "lxc:///system".to_owned(),
            ("qemu", "/") => "qemu:///system".to_owned(),
            (driver, path) => format!("{driver}://{path}"),
        };
        Ok(Self { text: text.to_owned(), driver: opened, way })
    }

    /// Whether what the daemon says of bridges and neighbours is about this host.
    pub(super) fn is_here(&self) -> bool {
        match &self.way {
            Way::Unix { .. } => true,
            Way::Tls { host, .. } => {
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
        }
    }
}

/// The parts of a URI that say where the daemon is.
struct Place<'a> {
    driver: &'a str,
    path: &'a str,
    authority: &'a str,
    user: &'a UserPlaces,
    asked: &'a Query,
}

impl Place<'_> {
    fn unix(&self) -> Result<Way, LibvirtUriError> {
        if self.asked.pki.is_some() {
            let hint = "leave it out, or use qemu+tls://HOST/system";
            return Err(LibvirtUriError::new("pkipath is of no use on a socket", hint));
        }
        if let Some(socket) = &self.asked.socket {
            return Ok(Way::Unix { sockets: vec![socket.clone()], networks: None });
        }
        let folder = if self.path == "/session" {
            self.user.sockets().ok_or_else(|| {
                let hint =
                    "set XDG_RUNTIME_DIR, or name the socket: qemu+unix:///session?socket=PATH";
                LibvirtUriError::new("it is not known where this user's sockets are", hint)
            })?
        } else {
            PathBuf::from("/run/libvirt")
        };
        let own = match self.driver {
            "qemu" => Some("virtqemud-sock"),
            "lxc" => Some("virtlxcd-sock"),
            "xen" => Some("virtxend-sock"),
            "ch" => Some("virtchd-sock"),
            "bhyve" => Some("virtbhyved-sock"),
            _ => None,
        };
        let sockets = own.into_iter().chain(["libvirt-sock"]).map(|name| folder.join(name));
        let networks = own.map(|_| folder.join("virtnetworkd-sock"));
        Ok(Way::Unix { sockets: sockets.collect(), networks })
    }

    fn tls(&self) -> Result<Way, LibvirtUriError> {
        let hint = "write it as qemu+tls://HOST/system or qemu+tls://HOST:PORT/system";
        let wrong = || LibvirtUriError::new(format!("\"{}\" is no host", self.authority), hint);
        if self.asked.socket.is_some() {
            let what = "a socket is of no use with TLS";
            return Err(LibvirtUriError::new(what, hint));
        }
        // A user name is for other ways.
        let (host, port) = match self.authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                (host, rest.strip_prefix(':'))
            }
            None => match self.authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (self.authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => TLS_PORT,
        };
        if host.is_empty() || host.contains(['@', '[', ']']) || port == 0 {
            return Err(wrong());
        }
        let pki = match &self.asked.pki {
            Some(folder) => vec![Pki::of_folder(folder)],
            None => {
                let own = self.user.home.as_ref().map(|home| home.join(".pki/libvirt"));
                let own = own.as_deref().map(Pki::of_folder);
                own.into_iter().chain([Pki::of_system()]).collect()
            }
        };
        Ok(Way::Tls { host: host.to_owned(), port, pki })
    }
}

/// The parameters behind the question mark that mean something here.
#[derive(Debug, Default)]
struct Query {
    socket: Option<PathBuf>,
    pki: Option<PathBuf>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, LibvirtUriError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "socket" => &mut query.socket,
                "pkipath" => &mut query.pki,
                _ => {
                    let what = format!("the parameter \"{name}\" is not known here");
                    return Err(LibvirtUriError::new(what, "use socket=PATH or pkipath=FOLDER"));
                }
            };
            let path = PathBuf::from(decoded(value));
            if !path.is_absolute() {
                let what = format!("{name} must be an absolute path");
                return Err(LibvirtUriError::new(what, "begin it with a slash"));
            }
            *place = Some(path);
        }
        Ok(query)
    }
}

/// Undoes `%20` and its like, as libvirt does in parameters; what is no such stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = digits.filter(|two| two.bytes().all(|one| one.is_ascii_hexdigit()));
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            Some(_) | None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserPlaces {
        UserPlaces { runtime_dir: Some("/run/user/7".into()), home: Some("/home/u".into()) }
    }

    fn sockets(text: &str) -> (String, Vec<String>) {
        let uri = LibvirtUri::parse(text, &user()).unwrap();
        let Way::Unix { sockets, .. } = uri.way else { panic!("{text} is no socket") };
        (uri.driver, sockets.iter().map(|path| path.display().to_string()).collect())
    }

    #[test]
    fn a_local_uri_names_the_drivers_own_daemon_before_the_one_for_all() {
        let (driver, found) = sockets("qemu:///system");
        assert_eq!(driver, "qemu:///system");
        assert_eq!(found, ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"]);
        let (driver, found) = sockets("lxc:///");
        assert_eq!(driver, "lxc:///system");
        assert_eq!(found, ["/run/libvirt/virtlxcd-sock", "/run/libvirt/libvirt-sock"]);
        let (driver, found) = sockets("test:///default");
        assert_eq!((driver.as_str(), found.len()), ("test:///default", 1));
        assert_eq!(sockets("test:///srv/nodes.xml").0, "test:///srv/nodes.xml");
        let (_, found) = sockets("qemu:///session");
        assert_eq!(found[0], "/run/user/7/libvirt/virtqemud-sock");
        let (driver, found) = sockets("qemu+unix:///system?socket=/run/a%20b.sock");
        assert_eq!(
            (driver.as_str(), &found[..]),
            ("qemu:///system", &["/run/a b.sock".into()][..])
        );
    }

    #[test]
    fn a_session_without_a_runtime_folder_is_in_the_cache_of_the_home() {
        let user = UserPlaces { runtime_dir: None, ..user() };
        let uri = LibvirtUri::parse("qemu:///session", &user).unwrap();
        let Way::Unix { sockets, .. } = uri.way else { panic!() };
        assert_eq!(sockets[1], Path::new("/home/u/.cache/libvirt/libvirt-sock"));
        let nobody = UserPlaces::default();
        assert!(LibvirtUri::parse("qemu:///session", &nobody).is_err());
    }

    #[test]
    fn a_host_is_reached_by_tls() {
        let tls = |text: &str| {
            let uri = LibvirtUri::parse(text, &user()).unwrap();
            let here = uri.is_here();
            let Way::Tls { host, port, pki } = uri.way else { panic!("{text} is no TLS") };
            (uri.driver, host, port, pki[0].authority.display().to_string(), here)
        };
        let (driver, host, port, pki, here) = tls("qemu+tls://hv1.example/system");
        assert_eq!(
            (driver.as_str(), host.as_str(), port),
            ("qemu:///system", "hv1.example", 16514)
        );
        assert_eq!((pki.as_str(), here), ("/home/u/.pki/libvirt/cacert.pem", false));
        let (_, host, port, pki, here) = tls("qemu+tls://[::1]:7/system?pkipath=/srv/pki");
        assert_eq!((host.as_str(), port, pki.as_str()), ("::1", 7, "/srv/pki/cacert.pem"));
        assert!(here);
        // A host alone means TLS, as libvirt has it.
        assert_eq!(tls("qemu://localhost/system").2, 16514);
    }

    #[test]
    fn what_cannot_be_used_is_said_with_a_hint() {
        for wrong in [
            "",
            "qemu",
            "/run/libvirt/libvirt-sock",
            "esx://host/",
            "qemu+ssh://root@host/system",
            "qemu+tcp://host/system",
            "qemu+carrier://host/system",
            "qemu+unix://host/system",
            "qemu+tls:///system",
            "qemu+tls://root@host/system",
            "qemu+tls://host:0/system",
            "qemu+tls://host:port/system",
            "qemu+tls://[::1/system",
            "qemu+tls://host/system?no_verify=1",
            "qemu+tls://host/system?socket=/x",
            "qemu:///system?pkipath=/x",
            "qemu:///system?socket=relative",
            "qemu:///sys tem",
            "qemu:///system\n",
        ] {
            let error = LibvirtUri::parse(wrong, &user()).unwrap_err();
            assert!(!error.hint().is_empty() && !error.to_string().is_empty(), "{wrong}");
        }
        let ssh = LibvirtUri::parse("qemu+ssh://host/system", &user()).unwrap_err();
        assert!(ssh.to_string().contains("ssh") && ssh.hint().contains("eip agent"), "{ssh}");
    }
}

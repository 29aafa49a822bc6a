//! What can go wrong, and on what.

use std::borrow::Cow;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Why there is no data plane on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no right to change the network of this host; eip needs the capability CAP_NET_ADMIN")]
    NoRights(#[source] io::Error),
    #[error("this kernel refuses {feature}, which eip needs")]
    KernelLacks {
        feature: Cow<'static, str>,
        #[source]
        source: io::Error,
    },
    #[error("cannot {tried}")]
    Io {
        tried: &'static str,
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn new(tried: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoRights(source),
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                Self::KernelLacks { feature: tried.into(), source }
            }
            Some(_) | None => Self::Io { tried, source },
        }
    }
}

/// Why the desired state is not, or not wholly, in force. The next `apply` starts from what is.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("this thread is in another network namespace than the data plane was opened in")]
    WrongNamespace,
    #[error("{first} and {second} cannot share the private address {private}")]
    SharedTarget { first: Ipv4Addr, second: Ipv4Addr, private: Ipv4Addr },
    #[error("cannot read {what} of this host")]
    Look {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// Nothing of the transaction has happened.
    #[error("cannot change the rules: the kernel refused {tried}")]
    Rules {
        tried: Cow<'static, str>,
        #[source]
        source: io::Error,
    },
    /// The rules are in force, some of the routes may not be.
    #[error("cannot {tried}, {failed} of {of} failed")]
    Routes {
        tried: &'static str,
        failed: usize,
        of: usize,
        #[source]
        source: io::Error,
    },
    /// The rules are in force, flows of attachments that are gone may still be.
    #[error("cannot delete the flows of attachments that are gone")]
    Flows {
        #[source]
        source: io::Error,
    },
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        path: PathBuf,
        value: &'static str,
        #[source]
        source: io::Error,
    },
}

impl ApplyError {
    /// Says whether the same call may well succeed a little later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::WrongNamespace | Self::SharedTarget { .. } => false,
            Self::Look { .. }
            | Self::Rules { .. }
            | Self::Routes { .. }
            | Self::Flows { .. }
            | Self::Sysctl { .. } => true,
        }
    }
}

//! What an `apply` did.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use crate::error::ApplyError;

/// What changed in the kernel to make the desired state true.
#[derive(Debug, Default)]
pub struct Applied {
    /// The table was made anew, in one transaction.
    pub replaced: bool,
    /// Attachments that are new in the rules; with `replaced`, all of them. A move counts in both.
    pub attached: usize,
    pub detached: usize,
    pub routes_added: usize,
    pub routes_removed: usize,
    /// Elastic IPs whose announcement has begun. It goes on for two seconds.
    pub announced: usize,
    /// The elastic IPs in mode `alias` that the kernel refuses a route to, and why: nothing reaches
    /// them. All others are as they should be.
    pub refused: BTreeMap<Ipv4Addr, io::Error>,
    /// What did not work and is not in the way of traffic.
    pub warnings: Vec<Warning>,
}

impl Applied {
    /// Says whether everything was as desired already.
    #[must_use]
    pub fn changed_nothing(&self) -> bool {
        !self.replaced
            && [self.attached, self.detached, self.routes_added, self.routes_removed] == [0; 4]
    }
}

/// Something that an operator may want to know, though traffic flows.
#[derive(Debug)]
pub enum Warning {
    /// The host may tell instances to bypass it, which breaks elastic IPs between neighbours.
    Redirects(ApplyError),
    /// Without `CAP_NET_RAW` neighbours find out when their ARP entries expire.
    CannotAnnounce(io::ErrorKind),
    /// Neighbours that ask for an elastic IP are not answered: it is on no interface.
    Unanswered { interface: String, arp_ignore: u8 },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirects(error) => write!(f, "{error}"),
            Self::CannotAnnounce(kind) => write!(
                f,
                "cannot announce elastic IPs to neighbours ({kind}); eip needs the capability \
                 CAP_NET_RAW for that"
            ),
            Self::Unanswered { interface, arp_ignore } => write!(
                f,
                "net.ipv4.conf.{interface}.arp_ignore is {arp_ignore}: the kernel does not answer \
                 neighbours on {interface} who ask for an elastic IP; set it to 0, for all too"
            ),
        }
    }
}

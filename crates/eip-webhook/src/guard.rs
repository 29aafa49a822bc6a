//! Where messages may go. A webhook's URL comes from a caller, who may mean to reach what only the
//! server reaches (SSRF): the server itself, and what gives out credentials on the link.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use eip_model::WebhookUrl;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Says which addresses messages may go to.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

/// Messages may not go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhooks may not go to {address}: it is {what}")]
pub struct NotAllowed {
    pub address: IpAddr,
    pub what: &'static str,
}

impl Guard {
    /// What would not be allowed is, where the operator says so.
    #[must_use]
    pub fn allowing(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Looks at an address that a connection would be made to.
    ///
    /// # Errors
    /// When it is of this machine or of its link, and not allowed all the same.
    pub fn admit(&self, address: IpAddr) -> Result<(), NotAllowed> {
        let meant = meant(address);
        if self.allowed.iter().any(|net| net.contains(&meant) || net.contains(&address)) {
            return Ok(());
        }
        let own = || is_own(meant).then_some("of this machine");
        match forbidden(meant).or_else(own) {
            Some(what) => Err(NotAllowed { address, what }),
            None => Ok(()),
        }
    }

    /// Looks at what a URL itself names. A name is looked at whenever it is resolved.
    ///
    /// # Errors
    /// When messages may not go there.
    pub fn admit_url(&self, url: &WebhookUrl) -> Result<(), NotAllowed> {
        if let Some(address) = url.address() {
            return self.admit(address);
        }
        // RFC 6761, section 6.3: it is always this machine, whatever a resolver says.
        let domain = url.domain().unwrap_or_default().trim_end_matches('.');
        let local = domain.eq_ignore_ascii_case("localhost")
            || domain.to_ascii_lowercase().ends_with(".localhost");
        match local {
            true => self.admit(Ipv4Addr::LOCALHOST.into()),
            false => Ok(()),
        }
    }
}

/// The connection is made to the addresses that were looked at, whatever the name means a moment later.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            // The port of the URL takes the place of this one.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = |one: &&SocketAddr| guard.admit(one.ip()).is_ok();
            let good: Vec<SocketAddr> = found.iter().filter(admitted).copied().collect();
            match (good.is_empty(), found.first()) {
                (true, Some(first)) => {
                    guard.admit(first.ip())?;
                    Err(io::Error::other("no address can be used").into())
                }
                (true, None) => Err(io::Error::other("the name has no address").into()),
                (false, _) => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Returns the IPv4 address that packets to an IPv6 address end up at, where there is one.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let low = || {
        let [.., a, b, c, d] = v6.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    if let Some(mapped) = v6.to_ipv4_mapped() {
        return mapped.into();
    }
    match segments {
        // IPv4-compatible (RFC 4291, section 2.5.5.1), IPv4-translated (RFC 2765, section 2.1), NAT64 (RFC
        // 6052, section 2.1, and RFC 8215).
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => low().into(),
        [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _]
        | [0x64, 0xff9b, 1, _, _, _, _, _] => low().into(),
        // 6to4 (RFC 3056, section 2).
        [0x2002, high, rest, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), rest.to_be_bytes());
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

/// Whether a connection to the address ends at this machine.
fn is_own(address: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|one| one.address).any(|own| {
        let v4 = own.as_sockaddr_in().map(|own| IpAddr::from(own.ip()));
        let v6 = || own.as_sockaddr_in6().map(|own| IpAddr::from(own.ip()));
        v4.or_else(v6) == Some(address)
    })
}

fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

/// What the clouds have at addresses of their own.
const METADATA: &str = "where machines ask for credentials";

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        // Linux takes all of 0.0.0.0/8 but for the first for foreign, and that for itself.
        [0, ..] => Some("this machine (RFC 1122, section 3.2.1.3)"),
        [127, ..] => Some("this machine (loopback, RFC 1122, section 3.2.1.3)"),
        [169, 254, ..] => Some("on the link alone (RFC 3927)"),
        [100, 100, 100, 200] | [192, 0, 0, 192] => Some(METADATA),
        [224..=239, ..] => Some("a group (multicast, RFC 5771)"),
        [240..=255, ..] => Some("reserved, or the broadcast address (RFC 1112, section 4)"),
        _ => None,
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() || address.is_loopback() {
        return Some("this machine (RFC 4291, sections 2.5.2 and 2.5.3)");
    }
    if address.is_unicast_link_local() {
        return Some("on the link alone (RFC 4291, section 2.5.6)");
    }
    if address.is_multicast() {
        return Some("a group (multicast, RFC 4291, section 2.7)");
    }
    match address.segments() {
        // Site-local, deprecated (RFC 3879), and Teredo (RFC 4380), which leads to an IPv4 address.
        [0xfec0..=0xfeff, ..] => Some("on the site alone (RFC 3879)"),
        [0x2001, 0, ..] => Some("behind a tunnel (Teredo, RFC 4380)"),
        // Amazon's and Google's.
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Some(METADATA),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(guard: &Guard, url: &str) -> bool {
        guard.admit_url(&url.parse().unwrap()).is_ok()
    }

    #[test]
    fn nothing_goes_to_this_machine_or_its_link_however_it_is_written() {
        let guard = Guard::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1.2.3/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0.0.0.0/",
            "http://169.254.169.254/latest/meta-data/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::]/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1]/",
            "http://[febf::1]/",
            "http://[ff02::1]/",
            "http://[fd00:ec2::254]/",
            "http://[fd00:ec2::23]/",
            "http://[fd20:ce::254]/",
            "http://100.100.100.200/",
            "http://192.0.0.192/",
            "http://[::ffff:0:7f00:1]/",
            "http://[64:ff9b:1::7f00:1]/",
            "http://[fec0::1]/",
            "http://[2001:0:7f00:1::]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://eip.localhost/",
        ] {
            assert!(!admits(&guard, url), "{url}");
        }
    }

    #[test]
    fn what_is_far_or_private_may_be_sent_to() {
        let guard = Guard::default();
        for url in [
            "https://hooks.example.com/",
            "http://10.0.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://126.255.255.255/",
            "http://128.0.0.1/",
            "http://169.253.1.1/",
            "http://[fd00::1]/",
            "http://[2001:db8::1]/",
            "http://localhost.example.com/",
        ] {
            assert!(admits(&guard, url), "{url}");
        }
    }

    #[test]
    fn the_operator_may_allow_more() {
        let guard = Guard::allowing(vec!["127.0.0.0/8".parse().unwrap()]);
        for (url, admitted) in [
            ("http://127.0.0.1/", true),
            ("http://localhost/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://[::1]/", false),
            ("http://169.254.1.1/", false),
        ] {
            assert_eq!(admits(&guard, url), admitted, "{url}");
        }
    }
}

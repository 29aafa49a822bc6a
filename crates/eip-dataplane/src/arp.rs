//! Gratuitous ARP: telling the neighbours on a link that this host answers for an address now.
//!
//! Sender and target are the elastic IP (RFC 5227, section 3; RFC 826). Both forms are sent, since
//! some neighbours learn from requests only and some from replies only.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::interfaces::Interface;

const ETHERTYPE: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const BROADCAST: [u8; 6] = [0xff; 6];

/// A socket that sends frames. Takes `CAP_NET_RAW`.
#[derive(Debug)]
pub(crate) struct Announcer(OwnedFd);

impl Announcer {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(Self(socket(AddressFamily::Packet, SockType::Raw, flags, None)?))
    }

    /// Announces an address on an interface, if neighbours ask by ARP there.
    pub(crate) fn announce(&self, address: Ipv4Addr, on: &Interface) -> io::Result<()> {
        let Some(mac) = on.mac else { return Ok(()) };
        for operation in [REQUEST, REPLY] {
            self.send(&frame(operation, address, mac), on.index)?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "no safe wrapper makes the address of a packet socket")]
    fn send(&self, frame: &[u8], interface: i32) -> io::Result<()> {
        // SAFETY: all zeros is a valid `sockaddr_ll`, a plain C struct of numbers.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET.try_into().map_err(io::Error::other)?;
        to.sll_protocol = ETHERTYPE.to_be();
        to.sll_ifindex = interface;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&BROADCAST);
        let length = size_of_val(&to).try_into().map_err(io::Error::other)?;
        // SAFETY: `frame` and `to` outlive the call, and their lengths are passed with them.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn frame(operation: u16, address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(60);
    bytes.extend(BROADCAST);
    bytes.extend(mac);
    bytes.extend(ETHERTYPE.to_be_bytes());
    // Ethernet, IPv4, and the lengths of their addresses.
    bytes.extend([0, 1, 8, 0, 6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(mac);
    bytes.extend(address.octets());
    bytes.extend(if operation == REPLY { mac } else { [0; 6] });
    bytes.extend(address.octets());
    bytes.resize(60, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_target_are_the_elastic_ip() {
        let address = Ipv4Addr::new(100, 64, 0, 1);
        let bytes = frame(REQUEST, address, [2, 0, 0, 0, 0, 9]);
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[12..14], [0x08, 0x06]);
        assert_eq!(bytes[20..22], [0, 1]);
        assert_eq!(bytes[28..32], address.octets());
        assert_eq!(bytes[38..42], address.octets());
    }
}

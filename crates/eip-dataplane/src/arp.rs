//! Gratuitous ARP: what a neighbour is told when an elastic IP is here now.
//!
//! Both forms are sent, since some neighbours heed only one: the request, which is the announcement
//! of RFC 5227 (section 2.3), and the reply of RFC 826 to nobody's question. In both the
//! sender and the target address are the elastic IP. `arping -U` on many systems names the
//! interface's own address as sender, which announces nothing.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket,
};

#[cfg(feature = "faults")]
use crate::faults;
use crate::host::Interface;

const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
const FRAME: usize = 42;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Request = 1,
    Reply = 2,
}

/// A socket that may send frames. It belongs to the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct FrameSocket {
    fd: OwnedFd,
}

impl FrameSocket {
    /// Needs the capability `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol 0: nothing is ever received on it.
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { fd })
    }

    /// Sends both forms; a full queue or an interface that just went down is the caller's to tell.
    pub(crate) fn announce(&self, address: Ipv4Addr, on: &Interface) -> io::Result<()> {
        let Some(mac) = on.mac else { return Ok(()) };
        let to = link_address(on.index)?;
        let send = |operation| self.send(&frame(operation, mac, address), &to);
        // Some neighbours heed only one: each is tried whatever has become of the other.
        let [request, reply] = [Operation::Request, Operation::Reply].map(send);
        request.and(reply)
    }

    fn send(&self, frame: &[u8], to: &LinkAddr) -> io::Result<()> {
        #[cfg(feature = "faults")]
        faults::strike(faults::When::Before)?;
        sendto(self.fd.as_raw_fd(), frame, to, MsgFlags::MSG_DONTWAIT)?;
        #[cfg(feature = "faults")]
        faults::strike(faults::When::After)?;
        Ok(())
    }
}

fn frame(operation: Operation, mac: [u8; 6], address: Ipv4Addr) -> [u8; FRAME] {
    let target_mac = match operation {
        Operation::Request => [0; 6],
        Operation::Reply => BROADCAST,
    };
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet and IPv4, with 6 and 4 bytes.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[21] = operation as u8;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&target_mac);
    frame[38..].copy_from_slice(&address.octets());
    frame
}

fn link_address(index: i32) -> io::Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let length = libc::socklen_t::try_from(size_of_val(&raw)).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "nix offers no other way to make an AF_PACKET address")]
    // SAFETY: `raw` is a whole sockaddr_ll that outlives the call, `length` is its size, and its
    // family says what it is; from_raw copies it.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_names_the_elastic_ip_as_sender_and_as_target() {
        let mac = [2, 0, 0, 0, 0, 9];
        let sent = frame(Operation::Request, mac, Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(sent[..6], BROADCAST);
        assert_eq!(sent[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(sent[22..32], [2, 0, 0, 0, 0, 9, 100, 64, 0, 1]);
        assert_eq!(sent[32..], [0, 0, 0, 0, 0, 0, 100, 64, 0, 1]);
        assert_eq!(frame(Operation::Reply, mac, Ipv4Addr::LOCALHOST)[21], 2);
    }
}

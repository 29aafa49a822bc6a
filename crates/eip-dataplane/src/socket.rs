//! A netlink socket that speaks in whole exchanges and never waits for an answer that cannot come.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};

#[cfg(feature = "faults")]
use crate::faults;
use crate::wire::{self, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Received};

/// What the kernel may queue for us: the errors of one batch, or notifications between two looks.
const RECEIVE_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 64 << 10;
/// A dump that the kernel says was disturbed is asked for again this often.
const DUMP_TRIES: usize = 5;

/// A socket bound to the network namespace of the thread that opened it, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    port: u32,
    send_bytes: usize,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a netlink family; `groups` is the bit mask of the multicast groups to hear.
    pub(crate) fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Without CAP_NET_ADMIN in the first user namespace the forced size is refused; the plain
        // one is capped, and serves all but very large batches.
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BYTES).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BYTES)?;
        }
        Ok(Self { fd, port, send_bytes: 0, buffer: vec![0; READ_BYTES] })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends `bytes` in one piece and hands every answer that the kernel has queued to `each`.
    ///
    /// nfnetlink and rtnetlink work off requests (not dumps) inside the send, so that all
    /// answers are there when it returns: reading until the queue is empty cannot deadlock, and
    /// waiting for more would.
    pub(crate) fn exchange(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(Received<'_>),
    ) -> io::Result<()> {
        self.drain(|_| ()).or_else(ignore_overflow)?;
        self.send(bytes)?;
        self.drain(each)
    }

    /// Reads whatever is queued without waiting, to the end. `ENOBUFS` says that something was lost.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        let mut outcome = Ok(());
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => wire::messages(&self.buffer[..length]).for_each(&mut each),
                Err(Errno::EAGAIN) => return outcome,
                Err(Errno::EINTR) => (),
                Err(Errno::ENOBUFS) => outcome = Err(Errno::ENOBUFS.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Asks for a list and hands each entry to `each`.
    ///
    /// A list that changed while it was read is asked for again, so `each` may see an entry twice.
    pub(crate) fn dump(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(Received<'_>),
    ) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            self.drain(|_| ()).or_else(ignore_overflow)?;
            self.send(request)?;
            match self.read_dump(&mut each) {
                Ok(Dump::Whole) => return Ok(()),
                Ok(Dump::Disturbed) => (),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => (),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EBUSY.into())
    }

    fn read_dump(&mut self, each: &mut impl FnMut(Received<'_>)) -> io::Result<Dump> {
        let mut outcome = Dump::Whole;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for one in wire::messages(&self.buffer[..length]) {
                if one.flags & NLM_F_DUMP_INTR != 0 {
                    outcome = Dump::Disturbed;
                }
                match (one.kind, one.errno()) {
                    (NLMSG_DONE, _) => return Ok(outcome),
                    (NLMSG_ERROR, Some(code)) if code != 0 => {
                        return Err(io::Error::from_raw_os_error(code));
                    }
                    _ => each(one),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.make_room(bytes.len())?;
        #[cfg(feature = "faults")]
        faults::strike(faults::When::Before)?;
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                #[cfg(feature = "faults")]
                Ok(_) => return faults::strike(faults::When::After),
                #[cfg(not(feature = "faults"))]
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => (),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Raises the send buffer: the kernel refuses (`EMSGSIZE`) a message larger than it.
    fn make_room(&mut self, length: usize) -> io::Result<()> {
        if length <= self.send_bytes {
            return Ok(());
        }
        let wanted = length.next_power_of_two().max(256 << 10);
        if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            setsockopt(&self.fd, sockopt::SndBuf, &wanted)?;
        }
        self.send_bytes = wanted;
        Ok(())
    }
}

enum Dump {
    Whole,
    Disturbed,
}

/// Left-overs of an exchange that was given up are of no interest, lost or not.
fn ignore_overflow(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ENOBUFS) { Ok(()) } else { Err(error) }
}

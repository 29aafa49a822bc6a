//! One message of libvirt's RPC on the wire: a length, a head of six words, and a body.
//!
//! Source: libvirt's documentation of its RPC (`kbase/internals/rpc`), and what libvirtd 9.0 sends.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::xdr::{Reader, Writer};

/// A message is at most this long, its head included. libvirt has the same limit.
pub(in crate::libvirt) const LONGEST: u32 = 32 * 1024 * 1024;
/// The length word and the head.
pub(super) const HEAD: u32 = 28;
/// How long the rest of a message may take once it has begun.
const REST: Duration = Duration::from_secs(5);
/// So much is made room for at first; the rest as it arrives.
const FIRST_ROOM: usize = 64 * 1024;

/// The program of everything but keepalives.
pub(super) const REMOTE: u32 = 0x2000_8086;
/// What libvirt has for QEMU alone (`qemu_protocol.x`).
pub(super) const QEMU: u32 = 0x2000_8087;
pub(super) const KEEPALIVE: u32 = 0x6b65_6570;
/// All programs are in their first version.
pub(super) const VERSION: u32 = 1;

pub(super) const CALL: u32 = 0;
pub(super) const REPLY: u32 = 1;
pub(super) const MESSAGE: u32 = 2;

pub(super) const OK: u32 = 0;
pub(super) const ERROR: u32 = 1;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::libvirt) struct Frame {
    pub(in crate::libvirt) program: u32,
    pub(in crate::libvirt) procedure: u32,
    pub(in crate::libvirt) kind: u32,
    pub(in crate::libvirt) serial: u32,
    pub(in crate::libvirt) status: u32,
    pub(in crate::libvirt) body: Vec<u8>,
}

/// What came is no message.
#[derive(Debug, thiserror::Error)]
pub(in crate::libvirt) enum FrameError {
    #[error("it closed the connection")]
    Closed,
    #[error("it closed the connection within a message")]
    Cut,
    #[error("it began a message and did not finish it within {} s", REST.as_secs())]
    Hangs,
    #[error(
        "it sent a message of {0} bytes, where {HEAD} to {LONGEST} may be: is it libvirt's socket?"
    )]
    Length(u32),
    #[error("it speaks another protocol (program {program:#x}, version {version})")]
    Foreign { program: u32, version: u32 },
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

impl Frame {
    pub(super) const fn call(program: u32, procedure: u32, serial: u32, body: Vec<u8>) -> Self {
        Self { program, procedure, kind: CALL, serial, status: OK, body }
    }

    pub(super) const fn keepalive(procedure: u32) -> Self {
        let body = Vec::new();
        Self { program: KEEPALIVE, procedure, kind: MESSAGE, serial: 0, status: OK, body }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // A body of ours is a few hundred bytes.
        let body = u32::try_from(self.body.len()).unwrap_or(LONGEST);
        let mut bytes = Writer::default()
            .uint(HEAD.saturating_add(body))
            .uint(self.program)
            .uint(VERSION)
            .uint(self.procedure)
            .uint(self.kind)
            .uint(self.serial)
            .uint(self.status)
            .done();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads what follows the length word.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(bytes);
        let mut word = || reader.uint().map_err(|_| FrameError::Cut);
        let (program, version) = (word()?, word()?);
        let (procedure, kind, serial, status) = (word()?, word()?, word()?, word()?);
        if !matches!(program, REMOTE | QEMU | KEEPALIVE) || version != VERSION {
            return Err(FrameError::Foreign { program, version });
        }
        let body = bytes.get(24..).unwrap_or_default().to_vec();
        Ok(Self { program, procedure, kind, serial, status, body })
    }
}

/// Reads the next message. It waits for ever for one to begin, and not for it to end.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
    let mut word = [0; 4];
    let first = from.read(&mut word).await.map_err(FrameError::Io)?;
    if first == 0 {
        return Err(FrameError::Closed);
    }
    let rest = async {
        if first < word.len() {
            from.read_exact(&mut word[first..]).await.map_err(cut)?;
        }
        let length = u32::from_be_bytes(word);
        if !(HEAD..=LONGEST).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let left = u64::from(length - 4);
        let mut bytes = Vec::with_capacity(FIRST_ROOM.min(usize::try_from(left).unwrap_or(0)));
        let arrived = from.take(left).read_to_end(&mut bytes).await.map_err(FrameError::Io)?;
        if u64::try_from(arrived).unwrap_or(0) < left {
            return Err(FrameError::Cut);
        }
        Frame::decode(&bytes)
    };
    tokio::time::timeout(REST, rest).await.unwrap_or(Err(FrameError::Hangs))
}

fn cut(error: io::Error) -> FrameError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return FrameError::Cut;
    }
    FrameError::Io(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libvirtd 9.0 answers when it is asked whether it speaks keepalive.
    const REPLY_OF_LIBVIRTD: [u8; 32] = [
        0, 0, 0, 32, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0,
        0, 0, 0, 0, 1,
    ];

    #[tokio::test]
    async fn a_message_of_libvirtd_is_read_and_written_as_it_was() {
        let frame = read(&mut &REPLY_OF_LIBVIRTD[..]).await.unwrap();
        assert_eq!((frame.program, frame.procedure, frame.kind), (REMOTE, 60, REPLY));
        assert_eq!((frame.serial, frame.status, &frame.body[..]), (3, OK, &[0, 0, 0, 1][..]));
        assert_eq!(frame.encode(), REPLY_OF_LIBVIRTD);
    }

    #[tokio::test]
    async fn every_message_that_is_cut_off_is_an_error() {
        for length in 1..REPLY_OF_LIBVIRTD.len() {
            let cut = read(&mut &REPLY_OF_LIBVIRTD[..length]).await;
            assert!(matches!(cut, Err(FrameError::Cut)), "{length}: {cut:?}");
        }
        assert!(matches!(read(&mut &[][..]).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn a_length_that_cannot_be_is_refused_before_anything_is_read() {
        for length in [0, 3, 27, LONGEST + 1, u32::MAX] {
            let mut bytes = REPLY_OF_LIBVIRTD;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            let refused = read(&mut &bytes[..]).await;
            assert!(matches!(refused, Err(FrameError::Length(said)) if said == length));
        }
        let http = read(&mut &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]).await;
        assert!(matches!(http, Err(FrameError::Length(_))), "{http:?}");
    }

    #[tokio::test]
    async fn another_program_or_version_is_refused() {
        for place in [7, 11] {
            let mut bytes = REPLY_OF_LIBVIRTD;
            bytes[place] ^= 8;
            assert!(matches!(read(&mut &bytes[..]).await, Err(FrameError::Foreign { .. })));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_end_is_given_up() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &REPLY_OF_LIBVIRTD[..30]).await.unwrap();
        assert!(matches!(read(&mut ours).await, Err(FrameError::Hangs)));
    }
}

//! What is in the bodies of the messages that we read.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::xdr::{Reader, Writer, XdrError};
use crate::libvirt::mac::Mac;

/// How long any text may be, by the protocol.
const TEXT: u32 = 4 * 1024 * 1024;
/// A name is part of a file's name in every driver but the one for tests.
const NAME: u32 = 16 * 1024;
/// How many domains or networks may be in one list, by the protocol.
const LIST: u32 = 16_384;
/// How many interfaces a domain may have, and how many addresses one of them.
const INTERFACES: u32 = 2_048;
const LEASES: u32 = 65_536;
const AUTHS: u32 = 20;
/// As much of an error's text as is kept.
const ERROR_TEXT: usize = 300;

/// The error codes that are told apart (`virErrorNumber`).
pub(in crate::libvirt) mod code {
    pub(in crate::libvirt) const NO_SUPPORT: i32 = 3;
    pub(in crate::libvirt) const NO_DOMAIN: i32 = 42;
    pub(in crate::libvirt) const AUTH_FAILED: i32 = 45;
    pub(in crate::libvirt) const AUTH_CANCELLED: i32 = 79;
    pub(in crate::libvirt) const AUTH_UNAVAILABLE: i32 = 94;
}

/// How a daemon wants to know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) enum Auth {
    None,
    Sasl,
    Polkit,
    Other(i32),
}

/// A domain as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::libvirt) struct DomainRef {
    /// As libvirt has it: any bytes.
    pub(in crate::libvirt) name: Vec<u8>,
    pub(in crate::libvirt) uuid: Uuid,
    /// Another one each time it starts, and -1 while it does not run.
    pub(in crate::libvirt) id: i32,
}

/// A network as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::libvirt) struct NetworkRef {
    pub(in crate::libvirt) name: Vec<u8>,
    pub(in crate::libvirt) uuid: Uuid,
}

/// The states of a domain (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) enum DomainState {
    NoState,
    Running,
    Blocked,
    Paused,
    ShuttingDown,
    ShutOff,
    Crashed,
    PmSuspended,
    /// One that later versions have thought of.
    Other(i32),
}

/// An address that a guest agent, or a lease, gives to one of the domain's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) struct Addressed {
    pub(in crate::libvirt) mac: Mac,
    pub(in crate::libvirt) address: Ipv4Addr,
}

/// A lease of a network's DHCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) struct Lease {
    pub(in crate::libvirt) mac: Mac,
    pub(in crate::libvirt) address: Ipv4Addr,
    /// In seconds since 1970; 0 for one that does not end.
    pub(in crate::libvirt) expires: i64,
}

/// What happens to a domain's life (`virDomainEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) enum Life {
    Defined,
    Undefined,
    Started,
    Suspended,
    Resumed,
    Stopped,
    ShutDown,
    PmSuspended,
    Crashed,
    Other(i32),
}

/// What a daemon tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::libvirt) enum News {
    Life {
        domain: DomainRef,
        life: Life,
    },
    Agent {
        domain: DomainRef,
        connected: bool,
    },
    /// It was reset, a device came or went, or its metadata changed.
    Changed {
        domain: DomainRef,
    },
    Networks,
}

/// What a daemon says when it will not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub(in crate::libvirt) struct Complaint {
    pub(in crate::libvirt) code: i32,
    pub(in crate::libvirt) message: String,
}

impl DomainRef {
    pub(in crate::libvirt) fn write(&self, to: Writer) -> Writer {
        to.text(&self.name).fixed(self.uuid.as_bytes()).int(self.id)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let name = reader.text(NAME)?.to_vec();
        Ok(Self { name, uuid: Uuid::from_bytes(reader.array()?), id: reader.int()? })
    }
}

impl NetworkRef {
    pub(in crate::libvirt) fn write(&self, to: Writer) -> Writer {
        to.text(&self.name).fixed(self.uuid.as_bytes())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let name = reader.text(NAME)?.to_vec();
        Ok(Self { name, uuid: Uuid::from_bytes(reader.array()?) })
    }
}

pub(in crate::libvirt) fn auths(body: &[u8]) -> Result<Vec<Auth>, XdrError> {
    let mut reader = Reader::new(body);
    let all = reader.list(AUTHS, |one| {
        Ok(match one.int()? {
            0 => Auth::None,
            1 => Auth::Sasl,
            2 => Auth::Polkit,
            other => Auth::Other(other),
        })
    })?;
    reader.end()?;
    Ok(all)
}

pub(in crate::libvirt) fn nothing(body: &[u8]) -> Result<(), XdrError> {
    Reader::new(body).end()
}

/// A number that nobody needs: how polkit went, how a callback is called.
pub(in crate::libvirt) fn number(body: &[u8]) -> Result<i32, XdrError> {
    let mut reader = Reader::new(body);
    let number = reader.int()?;
    reader.end()?;
    Ok(number)
}

pub(in crate::libvirt) fn domains(body: &[u8]) -> Result<Vec<DomainRef>, XdrError> {
    let mut reader = Reader::new(body);
    let all = reader.list(LIST, DomainRef::read)?;
    // Their number once more.
    reader.uint()?;
    reader.end()?;
    Ok(all)
}

pub(in crate::libvirt) fn networks(body: &[u8]) -> Result<Vec<NetworkRef>, XdrError> {
    let mut reader = Reader::new(body);
    let all = reader.list(LIST, NetworkRef::read)?;
    reader.uint()?;
    reader.end()?;
    Ok(all)
}

pub(in crate::libvirt) fn state(body: &[u8]) -> Result<DomainState, XdrError> {
    let mut reader = Reader::new(body);
    let state = match reader.int()? {
        0 => DomainState::NoState,
        1 => DomainState::Running,
        2 => DomainState::Blocked,
        3 => DomainState::Paused,
        4 => DomainState::ShuttingDown,
        5 => DomainState::ShutOff,
        6 => DomainState::Crashed,
        7 => DomainState::PmSuspended,
        other => DomainState::Other(other),
    };
    // The reason, whose meaning depends on the state.
    reader.int()?;
    reader.end()?;
    Ok(state)
}

/// The XML of a domain or a network.
pub(in crate::libvirt) fn xml(body: &[u8]) -> Result<String, XdrError> {
    let mut reader = Reader::new(body);
    let text = String::from_utf8_lossy(reader.text(TEXT)?).into_owned();
    reader.end()?;
    Ok(text)
}

/// A text that may be absent, and then is empty.
pub(in crate::libvirt) fn maybe_words(body: &[u8]) -> Result<String, XdrError> {
    let mut reader = Reader::new(body);
    let text = reader.maybe_text(TEXT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(text).into_owned();
    reader.end()?;
    Ok(text)
}

/// The IPv4 addresses of a domain's interfaces, in their order.
pub(in crate::libvirt) fn addressed(body: &[u8]) -> Result<Vec<Addressed>, XdrError> {
    let mut reader = Reader::new(body);
    let interfaces = reader.list(INTERFACES, |one| {
        one.text(TEXT)?;
        let mac = one.maybe_text(TEXT)?.and_then(Mac::parse);
        let addresses = one.list(INTERFACES, |address| {
            let kind = address.int()?;
            let text = address.text(TEXT)?;
            // The length of the prefix.
            address.uint()?;
            Ok((kind == 0).then(|| ipv4(text)).flatten())
        })?;
        Ok((mac, addresses))
    })?;
    reader.end()?;
    let mut all = Vec::new();
    for (mac, addresses) in interfaces {
        let Some(mac) = mac else { continue };
        all.extend(addresses.into_iter().flatten().map(|address| Addressed { mac, address }));
    }
    Ok(all)
}

/// The IPv4 leases of a network.
pub(in crate::libvirt) fn leases(body: &[u8]) -> Result<Vec<Lease>, XdrError> {
    let mut reader = Reader::new(body);
    let all = reader.list(LEASES, |one| {
        one.text(TEXT)?;
        let expires = one.hyper()?;
        let kind = one.int()?;
        let mac = one.maybe_text(TEXT)?.and_then(Mac::parse);
        one.maybe_text(TEXT)?;
        let address = ipv4(one.text(TEXT)?);
        one.uint()?;
        one.maybe_text(TEXT)?;
        one.maybe_text(TEXT)?;
        let lease = mac.zip(address).filter(|_| kind == 0);
        Ok(lease.map(|(mac, address)| Lease { mac, address, expires }))
    })?;
    reader.uint()?;
    reader.end()?;
    Ok(all.into_iter().flatten().collect())
}

/// Reads a message that a daemon sent by itself; nothing when it is of no concern here.
pub(in crate::libvirt) fn news(procedure: u32, body: &[u8]) -> Result<Option<News>, XdrError> {
    let mut reader = Reader::new(body);
    let mut about = || {
        // The number of the callback: we have one of each kind.
        reader.int()?;
        DomainRef::read(&mut reader)
    };
    let news = match procedure {
        event::LIFE => {
            let domain = about()?;
            let life = life(reader.int()?);
            // The cause.
            reader.int()?;
            News::Life { domain, life }
        }
        event::AGENT => {
            let domain = about()?;
            let connected = reader.int()? == 1;
            reader.int()?;
            News::Agent { domain, connected }
        }
        event::DEVICE_ADDED | event::DEVICE_REMOVED => {
            let domain = about()?;
            reader.text(TEXT)?;
            News::Changed { domain }
        }
        event::METADATA => {
            let domain = about()?;
            reader.int()?;
            reader.maybe_text(TEXT)?;
            News::Changed { domain }
        }
        event::REBOOT => News::Changed { domain: about()? },
        event::NETWORK => return Ok(Some(News::Networks)),
        _ => return Ok(None),
    };
    reader.end()?;
    Ok(Some(news))
}

/// The procedures by which news come.
pub(in crate::libvirt) mod event {
    pub(in crate::libvirt) const NETWORK: u32 = 315;
    pub(in crate::libvirt) const LIFE: u32 = 318;
    pub(in crate::libvirt) const REBOOT: u32 = 319;
    pub(in crate::libvirt) const DEVICE_REMOVED: u32 = 333;
    pub(in crate::libvirt) const AGENT: u32 = 348;
    pub(in crate::libvirt) const DEVICE_ADDED: u32 = 354;
    pub(in crate::libvirt) const METADATA: u32 = 379;
}

const fn life(number: i32) -> Life {
    match number {
        0 => Life::Defined,
        1 => Life::Undefined,
        2 => Life::Started,
        3 => Life::Suspended,
        4 => Life::Resumed,
        5 => Life::Stopped,
        6 => Life::ShutDown,
        7 => Life::PmSuspended,
        8 => Life::Crashed,
        other => Life::Other(other),
    }
}

/// Reads the front of an error; what follows is of no use here.
pub(in crate::libvirt) fn complaint(body: &[u8]) -> Result<Complaint, XdrError> {
    let mut reader = Reader::new(body);
    let code = reader.int()?;
    reader.int()?;
    let message = reader.maybe_text(TEXT)?.unwrap_or(b"it does not say why");
    Ok(Complaint { code, message: printable(message, ERROR_TEXT) })
}

/// Text of another program's as a person can be shown it: one line, and not too long.
pub(in crate::libvirt) fn printable(text: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let visible = |one: char| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one };
    text.chars().take(most).map(visible).collect()
}

fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

//! The questions that are asked, each with what it takes and what it gives.

use std::time::Duration;

use super::link::{CallError, Link};
use super::messages::{
    self, Addressed, Auth, DomainRef, DomainState, Lease, NetworkRef, addressed, event,
};
use super::xdr::{Writer, XdrError};

/// How long a question may take before we are let in. After that, who asks looks at the clock: a
/// daemon in which one domain holds everything up still tells its news.
const ANSWER: Duration = Duration::from_secs(5);

/// The numbers of the procedures (`remote_procedure`).
mod procedure {
    pub(super) const CONNECT_OPEN: u32 = 1;
    pub(super) const CONNECT_CLOSE: u32 = 2;
    pub(super) const DOMAIN_GET_XML_DESC: u32 = 14;
    pub(super) const NETWORK_GET_XML_DESC: u32 = 43;
    pub(super) const CONNECT_SUPPORTS_FEATURE: u32 = 60;
    pub(super) const AUTH_LIST: u32 = 66;
    pub(super) const AUTH_POLKIT: u32 = 70;
    pub(super) const DOMAIN_GET_STATE: u32 = 212;
    pub(super) const CONNECT_LIST_ALL_DOMAINS: u32 = 273;
    pub(super) const CONNECT_LIST_ALL_NETWORKS: u32 = 283;
    pub(super) const NETWORK_EVENT_REGISTER_ANY: u32 = 313;
    pub(super) const DOMAIN_EVENT_REGISTER_ANY: u32 = 316;
    pub(super) const NETWORK_GET_DHCP_LEASES: u32 = 341;
    pub(super) const DOMAIN_INTERFACE_ADDRESSES: u32 = 353;
    /// Of the program for QEMU (`qemu_procedure`).
    pub(super) const QEMU_DOMAIN_AGENT_COMMAND: u32 = 3;
}

/// `VIR_DRV_FEATURE_PROGRAM_KEEPALIVE`: who asks for it is sent pings, too.
const FEATURE_KEEPALIVE: i32 = 10;
/// `VIR_CONNECT_LIST_NETWORKS_ACTIVE`
const ACTIVE: u32 = 2;

/// Who is asked for a domain's addresses (`virDomainInterfaceAddressesSource`).
#[derive(Debug, Clone, Copy)]
pub(in crate::libvirt) enum AddressBook {
    Leases,
    Agent,
}

/// The kinds of news about domains that are subscribed to (`virDomainEventID`), and the procedure
/// by which each comes.
pub(in crate::libvirt) const DOMAIN_NEWS: [(i32, u32); 6] = [
    (0, event::LIFE),
    (1, event::REBOOT),
    (15, event::DEVICE_REMOVED),
    (18, event::AGENT),
    (19, event::DEVICE_ADDED),
    (23, event::METADATA),
];

impl Link {
    pub(in crate::libvirt) async fn auths(&self) -> Result<Vec<Auth>, CallError> {
        let doing = "ask how it wants to know who calls";
        self.ask_in_time(doing, procedure::AUTH_LIST, Writer::default(), messages::auths).await
    }

    /// Has polkit decide, which knows us by the socket.
    pub(in crate::libvirt) async fn auth_polkit(&self) -> Result<(), CallError> {
        let doing = "be let in by polkit";
        self.ask_in_time(doing, procedure::AUTH_POLKIT, Writer::default(), messages::number)
            .await?;
        Ok(())
    }

    /// Opens the driver that a URI names.
    pub(in crate::libvirt) async fn open_driver(&self, uri: &str) -> Result<(), CallError> {
        let body = Writer::default().some_text(uri.as_bytes()).uint(0);
        let doing = "open the driver";
        self.ask_in_time(doing, procedure::CONNECT_OPEN, body, messages::nothing).await
    }

    /// Asks to be sent pings. A daemon that cannot is no worse off.
    pub(in crate::libvirt) async fn want_pings(&self) -> Result<(), CallError> {
        let body = Writer::default().int(FEATURE_KEEPALIVE);
        let doing = "ask for pings";
        self.ask_in_time(doing, procedure::CONNECT_SUPPORTS_FEATURE, body, messages::number)
            .await?;
        Ok(())
    }

    pub(in crate::libvirt) async fn domains(&self) -> Result<Vec<DomainRef>, CallError> {
        let body = Writer::default().int(1).uint(0);
        let doing = "list its domains";
        self.ask(doing, procedure::CONNECT_LIST_ALL_DOMAINS, body, messages::domains).await
    }

    pub(in crate::libvirt) async fn state(
        &self,
        domain: &DomainRef,
    ) -> Result<DomainState, CallError> {
        let body = domain.write(Writer::default()).uint(0);
        let doing = "ask for the state of a domain";
        self.ask(doing, procedure::DOMAIN_GET_STATE, body, messages::state).await
    }

    pub(in crate::libvirt) async fn domain_xml(
        &self,
        domain: &DomainRef,
    ) -> Result<String, CallError> {
        let body = domain.write(Writer::default()).uint(0);
        let doing = "look at a domain";
        self.ask(doing, procedure::DOMAIN_GET_XML_DESC, body, messages::xml).await
    }

    /// Asks for the addresses of a domain's interfaces.
    ///
    /// An agent answers when it likes. libvirt has a limit of its own for those that are gone; one
    /// that accepts and then hangs holds the question open, and a place among the few that a daemon
    /// gives to each caller. To give up here would not free that place.
    pub(in crate::libvirt) async fn addresses(
        &self,
        domain: &DomainRef,
        book: AddressBook,
    ) -> Result<Vec<Addressed>, CallError> {
        let source = match book {
            AddressBook::Leases => 0,
            AddressBook::Agent => 1,
        };
        let body = domain.write(Writer::default()).uint(source).uint(0);
        let doing = "ask for the addresses of a domain";
        self.ask(doing, procedure::DOMAIN_INTERFACE_ADDRESSES, body, addressed).await
    }

    /// Has a domain's guest agent carry out a command, both in JSON; it may take so many seconds.
    pub(in crate::libvirt) async fn ask_agent(
        &self,
        domain: &DomainRef,
        command: &str,
        seconds: i32,
    ) -> Result<String, CallError> {
        let body = domain.write(Writer::default()).text(command.as_bytes()).int(seconds).uint(0);
        let doing = "have the guest agent run a command";
        let number = procedure::QEMU_DOMAIN_AGENT_COMMAND;
        let answer = self.call_qemu(doing, number, body.done()).await?;
        messages::maybe_words(&answer).map_err(|source| CallError::Garbage { doing, source })
    }

    /// Lists the networks that are up.
    pub(in crate::libvirt) async fn networks(&self) -> Result<Vec<NetworkRef>, CallError> {
        let body = Writer::default().int(1).uint(ACTIVE);
        let doing = "list its networks";
        self.ask(doing, procedure::CONNECT_LIST_ALL_NETWORKS, body, messages::networks).await
    }

    pub(in crate::libvirt) async fn network_xml(
        &self,
        network: &NetworkRef,
    ) -> Result<String, CallError> {
        let body = network.write(Writer::default()).uint(0);
        let doing = "look at a network";
        self.ask(doing, procedure::NETWORK_GET_XML_DESC, body, messages::xml).await
    }

    /// Returns the leases of a network as they came: with a thousand of them it is cheaper to see
    /// that nothing is new than to read them.
    pub(in crate::libvirt) async fn leases(
        &self,
        network: &NetworkRef,
    ) -> Result<RawLeases, CallError> {
        let body = network.write(Writer::default()).no_text().int(1).uint(0);
        let doing = "ask for the leases of a network";
        let number = procedure::NETWORK_GET_DHCP_LEASES;
        self.call(doing, number, body.done(), None).await.map(RawLeases)
    }

    /// Subscribes to one kind of news about domains; a daemon that does not know it refuses.
    pub(in crate::libvirt) async fn subscribe(&self, kind: i32) -> Result<(), CallError> {
        // About all domains, not one.
        let body = Writer::default().int(kind).no_text();
        let doing = "follow its domains";
        self.ask_in_time(doing, procedure::DOMAIN_EVENT_REGISTER_ANY, body, messages::number)
            .await?;
        Ok(())
    }

    pub(in crate::libvirt) async fn subscribe_to_networks(&self) -> Result<(), CallError> {
        let body = Writer::default().int(0).no_text();
        let doing = "follow its networks";
        self.ask_in_time(doing, procedure::NETWORK_EVENT_REGISTER_ANY, body, messages::number)
            .await?;
        Ok(())
    }

    /// Takes leave, so that a daemon does not log a caller that vanished.
    pub(in crate::libvirt) async fn close(&self) -> Result<(), CallError> {
        let doing = "take leave";
        let (number, body) = (procedure::CONNECT_CLOSE, Vec::new());
        self.call(doing, number, body, Some(Duration::from_millis(200))).await?;
        Ok(())
    }

    async fn ask_in_time<T>(
        &self,
        doing: &'static str,
        procedure: u32,
        body: Writer,
        read: impl Fn(&[u8]) -> Result<T, XdrError>,
    ) -> Result<T, CallError> {
        self.ask_within(Some(ANSWER), doing, procedure, body, read).await
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        procedure: u32,
        body: Writer,
        read: impl Fn(&[u8]) -> Result<T, XdrError>,
    ) -> Result<T, CallError> {
        self.ask_within(None, doing, procedure, body, read).await
    }

    async fn ask_within<T>(
        &self,
        limit: Option<Duration>,
        doing: &'static str,
        procedure: u32,
        body: Writer,
        read: impl Fn(&[u8]) -> Result<T, XdrError>,
    ) -> Result<T, CallError> {
        let answer = self.call(doing, procedure, body.done(), limit).await?;
        read(&answer).map_err(|source| CallError::Garbage { doing, source })
    }
}

/// An answer that holds leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::libvirt) struct RawLeases(Vec<u8>);

impl RawLeases {
    pub(in crate::libvirt) fn read(&self) -> Result<Vec<Lease>, CallError> {
        let doing = "read the leases of a network";
        messages::leases(&self.0).map_err(|source| CallError::Garbage { doing, source })
    }
}

//! libvirt's own RPC: the part of it that following instances takes, without libvirt's library.
//!
//! The numbers of procedures and the shapes of messages are those of libvirt's public description of
//! the protocol, each seen answered by libvirtd 9.0. They are frozen: libvirt only ever adds.

pub(super) mod calls;
pub(super) mod frame;
pub(super) mod link;
pub(super) mod messages;
pub(super) mod xdr;

#[cfg(test)]
mod hostile;

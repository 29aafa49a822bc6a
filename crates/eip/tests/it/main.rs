//! The program as people run it, on machines that the test makes: the service on one, a client on
//! another, real packets between them. Takes the rights of root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod alias;
mod commands;
mod contract;
mod disk;
mod docker;
mod doors;
mod engine;
mod firewalls;
mod libvirt;
mod rights;
mod scene;
mod secured;
mod survival;
mod traffic;
mod upkeep;
mod webhooks;

//! The data plane against the kernel: what it shows, and what packets do. Must run as root.

#![expect(clippy::print_stdout, reason = "tests of load print figures and assert none")]

mod alias;
mod announce;
mod change;
mod counting;
mod faults;
mod firewall;
mod guard;
mod held;
mod helpers;
mod libvirt;
mod load;
mod recovery;
mod traffic;
mod world;

//! The data plane against the kernel: what it shows, and what packets do. Must run as root.

mod change;
mod firewall;
mod guard;
mod load;
mod recovery;
mod traffic;
mod world;

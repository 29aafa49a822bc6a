//! Sends events to where webhooks point: one signed HTTP request for each (Standard Webhooks 1.0).
//!
//! Three parts: `message` makes what is sent, `guard` says where it may go, `sender` sends it. Which
//! event is due when is for others to know.

mod guard;
mod message;
mod sender;

pub use guard::{Guard, NotAllowed};
pub use ipnet::IpNet;
pub use message::{Message, shown};
pub use sender::{Attempt, Sender};

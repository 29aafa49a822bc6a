//! What the tests of every room need: databases, network namespaces, and waiting with a deadline.

mod keeper;
pub mod machine;
pub mod netns;
pub mod pgbouncer;
pub mod postgres;
pub mod vm;
mod wait;

pub use wait::{eventually, eventually_async};

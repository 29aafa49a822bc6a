//! The loop of a host, with a real server behind it, a compute backend that says what the test
//! wants, and a kernel that fails when the test wants.
#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot go on should say where"
)]

mod fakes;
mod following;
mod guests;
mod life;

pub(crate) use fakes::{Scene, container};

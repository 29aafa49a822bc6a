//! The data plane on a host that the test makes: what the kernel says, and packets that arrive.
#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    reason = "a test that cannot go on should say where"
)]

mod flows;
mod guards;
mod rules;
mod scene;

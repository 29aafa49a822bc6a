//! The API over real HTTP, on both stores.

mod agents;
mod bad_input;
mod listing;
mod races;
mod seed;
mod stopping;
mod waiting;
mod world;

//! The API over real HTTP, on both stores.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod agents;
mod bad_input;
mod edge;
mod hang_up;
mod history;
mod isolation;
mod listing;
mod many;
mod metrics;
mod openapi;
mod outages;
mod pools;
mod races;
mod readers;
mod retrying;
mod seed;
mod standstill;
mod stopping;
mod stream;
mod tenants;
mod terms;
mod tls;
mod waiting;
mod webhooks;
mod world;

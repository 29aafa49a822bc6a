//! The story of the record, told to SQLite and to PostgreSQL alike.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod administering;
mod associating;
mod backing_up;
mod batches;
mod bouncer;
mod changes;
mod damage;
mod events;
mod fences;
mod following;
mod holding;
mod importing;
mod inventory;
mod listing;
mod locks;
mod modes;
mod moving;
mod once;
mod opening;
mod outages;
mod parts;
mod quotas;
mod races;
mod raw;
mod reports;
mod silence;
mod standby;
mod tls;
mod traffic;
mod two_servers;
mod upgrading;
mod webhooks;
mod whole;
mod world;

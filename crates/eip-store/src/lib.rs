//! The record: every elastic IP, who held it and when, and what it points at.
//!
//! [`Repository`] is a set of use-case transactions, not of rows: each one is a single transaction
//! that also writes its event, and each rule that two callers could break by racing is held by a
//! constraint of the database. PostgreSQL and the embedded SQLite tell the same story: the use
//! cases are written once, over a transaction of either.

mod backup;
mod cases;
mod eligible;
mod error;
mod given;
mod home;
mod import;
mod lane;
mod news;
mod open;
mod pages;
mod postgres;
mod records;
mod repository;
mod rows;
mod rules;
mod sqlite;
mod transaction;
mod value;
mod webhooks;

pub use backup::{Backup, BackupError, backup};
pub use cases::history::HistoryFilter;
pub use cases::pools::PoolChange;
pub use error::{Refusal, StoreError};
pub use import::{ImportError, Imported, import};
pub use news::News;
pub use open::{OpenError, open};
pub use pages::{InstancePlace, KeyPlace, Page};
pub use records::{
    Acceptance, Ahead, Allocated, ApiKeyRecord, AssociateCommand, AssociationRecord, By,
    DisassociateCommand, ElasticIpFilter, ElasticIpRecord, HostProgress, HostRecord,
    InstanceFilter, InventoryOutcome, ListPlace, MadeApiKey, NetworkWish, NewAllocation, NewApiKey,
    OnceKey, PoolCounts, PoolLoad, ReleaseCommand, Released, Reported, Scope, Settled, Terms,
    UpdateCommand, Version, Wish,
};
pub use repository::Repository;
pub use webhooks::{
    Deliveries, DeliveryFailure, Hold, MOST_WEBHOOKS, NewWebhook, WebhookChange, WebhookRecord,
    Webhooks,
};

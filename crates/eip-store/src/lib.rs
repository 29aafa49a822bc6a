//! The record: every elastic IP, who held it and when, and what it points at.
//!
//! [`Repository`] is a set of use-case transactions, not of rows: each one is a single transaction
//! that also writes its event, and each rule that two callers could break by racing is held by a
//! constraint of the database. PostgreSQL and the embedded SQLite tell the same story.

mod error;
mod records;
mod repository;

pub use error::{Refusal, StoreError};
pub use records::{
    ApiKeyRecord, AssociateCommand, AssociationRecord, DisassociateCommand, ElasticIpFilter,
    ElasticIpRecord, HostRecord, InstanceFilter, InventoryOutcome, NewAllocation, NewApiKey,
    PoolCounts, ReleaseCommand, Scope, UpdateCommand, Wish,
};
pub use repository::Repository;

//! Holding an address in one statement.
//!
//! The use case in `cases` takes four round trips with its transaction around it. This says the
//! same to PostgreSQL in one: the statement is its own transaction, and commits by itself.

use std::sync::LazyLock;

use deadpool_postgres::Client;

use super::attempt::{unreachable, was_refused};
use super::config::PATIENCE;
use super::statements::{bound, meaning};
use crate::cases::ALLOCATE;
use crate::error::Refusal;
use crate::records::{ElasticIpRecord, NewAllocation};
use crate::transaction::{Failure, UseCase};
use crate::value::Value;

static ALLOCATE_AND_TELL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH taken AS ({ALLOCATE}),
              told AS (INSERT INTO event (at, kind, project, elastic_ip_id, address, actor)
                       SELECT allocated_at, 'allocated', project, id, address, $11 FROM taken)
         SELECT address FROM taken"
    )
});

pub(super) async fn allocate(
    client: Client,
    new: &NewAllocation,
) -> Result<ElasticIpRecord, Failure> {
    let doing = NewAllocation::DOING;
    let statement =
        client.prepare_cached(&ALLOCATE_AND_TELL).await.map_err(|e| meaning(doing, e))?;
    let actor = Value::from(new.actor.as_str());
    let values = new.values();
    let values: Vec<_> = values.iter().chain([&actor]).map(bound).collect();
    match tokio::time::timeout(PATIENCE, client.query_opt(&statement, &values)).await {
        Ok(Ok(Some(_))) => Ok(new.record()),
        Ok(Ok(None)) => Err(Refusal::AddressInUse.into()),
        Ok(Err(error)) if was_refused(&error) => Err(meaning(doing, error)),
        Ok(Err(error)) => Err(unreachable(doing, true, error).into()),
        // As at any commit: it may be waiting for a standby, and is not cancelled.
        Err(elapsed) => {
            drop(Client::take(client));
            Err(unreachable(doing, true, elapsed).into())
        }
    }
}

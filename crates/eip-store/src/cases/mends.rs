//! What hosts have put right.

use eip_model::{EventKind, HostName, Mend};
use jiff::Timestamp;

use crate::given::Given;
use crate::news::NewEvent;
use crate::records::By;
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct RecordMends {
    pub(super) host: HostName,
    /// With times in whole microseconds, as the record keeps them.
    pub(super) mends: Vec<Mend>,
}

/// What makes a mend of a host one that is in the record: when and what.
type Mark = (Timestamp, String);

impl UseCase for RecordMends {
    type Answer = ();
    const DOING: &'static str = "take in what a host has mended";

    /// An agent that did not hear the answer tells a mend again: it is recorded once.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        // Reports of one host take turns on its row.
        tx.run("UPDATE host SET name = name WHERE name = $1", values![&self.host]).await?;
        let all: Vec<Mark> = self.mends.iter().map(|one| (one.at, one.detail())).collect();
        let kind = EventKind::DataPlaneMended;
        let given = Given::of(&all)
            .with("at", |one| one.0)
            .with("detail", |one| one.1.as_str())
            .with("host", |_| &self.host)
            .with("kind", |_| kind.as_str());
        let there = tx
            .each(
                "SELECT e.at, e.detail
                   FROM {given}
                   JOIN event e ON e.at = given.at AND e.kind = given.kind
                               AND e.host = given.host AND e.detail = given.detail",
                given,
            )
            .await?;
        let read =
            |row: &T::Row| -> Result<Mark, Wrong> { Ok((row.moment("at")?, row.words("detail")?)) };
        let mut there: Vec<Mark> =
            there.iter().map(read).collect::<Result<_, _>>().map_err(|e| e.within("event"))?;
        for mark in all {
            if there.contains(&mark) {
                continue;
            }
            there.push(mark.clone());
            let (at, detail) = mark;
            let by = By { actor: format!("agent:{}", self.host), at };
            let event = NewEvent::about(kind, &by, detail);
            tx.tell(NewEvent { host: Some(self.host.clone()), ..event });
        }
        Ok(())
    }
}

//! Changes under terms: once, only if nothing has changed meanwhile, or as a rehearsal.
//!
//! Each is a transaction of its own: what many ask for without terms is settled together.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::held::{Aims, lock};
use crate::error::{Refusal, StoreError};
use crate::records::{OnceKey, Settled, Terms, UpdateCommand, Version};
use crate::rows::{Cells, Wrong};
use crate::transaction::{Batch, Database, Failure, Outcome, Tx, UseCase};
use crate::value::values;

/// One command of those that are otherwise settled together.
#[derive(Debug)]
pub(super) struct Alone<B>(pub(super) B);

impl<B: Batch> UseCase for Alone<B> {
    type Answer = B::Answer;
    const DOING: &'static str = B::DOING;

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<B::Answer, Failure> {
        let outcome = B::settle(tx, std::slice::from_ref(&self.0)).await?.into_iter().next();
        match outcome {
            Some(Outcome::Done(answer)) => Ok(answer),
            Some(Outcome::Refused(refusal)) => Err(refusal.into()),
            Some(Outcome::Failed(error)) => Err(error.into()),
            Some(Outcome::Again) | None => Err(Failure::Again("it was in its own way".into())),
        }
    }
}

impl<B: Aims> Aims for Alone<B> {
    fn target(&self) -> eip_model::ElasticIpRef {
        self.0.target()
    }

    fn scope(&self) -> &crate::records::Scope {
        self.0.scope()
    }
}

impl Aims for UpdateCommand {
    fn target(&self) -> eip_model::ElasticIpRef {
        self.target
    }

    fn scope(&self) -> &crate::records::Scope {
        &self.scope
    }
}

/// A change of an elastic IP that is made only while it has the revision.
#[derive(Debug)]
struct Unchanged<U> {
    case: U,
    if_match: Option<Vec<Version>>,
}

impl<U: UseCase + Aims> UseCase for Unchanged<U> {
    type Answer = U::Answer;
    const DOING: &'static str = U::DOING;

    /// The lock is held to the end, so what is compared is what is changed.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<U::Answer, Failure> {
        if let Some(wanted) = &self.if_match {
            let held = lock(tx, self.case.target(), self.case.scope()).await?;
            let version = Version { id: held.id, revision: held.revision };
            if !wanted.contains(&version) {
                return Err(Refusal::PreconditionFailed.into());
            }
        }
        self.case.run(tx).await
    }
}

/// A change that is carried out once under its key.
#[derive(Debug)]
struct Once<U> {
    case: U,
    once: Option<OnceKey>,
    now: jiff::Timestamp,
}

impl<U> UseCase for Once<U>
where
    U: UseCase<Answer: Serialize + DeserializeOwned>,
{
    type Answer = Settled<U::Answer>;
    const DOING: &'static str = U::DOING;

    /// The key is entered before anything else, so that a second one waits for the first. What was
    /// answered before is written to all the same, so that the answer waits for the disk and for
    /// standbys like the first one. What is refused takes its key with it.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Self::Answer, Failure> {
        let Some(once) = &self.once else {
            return Ok(Settled::first(self.case.run(tx).await?));
        };
        let (owner, key) = (once.owner.as_str(), once.key.as_str());
        let entered = tx
            .row(
                "INSERT INTO answer (owner, key, fingerprint, outcome, answered_at, repeated)
                 VALUES ($1, $2, $3, $4, $5, 0)
                 ON CONFLICT (owner, key) DO UPDATE SET repeated = answer.repeated + 1
                 RETURNING fingerprint, repeated, CAST(outcome AS text) AS outcome,
                           CAST(body AS text) AS body",
                values![owner, key, &once.fingerprint[..], serde_json::Value::Null, self.now],
            )
            .await?;
        let again = || Failure::Again("the answer went away".into());
        let before = read::<U::Answer>(&entered.ok_or_else(again)?, once);
        if let Some(before) = before.map_err(|e| e.within("answer"))? {
            return Ok(before?);
        }
        let answer = self.case.run(tx).await?;
        let outcome = serde_json::to_value(&answer)
            .map_err(|e| StoreError::Corrupt { table: "answer", what: e.to_string() })?;
        tx.run(
            "UPDATE answer SET outcome = $3 WHERE owner = $1 AND key = $2",
            values![owner, key, outcome],
        )
        .await?;
        Ok(Settled::first(answer))
    }
}

type Before<A> = Option<Result<Settled<A>, Refusal>>;

/// Reads what was answered before under the key, if anything was.
fn read<A: DeserializeOwned>(row: &impl Cells, once: &OnceKey) -> Result<Before<A>, Wrong> {
    if row.number::<u64>("repeated")? == 0 {
        return Ok(None);
    }
    if row.bytes("fingerprint")?.unwrap_or_default() != once.fingerprint {
        return Ok(Some(Err(Refusal::IdempotencyConflict)));
    }
    let wrong = |e: serde_json::Error| Wrong(format!("outcome: {e}"));
    let answer = serde_json::from_str(&row.words("outcome")?).map_err(wrong)?;
    let body = row.text("body")?.map(|text| serde_json::from_str(&text)).transpose();
    let body = body.map_err(|e| Wrong(format!("body: {e}")))?;
    Ok(Some(Ok(Settled { answer, repeated: true, body })))
}

/// Notes what was answered, for those who ask again.
#[derive(Debug)]
pub(super) struct NoteBody {
    pub(super) once: OnceKey,
    pub(super) body: serde_json::Value,
}

impl UseCase for NoteBody {
    type Answer = ();
    const DOING: &'static str = "note an answer";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.run(
            "UPDATE answer SET body = $3 WHERE owner = $1 AND key = $2 AND body IS NULL",
            values![self.once.owner.as_str(), self.once.key.as_str(), self.body.clone()],
        )
        .await
    }
}

/// Does everything that the change does, and undoes it.
#[derive(Debug)]
struct Rehearsal<U: UseCase> {
    case: U,
    answer: Arc<Mutex<Option<U::Answer>>>,
}

impl<U: UseCase> UseCase for Rehearsal<U> {
    type Answer = ();
    const DOING: &'static str = U::DOING;

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let answer = self.case.run(tx).await?;
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        Err(Refusal::Rehearsed.into())
    }
}

/// Says what a change would come to.
pub(super) async fn rehearse<D: Database, U: UseCase>(
    database: &D,
    case: U,
) -> Result<U::Answer, StoreError> {
    let answer = Arc::new(Mutex::new(None));
    let ended = database.change(Rehearsal { case, answer: Arc::clone(&answer) }).await;
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (ended, answer) {
        (Err(StoreError::Refused(Refusal::Rehearsed)), Some(answer)) => Ok(answer),
        (Err(error), _) => Err(error),
        (Ok(()), _) => {
            let what = "a rehearsal was committed".to_owned();
            Err(StoreError::Corrupt { table: "unknown", what })
        }
    }
}

/// Makes a change of an elastic IP under its terms, of which the key is not looked at.
pub(super) async fn each_time<D, U>(
    database: &D,
    terms: &Terms,
    case: U,
) -> Result<U::Answer, StoreError>
where
    D: Database,
    U: UseCase + Aims,
{
    let case = Unchanged { case, if_match: terms.if_match.clone() };
    match terms.rehearse {
        true => rehearse(database, case).await,
        false => database.change(case).await,
    }
}

/// Makes a change of an elastic IP under its terms.
pub(super) async fn under<D, U>(
    database: &D,
    terms: &Terms,
    now: jiff::Timestamp,
    case: U,
) -> Result<Settled<U::Answer>, StoreError>
where
    D: Database,
    U: UseCase<Answer: Serialize + DeserializeOwned> + Aims,
{
    carry_out(database, terms, now, Unchanged { case, if_match: terms.if_match.clone() }).await
}

/// Makes a change that is about no elastic IP under its terms.
pub(super) async fn carry_out<D, U>(
    database: &D,
    terms: &Terms,
    now: jiff::Timestamp,
    case: U,
) -> Result<Settled<U::Answer>, StoreError>
where
    D: Database,
    U: UseCase<Answer: Serialize + DeserializeOwned>,
{
    if terms.rehearse {
        return rehearse(database, case).await.map(Settled::first);
    }
    database.change(Once { case, once: terms.once.clone(), now }).await
}

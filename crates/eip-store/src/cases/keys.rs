//! Keys.

use eip_model::{EventKind, KeyId};
use jiff::Timestamp;

use super::projects::new_project;
use crate::error::Refusal;
use crate::given::Given;
use crate::news::NewEvent;
use crate::pages::{KeyPlace, Page};
use crate::records::{ApiKeyRecord, By, MadeApiKey, NewApiKey};
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::{Statement, Value, values};

impl UseCase for NewApiKey {
    type Answer = ();
    const DOING: &'static str = "make a key known";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let sql = format!(
            "{INSERT} ON CONFLICT (id) DO UPDATE
                SET digest = excluded.digest, role = excluded.role,
                    project = excluded.project, host = excluded.host"
        );
        tx.run(&sql, &self.values()).await
    }
}

const INSERT: &str = "
    INSERT INTO api_key (id, digest, role, project, host, created_at, name, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

impl NewApiKey {
    fn values(&self) -> [Value<'_>; 8] {
        [
            Value::from(&self.id),
            Value::from(&self.digest[..]),
            Value::from(self.role.as_str()),
            Value::from(self.role.project()),
            Value::from(self.role.host()),
            Value::from(self.now),
            Value::from(self.name.as_ref()),
            Value::from(self.expires_at),
        ]
    }
}

/// A key that a caller asked for.
#[derive(Debug)]
pub(super) struct MakeApiKey {
    pub(super) key: NewApiKey,
    pub(super) note: String,
    /// The quota of its project, if that is to be made.
    pub(super) quota: Option<u32>,
    pub(super) by: By,
}

impl UseCase for MakeApiKey {
    type Answer = MadeApiKey;
    const DOING: &'static str = "make a key";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<MadeApiKey, Failure> {
        if self.key.expires_at.is_some_and(|end| end <= self.by.at) {
            return Err(Refusal::Expired.into());
        }
        if let Some(project) = self.key.role.project() {
            let made = new_project(tx, project, self.quota, &self.by).await?;
            // Held to the end: it is not deleted while a key for it is made.
            let sql = "SELECT name FROM project WHERE name = $1 FOR SHARE";
            if made.is_none() && tx.row(sql, values![project]).await?.is_none() {
                return Err(Failure::Again("the project was deleted meanwhile".into()));
            }
        }
        let key = NewApiKey { now: self.by.at, ..self.key.clone() };
        let sql = format!("{INSERT} ON CONFLICT DO NOTHING RETURNING id");
        // Ids have 32 bits: one that another key has is not given to this one.
        if tx.row(&sql, &key.values()).await?.is_none() {
            return Err(Refusal::Exists.into());
        }
        let sql = format!("{} WHERE id = $1", rows::API_KEY);
        let row = tx.row(&sql, values![&self.key.id]).await?;
        let gone = || Failure::Again("the key went away".into());
        let made = rows::api_key(&row.ok_or_else(gone)?)?;
        tx.tell(made.event(EventKind::ApiKeyCreated, &self.by));
        let info = made.info();
        Ok(MadeApiKey { info, note: self.note.clone() })
    }
}

impl ApiKeyRecord {
    fn event(&self, kind: EventKind, by: &By) -> NewEvent {
        let name = self.name.as_ref().map(|name| format!(", called {name}"));
        let detail = format!("role {}{}", self.role.as_str(), name.unwrap_or_default());
        let event = NewEvent::about(kind, by, detail).named(&self.id).of(self.role.project());
        NewEvent { host: self.role.host().cloned(), ..event }
    }
}

#[derive(Debug)]
pub(super) struct FindApiKey {
    pub(super) digest: [u8; 32],
}

impl UseCase for FindApiKey {
    type Answer = Option<ApiKeyRecord>;
    const DOING: &'static str = "look up a key";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<ApiKeyRecord>, Failure> {
        let sql = format!("{} WHERE digest = $1", rows::API_KEY);
        let row = tx.row(&sql, values![&self.digest[..]]).await?;
        Ok(row.as_ref().map(rows::api_key).transpose()?)
    }
}

#[derive(Debug)]
pub(super) struct ListApiKeys {
    /// Only this one.
    pub(super) id: Option<KeyId>,
    pub(super) page: Page<KeyPlace>,
}

impl UseCase for ListApiKeys {
    type Answer = Vec<ApiKeyRecord>;
    const DOING: &'static str = "list the keys";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<ApiKeyRecord>, Failure> {
        let mut list = Statement::new(rows::API_KEY, values![]);
        list.add(" WHERE 1 = 1", values![]);
        if let Some(id) = &self.id {
            list.add(" AND id = ?", values![id]);
        }
        if let Some(KeyPlace { created_at, id }) = &self.page.after {
            list.add(" AND (created_at, id) > (?, ?)", values![*created_at, id]);
        }
        list.add(" ORDER BY created_at, id LIMIT ?", values![self.page.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(rows::api_key).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
pub(super) struct RevokeApiKey {
    pub(super) id: KeyId,
    pub(super) by: By,
}

impl UseCase for RevokeApiKey {
    type Answer = ();
    const DOING: &'static str = "revoke a key";

    /// What was revoked before stays revoked since then. Two who revoke each other's keys do it in turn.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.alone("the keys of administrators").await?;
        let others = tx
            .row(
                "SELECT count(*) AS others FROM api_key k
                  WHERE k.role = 'admin' AND k.id <> $1 AND k.revoked_at IS NULL
                    AND k.expires_at IS NULL
                 HAVING EXISTS (SELECT 1 FROM api_key own
                                 WHERE own.id = $1 AND own.role = 'admin')",
                values![&self.id],
            )
            .await?;
        let others = others.map(|row| row.number::<u64>("others")).transpose();
        if others.map_err(|e| e.within("api_key"))? == Some(0) {
            return Err(Refusal::LastAdminKey.into());
        }
        let sql = format!("{} WHERE id = $1 FOR UPDATE", rows::API_KEY);
        let found = tx.row(&sql, values![&self.id]).await?;
        let key = rows::api_key(&found.ok_or(Refusal::ApiKeyNotFound)?)?;
        if key.revoked_at.is_some() {
            return Ok(());
        }
        let sql = "UPDATE api_key SET revoked_at = $2 WHERE id = $1";
        tx.run(sql, values![&self.id, self.by.at]).await?;
        tx.tell(key.event(EventKind::ApiKeyRevoked, &self.by));
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct NoteKeyUse {
    pub(super) used: Vec<(KeyId, Timestamp)>,
}

impl UseCase for NoteKeyUse {
    type Answer = ();
    const DOING: &'static str = "note which keys are used";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        tx.each(
            "UPDATE api_key SET last_used_at = given.at
               FROM {given}
              WHERE api_key.id = given.id
                AND (api_key.last_used_at IS NULL OR api_key.last_used_at < given.at)",
            Given::of(&self.used).with("id", |(id, _)| id.as_str()).with("at", |(_, at)| *at),
        )
        .await
        .map(drop)
    }
}

//! Settling what is usual in one statement.

use tokio_postgres::Row;

use super::attempt::{Lent, ORDER, unconfirmed, unreachable, was_refused};
use super::config::{ANSWER, PATIENCE};
use super::session::Session;
use super::statements::{in_time, is_lost, lists, meaning, unnested};
use super::wake::CHANNEL;
use crate::error::StoreError;
use crate::given::MARK;
use crate::rows::Cells;
use crate::transaction::{Batch, Failure, Outcome};

/// Where the statement waits for its turn among those that write events.
const LOCK: &str = "{lock}";

/// What tells those who listen which hosts are concerned; their names go behind it.
const TELL: &str = "{tell}(";

/// Runs the statement, and returns the outcomes of the commands that it has carried out.
///
/// The statement is a transaction of its own: its answer is that of the commit.
pub(super) async fn settle<B: Batch>(
    session: Session,
    sql: &str,
    commands: &[B],
) -> Result<Vec<Option<Outcome<B::Answer>>>, Failure> {
    let mut lent = Lent(Some(session));
    let given = B::swift_rows(commands);
    let Some(session) = lent.0.as_ref().filter(|_| !given.is_empty()) else {
        lent.give_back();
        return Ok(commands.iter().map(|_| None).collect());
    };
    let sql = said(sql).replace(MARK, &unnested(&given));
    let values = lists(&given);
    // A connection that is lost before anything was sent is no reason to doubt anything.
    let statement = in_time(B::DOING, PATIENCE, session.ready(&sql)).await?;
    let doubts = session.doubts().heard();
    // It may wait for locks as long as PostgreSQL lets it, which then says so itself.
    let asked = tokio::time::timeout(ANSWER, session.query(&statement, &values)).await;
    let rows = match asked {
        Ok(_) if session.doubts().heard() != doubts => return Err(unconfirmed(B::DOING).into()),
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) if is_lost(&error) && was_refused(&error) => {
            return Err(meaning(B::DOING, error));
        }
        // Nothing was changed, and what the reason is comes out when it is done step by step.
        Ok(Err(error)) if was_refused(&error) => {
            tracing::debug!(doing = B::DOING, %error, "Not to be settled at once");
            Vec::new()
        }
        Ok(Err(error)) => return Err(unreachable(B::DOING, true, error).into()),
        // As at any commit: it may be waiting for a standby, and is not cancelled.
        Err(elapsed) => return Err(unreachable(B::DOING, true, elapsed).into()),
    };
    lent.give_back();
    Ok(read(commands, &rows)?)
}

fn said(sql: &str) -> String {
    let tell = format!("pg_notify('{CHANNEL}', ");
    sql.replace(LOCK, &format!("pg_advisory_xact_lock({ORDER})")).replace(TELL, &tell)
}

fn read<B: Batch>(
    commands: &[B],
    rows: &[Row],
) -> Result<Vec<Option<Outcome<B::Answer>>>, StoreError> {
    let mut outcomes: Vec<_> = commands.iter().map(|_| None).collect();
    for row in rows {
        let at: usize = row.number("n").map_err(|e| e.within("given"))?;
        let answer = commands.get(at).map(|command| command.swift_answer(row)).transpose()?;
        if let Some(slot) = outcomes.get_mut(at) {
            *slot = answer.map(Outcome::Done);
        }
    }
    Ok(outcomes)
}

//! The record in a PostgreSQL database, which several servers may share.

mod attempt;
mod config;
pub(crate) mod import;
mod link;
mod migrate;
mod session;
mod statements;
mod swift;
mod tls;
mod url;
mod wake;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use eip_model::ClusterId;
use tokio::sync::broadcast;
use tokio_postgres::types::Type;

use crate::error::StoreError;
use crate::home::Home;
use crate::news::News;
use crate::open::OpenError;
use crate::transaction::{Batch, Database, Failure, Outcome, Setback, UseCase};
use attempt::{Attempts, attempt, looked, unreachable};
use config::Asked;
use link::{Doubts, Link};
use session::{Manner, Session};
use statements::meaning;
use wake::Listener;

/// How many connections a server has at most.
const CONNECTIONS: usize = 16;

/// How a transaction begins.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// How long a connection is taken to be there after it was used.
const IDLE: Duration = Duration::from_secs(1);

/// How many addresses are read at a time.
const PAGE: i64 = 65_536;

/// The record in a PostgreSQL database.
#[derive(Debug)]
pub(crate) struct Postgres {
    place: String,
    cluster_id: ClusterId,
    pool: Pool,
    doubts: Doubts,
    manner: Manner,
    listener: Listener,
}

impl Postgres {
    /// Connects, and brings the schema up to date. Several servers may do so at once.
    ///
    /// # Errors
    /// [`OpenError`] when the URL is not valid, the database does not answer, or a
    /// newer program wrote it.
    pub(crate) async fn open(url: &str, home: &Home) -> Result<Self, OpenError> {
        let Asked { config, bouncer, tls } = config::read(url)?;
        let link = Link::new(config, tls, home.clone());
        let cluster_id = migrate::migrate(&link).await?;
        let pool = pool(link.clone())
            .map_err(OpenError::database("make the connections to PostgreSQL"))?;
        let place = config::place(link.config());
        let doubts = link.doubts().clone();
        let (listener, manner) = if bouncer {
            let listener = Listener::deaf();
            let heard = listener.heard();
            (listener, Manner::Bouncer { heard })
        } else {
            (Listener::start(link), Manner::Direct)
        };
        Ok(Self { place, cluster_id, pool, doubts, manner, listener })
    }

    async fn session(&self, doing: &'static str) -> Result<Session, StoreError> {
        let client = self.pool.get().await.map_err(|e| unreachable(doing, false, e))?;
        Ok(Session::new(client, self.doubts.clone(), self.manner.clone()))
    }
}

fn pool(link: Link) -> Result<Pool, deadpool_postgres::BuildError> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let config = link.config().clone();
    Pool::builder(Manager::from_connect(config, link, recycling))
        .max_size(CONNECTIONS)
        .pre_recycle(still_there())
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config::PATIENCE))
        .create_timeout(Some(config::PATIENCE))
        .recycle_timeout(Some(config::PATIENCE))
        .build()
}

/// Asks a connection that nobody has used for a moment whether it is still there. What is sent next
/// may be a whole transaction, and if nothing came back, nobody would know what became of it.
///
/// When one does not answer, those that nobody has used since are not asked: to find out one after
/// the other that the server says nothing would take as long as there are connections.
fn still_there() -> Hook {
    let silent: Arc<Mutex<Option<Instant>>> = Arc::default();
    Hook::async_fn(move |client, metrics| {
        let silent = silent.clone();
        Box::pin(async move {
            let used = metrics.recycled.unwrap_or(metrics.created);
            if used.elapsed() < IDLE {
                return Ok(());
            }
            let others = *silent.lock().unwrap_or_else(PoisonError::into_inner);
            if others.is_some_and(|others| used < others) {
                return Err(HookError::message("another one does not answer"));
            }
            match tokio::time::timeout(config::CHECK, client.simple_query("")).await {
                Ok(answer) => answer.map(drop).map_err(HookError::Backend),
                Err(_) => {
                    let mut silent = silent.lock().unwrap_or_else(PoisonError::into_inner);
                    *silent = Some(Instant::now());
                    Err(HookError::message("it does not answer"))
                }
            }
        })
    })
}

impl Database for Postgres {
    fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    fn news(&self) -> broadcast::Receiver<News> {
        self.listener.subscribe()
    }

    fn describe(&self) -> String {
        format!("PostgreSQL at {}", self.place)
    }

    /// A transaction that lost a race is tried again as a whole, after a moment that differs.
    async fn change<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let mut attempts = Attempts::at(U::DOING);
        loop {
            match self.try_change(&case).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn settle<B: Batch>(
        &self,
        commands: Arc<Vec<B>>,
    ) -> Result<Vec<Outcome<B::Answer>>, Setback> {
        let mut attempts = Attempts::at(B::DOING);
        loop {
            match self.try_both(&commands).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn look<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let mut attempts = Attempts::at(U::DOING);
        loop {
            match self.try_look(&case).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn read<U: UseCase>(&self, case: U) -> Result<U::Answer, StoreError> {
        let mut attempts = Attempts::at(U::DOING);
        loop {
            match self.try_read(&case).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn addresses(&self) -> Result<Vec<Ipv4Addr>, StoreError> {
        let mut attempts = Attempts::at("read the addresses in use");
        loop {
            match self.try_addresses("read the addresses in use").await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }
}

impl Postgres {
    async fn try_change<U: UseCase>(&self, case: &U) -> Result<U::Answer, Failure> {
        let session = self.session(U::DOING).await?;
        attempt(session, U::DOING, BEGIN, async |tx| case.run(tx).await).await
    }

    /// Settles what is usual in one statement, and the rest as everywhere.
    async fn try_both<B: Batch>(&self, commands: &[B]) -> Result<Vec<Outcome<B::Answer>>, Failure> {
        // A statement of its own has settings of its own only on a connection of its own.
        let direct = matches!(self.manner, Manner::Direct);
        let Some(sql) = B::SWIFT.filter(|_| direct) else {
            return self.try_settle(commands).await;
        };
        let session = self.session(B::DOING).await?;
        let mut outcomes = swift::settle(session, sql, commands).await?;
        let left: Vec<usize> = (0..outcomes.len()).filter(|at| outcomes[*at].is_none()).collect();
        if !left.is_empty() {
            let rest: Vec<B> = left.iter().map(|at| commands[*at].clone()).collect();
            // What has been carried out is durable, so this must not make an error of it.
            match self.try_settle(&rest).await {
                Ok(settled) => {
                    for (at, outcome) in left.into_iter().zip(settled) {
                        outcomes[at] = Some(outcome);
                    }
                }
                Err(failure) if left.len() == commands.len() => return Err(failure),
                Err(Failure::Store(error @ StoreError::Unavailable { .. })) => {
                    let error = Arc::new(error);
                    for at in left {
                        outcomes[at] = Some(Outcome::Failed(StoreError::of_all(&error)));
                    }
                }
                Err(failure) => {
                    tracing::debug!(?failure, "Settling the rest of a batch in the next one");
                }
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Again)).collect())
    }

    async fn try_settle<B: Batch>(
        &self,
        commands: &[B],
    ) -> Result<Vec<Outcome<B::Answer>>, Failure> {
        let session = self.session(B::DOING).await?;
        if B::LOOKS {
            return looked(session, B::DOING, async |tx| B::settle(tx, commands).await).await;
        }
        attempt(session, B::DOING, BEGIN, async |tx| B::settle(tx, commands).await).await
    }

    async fn try_look<U: UseCase>(&self, case: &U) -> Result<U::Answer, Failure> {
        let session = self.session(U::DOING).await?;
        looked(session, U::DOING, async |tx| case.run(tx).await).await
    }

    async fn try_read<U: UseCase>(&self, case: &U) -> Result<U::Answer, Failure> {
        let session = self.session(U::DOING).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        attempt(session, U::DOING, begin, async |tx| case.run(tx).await).await
    }

    /// Reads arrays instead of rows: a row costs more than the number in it.
    async fn try_addresses(&self, doing: &'static str) -> Result<Vec<Ipv4Addr>, Failure> {
        let session = self.session(doing).await?;
        let statement = session
            .ready(
                "SELECT coalesce(array_agg(address), '{}')
                   FROM (SELECT address FROM elastic_ip WHERE address > $1
                          ORDER BY address LIMIT $2) page",
            )
            .await
            .map_err(|e| meaning(doing, e))?;
        let mut addresses = Vec::new();
        let mut after = -1_i64;
        loop {
            let rows =
                session.query(&statement, &[(&after, Type::INT8), (&PAGE, Type::INT8)]).await;
            let page: Vec<i64> =
                rows.and_then(|rows| rows[0].try_get(0)).map_err(|e| meaning(doing, e))?;
            let numbers = page.iter().filter_map(|number| u32::try_from(*number).ok());
            addresses.extend(numbers.map(Ipv4Addr::from_bits));
            match page.iter().max() {
                Some(last) => after = *last,
                None => return Ok(addresses),
            }
        }
    }
}

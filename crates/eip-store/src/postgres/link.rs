//! The way to the database: one for the pool, the migrations and the listener alike.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::{CHECK, PATIENCE};
use super::tls::{self, Tls};
use crate::home::Home;
use crate::open::OpenError;

/// What drives a connection, and hears what the server says of its own accord.
pub(super) type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// How to connect, and what was heard on all the connections that were made.
#[derive(Debug, Clone)]
pub(super) struct Link {
    config: Config,
    tls: Tls,
    doubts: Doubts,
    home: Home,
}

impl Link {
    pub(super) fn new(config: Config, tls: Tls, home: Home) -> Self {
        Self { config, tls, doubts: Doubts::default(), home }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Who drives its connections.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        self.config.connect(self.tls.connector.clone()).await
    }

    /// Opens the first connection, and says what stands in the way.
    pub(super) async fn reach(&self) -> Result<(Client, JoinHandle<()>), OpenError> {
        match timeout(self.patience(), self.open()).await {
            Ok(opened) => opened.map_err(|error| tls::explained(self.tls.mode, error)),
            Err(elapsed) => Err(OpenError::database("connect to PostgreSQL")(elapsed)),
        }
    }

    /// How long connecting may take in all. The driver bounds only what comes before the first word
    /// of the server, which may never say one.
    pub(super) fn patience(&self) -> Duration {
        let hosts = self.config.get_hosts().len().max(self.config.get_hostaddrs().len()).max(1);
        let each = self.config.get_connect_timeout().copied().unwrap_or(PATIENCE);
        each.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX))
    }

    /// Connects, and has the connection driven.
    pub(super) async fn open(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let open = async {
            let (client, driver) = self.connect().await?;
            Ok((client, tokio::spawn(drive(driver, self.doubts.clone()))))
        };
        self.home.within(open).await
    }
}

type Opening<'l> = Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'l>,
>;

impl Connect for Link {
    fn connect(&self, _config: &Config) -> Opening<'_> {
        Box::pin(self.open())
    }
}

/// Ends a connection, and returns when it has ended.
pub(super) async fn end(client: Client, driving: JoinHandle<()>) {
    drop(client);
    let give_up = driving.abort_handle();
    // Its error, if there is one, was told by what was asked of it. It waits for answers that it
    // still owes, and a server that says nothing gives none.
    if timeout(CHECK, driving).await.is_err() {
        give_up.abort();
    }
}

async fn drive(mut driver: Driver, doubts: Doubts) {
    while let Some(message) = poll_fn(|cx| driver.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) if is_doubt(&notice) => {
                tracing::warn!(%notice, "PostgreSQL gave up waiting for a standby");
                doubts.raise();
            }
            Ok(AsyncMessage::Notice(notice)) => tracing::debug!(%notice, "PostgreSQL says"),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "A connection to PostgreSQL ended");
                return;
            }
        }
    }
}

/// How many times PostgreSQL said that it committed something which a standby may not have.
///
/// Counted over all connections: what one commit heard makes others that are under way at that
/// moment doubtful, too. It happens when an operator cancels a wait, and the doubt is harmless.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubts(Arc<AtomicU64>);

impl Doubts {
    /// What was heard so far. A notice is counted before the answer that follows it is passed on.
    pub(super) fn heard(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether it says that a commit is no longer waiting for its standby.
///
/// The text is in the language of the server, and the SQLSTATE is that of any warning when the wait
/// was cancelled (01000) and 57P01 when the connection is being ended. What PostgreSQL 9.1 to 18
/// have in common is the routine which says so.
fn is_doubt(notice: &DbError) -> bool {
    notice.parsed_severity() == Some(Severity::Warning)
        && notice.routine() == Some("SyncRepWaitForLSN")
}

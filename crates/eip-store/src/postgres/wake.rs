//! Hearing of commits: NOTIFY, once for each of them, as a hint.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::time::Duration;

use eip_model::HostName;
use futures_util::FutureExt as _;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client};

use super::config::ANSWER;
use super::link::{Driver, Link};
use crate::news::{self, News, Telling};

/// The channel on which servers of one database tell each other of commits.
pub(super) const CHANNEL: &str = "eip_record";

/// What PostgreSQL takes in one notification, in bytes (it refuses 8000), less a margin.
const ROOM: usize = 7_900;

/// Stands for more hosts than there is room for.
const MANY: &str = "*";

/// How long to wait before the listener connects again.
const PAUSE: Duration = Duration::from_millis(500);

/// The names of the hosts concerned, or that there are too many to name.
pub(super) fn payload(telling: &Telling) -> String {
    let names: Vec<&str> = telling.hosts.iter().map(HostName::as_str).collect();
    let names = names.join(" ");
    if names.len() <= ROOM { names } else { MANY.to_owned() }
}

pub(super) fn read(payload: &str) -> News {
    if payload == MANY {
        return News::Anything;
    }
    let hosts =
        payload.split_ascii_whitespace().map(str::parse).collect::<Result<BTreeSet<_>, _>>();
    hosts.map_or(News::Anything, News::Of)
}

/// A connection of its own that hears of commits, made anew whenever it breaks.
#[derive(Debug)]
pub(super) struct Listener {
    heard: broadcast::Sender<News>,
    listening: Option<AbortHandle>,
}

impl Listener {
    pub(super) fn start(link: Link) -> Self {
        let heard = news::channel();
        let listening = link.home().clone().spawn(listen(link, heard.clone()));
        Self { heard, listening: Some(listening) }
    }

    /// One that hears of nothing but what it is told here.
    pub(super) fn deaf() -> Self {
        Self { heard: news::channel(), listening: None }
    }

    pub(super) fn heard(&self) -> broadcast::Sender<News> {
        self.heard.clone()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<News> {
        self.heard.subscribe()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

async fn listen(link: Link, heard: broadcast::Sender<News>) {
    loop {
        match timeout(link.patience(), link.connect()).await {
            Ok(Ok((client, connection))) => follow(&client, connection, &heard).await,
            Ok(Err(error)) => tracing::debug!(%error, "Cannot listen for commits; will retry"),
            Err(error) => tracing::debug!(%error, "Cannot listen for commits; will retry"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes on what is heard until the connection ends.
async fn follow(client: &Client, mut connection: Driver, heard: &broadcast::Sender<News>) {
    let sql = format!("LISTEN {CHANNEL}");
    let mut listening = Box::pin(timeout(ANSWER, client.batch_execute(&sql)).fuse());
    loop {
        let message = poll_fn(|cx| connection.poll_message(cx));
        tokio::select! {
            message = message => match message {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    // Nobody may be following.
                    heard.send(read(told.payload())).ok();
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "The connection that listens for commits broke");
                    return;
                }
                None => return,
            },
            // What was committed before this is news, too.
            listens = &mut listening => match listens {
                Ok(Ok(())) => drop(heard.send(News::Anything)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "Cannot listen for commits; will retry");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "Cannot listen for commits; will retry");
                    return;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let hosts: BTreeSet<HostName> = ["hv1", "hv2"].map(|name| name.parse().unwrap()).into();
        let telling = Telling { hosts: hosts.clone(), ..Telling::default() };
        assert_eq!(read(&payload(&telling)), News::Of(hosts));
        assert_eq!(read(&payload(&Telling::default())), News::Of(BTreeSet::new()));
    }

    #[test]
    fn more_hosts_than_there_is_room_for_are_not_named() {
        let hosts = (0..2_000).map(|n| format!("host-{n}").parse().unwrap()).collect();
        let telling = Telling { hosts, ..Telling::default() };
        assert_eq!(read(&payload(&telling)), News::Anything);
    }
}

//! Docker's list of containers, read as it comes.
//!
//! An engine tells a kilobyte of each container, of which a tenth is needed here. Bollard keeps the
//! whole answer, makes a tree of it and returns that: of very many containers, gigabytes. Here each is
//! read as soon as its text is there, and the text is forgotten; what waits to be read is bounded.
//!
//! A list is taken whole or not at all: the containers that an answer lacks because it was cut off would
//! count as removed.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::read::{self, Container, Summary};

/// How many pieces of an answer, of at most some 400 kB, may wait to be read.
const PIECES: usize = 4;
/// How much is read of what an engine says instead of a list, in bytes.
const REASON: usize = 1 << 16;

/// Containers, each with its id, in the order of the engine.
pub(super) type Listed = Vec<(Arc<str>, Container)>;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("cannot reach it")]
    Unreachable(#[source] std::io::Error),
    #[error("there is no such question")]
    NoQuestion(#[source] hyper::http::Error),
    #[error("its answer broke off")]
    BrokeOff(#[source] hyper::Error),
    #[error("it responded with status code {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("its list has a container that cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("it did not answer with a list")]
    NoList,
    #[error("its list ends in the middle")]
    CutOff,
    #[error("the list could not be read on a thread of its own")]
    NoThread(#[source] tokio::task::JoinError),
}

/// Asks the engine behind a socket for all of its containers, those that do not run included.
pub(super) async fn all(socket: &Path) -> Result<Listed, ListError> {
    ask(socket, "/containers/json?all=true").await
}

/// Asks for the container of an id alone. No container is an empty list.
pub(super) async fn one(socket: &Path, id: &str) -> Result<Listed, ListError> {
    let only = json!({ "id": [id] }).to_string();
    let only = utf8_percent_encode(&only, NON_ALPHANUMERIC);
    ask(socket, &format!("/containers/json?all=true&filters={only}")).await
}

/// Without a version in the path, as bollard asks: engines old and new answer, each in its own version,
/// and what is read of a container is the same in all.
async fn ask(socket: &Path, path: &str) -> Result<Listed, ListError> {
    let stream = UnixStream::connect(socket).await.map_err(ListError::Unreachable)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(ListError::BrokeOff)?;
    // Ends with the question, also when nobody waits for the answer any more.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path).header(HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(ListError::NoQuestion)?;
    let response = sender.send_request(request).await.map_err(ListError::BrokeOff)?;
    if response.status().is_success() {
        take(response.into_body()).await
    } else {
        Err(refused(response).await)
    }
}

/// Has the pieces of an answer read by a thread that may take its time, as they come.
async fn take(mut body: Incoming) -> Result<Listed, ListError> {
    let (pieces, coming) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || read_all(coming));
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(ListError::BrokeOff)?.into_data() else { continue };
        if pieces.send(piece).await.is_err() {
            // It has given up, and says why.
            break;
        }
    }
    drop(pieces);
    reading.await.map_err(ListError::NoThread)?
}

fn read_all(mut coming: mpsc::Receiver<Bytes>) -> Result<Listed, ListError> {
    let mut reader = Reader::default();
    while let Some(piece) = coming.blocking_recv() {
        reader.take(&piece)?;
    }
    reader.end()
}

async fn refused(response: Response<Incoming>) -> ListError {
    #[derive(Deserialize)]
    struct Reason {
        message: String,
    }
    let status = response.status();
    // The status alone says enough, where the reason does not come.
    let said = Limited::new(response.into_body(), REASON).collect().await;
    let said = said.map(Collected::to_bytes).unwrap_or_default();
    let message = match serde_json::from_slice::<Reason>(&said) {
        Ok(reason) => reason.message,
        Err(_) => String::from_utf8_lossy(&said).trim().to_owned(),
    };
    ListError::Refused { status, message }
}

/// Reads a list from its text, which comes in pieces cut anywhere.
#[derive(Debug, Default)]
struct Reader {
    /// What has come and could not be read yet: less than one container.
    text: Vec<u8>,
    /// How long the text must be until reading it is tried again. Twice what was not enough: so one huge
    /// container in small pieces is not read over and over.
    enough: usize,
    place: Place,
    found: Listed,
}

/// Where in a list its reader is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    AheadOfIt,
    /// Behind the opening bracket.
    Opened,
    /// Behind a container.
    Between,
    /// Behind a comma.
    AheadOfOne,
    Closed,
}

impl Reader {
    fn take(&mut self, piece: &[u8]) -> Result<(), ListError> {
        self.text.extend_from_slice(piece);
        if self.text.len() < self.enough {
            return Ok(());
        }
        let mut at = 0;
        while let Some(length) = self.step(at)? {
            at += length;
        }
        self.text.drain(..at);
        self.enough = 2 * self.text.len();
        Ok(())
    }

    /// Reads one mark or container. Returns how long it is; nothing, if it has not come whole.
    fn step(&mut self, at: usize) -> Result<Option<usize>, ListError> {
        let rest = &self.text[at..];
        let Some(next) = rest.first() else { return Ok(None) };
        self.place = match (self.place, next) {
            (here, b' ' | b'\t' | b'\r' | b'\n') => here,
            (Place::AheadOfIt, b'[') => Place::Opened,
            (Place::Opened | Place::Between, b']') => Place::Closed,
            (Place::Between, b',') => Place::AheadOfOne,
            (Place::Opened | Place::AheadOfOne, b'{') => return self.container(at),
            (
                Place::AheadOfIt
                | Place::Opened
                | Place::Between
                | Place::AheadOfOne
                | Place::Closed,
                _,
            ) => return Err(ListError::NoList),
        };
        Ok(Some(1))
    }

    fn container(&mut self, at: usize) -> Result<Option<usize>, ListError> {
        let mut one = serde_json::Deserializer::from_slice(&self.text[at..]).into_iter();
        let summary: Summary<'_> = match one.next() {
            Some(Ok(summary)) => summary,
            Some(Err(error)) if error.is_eof() => return Ok(None),
            Some(Err(error)) => return Err(ListError::Unreadable(error)),
            None => return Ok(None),
        };
        self.found.extend(read::container(summary));
        self.place = Place::Between;
        Ok(Some(one.byte_offset()))
    }

    fn end(mut self) -> Result<Listed, ListError> {
        // What seemed not worth a try may be the rest of it.
        self.enough = 0;
        self.take(&[])?;
        match self.place {
            Place::Closed => Ok(self.found),
            Place::AheadOfIt | Place::Opened | Place::Between | Place::AheadOfOne => {
                Err(ListError::CutOff)
            }
        }
    }
}

#[cfg(test)]
mod tests;

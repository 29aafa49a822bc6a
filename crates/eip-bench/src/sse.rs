//! Server-Sent Events: the connection that they come on, and what they say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http::{Body, Head};

/// One event as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) data: String,
}

/// Takes the text of a stream apart, however it was cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Events {
    text: Vec<u8>,
    read: usize,
    begun: Event,
}

impl Events {
    /// Where more of the text goes.
    pub(crate) fn more(&mut self) -> &mut Vec<u8> {
        self.text.drain(..self.read);
        self.read = 0;
        &mut self.text
    }

    /// The next event that is all there. What keeps the connection alive is none.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let rest = &self.text[self.read..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(&rest[..end]);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            self.read += end + 1;
            if line.is_empty() {
                if self.begun.data.is_empty() {
                    continue;
                }
                let id = self.begun.id.clone();
                return Some(Event { id, data: std::mem::take(&mut self.begun.data) });
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => value.clone_into(&mut self.begun.id),
                "data" if self.begun.data.is_empty() => value.clone_into(&mut self.begun.data),
                "data" => self.begun.data = format!("{}\n{value}", self.begun.data),
                // "event", "retry" and comments.
                _ => {}
            }
        }
    }
}

/// Takes the chunks of a body apart (RFC 9112, section 7.1), however they were cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    raw: Vec<u8>,
    /// What is left of the chunk that has begun, its line end included.
    left: usize,
    ended: bool,
}

impl Chunks {
    /// Moves what `raw` holds of the body to `out`; says whether that was the end of it.
    fn decode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.raw.extend_from_slice(raw);
        let mut at = 0;
        while !self.ended {
            if self.left == 0 {
                let rest = &self.raw[at..];
                let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                    break;
                };
                let size = std::str::from_utf8(&rest[..end]).unwrap_or_default();
                let digits = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16);
                let size = size.context("a chunk begins with no size")?;
                at += end + 2;
                if size == 0 {
                    self.ended = true;
                    break;
                }
                self.left = size + 2;
            }
            let here = self.left.min(self.raw.len() - at);
            // The last two of a chunk are its line end.
            let body = here.min(self.left.saturating_sub(2));
            out.extend_from_slice(&self.raw[at..at + body]);
            at += here;
            self.left -= here;
            if self.left > 0 {
                break;
            }
        }
        self.raw.drain(..at);
        Ok(self.ended)
    }
}

/// A connection on which events come.
#[derive(Debug)]
pub(crate) struct Subscription {
    stream: TcpStream,
    buffer: Vec<u8>,
    chunks: Option<Chunks>,
    events: Events,
    ended: bool,
}

impl Subscription {
    /// Asks for a stream, and waits until it has begun.
    pub(crate) async fn open(at: SocketAddr, request: &[u8]) -> Result<Self> {
        let mut stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        stream.write_all(request).await?;
        let mut buffer = vec![0; 64 * 1024];
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the server closed the connection before the stream began");
            filled += read;
            if let Some(head) = Head::read(&buffer[..filled])? {
                break head;
            }
        };
        if head.status != 200 {
            let said = String::from_utf8_lossy(&buffer[head.length..filled]);
            bail!("the stream of events is refused: {} {said}", head.status);
        }
        let chunks = (head.body == Body::Chunked).then(Chunks::default);
        let events = Events::default();
        let mut this = Self { stream, buffer, chunks, events, ended: false };
        this.take(head.length, filled)?;
        Ok(this)
    }

    /// Returns the next event; `None` when there is none for so long, or the stream has ended.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let read = self.stream.read(&mut self.buffer);
            let Ok(read) = tokio::time::timeout(patience, read).await else {
                return Ok(None);
            };
            match read.context("cannot read the stream of events")? {
                0 => self.ended = true,
                read => self.take(0, read)?,
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    fn take(&mut self, from: usize, to: usize) -> Result<()> {
        let raw = &self.buffer[from..to];
        match &mut self.chunks {
            Some(chunks) => self.ended = chunks.decode(raw, self.events.more())?,
            None => self.events.more().extend_from_slice(raw),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ": hello\n\nid: 7\nevent: allocated\ndata: {\"a\":1}\n\n:\n\n\
                        id:8\r\ndata: x\r\ndata:  y\r\n\r\nid: 9\n";

    fn expected() -> Vec<Event> {
        [("7", "{\"a\":1}"), ("8", "x\n y")]
            .map(|(id, data)| Event { id: id.to_owned(), data: data.to_owned() })
            .to_vec()
    }

    fn chunked(text: &str, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            bytes.extend(format!("{:x};q=1\r\n", piece.len()).into_bytes());
            bytes.extend([piece, b"\r\n"].concat());
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        for size in 1..TEXT.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for piece in TEXT.as_bytes().chunks(size) {
                events.more().extend_from_slice(piece);
                found.extend(std::iter::from_fn(|| events.next()));
            }
            assert_eq!(found, expected(), "in pieces of {size}");
        }
    }

    #[test]
    fn chunks_are_the_same_however_they_are_cut() {
        for (chunk, piece) in (1..20).flat_map(|chunk| (1..40).map(move |piece| (chunk, piece))) {
            let mut chunks = Chunks::default();
            let mut out = Vec::new();
            let mut ended = false;
            for piece in chunked(TEXT, chunk).chunks(piece) {
                ended |= chunks.decode(piece, &mut out).unwrap();
            }
            assert!(ended);
            assert_eq!(String::from_utf8(out).unwrap(), TEXT, "chunks of {chunk}, {piece}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        assert!(Chunks::default().decode(b"data: x\r\n", &mut Vec::new()).is_err());
    }
}

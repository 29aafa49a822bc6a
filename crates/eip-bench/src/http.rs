//! The least of HTTP/1.1 that measures: one connection, one request, one answer, the next.
//!
//! The load generator shares its processors with what it measures, so every microsecond that it
//! spends is taken from the figure: requests are written ready-made in one call, and of an answer
//! nothing is read but its status and its length.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Returns the bytes of a request that asks in the name of `key`.
pub(crate) fn request(method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\n");
    let body = match method {
        "GET" | "DELETE" => "\r\n".to_owned(),
        _ => format!("Content-Length: {length}\r\n\r\n{body}"),
    };
    (head + &body).into_bytes()
}

/// Adds a header to a request that has no body.
pub(crate) fn with_header(request: &mut Vec<u8>, name: &str, value: &str) {
    request.truncate(request.len() - 2);
    request.extend_from_slice(format!("{name}: {value}\r\n\r\n").as_bytes());
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }
}

/// Where the body of an answer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes before the body.
    pub(crate) length: usize,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Sized(usize),
    Chunked,
    /// Until the connection closes.
    Endless,
}

impl Head {
    /// Reads the head of an answer; `None` while it is not all there.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(length) = end_of_head(bytes) else {
            return Ok(None);
        };
        let mut lines = bytes[..length].split(|byte| *byte == b'\n');
        let status = status(lines.next().unwrap_or_default())?;
        let mut body = if matches!(status, 204 | 304) { Body::Sized(0) } else { Body::Endless };
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                body = Body::Sized(number(value).context("the Content-Length is no number")?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                body = Body::Chunked;
            }
        }
        Ok(Some(Self { status, length, body }))
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn status(line: &[u8]) -> Result<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let code = code.and_then(number).and_then(|code| u16::try_from(code).ok());
    code.with_context(|| format!("not an answer: {:?}", String::from_utf8_lossy(line)))
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at).await.with_context(|| format!("cannot reach {at}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4096] })
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await.context("cannot send a request")?;
        let mut filled = 0;
        let mut head = None;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await;
            let read = read.context("cannot read an answer")?;
            ensure!(read > 0, "the server closed the connection in the middle of an answer");
            filled += read;
            if head.is_none() {
                head = Head::read(&self.buffer[..filled])?;
            }
            let Some(Head { status, length, body }) = head else {
                continue;
            };
            let Body::Sized(size) = body else {
                bail!("an answer has no Content-Length");
            };
            let end = length + size;
            if filled >= end {
                ensure!(filled == end, "there is more than one answer to one request");
                return Ok(Answer { status, body: &self.buffer[length..end] });
            }
            if self.buffer.len() < end {
                self.buffer.resize(end, 0);
            }
        }
    }
}

/// Finds the text of a field in compact JSON, without reading the rest of it.
///
/// The first such field counts: in what the API answers, those of the thing itself come first.
pub(crate) fn field<'a>(json: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(json).ok()?;
    let mut rest = text;
    loop {
        let at = rest.find(name)?;
        let before = rest[..at].ends_with('"');
        rest = &rest[at + name.len()..];
        if let Some(value) = rest.strip_prefix("\":\"").filter(|_| before) {
            return value.split('"').next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_all_there() {
        let text = b"HTTP/1.1 201 Created\r\nX: content-length: 9\r\nCONTENT-length:  12\r\n\r\n{}";
        for short in 0..text.len() - 2 {
            assert_eq!(Head::read(&text[..short]).unwrap(), None, "{short}");
        }
        let head = Head::read(text).unwrap().unwrap();
        let length = text.len() - 2;
        assert_eq!(head, Head { status: 201, length, body: Body::Sized(12) });
    }

    #[test]
    fn the_end_of_a_body_is_told_apart() {
        let body = |text: &str| Head::read(text.as_bytes()).unwrap().unwrap().body;
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n"), Body::Sized(0));
        assert_eq!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Body::Chunked);
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n"), Body::Endless);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(Head::read(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(Head::read(b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n").is_err());
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let json = br#"{"elastic_ip_id":"e","id":"i","reason":null,"id":"j"}"#;
        assert_eq!(field(json, "id"), Some("i"));
        assert_eq!(field(json, "elastic_ip_id"), Some("e"));
        assert_eq!(field(json, "reason"), None);
        assert_eq!(field(json, "none"), None);
    }

    #[test]
    fn only_requests_that_may_have_a_body_tell_its_length() {
        let text = String::from_utf8(request("POST", "/a", "k", "{}")).unwrap();
        assert!(text.ends_with("\r\nContent-Length: 2\r\n\r\n{}"), "{text}");
        let text = String::from_utf8(request("GET", "/a", "k", "")).unwrap();
        assert!(text.ends_with("X-API-Key: k\r\n\r\n"), "{text}");
        let mut more = text.into_bytes();
        with_header(&mut more, "A", "b");
        assert!(more.ends_with(b"X-API-Key: k\r\nA: b\r\n\r\n"));
    }
}

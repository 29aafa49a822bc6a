//! A socket that answers as a Docker engine does, for the questions that are asked here: which
//! containers and networks there are, whether it lives, and what happens (nothing).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

/// The socket, answered until the program ends or the file is gone.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
}

#[derive(Debug)]
struct Told {
    containers: String,
    networks: String,
}

impl Engine {
    pub(crate) fn start(socket: &Path, containers: String, networks: String) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let told = Arc::new(Told { containers, networks });
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let told = told.clone();
                // An asker that goes away is no concern of the engine's.
                std::thread::spawn(move || answer(stream, &told).ok());
            }
        })?;
        Ok(Self { socket: socket.to_owned() })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The folder goes with everything in it, later.
        std::fs::remove_file(&self.socket).ok();
    }
}

fn answer(mut stream: UnixStream, told: &Told) -> std::io::Result<()> {
    let mut asked = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        if asked.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        // None of the questions has a body: the head ends with an empty line.
        while line.trim_end() != "" {
            line.clear();
            asked.read_line(&mut line)?;
        }
        let body = match path.split('?').next().unwrap_or_default() {
            path if path.ends_with("/containers/json") => &told.containers,
            path if path.ends_with("/networks") => &told.networks,
            path if path.ends_with("/events") => return stand_by(&mut stream, &mut asked),
            _ => "OK",
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body.as_bytes())?;
    }
}

/// A stream in which nothing ever comes, until the asker goes away.
fn stand_by(stream: &mut UnixStream, asked: &mut BufReader<UnixStream>) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    asked.read(&mut [0]).map(drop)
}

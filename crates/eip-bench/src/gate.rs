//! A way to the server that is closed until it is opened: who asks before has asked, and waits.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

/// Lets nothing through until it is opened.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) at: SocketAddr,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// Stands before the server, in the network namespace of this thread, as long as the program runs.
    pub(crate) fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen for the agent")?;
        let gate = Self { at: listener.local_addr()?, open: Arc::default() };
        let open = Arc::clone(&gate.open);
        thread::spawn(move || {
            while let Ok((asker, _)) = listener.accept() {
                let open = Arc::clone(&open);
                // Whoever hangs up ends it.
                thread::spawn(move || pass(&asker, server, &open).ok());
            }
        });
        Ok(gate)
    }

    pub(crate) fn open(&self) {
        let (open, changed) = &*self.open;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

fn pass(
    asker: &TcpStream,
    server: SocketAddr,
    (open, changed): &(Mutex<bool>, Condvar),
) -> io::Result<()> {
    let closed = open.lock().unwrap_or_else(PoisonError::into_inner);
    drop(changed.wait_while(closed, |open| !*open).unwrap_or_else(PoisonError::into_inner));
    let server = TcpStream::connect(server)?;
    let (from, to) = (asker.try_clone()?, server.try_clone()?);
    thread::spawn(move || carry(&from, &to));
    carry(&server, asker);
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    // The end of one way is told to the other side, whatever it was.
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}

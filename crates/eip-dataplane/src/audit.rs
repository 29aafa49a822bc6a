//! Comparing routes with what was applied, on a thread of its own.
//!
//! The kernel tells of a route that others removed only to who listens to all routes, so they are listed
//! now and then. A list of very many takes a while, and moves must not wait for it: what is found is a hint,
//! after which [`crate::DataPlane::apply`] looks for itself.

use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use eip_model::OrdMap;

use crate::error::ApplyError;
use crate::paths::{Paths, Ways};
use crate::routes::Routes;

/// What there should be.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) targets: OrdMap<Ipv4Addr, Ipv4Addr>,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) ways: Ways,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Something may be missing, or be there that should not.
    pub differs: bool,
    pub took: Duration,
}

/// The hand that asks for comparisons; the thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Auditor {
    questions: Sender<Expected>,
    answers: Receiver<Audit>,
    busy: bool,
}

impl Auditor {
    pub(crate) fn start() -> io::Result<Self> {
        let (questions, inbox) = mpsc::channel();
        let (outbox, answers) = mpsc::channel();
        let (mut routes, mut paths) = (Routes::open()?, Paths::open()?);
        let run = move || {
            while let Ok(expected) = inbox.recv() {
                let begun = Instant::now();
                // One who cannot look has whoever can say so look.
                let differs = differs(&mut routes, &mut paths, &expected).unwrap_or(true);
                if outbox.send(Audit { differs, took: begun.elapsed() }).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("eip-audit".into()).spawn(run)?;
        Ok(Self { questions, answers, busy: false })
    }

    /// Begins a comparison, unless one is under way.
    pub(crate) fn begin(&mut self, expected: Expected) {
        if !self.busy {
            self.busy = self.questions.send(expected).is_ok();
        }
    }

    /// Returns what the comparison that was begun last came to, once.
    pub(crate) fn outcome(&mut self) -> Option<Audit> {
        match self.answers.try_recv() {
            Ok(audit) => {
                self.busy = false;
                Some(audit)
            }
            Err(TryRecvError::Empty) => None,
            // A thread that is gone says nothing of routes: they are looked at in the loop.
            Err(TryRecvError::Disconnected) => Some(Audit { differs: true, took: Duration::ZERO }),
        }
    }
}

fn differs(
    routes: &mut Routes,
    paths: &mut Paths,
    expected: &Expected,
) -> Result<bool, ApplyError> {
    let found = routes.list()?;
    let is_wanted = |(address, source): &(Ipv4Addr, Option<Ipv4Addr>)| {
        *source == expected.source && expected.targets.contains_key(address)
    };
    if found.len() != expected.targets.len() || !found.iter().all(is_wanted) {
        return Ok(true);
    }
    let ways = paths.list();
    let ways = ways.map_err(|source| ApplyError::Look { what: "the routes", source })?;
    Ok(ways != expected.ways)
}

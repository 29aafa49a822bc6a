//! Failing on demand: tests have each step of the talk with the kernel go wrong, on this thread or on one
//! of those that help it.
//!
//! Only with the feature `faults`, which the tests of this crate turn on for themselves.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

/// Whether the kernel has done what it was asked before the step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing has happened.
    Before,
    /// It has happened, and the answer is lost.
    After,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    steps_left: usize,
    errno: i32,
    when: When,
}

/// What goes wrong on a helper: the same step, counted from the last failure, so many times.
#[derive(Debug, Clone, Copy)]
struct Series {
    next: Fault,
    step: usize,
    times: usize,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// By the thread's name and the network namespace that it is in: other tests have such threads, too.
static HELPERS: Mutex<BTreeMap<(String, u64), Series>> = Mutex::new(BTreeMap::new());

/// Lets the step that comes after so many others on this thread fail.
pub fn arm(steps_left: usize, errno: i32, when: When) {
    FAULT.set(Some(Fault { steps_left, errno, when }));
}

/// Lets nothing fail any more. Returns whether something did.
pub fn disarm() -> bool {
    FAULT.take().is_none()
}

/// Lets the step that comes after so many others on the thread of this name in this network namespace
/// fail, so many times in a row, each counted from the one before.
///
/// # Panics
/// When the namespace cannot be told.
pub fn arm_helper(thread: &str, times: usize, (step, errno, when): (usize, i32, When)) {
    let next = Fault { steps_left: step, errno, when };
    let at = (thread.to_owned(), namespace().expect("a namespace"));
    helpers().insert(at, Series { next, step, times });
}

/// Lets nothing fail there any more. Returns how many times it was to fail and has not.
///
/// # Panics
/// When the namespace cannot be told.
pub fn disarm_helper(thread: &str) -> usize {
    let at = (thread.to_owned(), namespace().expect("a namespace"));
    helpers().remove(&at).map_or(0, |series| series.times)
}

pub(crate) fn strike(now: When) -> io::Result<()> {
    let Some(fault) = FAULT.get() else { return strike_helper(now) };
    let (left, outcome) = fault.strike(now);
    FAULT.set(left);
    outcome
}

fn strike_helper(now: When) -> io::Result<()> {
    let thread = std::thread::current();
    let Some(name) = thread.name().filter(|name| name.starts_with("eip-")) else { return Ok(()) };
    let Ok(namespace) = namespace() else { return Ok(()) };
    let mut helpers = helpers();
    let Some(series) = helpers.get_mut(&(name.to_owned(), namespace)) else { return Ok(()) };
    if series.times == 0 {
        return Ok(());
    }
    let (left, outcome) = series.next.strike(now);
    match left {
        Some(left) => series.next = left,
        None => {
            series.times -= 1;
            series.next.steps_left = series.step;
        }
    }
    outcome
}

impl Fault {
    /// Returns what is left of it, and how the step ends.
    fn strike(self, now: When) -> (Option<Self>, io::Result<()>) {
        if self.steps_left == 0 && self.when == now {
            return (None, Err(io::Error::from_raw_os_error(self.errno)));
        }
        let passed = usize::from(now == When::After);
        (Some(Self { steps_left: self.steps_left.saturating_sub(passed), ..self }), Ok(()))
    }
}

fn helpers() -> std::sync::MutexGuard<'static, BTreeMap<(String, u64), Series>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn namespace() -> io::Result<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").map(|meta| meta.ino())
}

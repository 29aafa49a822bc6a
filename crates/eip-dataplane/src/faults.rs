//! Failing on demand: tests have each step of this thread's talk with the kernel go wrong once.
//!
//! Only with the feature `faults`, which the tests of this crate turn on for themselves.

use std::cell::Cell;
use std::io;

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

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Lets the step that comes after so many others on this thread fail.
pub fn arm(steps_left: usize, errno: i32, when: When) {
    FAULT.set(Some(Fault { steps_left, errno, when }));
}

/// Lets nothing fail any more. Returns whether something did.
pub fn disarm() -> bool {
    FAULT.take().is_none()
}

pub(crate) fn strike(now: When) -> io::Result<()> {
    let Some(fault) = FAULT.get() else { return Ok(()) };
    if fault.steps_left == 0 && fault.when == now {
        FAULT.set(None);
        return Err(io::Error::from_raw_os_error(fault.errno));
    }
    if now == When::After {
        FAULT.set(Some(Fault { steps_left: fault.steps_left.saturating_sub(1), ..fault }));
    }
    Ok(())
}

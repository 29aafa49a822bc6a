//! What an agent has put right on its host, going up to a server.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// So many mends an agent keeps until a server takes them, and a report has at most.
pub const MENDS_KEPT: usize = 100;

/// The longest text that says what was mended, in bytes.
pub const LONGEST_MEND: usize = 200;

/// What a host has put right since it last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MendReport {
    pub mends: Vec<Mend>,
}

/// Something that another program had changed on a host, and that is as it was again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mend {
    /// When it was first mended, by the clock of the host.
    pub at: Timestamp,
    /// For people.
    pub what: String,
    /// How often, since then; at least 1.
    pub times: u32,
}

impl Mend {
    /// Says what was mended and how often.
    #[must_use]
    pub fn detail(&self) -> String {
        match self.times {
            0 | 1 => self.what.clone(),
            times => format!("{} ({times} times)", self.what),
        }
    }

    /// Makes sure that this is a mend as an agent tells one.
    ///
    /// # Errors
    /// In words, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.what.is_empty() || self.what.len() > LONGEST_MEND {
            return Err(format!("what was mended is told in 1 to {LONGEST_MEND} bytes"));
        }
        if self.what.chars().any(char::is_control) {
            return Err("what was mended is told without control characters".to_owned());
        }
        if self.times == 0 {
            return Err("what was mended no time was not mended".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(what: &str, times: u32) -> Mend {
        Mend { at: Timestamp::UNIX_EPOCH, what: what.to_owned(), times }
    }

    #[test]
    fn a_mend_says_what_and_how_often() {
        assert_eq!(mend("the routes", 1).detail(), "the routes");
        assert_eq!(mend("the routes", 3).detail(), "the routes (3 times)");
    }

    #[test]
    fn a_mend_that_no_agent_tells_is_told_from_one_that_it_does() {
        assert_eq!(mend("the routes", 1).check(), Ok(()));
        let wrong = [("", 1), ("a\0b", 1), ("a\nb", 1), ("the routes", 0)];
        assert!(wrong.into_iter().all(|(what, times)| mend(what, times).check().is_err()));
        assert!(mend(&"a".repeat(LONGEST_MEND + 1), 1).check().is_err());
    }
}

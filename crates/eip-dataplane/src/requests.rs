//! Many requests of one kind to rtnetlink, such as one for each of a thousand routes.

use std::io;

use crate::error::ApplyError;
use crate::socket::Netlink;
use crate::wire::{self, NLM_F_ACK, NLMSG_ERROR};

/// So many requests go into one send; the answers of all must fit the socket.
const AT_ONCE: usize = 1000;

/// What is asked of the kernel for each of many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<E> {
    /// For people: what is tried.
    pub(crate) tried: &'static str,
    /// `RTM_...`.
    pub(crate) kind: u16,
    /// `NLM_F_...`.
    pub(crate) flags: u16,
    /// Whether a refusal with this error number is as good as done.
    pub(crate) forgiven: fn(i32) -> bool,
    /// Writes what follows the header.
    pub(crate) encode: E,
}

/// What came of them.
#[derive(Debug)]
pub(crate) struct Outcome {
    tried: &'static str,
    of: usize,
    /// What the kernel refused: which of them, and why.
    pub(crate) refused: Vec<(usize, io::Error)>,
    /// How many are not known to have been done, because the talk itself went wrong.
    unknown: usize,
    trouble: Option<io::Error>,
}

impl Netlink {
    /// Asks the kernel for each of these in turn. All are tried: one that is refused keeps no other from
    /// being done.
    pub(crate) fn request_each<T>(
        &mut self,
        request: &Request<impl Fn(&mut Vec<u8>, &T)>,
        each: &[T],
    ) -> Outcome {
        let (tried, of) = (request.tried, each.len());
        let mut outcome = Outcome { tried, of, refused: Vec::new(), unknown: 0, trouble: None };
        for (chunk, first) in each.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
            let mut bytes = Vec::with_capacity(chunk.len() * 64);
            let mut last = 0;
            for (sequence, one) in (0..).zip(chunk) {
                last = bytes.len();
                wire::message(&mut bytes, request.kind, request.flags, sequence, |m| {
                    (request.encode)(m, one);
                });
            }
            // An error is always told; that all was done is told of the last.
            wire::add_flags(&mut bytes, last, NLM_F_ACK);
            let sent = self.exchange(&bytes, |one| {
                let code = one.errno().filter(|_| one.kind == NLMSG_ERROR).unwrap_or(0);
                if code != 0 && !(request.forgiven)(code) {
                    let which = first + usize::try_from(one.sequence).unwrap_or_default();
                    outcome.refused.push((which, io::Error::from_raw_os_error(code)));
                }
            });
            if let Err(error) = sent {
                outcome.unknown += chunk.len();
                outcome.trouble.get_or_insert(error);
            }
        }
        outcome
    }
}

impl Outcome {
    /// Fails with the first error if anything was refused, or may not have been done.
    pub(crate) fn all(mut self) -> Result<(), ApplyError> {
        let failed = self.refused.len() + self.unknown;
        let first = self.trouble.take().or_else(|| self.refused.pop().map(|(_, error)| error));
        self.failed(failed, first)
    }

    /// Returns what was refused, and fails if anything else may not have been done.
    pub(crate) fn refusals(mut self) -> Result<Vec<(usize, io::Error)>, ApplyError> {
        let (unknown, trouble) = (self.unknown, self.trouble.take());
        self.failed(unknown, trouble)?;
        Ok(self.refused)
    }

    fn failed(&self, failed: usize, first: Option<io::Error>) -> Result<(), ApplyError> {
        let (tried, of) = (self.tried, self.of);
        first.map_or(Ok(()), |source| Err(ApplyError::Routes { tried, failed, of, source }))
    }
}

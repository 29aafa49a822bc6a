//! Errors for people: the sentence and everything behind it.

use std::error::Error;

/// Writes an error and everything that caused it on one line.
///
/// An error's own text never repeats its source's, so this is where the two meet: in logs, and in
/// reasons that are told.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

//! Waiting on a condition with a deadline: never `sleep`, never for ever.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it gives a value, and returns it.
///
/// # Panics
/// When `limit` passes first: `what` says what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The same for a probe that is a future.
///
/// # Panics
/// When `limit` passes first: `what` says what was waited for.
pub async fn eventually_async<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

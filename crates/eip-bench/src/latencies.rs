//! How long each of many things took. All are kept, so that a percentile is one that was measured.

use std::time::Duration;

/// In microseconds, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        Self(micros)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn p50(&self) -> u32 {
        self.percentile(50)
    }

    pub(crate) fn p99(&self) -> u32 {
        self.percentile(99)
    }

    pub(crate) fn max(&self) -> u32 {
        self.percentile(100)
    }

    /// The smallest that at least so many of a hundred do not exceed; 0 when there are none.
    fn percentile(&self, percent: usize) -> u32 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(0)
    }
}

/// A time in whole microseconds; more than an hour counts as one.
pub(crate) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The middle one; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(one), 1) => *one,
        (Some(upper), _) => f64::midpoint(sorted[middle - 1], *upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let latencies = Latencies::of((1..=1000).rev().collect());
        assert_eq!((latencies.p50(), latencies.p99(), latencies.max()), (500, 990, 1000));
        let few = Latencies::of(vec![7, 3]);
        assert_eq!((few.p50(), few.p99(), few.max()), (3, 7, 7));
        let none = Latencies::default();
        assert_eq!((none.count(), none.p50(), none.max()), (0, 0, 0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }

    #[test]
    fn a_time_too_long_to_count_is_the_longest() {
        assert_eq!(micros(Duration::from_millis(2)), 2000);
        assert_eq!(micros(Duration::from_secs(1 << 20)), u32::MAX);
    }
}

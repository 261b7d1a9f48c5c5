//! A histogram of durations that many threads fill: base-2 exponential of schema 3, as in `model::record`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::model::record::{Histogram, Label};

/// The bucket of a nanosecond, below which nothing is: `(2^(-240/8), 2^(-239/8)]` seconds.
const FIRST_BUCKET: i32 = -239;

/// The last bucket ends at 2^10 s, a quarter of an hour; what takes longer is counted in it, and added to the sum in full.
const LAST_BUCKET: i32 = 80;

/// How many buckets there are.
const BUCKETS: usize = LAST_BUCKET.abs_diff(FIRST_BUCKET) as usize + 1;

/// Where the buckets end that begin with a power of two, as a multiple of it: 2^(k/8).
const BOUNDS: [f64; 8] = [
    1.0,
    1.090_507_732_665_257_7,
    1.189_207_115_002_721,
    1.296_839_554_651_009_6,
    std::f64::consts::SQRT_2,
    1.542_210_825_407_940_7,
    1.681_792_830_507_429,
    1.834_008_086_409_342_5,
];

/// The buckets.
pub(super) struct LatencyCells {
    buckets: [AtomicU64; BUCKETS],
    zero_count: AtomicU64,
    /// Sum of all durations, in nanoseconds; it lasts for 584 years of work.
    sum_ns: AtomicU64,
}

impl Default for LatencyCells {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            zero_count: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl LatencyCells {
    pub(super) fn observe(&self, duration: Duration) {
        let cell = match bucket(duration.as_secs_f64()) {
            None => &self.zero_count,
            Some(bucket) => {
                let at = bucket.clamp(FIRST_BUCKET, LAST_BUCKET).abs_diff(FIRST_BUCKET);
                // Within the array by the clamp.
                usize::try_from(at).ok().and_then(|at| self.buckets.get(at)).unwrap_or(&self.zero_count)
            }
        };
        cell.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// As it stands now, without the empty buckets at both ends. While others add, the sum may be ahead of the buckets.
    pub(super) fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        let mut buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let empty = buckets.iter().take_while(|count| **count == 0).count();
        buckets.drain(..empty);
        buckets.truncate(buckets.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1));
        let first_bucket = if buckets.is_empty() { 0 } else { FIRST_BUCKET + i32::try_from(empty).unwrap_or(0) };
        Histogram {
            name,
            labels,
            first_bucket,
            buckets,
            zero_count: self.zero_count.load(Ordering::Relaxed),
            sum: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

/// The bucket of a positive number: the `i` of `(2^((i-1)/8), 2^(i/8)]`. Exact at the bounds, unlike a logarithm.
fn bucket(value: f64) -> Option<i32> {
    if value <= 0.0 || !value.is_normal() {
        return None;
    }
    // A normal number is `mantissa * 2^exponent`, with the mantissa from 1 to below 2.
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 52 & 0x7ff).ok()? - 1_023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1_023 << 52);
    let within = BOUNDS.iter().take_while(|bound| **bound < mantissa).count();
    Some(exponent * 8 + i32::try_from(within).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_belong_to_the_bucket_below() {
        for (power, expected) in [(1.0, 0), (2.0, 8), (0.5, -8), (1024.0, 80), (2_f64.powi(-30), -240)] {
            assert_eq!(bucket(power), Some(expected), "{power}");
            assert_eq!(bucket(power * (1.0 + 1e-9)), Some(expected + 1), "{power}");
        }
        for (place, bound) in BOUNDS.iter().enumerate() {
            assert!((bound - 2_f64.powf(place as f64 / 8.0)).abs() < 1e-15);
            assert_eq!(bucket(*bound), Some(place as i32));
        }
        assert_eq!([bucket(0.0), bucket(-1.0), bucket(f64::NAN), bucket(f64::INFINITY)], [None; 4]);
        assert_eq!(bucket(1e-9), Some(FIRST_BUCKET));
    }

    #[test]
    fn durations_find_their_buckets() {
        let cells = LatencyCells::default();
        let empty = cells.histogram("h", Vec::new());
        assert_eq!((empty.first_bucket, empty.buckets.len(), empty.sum), (0, 0, 0.0));
        for duration in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_millis(1_500)] {
            cells.observe(duration);
        }
        let histogram = cells.histogram("h", Vec::new());
        // 1 s ends bucket 0, 2 s bucket 8; 1.5 s lies in bucket 5, between 2^(4/8) and 2^(5/8).
        assert_eq!(histogram.first_bucket, 0);
        assert_eq!(histogram.buckets, [1, 0, 0, 0, 0, 1, 0, 0, 1]);
        assert_eq!((histogram.zero_count, histogram.sum), (1, 4.5));
        cells.observe(Duration::from_nanos(1));
        cells.observe(Duration::from_secs(1_000_000));
        let histogram = cells.histogram("h", Vec::new());
        assert_eq!((histogram.first_bucket, histogram.buckets.len()), (FIRST_BUCKET, BUCKETS));
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 5);
    }

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket(value in 1e-9..1e9_f64) {
            let bucket = f64::from(bucket(value).unwrap());
            prop_assert!(2_f64.powf((bucket - 1.0) / 8.0) < value * (1.0 + 1e-12));
            prop_assert!(value <= 2_f64.powf(bucket / 8.0) * (1.0 + 1e-12));
        }
    }
}

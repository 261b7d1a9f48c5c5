//! What a histogram tells: how many values, their mean, and which share of them was at most how large.

use super::record::Histogram;

/// How far a quantile may be from the true one, as a share of it: half of a bucket, on the scale on which buckets are equally wide
/// (2^(1/16) - 1).
pub const BUCKET_ERROR: f64 = 0.044_273_782_427_413_84;

/// Buckets per power of two.
const BUCKETS_PER_OCTAVE: f64 = 8.0;

/// Where a bucket ends.
#[must_use]
pub fn upper_bound(bucket: i32) -> f64 {
    (f64::from(bucket) / BUCKETS_PER_OCTAVE).exp2()
}

impl Histogram {
    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.zero_count + self.buckets.iter().sum::<u64>()
    }

    /// The mean of the values, which no bucket has rounded; `None` without values.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / count as f64)
    }

    /// The value that this share of all values does not exceed, within [`BUCKET_ERROR`]; `None` without values, or for a share that
    /// is none.
    ///
    /// It is the middle of the bucket in which that value lies. To interpolate within the bucket would look finer, but could be
    /// wrong by a whole bucket.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&share) {
            return None;
        }
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count);
        let mut below = self.zero_count;
        if rank <= below {
            return Some(0.0);
        }
        for (bucket, in_bucket) in (self.first_bucket..).zip(&self.buckets) {
            below += in_bucket;
            if rank <= below {
                return Some(((f64::from(bucket) - 0.5) / BUCKETS_PER_OCTAVE).exp2());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(first_bucket: i32, buckets: &[u64], zero_count: u64) -> Histogram {
        Histogram { name: "h", labels: Vec::new(), first_bucket, buckets: buckets.to_vec(), zero_count, sum: 12.0 }
    }

    /// A histogram of these values, by the definition of its buckets.
    fn of(values: &[f64]) -> Histogram {
        let bucket = |value: f64| (-240..).find(|bucket| value <= upper_bound(*bucket)).unwrap();
        let zero_count = values.iter().filter(|value| **value == 0.0).count() as u64;
        let buckets: Vec<i32> = values.iter().filter(|value| **value > 0.0).map(|value| bucket(*value)).collect();
        let first_bucket = buckets.iter().min().copied().unwrap_or(0);
        let length = buckets.iter().max().map_or(0, |last| last - first_bucket + 1);
        let mut counts = vec![0; length as usize];
        buckets.iter().for_each(|bucket| counts[(bucket - first_bucket) as usize] += 1);
        Histogram { sum: values.iter().sum(), ..histogram(first_bucket, &counts, zero_count) }
    }

    #[test]
    fn nothing_has_no_quantiles() {
        let empty = histogram(0, &[], 0);
        assert_eq!((empty.count(), empty.mean(), empty.quantile(0.5)), (0, None, None));
        assert_eq!(histogram(0, &[1], 0).quantile(1.1), None);
        assert_eq!(histogram(0, &[1], 0).quantile(f64::NAN), None);
    }

    #[test]
    fn ranks_are_counted_from_one() {
        let two_and_two = histogram(1, &[2, 0, 2], 0);
        let middles = [-0.5_f64, 1.5].map(|bucket| ((bucket + 1.0) / 8.0).exp2());
        assert_eq!(two_and_two.quantile(0.5), Some(middles[0]));
        assert_eq!(two_and_two.quantile(0.500_1), Some(middles[1]));
        assert_eq!(two_and_two.quantile(0.0), Some(middles[0]));
        assert_eq!(two_and_two.quantile(1.0), Some(middles[1]));
        assert_eq!(two_and_two.mean(), Some(3.0));
        assert_eq!(histogram(1, &[1], 9).quantile(0.9), Some(0.0));
        assert!(histogram(1, &[1], 9).quantile(0.91).unwrap() > 0.0);
    }

    #[test]
    fn the_error_is_half_a_bucket() {
        assert!(((1.0 / 16.0_f64).exp2() - 1.0 - BUCKET_ERROR).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_bucket_error(
            mut values in prop::collection::vec(prop_oneof![1e-9..1e-3_f64, 1e-3..1e3_f64, Just(0.0)], 1..300),
            share in 0.0..=1.0_f64,
        ) {
            let histogram = of(&values);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            values.sort_by(f64::total_cmp);
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let (exact, told) = (values[rank - 1], histogram.quantile(share).unwrap());
            prop_assert!((told - exact).abs() <= exact * (BUCKET_ERROR + 1e-12), "{} instead of {}", told, exact);
        }
    }
}

//! Sums that only grow, made of counters of 32 bits that start again from zero.

use obs_common::histogram::{FIRST_BUCKET, LATENCY_SLOTS, LatencyHistogram};

use crate::model::record::{Histogram, Label};

/// Nanoseconds in a second.
const SECOND_NS: f64 = 1e9;

/// A histogram since the start.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    last: LatencyHistogram,
    sum_ns: u64,
    zero_count: u64,
    over_count: u64,
    buckets: [u64; LATENCY_SLOTS],
}

impl Default for Sums {
    fn default() -> Self {
        let (last, buckets) = (LatencyHistogram::EMPTY, [0; LATENCY_SLOTS]);
        Self { last, sum_ns: 0, zero_count: 0, over_count: 0, buckets }
    }
}

impl Sums {
    /// Adds what the kernel counted since the last call. Whether that was anything.
    pub(super) fn add(&mut self, now: &LatencyHistogram) -> bool {
        let Self { last, sum_ns, zero_count, over_count, buckets } = self;
        let zero = now.zero_count.wrapping_sub(last.zero_count);
        let mut events = zero;
        *sum_ns = sum_ns.wrapping_add(now.sum_ns.wrapping_sub(last.sum_ns));
        *zero_count += zero;
        *over_count += now.over_count.wrapping_sub(last.over_count);
        for (bucket, (slot, before)) in buckets.iter_mut().zip(now.slots.iter().zip(&last.slots)) {
            let added = u64::from(slot.wrapping_sub(*before));
            *bucket += added;
            events += added;
        }
        *last = *now;
        events > 0
    }

    /// Adds what was counted elsewhere.
    pub(super) fn merge(&mut self, other: &Self) {
        let Self { last: _, sum_ns, zero_count, over_count, buckets } = self;
        *sum_ns = sum_ns.wrapping_add(other.sum_ns);
        *zero_count += other.zero_count;
        *over_count += other.over_count;
        buckets.iter_mut().zip(&other.buckets).for_each(|(bucket, more)| *bucket += more);
    }

    /// What comes next begins from zero again: the kernel's key was removed.
    pub(super) fn begin_again(&mut self) {
        self.last = LatencyHistogram::EMPTY;
    }

    /// How many values there are.
    pub(super) fn count(&self) -> u64 {
        self.zero_count + self.buckets.iter().sum::<u64>()
    }

    /// Values that are longer than the last bucket reaches, in which they are.
    pub(super) fn over_count(&self) -> u64 {
        self.over_count
    }

    /// As a record, without the empty buckets at both ends.
    pub(super) fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        let first = self.buckets.iter().position(|count| *count > 0).unwrap_or(0);
        let end = self.buckets.iter().rposition(|count| *count > 0).map_or(first, |last| last + 1);
        Histogram {
            name,
            labels,
            first_bucket: FIRST_BUCKET + i32::try_from(first).unwrap_or(0),
            buckets: self.buckets[first..end].to_vec(),
            zero_count: self.zero_count,
            sum: self.sum_ns as f64 / SECOND_NS,
        }
    }
}

#[cfg(test)]
mod tests {
    use obs_common::histogram::{LatencySlot, latency_slot};

    use super::*;
    use crate::model::quantile::upper_bound;

    #[test]
    fn slots_that_start_again_from_zero_go_on() {
        let mut now = LatencyHistogram::EMPTY;
        let mut sums = Sums::default();
        assert!(!sums.add(&now));
        now.slots[10] = u32::MAX;
        now.sum_ns = 5_000_000_000;
        assert!(sums.add(&now));
        now.slots[10] = 4;
        now.zero_count = 2;
        assert!(sums.add(&now));
        assert!(!sums.add(&now));
        let histogram = sums.histogram("h", Vec::new());
        assert_eq!((histogram.first_bucket, histogram.buckets), (-229, vec![u64::from(u32::MAX) + 5]));
        assert_eq!((histogram.zero_count, histogram.sum), (2, 5.0));
        sums.begin_again();
        assert!(sums.add(&now));
        assert_eq!(sums.histogram("h", Vec::new()).buckets, [u64::from(u32::MAX) + 9]);
    }

    /// The kernel's slots, OTLP's exponential buckets and Prometheus's native ones are the same, bound by bound: a value lies in that
    /// bucket `i` of a record whose bound `2^(i/8)` is the first that is not below it.
    #[test]
    fn a_slot_is_the_bucket_of_the_same_bounds() {
        for slot in 0..LATENCY_SLOTS as u32 {
            let bound_ns = obs_common::histogram::latency_slot_bound_ns(slot).unwrap();
            for ns in [bound_ns, bound_ns + 1] {
                let LatencySlot::Slot(found) = latency_slot(ns) else { continue };
                let mut now = LatencyHistogram::EMPTY;
                now.slots[found as usize] = 1;
                let mut sums = Sums::default();
                sums.add(&now);
                let histogram = sums.histogram("h", Vec::new());
                assert_eq!(histogram.buckets, [1]);
                // Floats tell bounds apart that are a nanosecond from each other, but for their own rounding.
                let (bucket, seconds) = (histogram.first_bucket, ns as f64 / 1e9);
                assert!(seconds <= upper_bound(bucket) * (1.0 + 1e-15), "{ns} ns in bucket {bucket}");
                assert!(seconds > upper_bound(bucket - 1) * (1.0 - 1e-15), "{ns} ns in bucket {bucket}");
            }
        }
    }

    #[test]
    fn two_keys_are_added_up() {
        let sums = |slot: usize, count, sum_ns, zero_count| {
            let mut now = LatencyHistogram { sum_ns, zero_count, ..LatencyHistogram::EMPTY };
            now.slots[slot] = count;
            let mut sums = Sums::default();
            sums.add(&now);
            sums
        };
        let mut both = sums(10, 3, 1_000_000_000, 1);
        both.merge(&sums(12, 4, 2_000_000_000, 0));
        let histogram = both.histogram("h", Vec::new());
        assert_eq!((histogram.first_bucket, histogram.buckets), (-229, vec![3, 0, 4]));
        assert_eq!((histogram.zero_count, histogram.sum, both.count()), (1, 3.0, 8));
    }

    #[test]
    fn nothing_is_an_empty_record() {
        let histogram = Sums::default().histogram("h", Vec::new());
        assert_eq!((histogram.buckets.len(), histogram.count()), (0, 0));
    }
}

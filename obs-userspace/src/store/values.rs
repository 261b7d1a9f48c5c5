//! What a series has at one time, and how single values are written.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_varint, unzigzag, zigzag},
    limits::HISTOGRAM_BUCKETS_MAX,
    number_column::{put_floats, put_whole, read_floats, read_whole},
};

/// How often something had which size: base-2 exponential buckets of schema 3, as in [`crate::model::record::Histogram`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramValue {
    /// Index of the first bucket.
    pub first_bucket: i32,
    /// Events per bucket.
    pub buckets: Vec<u64>,
    /// Events below every bucket.
    pub zero_count: u64,
    /// Sum of all values, in the output's base unit.
    pub sum: f64,
}

impl HistogramValue {
    /// The first bucket, and how many there are, with another one added.
    fn span_with(&self, other: &Self) -> (i32, i64) {
        let end = |of: &Self| i64::from(of.first_bucket) + of.buckets.len() as i64;
        let (first, end) = match (self.buckets.is_empty(), other.buckets.is_empty()) {
            (_, true) => (self.first_bucket, end(self)),
            (true, false) => (other.first_bucket, end(other)),
            (false, false) => (self.first_bucket.min(other.first_bucket), end(self).max(end(other))),
        };
        (first, end - i64::from(first))
    }

    /// Adds another one. `false`, and nothing is added, if the buckets together would be more than are kept.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        let (first, length) = self.span_with(other);
        if length > HISTOGRAM_BUCKETS_MAX as i64 {
            return false;
        }
        if !other.buckets.is_empty() {
            let before = if self.buckets.is_empty() { 0 } else { (self.first_bucket - first) as usize };
            if before > 0 {
                self.buckets.splice(..0, std::iter::repeat_n(0, before));
            }
            self.first_bucket = first;
            self.buckets.resize(length as usize, 0);
            let offset = (i64::from(other.first_bucket) - i64::from(first)) as usize;
            for (sum, count) in self.buckets[offset..].iter_mut().zip(&other.buckets) {
                *sum = sum.saturating_add(*count);
            }
        }
        self.zero_count = self.zero_count.saturating_add(other.zero_count);
        self.sum += other.sum;
        true
    }
}

/// What a series had in one window, or in all windows of a bucket together.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    /// `lost` is what readings had reached just before the counter began again.
    Counter {
        first: f64,
        last: f64,
        lost: f64,
    },
    Gauge {
        min: f64,
        max: f64,
        sum: f64,
        last: f64,
    },
    Histogram(HistogramValue),
}

impl Cell {
    pub(super) fn counter(value: f64) -> Self {
        Self::Counter { first: value, last: value, lost: 0.0 }
    }

    pub(super) fn gauge(value: f64) -> Self {
        Self::Gauge { min: value, max: value, sum: value, last: value }
    }

    /// How many buckets it takes.
    pub(super) fn buckets(&self) -> u64 {
        match self {
            Self::Counter { .. } | Self::Gauge { .. } => 0,
            Self::Histogram(value) => value.buckets.len() as u64,
        }
    }

    /// How many buckets more it takes with what came next.
    pub(super) fn buckets_added(&self, next: &Self) -> u64 {
        match (self, next) {
            (Self::Histogram(sum), Self::Histogram(next)) => {
                let length = Some(sum.span_with(next).1 as usize).filter(|length| *length <= HISTOGRAM_BUCKETS_MAX);
                length.map_or(0, |length| (length - sum.buckets.len()) as u64)
            }
            (Self::Counter { .. } | Self::Gauge { .. } | Self::Histogram(_), _) => 0,
        }
    }

    /// Takes in what came next.
    pub(super) fn add(&mut self, next: &Self) {
        match (self, next) {
            (
                Self::Counter { last, lost, .. },
                Self::Counter { first: next_first, last: next_last, lost: next_lost },
            ) => {
                *lost += next_lost + if next_first < last { *last } else { 0.0 };
                *last = *next_last;
            }
            (
                Self::Gauge { min, max, sum, last },
                Self::Gauge { min: next_min, max: next_max, sum: next_sum, last: next_last },
            ) => {
                *min = min.min(*next_min);
                *max = max.max(*next_max);
                *sum += next_sum;
                *last = *next_last;
            }
            // What does not fit any more is a range of sizes that no measurement has: 512 buckets are a factor of 2^64.
            (Self::Histogram(sum), Self::Histogram(next)) => {
                sum.merge(next);
            }
            // A series has one kind.
            (Self::Counter { .. } | Self::Gauge { .. } | Self::Histogram(_), _) => {}
        }
    }
}

/// By how much a counter grew from one reading to the next; one that became smaller had begun again.
pub(super) fn grown(before: f64, after: f64) -> f64 {
    if after >= before { after - before } else { after }
}

/// Whole numbers below this are exact, and are written as whole numbers.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The same number as an integer, if it is one: with the sign, so not for -0.
pub(super) fn whole(value: f64) -> Option<i64> {
    let is_whole = value.abs() <= WHOLE_MAX && value.fract() == 0.0 && !(value == 0.0 && value.is_sign_negative());
    is_whole.then_some(value as i64)
}

/// Twice a whole number's zigzag, or 1 and the eight bytes of any other number.
pub(super) fn put_number(out: &mut Vec<u8>, value: f64) {
    match whole(value) {
        Some(whole) => put_varint(out, zigzag(whole) << 1),
        None => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

pub(super) fn number(cursor: &mut Cursor<'_>) -> Parsed<f64> {
    match cursor.varint()? {
        1 => Ok(f64::from_le_bytes(cursor.array()?)),
        even if even & 1 == 0 => Ok(unzigzag(even >> 1) as f64),
        _ => Err(Malformed("a value is of no known form")),
    }
}

/// Writes a histogram. Empty buckets at both ends are left out.
pub(super) fn put_histogram(out: &mut Vec<u8>, value: &HistogramValue) {
    put_buckets(out, value);
    put_varint(out, value.zero_count);
    put_number(out, value.sum);
}

pub(super) fn histogram(cursor: &mut Cursor<'_>) -> Parsed<HistogramValue> {
    let (first_bucket, buckets) = buckets(cursor)?;
    Ok(HistogramValue { first_bucket, buckets, zero_count: cursor.varint()?, sum: number(cursor)? })
}

/// Writes histograms by columns: zero counts, sums, then the buckets of each.
pub(super) fn put_histograms<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a HistogramValue> + Clone) {
    put_whole(out, &values.clone().map(|value| value.zero_count).collect::<Vec<_>>());
    put_floats(out, &values.clone().map(|value| value.sum).collect::<Vec<_>>());
    values.for_each(|value| put_buckets(out, value));
}

/// Reads so many histograms.
pub(super) fn histograms(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<HistogramValue>> {
    let zero_counts = read_whole(cursor, count)?;
    let sums = read_floats(cursor, count)?;
    let mut values = Vec::new();
    for (zero_count, sum) in zero_counts.into_iter().zip(sums) {
        let (first_bucket, buckets) = buckets(cursor)?;
        values.push(HistogramValue { first_bucket, buckets, zero_count, sum });
    }
    Ok(values)
}

fn put_buckets(out: &mut Vec<u8>, value: &HistogramValue) {
    let HistogramValue { first_bucket, buckets, zero_count: _, sum: _ } = value;
    let start = buckets.iter().position(|count| *count > 0).unwrap_or(buckets.len());
    let end = buckets.iter().rposition(|count| *count > 0).map_or(start, |last| last + 1);
    let buckets = &buckets[start..end];
    let first = if buckets.is_empty() { 0 } else { i64::from(*first_bucket) + start as i64 };
    put_varint(out, zigzag(first));
    put_varint(out, buckets.len() as u64);
    buckets.iter().for_each(|count| put_varint(out, *count));
}

fn buckets(cursor: &mut Cursor<'_>) -> Parsed<(i32, Vec<u64>)> {
    const RANGE: Malformed = Malformed("a histogram's buckets are beyond what numbers can be");
    let first_bucket = i32::try_from(unzigzag(cursor.varint()?)).map_err(|_| RANGE)?;
    let count = cursor.count(HISTOGRAM_BUCKETS_MAX)?;
    first_bucket.checked_add(count as i32).ok_or(RANGE)?;
    Ok((first_bucket, (0..count).map(|_| cursor.varint()).collect::<Parsed<_>>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram_of(first_bucket: i32, buckets: &[u64]) -> HistogramValue {
        HistogramValue { first_bucket, buckets: buckets.to_vec(), zero_count: 1, sum: 0.5 }
    }

    #[test]
    fn histograms_add_up_bucket_by_bucket() {
        let mut sum = histogram_of(-2, &[1, 2]);
        let more = |sum: &HistogramValue, first_bucket| {
            Cell::Histogram(sum.clone()).buckets_added(&Cell::Histogram(histogram_of(first_bucket, &[10])))
        };
        assert_eq!((more(&sum, -4), more(&sum, -1), more(&sum, 2), more(&sum, i32::MAX - 1)), (2, 0, 3, 0));
        assert!(sum.merge(&histogram_of(-4, &[10])));
        assert!(sum.merge(&histogram_of(-1, &[5, 6])));
        assert_eq!(sum, HistogramValue { first_bucket: -4, buckets: vec![10, 0, 1, 7, 6], zero_count: 3, sum: 1.5 });
        assert!(!sum.merge(&histogram_of(i32::MAX - 1, &[1])), "the buckets between would be two thousand million");
        assert_eq!(sum.zero_count, 3);
    }

    #[test]
    fn a_counter_that_began_again_grew_by_what_it_has() {
        let mut cell = Cell::counter(100.0);
        for value in [130.0, 5.0, 7.0] {
            cell.add(&Cell::counter(value));
        }
        assert_eq!(cell, Cell::Counter { first: 100.0, last: 7.0, lost: 130.0 });
    }

    #[test]
    fn empty_buckets_at_the_ends_are_left_out() {
        let mut out = Vec::new();
        put_histogram(&mut out, &histogram_of(3, &[0, 0, 4, 0, 5, 0]));
        assert_eq!(histogram(&mut Cursor::new(&out)), Ok(histogram_of(5, &[4, 0, 5])));
    }

    proptest! {
        #[test]
        fn gauges_keep_every_bit(bits: u64, whole: i64) {
            for value in [f64::from_bits(bits), whole as f64, -0.0, 0.0, WHOLE_MAX, -WHOLE_MAX, f64::INFINITY] {
                let mut out = Vec::new();
                put_number(&mut out, value);
                let mut cursor = Cursor::new(&out);
                prop_assert_eq!(number(&mut cursor).map(f64::to_bits), Ok(value.to_bits()));
                prop_assert!(cursor.is_empty());
            }
        }
    }
}

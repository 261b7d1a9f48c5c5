//! Latency histograms: which slot a duration is counted in, and what is kept of it.
//!
//! Slots are the buckets of OTLP exponential histograms of scale 3 and of Prometheus native histograms of schema 3: bucket `i` holds
//! `(2^((i-1)/8), 2^(i/8)]` **seconds**. The kernel counts in them as they are, so that nobody has to convert, or to guess on
//! which side of a bound a value lay. Both sides take the mapping from here.
//!
//! The bounds are kept in whole nanoseconds, rounded down: durations are whole nanoseconds too, so that `ns <= floor(bound)` just
//! if `ns <= bound`. That is exact, which a logarithm or a multiplication into ticks of 2^-30 s is not.

/// Slots of a histogram: 40 powers of two, in eight steps each.
pub const LATENCY_SLOTS: usize = 8 * OCTAVES;

/// The bucket that slot 0 is: the one that a nanosecond lies in.
pub const FIRST_BUCKET: i32 = -239;

/// Powers of two from a nanosecond on; the last slot ends at 2^10 s, a quarter of an hour.
const OCTAVES: usize = 40;

/// `10^9 * 2^(10 + r/8)`, rounded down: the bounds from 2^10 s to below 2^11 s, in nanoseconds. Every other bound is one of these
/// divided by a power of two; rounding down twice gives the same as once.
const TOP_BOUNDS_NS: [u64; 8] = [
    1_024_000_000_000,
    1_116_679_918_248,
    1_217_748_085_762,
    1_327_963_703_962,
    1_448_154_687_870,
    1_579_223_885_217,
    1_722_155_858_439,
    1_878_024_280_483,
];

/// The greatest duration of each slot, in nanoseconds; eight slots to a row.
static BOUNDS_NS: [[u64; 8]; OCTAVES] = bounds_ns();

const fn bounds_ns() -> [[u64; 8]; OCTAVES] {
    let mut bounds = [[0; 8]; OCTAVES];
    let mut slot = 0;
    while slot < LATENCY_SLOTS {
        // Bucket `slot - 239` ends at 2^((slot - 239) / 8) s; 319 is the last one, at 2^10 s.
        let below_top = (LATENCY_SLOTS - 1 - slot).div_ceil(8);
        let step = (slot + 1) % 8;
        bounds[slot / 8][slot % 8] = TOP_BOUNDS_NS[step] >> below_top;
        slot += 1;
    }
    bounds
}

/// Where a duration is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencySlot {
    /// It is zero, and so in no bucket.
    Zero,
    /// In this slot, which is below [`LATENCY_SLOTS`].
    Slot(u32),
    /// In the last slot, though it is longer than that reaches.
    Over,
}

/// Where a duration of so many nanoseconds is counted.
#[inline(always)]
#[must_use]
pub fn latency_slot(duration_ns: u64) -> LatencySlot {
    if duration_ns == 0 {
        return LatencySlot::Zero;
    }
    // The power of two; its row holds eight of the nine buckets that it lies across.
    let octave = 63 - duration_ns.leading_zeros();
    let Some(row) = BOUNDS_NS.get(octave as usize) else { return LatencySlot::Over };
    // How many of the row's bounds lie below.
    let mut above = 0;
    if duration_ns > row[3] {
        above += 4;
    }
    if duration_ns > row[(above + 1) & 7] {
        above += 2;
    }
    if duration_ns > row[above & 7] {
        above += 1;
    }
    if duration_ns > row[above & 7] {
        above += 1;
    }
    let slot = octave * 8 + above as u32;
    if slot < LATENCY_SLOTS as u32 { LatencySlot::Slot(slot) } else { LatencySlot::Over }
}

/// The greatest duration of a slot, in nanoseconds.
#[must_use]
pub fn latency_slot_bound_ns(slot: u32) -> Option<u64> {
    BOUNDS_NS.get(slot as usize / 8).map(|row| row[slot as usize % 8])
}

/// Durations of one kind; the value of the map `LATENCIES`. How many there are is the sum of `zero_count` and all slots.
///
/// Everything only grows, and slots start again from zero after 2^32: user space takes differences.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Sum of all durations, in nanoseconds.
    pub sum_ns: u64,
    /// Durations of zero.
    pub zero_count: u64,
    /// Durations that are longer than the last slot reaches, in which they are counted too.
    pub over_count: u64,
    /// Durations by bucket, from [`FIRST_BUCKET`] on.
    pub slots: [u32; LATENCY_SLOTS],
}

impl LatencyHistogram {
    /// Nothing.
    pub const EMPTY: Self = Self { sum_ns: 0, zero_count: 0, over_count: 0, slots: [0; LATENCY_SLOTS] };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number of up to 512 bits, the lowest word first.
    type Wide = [u64; 8];

    fn times(wide: Wide, factor: u64) -> Wide {
        let mut carry = 0;
        wide.map(|word| {
            let product = u128::from(word) * u128::from(factor) + carry;
            carry = product >> 64;
            product as u64
        })
    }

    fn power(base: u64, exponent: u32) -> Wide {
        (0..exponent).fold([1, 0, 0, 0, 0, 0, 0, 0], |wide, _| times(wide, base))
    }

    fn is_at_most(left: Wide, right: Wide) -> bool {
        left.iter().rev().le(right.iter().rev())
    }

    /// Whether `ns <= 10^9 * 2^(bucket/8)`, in whole numbers: both sides to the power of eight.
    fn is_within(ns: u64, bucket: i32) -> bool {
        let (mut left, mut right) = (power(ns, 8), power(10, 72));
        for _ in 0..bucket.unsigned_abs() {
            if bucket < 0 { left = times(left, 2) } else { right = times(right, 2) }
        }
        is_at_most(left, right)
    }

    #[test]
    fn every_bound_is_exact() {
        for slot in 0..LATENCY_SLOTS as u32 {
            let bucket = FIRST_BUCKET + slot as i32;
            let bound = latency_slot_bound_ns(slot).unwrap();
            assert!(is_within(bound, bucket), "{bound} ns lie above bucket {bucket}");
            assert!(!is_within(bound + 1, bucket), "{bound} ns are not all of bucket {bucket}");
            let float = 1e9 * 2_f64.powf(f64::from(bucket) / 8.0);
            assert!((bound as f64 - float).abs() <= 1.0 + float * 1e-12, "bucket {bucket}: {bound} and {float}");
        }
        assert_eq!(latency_slot_bound_ns(LATENCY_SLOTS as u32), None);
        assert_eq!(latency_slot_bound_ns(u32::MAX), None);
    }

    #[test]
    fn around_every_bound_the_slot_is_right() {
        for slot in 0..LATENCY_SLOTS as u32 {
            let bucket = FIRST_BUCKET + slot as i32;
            let bound = latency_slot_bound_ns(slot).unwrap();
            for ns in bound.saturating_sub(2)..=bound + 2 {
                let LatencySlot::Slot(found) = latency_slot(ns) else {
                    assert!(ns == 0 || ns > 1_024_000_000_000, "{ns}");
                    continue;
                };
                let found = FIRST_BUCKET + found as i32;
                assert!(is_within(ns, found) && !is_within(ns, found - 1), "{ns} ns, bucket {bucket}: {found}");
            }
        }
    }

    #[test]
    fn exact_powers_of_two_end_their_buckets() {
        // The powers of two of a second that are whole numbers of nanoseconds.
        for exponent in -9..=10_i32 {
            let seconds = 2_f64.powi(exponent);
            let ns = (seconds * 1e9) as u64;
            let bucket = |ns| match latency_slot(ns) {
                LatencySlot::Slot(slot) => FIRST_BUCKET + slot as i32,
                other => panic!("{ns} ns: {other:?}"),
            };
            assert_eq!(bucket(ns), exponent * 8, "{ns} ns are 2^{exponent} s");
            assert_eq!(bucket(ns - 1), exponent * 8);
            if exponent < 10 {
                assert_eq!(bucket(ns + 1), exponent * 8 + 1);
            }
        }
        assert_eq!(latency_slot_bound_ns(239 - 72), Some(1_953_125));
    }

    #[test]
    fn what_lies_outside_is_told_apart() {
        assert_eq!(latency_slot(0), LatencySlot::Zero);
        assert_eq!(latency_slot(1), LatencySlot::Slot(0));
        assert_eq!(latency_slot(1_024_000_000_000), LatencySlot::Slot(LATENCY_SLOTS as u32 - 1));
        assert_eq!(latency_slot(1_024_000_000_001), LatencySlot::Over);
        assert_eq!(latency_slot(1 << 40), LatencySlot::Over);
        assert_eq!(latency_slot(u64::MAX), LatencySlot::Over);
    }

    #[test]
    fn slots_never_fall_as_durations_grow() {
        let mut last = 0;
        for ns in 1..=200_000 {
            let LatencySlot::Slot(slot) = latency_slot(ns) else { panic!("{ns}") };
            assert!(slot >= last, "{ns}");
            last = slot;
        }
    }
}

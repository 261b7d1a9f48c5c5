//! One line a minute for a repeated cause.
//!
//! A cause is told when it is first met; what repeats it within a minute is held back and counted, and the next line of
//! that cause that is told says how many there were. A place in the source may besides tell only so many different causes
//! a minute, or else a field that varies without end would make every line a new cause.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long a cause that was told is not told again.
const QUIET: Duration = Duration::from_secs(60);

/// Most different causes that one place in the source tells within [`QUIET`].
const TOLD_PER_PLACE_MAX: u32 = 10;

/// Most causes that are remembered. There are some hundred places in the source, and most have one.
const CAUSES_MAX: usize = 1_024;

/// Whether a line is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is, and so many before it were not.
    Told {
        /// Lines of this cause (or, from this place, of causes beyond the limit) that were held back since the last was told.
        repeated: u64,
    },
    /// It is held back.
    Held,
}

/// A cause that was told.
struct Told {
    at: Instant,
    held: u64,
}

/// Where in the source a line is written: the address of what its event is described by, which stands still.
pub(super) type PlaceId = usize;

/// What a place in the source has told.
struct Place {
    since: Instant,
    told: u32,
    /// Lines that were held back because the place told too much.
    held: u64,
}

/// Who told what, and when.
#[derive(Default)]
pub(super) struct Repeats {
    causes: HashMap<(PlaceId, u64), Told>,
    /// As many as there are places in the source that log.
    places: HashMap<PlaceId, Place>,
    held_total: u64,
}

impl Repeats {
    /// Judges a line from a place, with the hash of its cause.
    pub(super) fn judge(&mut self, place: PlaceId, cause: u64, now: Instant) -> Verdict {
        let is_quiet = |at: Instant| now.saturating_duration_since(at) < QUIET;
        let key = (place, cause);
        if let Some(told) = self.causes.get_mut(&key).filter(|told| is_quiet(told.at)) {
            told.held += 1;
            self.held_total += 1;
            return Verdict::Held;
        }
        let place = self.places.entry(place).or_insert(Place { since: now, told: 0, held: 0 });
        if !is_quiet(place.since) {
            (place.since, place.told) = (now, 0);
        }
        if place.told >= TOLD_PER_PLACE_MAX {
            place.held += 1;
            self.held_total += 1;
            return Verdict::Held;
        }
        place.told += 1;
        let mut repeated = std::mem::take(&mut place.held);
        repeated += self.causes.remove(&key).map_or(0, |told| told.held);
        if self.causes.len() >= CAUSES_MAX {
            self.causes.retain(|_, told| is_quiet(told.at));
        }
        // With this many causes within the minute, the newest are not remembered: their places' limit holds them back.
        if self.causes.len() < CAUSES_MAX {
            self.causes.insert(key, Told { at: now, held: 0 });
        }
        Verdict::Told { repeated }
    }

    /// Lines that were held back since the start.
    pub(super) fn held_total(&self) -> u64 {
        self.held_total
    }

    /// Takes the number of lines that were held back and that no later line has told of.
    pub(super) fn take_untold(&mut self) -> u64 {
        let of_causes: u64 = self.causes.values_mut().map(|told| std::mem::take(&mut told.held)).sum();
        let of_places: u64 = self.places.values_mut().map(|place| std::mem::take(&mut place.held)).sum();
        of_causes + of_places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PlaceId = 1;
    const B: PlaceId = 2;

    fn at(second: u64) -> Instant {
        // Any moment: only differences count.
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(second)
    }

    const FRESH: Verdict = Verdict::Told { repeated: 0 };

    #[test]
    fn a_cause_is_told_once_a_minute_with_how_often() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.judge(A, 1, at(0)), FRESH);
        for second in 0..57 {
            assert_eq!(repeats.judge(A, 1, at(second)), Verdict::Held);
        }
        assert_eq!(repeats.judge(A, 1, at(60)), Verdict::Told { repeated: 57 });
        assert_eq!(repeats.judge(A, 1, at(119)), Verdict::Held);
        assert_eq!(repeats.judge(A, 1, at(1_000)), Verdict::Told { repeated: 1 });
        assert_eq!(repeats.judge(A, 1, at(2_000)), FRESH);
        assert_eq!(repeats.held_total(), 58);
    }

    #[test]
    fn causes_and_places_are_apart() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.judge(A, 1, at(0)), FRESH);
        assert_eq!(repeats.judge(A, 2, at(0)), FRESH);
        assert_eq!(repeats.judge(B, 1, at(0)), FRESH);
        assert_eq!(repeats.judge(B, 1, at(1)), Verdict::Held);
    }

    #[test]
    fn a_place_cannot_make_up_causes_without_end() {
        let mut repeats = Repeats::default();
        let told = (0..5_000).filter(|&cause| repeats.judge(A, cause, at(cause / 1_000)) == FRESH).count();
        assert_eq!(told, 10);
        assert_eq!(repeats.judge(A, 9_999, at(61)), Verdict::Told { repeated: 4_990 });
        // Each of its causes is still told once a minute only.
        assert_eq!(repeats.judge(A, 9_999, at(62)), Verdict::Held);
        assert_eq!(repeats.take_untold(), 1);
        assert_eq!(repeats.take_untold(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for cause in 0..100_000 {
            repeats.judge(A, cause, at(cause * 10));
        }
        assert!(repeats.causes.len() <= CAUSES_MAX);
        // A clock that stands still tells no more than the limit.
        let told = (0..100_000).filter(|&cause| repeats.judge(B, cause, at(5)) != Verdict::Held).count();
        assert_eq!(told, 10);
    }
}

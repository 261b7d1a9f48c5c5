//! Hands out places in an array of fixed length: first fit, neighbours joined when they are free again.

use std::collections::BTreeMap;

/// The free places of an array.
#[derive(Debug)]
pub(super) struct Space {
    /// Length of each free run by its beginning; no two touch.
    free: BTreeMap<u32, u32>,
}

impl Space {
    /// An array of which everything is free.
    pub(super) fn new(length: u32) -> Self {
        Self { free: BTreeMap::from([(0, length)]) }
    }

    /// Takes a run; `None` if no free one is long enough. A run of no length is nowhere.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let (&start, &free) = self.free.iter().find(|(_, free)| **free >= length)?;
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        Some(start)
    }

    /// Gives back a run that was taken.
    pub(super) fn give(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((&before, &before_length)) = self.free.range(..start).next_back()
            && before + before_length == start
        {
            self.free.remove(&before);
            (start, length) = (before, before_length + length);
        }
        if let Some(after_length) = self.free.remove(&(start + length)) {
            length += after_length;
        }
        self.free.insert(start, length);
    }

    /// How much is free.
    #[cfg(test)]
    fn free(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut space = Space::new(30);
        let runs: Vec<_> = (0..3).map(|_| space.take(10).unwrap()).collect();
        assert_eq!((runs, space.take(1), space.free()), (vec![0, 10, 20], None, 0));
        space.give(0, 10);
        space.give(20, 10);
        assert_eq!(space.take(11), None, "free, but in two pieces");
        space.give(10, 10);
        assert_eq!(space.take(30), Some(0));
        assert_eq!(space.take(0), Some(0));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_leaks(steps in prop::collection::vec((any::<bool>(), 1_u32..40, any::<usize>()), 1..200)) {
            let mut space = Space::new(256);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (take, length, pick) in steps {
                if take || taken.is_empty() {
                    if let Some(start) = space.take(length) {
                        prop_assert!(start + length <= 256);
                        prop_assert!(taken.iter().all(|(s, l)| start + length <= *s || s + l <= start));
                        taken.push((start, length));
                    }
                } else {
                    let (start, length) = taken.swap_remove(pick % taken.len());
                    space.give(start, length);
                }
                prop_assert_eq!(space.free() + taken.iter().map(|(_, l)| l).sum::<u32>(), 256);
            }
        }
    }
}

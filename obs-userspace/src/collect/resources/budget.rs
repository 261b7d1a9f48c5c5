//! Sums that only grow, for a bounded number of things; what exceeds the bound is added up as `~other`.

use std::{collections::HashMap, sync::Arc};

/// The name under which what exceeds a budget is added up.
pub(super) const OTHER: &str = "~other";

/// A sum that the kernel keeps, and that may begin again: with a device that comes back, or a container that restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growing {
    last: u64,
    sum: u64,
}

impl Growing {
    /// Takes the kernel's value; returns by how much the sum grew.
    pub(super) fn read(&mut self, value: u64) -> u64 {
        let grown = if value < self.last { value } else { value - self.last };
        self.last = value;
        self.sum = self.sum.saturating_add(grown);
        grown
    }

    /// Takes the kernel's value of a sum that never begins again, but may step back a little; returns by how much it grew.
    pub(super) fn read_steady(&mut self, value: u64) -> u64 {
        let grown = value.saturating_sub(self.last);
        self.last = self.last.max(value);
        self.sum = self.sum.saturating_add(grown);
        grown
    }

    pub(super) fn sum(self) -> u64 {
        self.sum
    }
}

#[derive(Debug)]
struct Member<const N: usize> {
    sums: [Growing; N],
    /// In which round it was last read.
    round: u64,
    is_listed: bool,
}

/// `N` sums for each of the things that are read in rounds, of which at most `listed_max` have a series of their own. Who
/// has one keeps it while it is there.
#[derive(Debug)]
pub(super) struct Budget<const N: usize> {
    members: HashMap<Arc<str>, Member<N>>,
    listed_max: usize,
    listed: usize,
    members_max: usize,
    round: u64,
    other: [u64; N],
    has_others: bool,
}

impl<const N: usize> Budget<N> {
    /// At most `listed_max` series of their own; at most 16 times as many are known at all.
    pub(super) fn new(listed_max: usize) -> Self {
        Self {
            members: HashMap::new(),
            listed_max,
            listed: 0,
            members_max: listed_max.saturating_mul(16),
            round: 0,
            other: [0; N],
            has_others: false,
        }
    }

    /// Takes one thing's sums of this round. `false` if even the number of known things is exceeded: it is not counted.
    pub(super) fn read(&mut self, name: &str, values: [u64; N]) -> bool {
        if !self.members.contains_key(name) {
            if self.members.len() >= self.members_max {
                return false;
            }
            let is_listed = self.listed < self.listed_max;
            self.listed += usize::from(is_listed);
            let member = Member { sums: [Growing::default(); N], round: self.round, is_listed };
            self.members.insert(name.into(), member);
        }
        let Some(member) = self.members.get_mut(name) else { return false };
        member.round = self.round;
        for ((sum, value), other) in member.sums.iter_mut().zip(values).zip(&mut self.other) {
            let grown = sum.read(value);
            if !member.is_listed {
                *other = other.saturating_add(grown);
                self.has_others = true;
            }
        }
        true
    }

    /// Whether this thing has a series of its own.
    pub(super) fn is_listed(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|member| member.is_listed)
    }

    /// Ends the round: forgets what was not read in it.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        self.members.retain(|_, member| member.round == round);
        self.listed = self.members.values().filter(|member| member.is_listed).count();
        self.round += 1;
    }

    /// The sums of everything that was read in the last round and has a series of its own.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&Arc<str>, [u64; N])> {
        let listed = self.members.iter().filter(|(_, member)| member.is_listed);
        listed.map(|(name, member)| (name, member.sums.map(Growing::sum)))
    }

    /// The sums of everything else since the start, if there ever was anything else.
    pub(super) fn other(&self) -> Option<[u64; N]> {
        self.has_others.then_some(self.other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<const N: usize>(budget: &Budget<N>) -> Vec<(String, [u64; N])> {
        let mut all: Vec<_> = budget.listed().map(|(name, sums)| (name.to_string(), sums)).collect();
        all.sort();
        all.extend(budget.other().map(|sums| (OTHER.to_owned(), sums)));
        all
    }

    #[test]
    fn a_sum_never_shrinks() {
        let mut sum = Growing::default();
        assert_eq!([5, 9, 2, 4].map(|value| sum.read(value)), [5, 4, 2, 2]);
        assert_eq!(sum.sum(), 13);
        let mut steady = Growing::default();
        assert_eq!([5, 9, 8, 10].map(|value| steady.read_steady(value)), [5, 4, 0, 1]);
        assert_eq!(steady.sum(), 10);
    }

    #[test]
    fn what_exceeds_the_budget_is_in_the_rest_and_the_whole_stays_the_whole() {
        let mut budget = Budget::<1>::new(2);
        for round in 1..=3 {
            for (name, value) in [("a", 10), ("b", 20), ("c", 1), ("d", 2)] {
                assert!(budget.read(name, [round * value]));
            }
            budget.end_round();
        }
        assert_eq!(all(&budget), [("a".to_owned(), [30]), ("b".to_owned(), [60]), (OTHER.to_owned(), [9])]);
        assert!(budget.is_listed("a") && !budget.is_listed("c"));
        // `a` goes; a newcomer takes its place, and `c` stays where it was.
        for (name, value) in [("b", 61), ("c", 4), ("e", 7)] {
            budget.read(name, [value]);
        }
        budget.end_round();
        budget.read("e", [8]);
        budget.read("c", [4]);
        budget.read("f", [5]);
        budget.end_round();
        assert_eq!(all(&budget), [("f".to_owned(), [5]), (OTHER.to_owned(), [18])]);
    }

    #[test]
    fn the_number_of_known_things_is_bounded() {
        let mut budget = Budget::<1>::new(1);
        let taken = (0..100).filter(|number| budget.read(&number.to_string(), [1])).count();
        assert_eq!((taken, budget.other()), (16, Some([15])));
    }
}

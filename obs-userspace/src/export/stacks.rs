//! The stacks of a profile as sequences of names, alike ones merged, in order.

use std::cmp::Ordering;

use super::{
    check::Checked,
    names::{Names, Place},
};
use crate::model::profile::{Profile, ProfileSample};

/// The different stacks by name. Frames that share a name (addresses of one function, processes of one program) fall
/// together.
pub(super) struct Stacks<'a> {
    profile: &'a Profile,
    /// The names that stacks consist of.
    pub(super) names: Names<'a>,
    /// Indices of the samples, ordered by name from the root on, so that stacks with a common root are neighbours.
    sorted: Vec<u32>,
    /// Which value counts.
    value: usize,
}

impl<'a> Stacks<'a> {
    pub(super) fn new(checked: &Checked<'a>) -> Self {
        let profile = checked.profile;
        let names = Names::new(profile, Place::FoldedLine);
        let mut sorted: Vec<u32> = (0..profile.samples.len() as u32).collect();
        let sample = |index: &u32| &profile.samples[*index as usize];
        sorted.sort_unstable_by(|left, right| by_path(&names, sample(left), sample(right)));
        Self { profile, names, sorted, value: checked.counted() }
    }

    /// Each different stack once, with a sample that has it and the sum of all such samples' values.
    pub(super) fn merged(&self) -> impl DoubleEndedIterator<Item = (&'a ProfileSample, u64)> {
        let sample = |index: &u32| &self.profile.samples[*index as usize];
        self.sorted
            .chunk_by(move |left, right| by_path(&self.names, sample(left), sample(right)) == Ordering::Equal)
            .map(move |alike| (sample(&alike[0]), alike.iter().map(|index| sample(index).values[self.value]).sum()))
    }
}

fn by_path(names: &Names<'_>, left: &ProfileSample, right: &ProfileSample) -> Ordering {
    names.path(left).cmp(names.path(right))
}

//! An order of a profile's tables that depends on their content only.
//!
//! Tables are filled in the order of hash maps and of the kernel's answers. Files that are compared, cached or kept in
//! a repository want the same order each time.

use std::cmp::Ordering;

use super::check::cut_of;
use crate::model::profile::{Frame, FrameKind, Module, Profile};

/// One table's order.
pub(super) struct Ranking {
    /// The entries' indices in order.
    pub(super) indices: Vec<u32>,
    /// The place in order of each index.
    pub(super) ranks: Vec<u32>,
}

impl Ranking {
    fn new<T>(entries: &[T], compare: impl Fn(&T, &T) -> Ordering) -> Self {
        let mut indices: Vec<u32> = (0..entries.len() as u32).collect();
        indices.sort_by(|left, right| compare(&entries[*left as usize], &entries[*right as usize]));
        let mut ranks = vec![0; entries.len()];
        for (rank, index) in indices.iter().enumerate() {
            ranks[*index as usize] = rank as u32;
        }
        Self { indices, ranks }
    }

    /// The place in order of an index.
    pub(super) fn rank(&self, index: u32) -> u32 {
        self.ranks[index as usize]
    }

    /// The entries of `table` in order.
    pub(super) fn of<'t, T>(&self, table: &'t [T]) -> impl Iterator<Item = &'t T> {
        self.indices.iter().map(|index| &table[*index as usize])
    }
}

/// The order of all tables.
pub(super) struct Order {
    /// By path, then build id.
    pub(super) modules: Ranking,
    /// By function, kind, module, address, source.
    pub(super) frames: Ranking,
    /// By pid, start, exec.
    pub(super) processes: Ranking,
    /// By process, thread name, reason of the cut, stack from the root on.
    pub(super) samples: Ranking,
}

impl Order {
    pub(super) fn new(profile: &Profile) -> Self {
        let modules = Ranking::new(&profile.modules, compare_modules);
        let frames = Ranking::new(&profile.frames, |left, right| compare_frames(&modules, left, right));
        let processes = Ranking::new(&profile.processes, |left, right| left.key.cmp(&right.key));
        let samples = Ranking::new(&profile.samples, |left, right| {
            let (process, frame) = (|index| processes.rank(index), |index: &u32| frames.rank(*index));
            (process(left.process), &left.thread_name, cut_of(left))
                .cmp(&(process(right.process), &right.thread_name, cut_of(right)))
                .then_with(|| left.stack.iter().rev().map(frame).cmp(right.stack.iter().rev().map(frame)))
                .then_with(|| left.values.cmp(&right.values))
        });
        Self { modules, frames, processes, samples }
    }
}

fn compare_modules(left: &Module, right: &Module) -> Ordering {
    (&left.path, &left.build_id).cmp(&(&right.path, &right.build_id))
}

fn compare_frames(modules: &Ranking, left: &Frame, right: &Frame) -> Ordering {
    let kind = |kind: FrameKind| kind as u8;
    let module = |frame: &Frame| frame.module.map(|index| modules.rank(index));
    (&left.function, kind(left.kind), module(left), left.address, &left.source).cmp(&(
        &right.function,
        kind(right.kind),
        module(right),
        right.address,
        &right.source,
    ))
}

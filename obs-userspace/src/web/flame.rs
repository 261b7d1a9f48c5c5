//! From a profile to the flame graph that the page draws: a tree in flat arrays, its largest nodes, and what is missing.
//!
//! Nodes stand in the order in which they are drawn from the left: a node, then its children with all that is theirs. With its
//! depth that is the whole tree. Children are in the order of their names, so that two pictures can be compared. At each node
//! `own` and the totals of its children add up to its total: what was left out is a child of its own.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::model::{
    profile::{FrameKind, Profile, ProfileSample},
    stack::StackEnd,
};

/// Most nodes while the tree is built; what would need more is added up under [`OTHER`].
const BUILD_NODES_MAX: usize = 400_000;
/// Most depth that is shown, with the process; what lies deeper is added up under [`OTHER`].
const DEPTH_MAX: usize = 512;
/// The name of what was left out.
const OTHER: &str = "~other";

/// What a node is; the page's colours follow it. The numbers are in the answer, and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
enum NodeKind {
    Process = 0,
    User = 1,
    UserInlined = 2,
    Jit = 3,
    Kernel = 4,
    KernelInlined = 5,
    /// In the place of the root of a stack that was cut.
    Cut = 6,
    /// Added up because it is too small, too deep or too much.
    Other = 7,
    /// What a stack waited for.
    Wait = 8,
}

/// What the numbers in [`Flame::kind`] mean, by number.
pub(super) const KINDS: [&str; 9] =
    ["process", "user", "user-inlined", "jit", "kernel", "kernel-inlined", "cut", "other", "wait"];

impl From<FrameKind> for NodeKind {
    fn from(kind: FrameKind) -> Self {
        match kind {
            FrameKind::User => Self::User,
            FrameKind::UserInlined => Self::UserInlined,
            FrameKind::Jit => Self::Jit,
            FrameKind::Kernel => Self::Kernel,
            FrameKind::KernelInlined => Self::KernelInlined,
            FrameKind::Wait => Self::Wait,
        }
    }
}

/// The tree. All arrays but `names` have one entry per node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Flame {
    /// Every different name.
    pub(super) names: Vec<String>,
    /// Index into `names`.
    pub(super) name: Vec<u32>,
    /// 0 for processes.
    pub(super) depth: Vec<u16>,
    /// Index into [`KINDS`].
    pub(super) kind: Vec<u8>,
    /// What was measured in it and in what it called.
    pub(super) total: Vec<u64>,
    /// What was measured in itself.
    pub(super) own: Vec<u64>,
}

/// How whole the stacks are, weighted by the values shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Quality {
    /// The sum over all stacks.
    pub(super) total: u64,
    /// In stacks that reach the thread's first frame, or need not.
    pub(super) complete: u64,
    /// In stacks that were cut, the largest first.
    pub(super) cut: Vec<Cut>,
}

/// Stacks that were cut for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cut {
    pub(super) reason: &'static str,
    pub(super) advice: &'static str,
    pub(super) value: u64,
}

fn cut_of(sample: &ProfileSample) -> Option<StackEnd> {
    sample.cut.filter(|end| *end != StackEnd::Complete)
}

fn value_of(sample: &ProfileSample, value_index: usize) -> u64 {
    sample.values.get(value_index).copied().unwrap_or_default()
}

/// How whole the stacks of a profile are, by one of its value types.
pub(super) fn quality(profile: &Profile, value_index: usize) -> Quality {
    let mut quality = Quality::default();
    let mut cuts: BTreeMap<&'static str, Cut> = BTreeMap::new();
    for sample in &profile.samples {
        let value = value_of(sample, value_index);
        quality.total = quality.total.saturating_add(value);
        match cut_of(sample) {
            None => quality.complete = quality.complete.saturating_add(value),
            Some(end) => {
                let reason = end.reason();
                let cut = cuts.entry(reason).or_insert(Cut { reason, advice: end.advice(), value: 0 });
                cut.value = cut.value.saturating_add(value);
            }
        }
    }
    quality.cut = cuts.into_values().filter(|cut| cut.value > 0).collect();
    quality.cut.sort_by_key(|cut| std::cmp::Reverse(cut.value));
    quality
}

/// A node's name and kind: what tells it from its siblings.
type Step = (u32, NodeKind);

/// The names of a profile, and the steps that its processes, cuts and frames are.
struct Names {
    names: Vec<String>,
    processes: Vec<u32>,
    frames: Vec<Step>,
    cuts: HashMap<&'static str, u32>,
    other: u32,
}

impl Names {
    fn of(profile: &Profile) -> Self {
        let mut texts: Vec<String> = vec![OTHER.to_owned()];
        let processes = profile.processes.iter().map(|process| process.name.to_string());
        let frames = profile.frames.iter().map(|frame| profile.label(frame));
        let cuts: BTreeMap<&'static str, String> = profile
            .samples
            .iter()
            .filter_map(cut_of)
            .map(|end| (end.reason(), format!("[cut: {}]", end.reason())))
            .collect();
        let (process_texts, frame_texts): (Vec<String>, Vec<String>) = (processes.collect(), frames.collect());
        texts.extend(process_texts.iter().chain(&frame_texts).chain(cuts.values()).cloned());
        texts.sort_unstable();
        texts.dedup();
        // Every text that is looked for is in the list.
        let rank = |text: &str| texts.binary_search_by(|known| known.as_str().cmp(text)).unwrap_or_default() as u32;
        Self {
            processes: process_texts.iter().map(|text| rank(text)).collect(),
            frames: frame_texts
                .iter()
                .zip(&profile.frames)
                .map(|(text, frame)| (rank(text), frame.kind.into()))
                .collect(),
            cuts: cuts.iter().map(|(reason, text)| (*reason, rank(text))).collect(),
            other: rank(OTHER),
            names: texts,
        }
    }

    /// A sample's way from the process to the leaf.
    fn path<'a>(&'a self, sample: &'a ProfileSample) -> impl Iterator<Item = Step> + 'a {
        let process = self.processes.get(sample.process as usize).copied().unwrap_or(self.other);
        let cut = cut_of(sample).and_then(|end| self.cuts.get(end.reason())).map(|name| (*name, NodeKind::Cut));
        let frames = sample.stack.iter().rev();
        let other = (self.other, NodeKind::Other);
        let frames = frames.map(move |frame| self.frames.get(*frame as usize).copied().unwrap_or(other));
        [(process, NodeKind::Process)].into_iter().chain(cut).chain(frames)
    }
}

impl Flame {
    /// The tree of a profile by one of its value types, with at most about `nodes_max` nodes: the largest ones, and one more for
    /// each of them that lost children. Also says how many nodes were left out.
    pub(super) fn of(profile: &Profile, value_index: usize, nodes_max: usize) -> (Self, u64) {
        let names = Names::of(profile);
        let mut order: Vec<&ProfileSample> =
            profile.samples.iter().filter(|sample| value_of(sample, value_index) > 0).collect();
        order.sort_by(|left, right| names.path(left).cmp(names.path(right)));
        let mut flame = Self::default();
        let mut open: Vec<(Step, usize)> = Vec::new();
        for sample in order {
            flame.add(&names, sample, value_of(sample, value_index), &mut open);
        }
        flame.names = names.names;
        flame.pruned(nodes_max, names.other)
    }

    /// Adds the stack that comes next in the order of paths. `open` is the way to the last node.
    fn add(&mut self, names: &Names, sample: &ProfileSample, value: u64, open: &mut Vec<(Step, usize)>) {
        let mut depth = 0;
        for step in names.path(sample) {
            if open.get(depth).is_none_or(|(known, _)| *known != step) {
                open.truncate(depth);
                if depth + 1 >= DEPTH_MAX || self.name.len() >= BUILD_NODES_MAX {
                    let other = (names.other, NodeKind::Other);
                    open.push((other, self.push(other, depth)));
                    depth += 1;
                    break;
                }
                open.push((step, self.push(step, depth)));
            }
            depth += 1;
        }
        open.truncate(depth);
        for (_, node) in open.iter() {
            self.total[*node] = self.total[*node].saturating_add(value);
        }
        if let Some((_, leaf)) = open.last() {
            self.own[*leaf] = self.own[*leaf].saturating_add(value);
        }
    }

    fn push(&mut self, (name, kind): Step, depth: usize) -> usize {
        self.name.push(name);
        self.depth.push(depth as u16);
        self.kind.push(kind as u8);
        self.total.push(0);
        self.own.push(0);
        self.name.len() - 1
    }

    /// Keeps the largest nodes. A node is never smaller than its children and stands before them, so that with a node its
    /// parents are kept too.
    fn pruned(self, nodes_max: usize, other: u32) -> (Self, u64) {
        let count = self.name.len();
        if count <= nodes_max {
            return (self.with_names_used(), 0);
        }
        let mut totals = self.total.clone();
        totals.sort_unstable_by(|left, right| right.cmp(left));
        let least = totals.get(nodes_max).copied().unwrap_or_default();
        let mut room = nodes_max - totals.partition_point(|total| *total > least);
        let mut kept = Self { names: self.names, ..Self::default() };
        // The way to where we are: per kept node, what was left out of its children. The first entry is above all processes.
        let mut missing: Vec<u64> = vec![0];
        let mut omitted = 0;
        let mut skip_below: Option<u16> = None;
        for node in 0..count {
            let depth = self.depth[node];
            if skip_below.is_some_and(|limit| depth > limit) {
                omitted += 1;
                continue;
            }
            skip_below = None;
            while missing.len() > usize::from(depth) + 1 {
                kept.close(&mut missing, other);
            }
            let is_kept = self.total[node] > least || (self.total[node] == least && room > 0);
            if !is_kept {
                if let Some(sum) = missing.last_mut() {
                    *sum = sum.saturating_add(self.total[node]);
                }
                omitted += 1;
                skip_below = Some(depth);
                continue;
            }
            if self.total[node] == least {
                room -= 1;
            }
            kept.name.push(self.name[node]);
            kept.depth.push(depth);
            kept.kind.push(self.kind[node]);
            kept.total.push(self.total[node]);
            kept.own.push(self.own[node]);
            missing.push(0);
        }
        while !missing.is_empty() {
            kept.close(&mut missing, other);
        }
        (kept.with_names_used(), omitted)
    }

    /// The children of the last open node are all there: what is missing of them becomes one more.
    fn close(&mut self, missing: &mut Vec<u64>, other: u32) {
        if let Some(sum @ 1..) = missing.pop() {
            let node = self.push((other, NodeKind::Other), missing.len());
            self.total[node] = sum;
            self.own[node] = sum;
        }
    }

    /// Adds what the profile itself lacks, beside the processes, so that the picture is of everything.
    pub(super) fn add_omitted(&mut self, value: u64) {
        if value == 0 {
            return;
        }
        let is_other = |at: &usize| self.depth[*at] == 0 && self.kind[*at] == NodeKind::Other as u8;
        let node = (0..self.name.len()).rev().find(|at| self.depth[*at] == 0).filter(is_other).unwrap_or_else(|| {
            let known = self.names.iter().position(|name| name == OTHER);
            let name = known.unwrap_or_else(|| {
                self.names.push(OTHER.to_owned());
                self.names.len() - 1
            });
            self.push((name as u32, NodeKind::Other), 0)
        });
        self.total[node] = self.total[node].saturating_add(value);
        self.own[node] = self.own[node].saturating_add(value);
    }

    /// Without the names that no node has.
    fn with_names_used(mut self) -> Self {
        let mut is_used = vec![false; self.names.len()];
        self.name.iter().for_each(|name| is_used[*name as usize] = true);
        let mut place = 0;
        let places: Vec<u32> = is_used
            .iter()
            .map(|is_used| {
                place += u32::from(*is_used);
                place.saturating_sub(1)
            })
            .collect();
        let mut used = is_used.iter();
        self.names.retain(|_| used.next().copied().unwrap_or_default());
        self.name.iter_mut().for_each(|name| *name = places[*name as usize]);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, ValueType},
    };

    /// A profile of these stacks: process, functions from the outermost to the innermost, cut, value.
    fn profile(stacks: &[(&str, &[&str], Option<StackEnd>, u64)]) -> Profile {
        let mut profile = Profile {
            collector: "cpu".into(),
            value_types: vec![ValueType::new("cpu", "nanoseconds")],
            period: None,
            started_unix_ns: 0,
            duration_ns: 0,
            modules: Vec::new(),
            frames: Vec::new(),
            processes: Vec::new(),
            samples: Vec::new(),
        };
        for (process, functions, cut, value) in stacks {
            let key = ProcessKey { pid: profile.processes.len() as u32, started_ns: 0, exec_id: 0 };
            let name = (*process).into();
            profile.processes.push(ProcessInfo { key, name, executable: None, container_id: None, cgroup: None });
            let first = profile.frames.len() as u32;
            for name in functions.iter().rev() {
                let function = Some((*name).into());
                profile.frames.push(Frame { function, kind: FrameKind::User, module: None, address: 0, source: None });
            }
            profile.samples.push(ProfileSample {
                process: profile.processes.len() as u32 - 1,
                thread_name: "t".into(),
                stack: (first..profile.frames.len() as u32).collect(),
                cut: *cut,
                values: vec![*value],
            });
        }
        profile
    }

    /// Per node: depth, name, total, own.
    fn rows(flame: &Flame) -> Vec<(u16, &str, u64, u64)> {
        (0..flame.name.len())
            .map(|at| (flame.depth[at], flame.names[flame.name[at] as usize].as_str(), flame.total[at], flame.own[at]))
            .collect()
    }

    fn example() -> Profile {
        profile(&[
            ("app", &["main", "b"], None, 5),
            ("app", &["main", "a"], None, 7),
            ("app", &["main"], None, 1),
            ("db", &["loop"], Some(StackEnd::TooDeep), 3),
            ("app", &["main", "a", "c"], Some(StackEnd::Complete), 2),
            ("none", &["never"], None, 0),
        ])
    }

    #[test]
    fn stacks_become_a_tree_in_the_order_of_names() {
        let (flame, omitted) = Flame::of(&example(), 0, 100);
        assert_eq!(omitted, 0);
        assert_eq!(
            rows(&flame),
            [
                (0, "app", 15, 0),
                (1, "main", 15, 1),
                (2, "a", 9, 7),
                (3, "c", 2, 2),
                (2, "b", 5, 5),
                (0, "db", 3, 0),
                (1, "[cut: too deep]", 3, 0),
                (2, "loop", 3, 3),
            ]
        );
        assert!(flame.names.is_sorted() && !flame.names.iter().any(|name| name == OTHER));
    }

    #[test]
    fn the_largest_nodes_are_kept_and_the_rest_is_added_up() {
        let (flame, omitted) = Flame::of(&example(), 0, 3);
        assert_eq!(omitted, 5);
        assert_eq!(
            rows(&flame),
            [
                (0, "app", 15, 0),
                (1, "main", 15, 1),
                (2, "a", 9, 7),
                (3, OTHER, 2, 2),
                (2, OTHER, 5, 5),
                (0, OTHER, 3, 3)
            ]
        );
    }

    #[test]
    fn what_the_profile_lacks_stands_beside_the_processes() {
        let (mut flame, _) = Flame::of(&profile(&[("app", &[], None, 5)]), 0, 100);
        flame.add_omitted(0);
        assert_eq!(rows(&flame), [(0, "app", 5, 5)]);
        flame.add_omitted(3);
        flame.add_omitted(4);
        assert_eq!(rows(&flame), [(0, "app", 5, 5), (0, OTHER, 7, 7)]);
        let (mut flame, _) = Flame::of(&example(), 0, 3);
        flame.add_omitted(2);
        assert_eq!(rows(&flame).last(), Some(&(0, OTHER, 5, 5)));
    }

    #[test]
    fn the_quality_is_told_by_reason() {
        let quality = quality(&example(), 0);
        assert_eq!((quality.total, quality.complete), (18, 15));
        assert_eq!(quality.cut.len(), 1);
        assert_eq!((quality.cut[0].reason, quality.cut[0].value), ("too deep", 3));
    }

    #[test]
    fn very_deep_stacks_end_in_what_was_left_out() {
        let deep = vec!["f"; 2 * DEPTH_MAX];
        let (flame, _) = Flame::of(&profile(&[("app", &deep, None, 4)]), 0, 10_000);
        assert_eq!(flame.name.len(), DEPTH_MAX);
        assert_eq!(rows(&flame).last(), Some(&((DEPTH_MAX - 1) as u16, OTHER, 4, 4)));
    }

    #[test]
    fn indices_that_lead_nowhere_are_shown_as_left_out() {
        let mut broken = example();
        broken.samples[0].stack = [77].into();
        broken.samples[1].process = 99;
        let (flame, _) = Flame::of(&broken, 0, 100);
        assert!(flame.names.iter().any(|name| name == OTHER));
        assert_eq!(Flame::of(&broken, 9, 100).0, Flame::default());
    }

    proptest! {
        #[test]
        fn everything_adds_up_whatever_is_left_out(
            stacks in prop::collection::vec((0_usize..3, prop::collection::vec(0_usize..4, 0..6), 0_u64..9), 0..40),
            nodes_max in 1_usize..60,
        ) {
            let names = ["a", "b", "c", "d"];
            let paths: Vec<Vec<&str>> = stacks.iter().map(|(_, path, _)| path.iter().map(|at| names[*at]).collect()).collect();
            let rows: Vec<_> =
                stacks.iter().zip(&paths).map(|((process, _, value), path)| (names[*process], path.as_slice(), None, *value)).collect();
            let (flame, omitted) = Flame::of(&profile(&rows), 0, nodes_max);
            let sum: u64 = stacks.iter().map(|(_, _, value)| value).sum();
            let count = flame.name.len();
            let of_processes: u64 = (0..count).filter(|at| flame.depth[*at] == 0).map(|at| flame.total[at]).sum();
            prop_assert_eq!(of_processes, sum);
            prop_assert!(count <= 2 * nodes_max + 1);
            prop_assert!(omitted == 0 || count >= nodes_max);
            for at in 0..count {
                let below = flame.depth[at + 1..].iter().position(|depth| *depth <= flame.depth[at]);
                let end = below.map_or(count, |length| at + 1 + length);
                let children: u64 =
                    (at + 1..end).filter(|child| flame.depth[*child] == flame.depth[at] + 1).map(|child| flame.total[child]).sum();
                prop_assert_eq!(flame.total[at], flame.own[at] + children);
            }
        }
    }
}

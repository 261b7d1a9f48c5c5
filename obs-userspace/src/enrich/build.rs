//! Makes a profile of stack samples: names for their addresses, equal things kept once, and what it is worth.

mod tables;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use self::tables::Tables;

use super::{
    process::{Ledger, Places},
    symbolize::{FileProblem, Resolved, Symbolizer},
};
use crate::model::{
    process::{ProcessInfo, ProcessKey},
    profile::{FrameDetail, Profile, ProfileSample, ValueType},
    record::StackSample,
    stack::{Stack, StackEnd, StackFrame},
    summary::{CutSummary, FrameCounts, ProcessSummary, StackCounts},
    wait::{Wait, Waker, WakerThread},
};

/// Most different (process, thread name, stack) that a profile is made of; samples beyond are counted as dropped.
pub const PROFILE_STACKS_MAX: usize = 1_000_000;

/// Functions in which threads begin, by their whole names.
const FIRST_FUNCTIONS: &[&str] = &[
    // Programs: the C libraries' and the dynamic linker's.
    "_start",
    "_start_c",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "libc_start_main_stage2",
    "_dl_start",
    "_dl_start_user",
    "_dl_start_final",
    "_dlstart",
    "_dlstart_c",
    // Threads.
    "start_thread",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "__clone_internal",
    // Go.
    "runtime.goexit",
    "runtime.goexit.abi0",
    "runtime.mstart",
    "runtime.mstart.abi0",
    "runtime.mstart0",
    "runtime.mstart1",
    "runtime.rt0_go",
    "runtime.rt0_go.abi0",
];

/// Functions of the kernel that replace a process's program. On the way the old program's memory goes, its stack included,
/// while its registers are still there.
const EXEC_FUNCTIONS: &[&str] = &["begin_new_exec", "exec_mmap", "load_elf_binary"];

/// From what a sample's value comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// How many samples or events.
    Count,
    /// So much for each of them.
    CountTimes(u64),
    /// Their summed weight.
    Weight,
}

/// What kind of profile is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// The collector's name.
    pub collector: &'static str,
    /// The values of each sample, and from what they come.
    pub values: Vec<(ValueType, ValueSource)>,
    /// How far apart samples were.
    pub period: Option<(ValueType, u64)>,
    /// What distinguishes frames.
    pub detail: FrameDetail,
}

/// A profile, and what there is to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltProfile {
    /// The profile.
    pub profile: Profile,
    /// User stacks, by whether they are complete, weighted by samples.
    pub user_stacks: StackCounts,
    /// Different frames, by whether they have a name.
    pub frames: FrameCounts,
    /// Each process, most samples first.
    pub processes: Vec<ProcessSummary>,
    /// Samples in the profile.
    pub samples: u64,
    /// Samples that found no room ([`PROFILE_STACKS_MAX`]).
    pub samples_dropped: u64,
    /// Files of which some addresses have no name, most addresses first.
    pub problems: Vec<FileProblem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    process: ProcessKey,
    thread_name: Arc<str>,
    user: Option<Arc<Stack>>,
    kernel: Option<Arc<Stack>>,
    wait: Option<Wait>,
    waker: Option<Waker>,
}

impl Group {
    fn waker(&self) -> Option<&WakerThread> {
        match &self.waker {
            Some(Waker::Thread(thread)) => Some(thread),
            Some(Waker::Interrupt | Waker::Lost) | None => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    weight: u64,
}

/// What tells one sample of a profile from another: process, thread name, frames, and why the stack was cut.
type SampleKey = (ProcessKey, Arc<str>, Arc<[u32]>, Option<StackEnd>);

/// Gathers samples, then makes a profile of them.
#[derive(Debug)]
pub struct ProfileBuilder {
    options: BuildOptions,
    groups: HashMap<Group, Total>,
    samples_dropped: u64,
}

impl ProfileBuilder {
    /// A builder without samples.
    #[must_use]
    pub fn new(options: BuildOptions) -> Self {
        Self { options, groups: HashMap::new(), samples_dropped: 0 }
    }

    /// Takes in a sample. Its addresses are looked up in the ledger at once, so that what can only be learnt from a live
    /// process is learnt while it lives; their names are found at the end.
    pub fn add(&mut self, ledger: &mut Ledger, sample: &StackSample) {
        let StackSample { process, thread_name, cgroup_id: _, user, kernel, wait, waker, count, weight } = sample;
        let group = Group {
            process: *process,
            thread_name: Arc::clone(thread_name),
            user: user.clone(),
            kernel: kernel.clone(),
            wait: *wait,
            waker: waker.clone(),
        };
        if let Some(total) = self.groups.get_mut(&group) {
            total.count = total.count.saturating_add(*count);
            total.weight = total.weight.saturating_add(*weight);
            return;
        }
        if self.groups.len() >= PROFILE_STACKS_MAX {
            self.samples_dropped = self.samples_dropped.saturating_add(*count);
            return;
        }
        if let Some(user) = user {
            ledger.observe(*process, user.frames.iter().map(StackFrame::lookup_address));
        }
        if let Some((thread, user)) = group.waker().and_then(|thread| Some((thread, thread.user.as_ref()?))) {
            ledger.observe(thread.process, user.frames.iter().map(StackFrame::lookup_address));
        }
        self.groups.insert(group, Total { count: *count, weight: *weight });
    }

    /// Everything that is needed to find the names, in another thread or later.
    #[must_use]
    pub fn gather(self, ledger: &Ledger) -> Gathered {
        let keys: HashSet<ProcessKey> = self
            .groups
            .keys()
            .flat_map(|group| std::iter::once(group.process).chain(group.waker().map(|thread| thread.process)))
            .collect();
        Gathered { places: ledger.places(keys), builder: self }
    }
}

/// Samples, and where the processes that they were taken of have their code.
#[derive(Debug)]
pub struct Gathered {
    builder: ProfileBuilder,
    places: Places,
}

impl Gathered {
    /// Finds the names, and makes the profile.
    #[must_use]
    pub fn name(self, symbolizer: &mut Symbolizer, started_unix_ns: u64, duration_ns: u64) -> BuiltProfile {
        let Self { builder: ProfileBuilder { options, groups, samples_dropped }, places } = self;
        // The same samples give the same profile, whatever the order in which they came.
        let mut groups: Vec<(Group, Total)> = groups.into_iter().collect();
        groups.sort_by_cached_key(|(group, _)| {
            let addresses = |stack: &Option<Arc<Stack>>| {
                stack.as_ref().map(|stack| stack.frames.iter().map(|frame| frame.address).collect::<Vec<u64>>())
            };
            (
                group.process,
                Arc::clone(&group.thread_name),
                addresses(&group.user),
                addresses(&group.kernel),
                group.wait,
                group.waker().map(|thread| {
                    (
                        thread.process,
                        Arc::clone(&thread.thread_name),
                        addresses(&thread.user),
                        addresses(&thread.kernel),
                    )
                }),
            )
        });
        let names = Addresses::resolve(&groups, &places, symbolizer);
        let mut tables = Tables::new(options.detail);
        let mut processes: BTreeMap<ProcessKey, (ProcessInfo, ProcessSummary)> = BTreeMap::new();
        let mut user_stacks = StackCounts::default();
        let mut cuts: HashMap<(ProcessKey, StackEnd, Option<Arc<str>>), u64> = HashMap::new();
        let mut samples: HashMap<SampleKey, Vec<u64>> = HashMap::new();
        let mut taken = 0_u64;
        for (group, total) in &groups {
            let mut stack = Vec::new();
            if let Some(waker) = &group.waker {
                tables.waker(waker, &names, &mut stack);
            }
            if let Some(wait) = group.wait {
                stack.extend(tables.wait(wait));
            }
            for frame in group.kernel.iter().flat_map(|stack| &stack.frames) {
                tables.expand(names.kernel(frame), &mut stack);
            }
            let mut outermost = None;
            let user = group.user.as_deref().filter(|user| !(is_gone(user.end) && names.executes_program(group)));
            for frame in user.iter().flat_map(|stack| &stack.frames) {
                let resolved = names.user(group.process, frame);
                tables.expand(resolved, &mut stack);
                outermost = resolved;
            }
            let quality = user_quality(user, outermost);
            let (_, summary) = processes.entry(group.process).or_insert_with(|| {
                let mut info = places.info(group.process).cloned().unwrap_or_else(|| ProcessInfo {
                    key: group.process,
                    name: Arc::default(),
                    executable: None,
                    container_id: None,
                    cgroup: None,
                });
                // Most threads have their process's name, so that is the best guess for one that nothing is known of.
                if info.name.is_empty() {
                    info.name = Arc::clone(&group.thread_name);
                }
                let summary =
                    ProcessSummary { pid: group.process.pid, name: info.name.to_string(), ..ProcessSummary::default() };
                (info, summary)
            });
            summary.samples = summary.samples.saturating_add(total.count);
            if let Quality::Cut(end) = quality {
                let file =
                    outermost.and_then(|resolved| resolved.module.as_ref()).map(|module| Arc::clone(&module.path));
                let cut = cuts.entry((group.process, end, file)).or_default();
                *cut = cut.saturating_add(total.count);
            }
            taken = taken.saturating_add(total.count);
            for counts in [&mut summary.user_stacks, &mut user_stacks] {
                count_stack(counts, quality, total.count);
            }
            let cut = match quality {
                Quality::Complete => None,
                Quality::Cut(end) => Some(end),
                // Of a kernel thread, the kernel's stack is all there is.
                Quality::Absent => group.kernel.as_ref().map(|stack| stack.end).filter(|end| is_cut_in_kernel(*end)),
            };
            let key = (group.process, Arc::clone(&group.thread_name), stack.into(), cut);
            let values = samples.entry(key).or_insert_with(|| vec![0; options.values.len()]);
            for (value, (_, source)) in values.iter_mut().zip(&options.values) {
                let more = match source {
                    ValueSource::Count => total.count,
                    ValueSource::CountTimes(each) => total.count.saturating_mul(*each),
                    ValueSource::Weight => total.weight,
                };
                *value = value.saturating_add(more);
            }
        }
        for ((process, end, file), samples) in cuts {
            if let Some((_, summary)) = processes.get_mut(&process) {
                let file = file.as_deref().map(str::to_owned);
                summary.cuts.push(CutSummary { file, reason: end.reason(), samples, advice: end.advice() });
            }
        }
        for (_, summary) in processes.values_mut() {
            let key = |cut: &CutSummary| (std::cmp::Reverse(cut.samples), cut.reason, cut.file.clone());
            summary.cuts.sort_by(|left, right| key(left).cmp(&key(right)));
        }
        let places: HashMap<ProcessKey, u32> = processes.keys().copied().zip(0..).collect();
        let (infos, mut summaries): (Vec<ProcessInfo>, Vec<ProcessSummary>) = processes.into_values().unzip();
        summaries.sort_by(|left, right| right.samples.cmp(&left.samples).then(left.pid.cmp(&right.pid)));
        let mut samples: Vec<ProfileSample> = samples
            .into_iter()
            .map(|((process, thread_name, stack, cut), values)| ProfileSample {
                process: places.get(&process).copied().unwrap_or_default(),
                thread_name,
                stack,
                cut,
                values,
            })
            .collect();
        samples.sort_by(|left, right| {
            let key = |sample: &ProfileSample| {
                (sample.process, Arc::clone(&sample.thread_name), Arc::clone(&sample.stack), sample.cut)
            };
            key(left).cmp(&key(right))
        });
        let frame_counts = tables.counts();
        BuiltProfile {
            profile: Profile {
                collector: options.collector.into(),
                value_types: options.values.iter().map(|(value_type, _)| value_type.clone()).collect(),
                period: options.period.clone(),
                started_unix_ns,
                duration_ns,
                modules: tables.modules.items,
                frames: tables.frames.items,
                processes: infos,
                samples,
            },
            user_stacks,
            frames: frame_counts,
            processes: summaries,
            samples: taken,
            samples_dropped,
            problems: symbolizer.problems(),
        }
    }
}

/// Every different address, resolved once.
struct Addresses {
    user: HashMap<(ProcessKey, u64), Resolved>,
    kernel: HashMap<u64, Resolved>,
}

impl Addresses {
    fn resolve(groups: &[(Group, Total)], places: &Places, symbolizer: &mut Symbolizer) -> Self {
        let mut user: Vec<(ProcessKey, u64)> = Vec::new();
        let mut kernel: Vec<u64> = Vec::new();
        for (group, _) in groups {
            let addresses = |stack: &Option<Arc<Stack>>| {
                stack
                    .clone()
                    .into_iter()
                    .flat_map(|stack| stack.frames.iter().map(StackFrame::lookup_address).collect::<Vec<u64>>())
            };
            user.extend(addresses(&group.user).map(|address| (group.process, address)));
            kernel.extend(addresses(&group.kernel));
            if let Some(thread) = group.waker() {
                user.extend(addresses(&thread.user).map(|address| (thread.process, address)));
                kernel.extend(addresses(&thread.kernel));
            }
        }
        user.sort_unstable();
        user.dedup();
        kernel.sort_unstable();
        kernel.dedup();
        let resolved = symbolizer.user(places, &user);
        let user = user.into_iter().zip(resolved).collect();
        let resolved = symbolizer.kernel(&kernel);
        Self { user, kernel: kernel.into_iter().zip(resolved).collect() }
    }

    fn user(&self, process: ProcessKey, frame: &StackFrame) -> Option<&Resolved> {
        self.user.get(&(process, frame.lookup_address()))
    }

    fn kernel(&self, frame: &StackFrame) -> Option<&Resolved> {
        self.kernel.get(&frame.lookup_address())
    }

    /// Whether the kernel was replacing the process's program by another.
    fn executes_program(&self, group: &Group) -> bool {
        let frames = group.kernel.iter().flat_map(|stack| &stack.frames);
        let names = frames.filter_map(|frame| self.kernel(frame)?.names.as_ref().ok());
        names.flat_map(|names| names.iter()).any(|frame| EXEC_FUNCTIONS.contains(&&*frame.function))
    }
}

/// Whether a walk ended as it does where the stack is not there any more.
fn is_gone(end: StackEnd) -> bool {
    matches!(
        end,
        StackEnd::Gone
            | StackEnd::ReadFailed
            | StackEnd::NotInSnapshot
            | StackEnd::NoMapping
            | StackEnd::NoProcessTable
            | StackEnd::NoFileTable
    )
}

/// How much of a user stack there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quality {
    Complete,
    Cut(StackEnd),
    Absent,
}

fn user_quality(stack: Option<&Stack>, outermost: Option<&Resolved>) -> Quality {
    let Some(stack) = stack else { return Quality::Absent };
    match stack.end {
        StackEnd::Complete => Quality::Complete,
        // A chain of frame pointers, or of return addresses, ends alike where the thread begins and where it was broken, and
        // start code is often assembly that nobody described; the name tells.
        end @ (StackEnd::FramePointerChain | StackEnd::ReturnAddressZero | StackEnd::NoRow) => {
            let function = outermost.and_then(|resolved| resolved.names.as_ref().ok()?.last());
            match function {
                Some(frame) if is_first_function(&frame.function) => Quality::Complete,
                _ => Quality::Cut(end),
            }
        }
        end => Quality::Cut(end),
    }
}

fn is_first_function(name: &str) -> bool {
    // Symbol versions and the compiler's splits come behind these.
    let base = name.split('@').next().unwrap_or(name);
    FIRST_FUNCTIONS.contains(&base) || base.starts_with("_rt0_")
}

fn is_cut_in_kernel(end: StackEnd) -> bool {
    // The kernel's own walk ends where the kernel was entered; it says so by either of these.
    !matches!(end, StackEnd::Complete | StackEnd::FramePointerChain)
}

fn count_stack(counts: &mut StackCounts, quality: Quality, samples: u64) {
    match quality {
        Quality::Complete => counts.complete = counts.complete.saturating_add(samples),
        Quality::Absent => counts.absent = counts.absent.saturating_add(samples),
        Quality::Cut(end) => {
            let count = counts.incomplete.entry(end.reason().to_owned()).or_default();
            *count = count.saturating_add(samples);
        }
    }
}

#[cfg(test)]
mod tests;

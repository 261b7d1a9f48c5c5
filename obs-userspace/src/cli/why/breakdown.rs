//! What the threads' time went into, part by part, and where in the programs: made of two profiles of the same time.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{
    profile::{Frame, FrameKind, Profile, ProfileSample},
    wait::WaitState,
};

/// A part of the time that threads live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// On a CPU, in the program itself.
    OnCpuUser,
    /// On a CPU, in the kernel.
    OnCpuKernel,
    /// Ready to run, but without a CPU.
    RunQueue,
    /// Ready to run, but beyond its cgroup's quota.
    Throttled,
    /// In `futex`.
    Lock,
    /// For a block device.
    BlockIo,
    /// In a system call on a socket.
    Network,
    /// For memory that was touched.
    PageFault,
    /// For a timer or another process.
    Sleep,
    /// In the kernel, so that no signal would wake it.
    Other,
}

impl Part {
    /// Every part, in the order in which they are listed.
    pub(super) const ALL: [Self; 10] = [
        Self::OnCpuUser,
        Self::OnCpuKernel,
        Self::RunQueue,
        Self::Throttled,
        Self::Lock,
        Self::BlockIo,
        Self::Network,
        Self::PageFault,
        Self::Sleep,
        Self::Other,
    ];

    /// A few words for people.
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::OnCpuUser => "on CPU, program",
            Self::OnCpuKernel => "on CPU, kernel",
            Self::RunQueue => "waiting for a CPU",
            Self::Throttled => "throttled",
            Self::Lock => "waiting for a lock",
            Self::BlockIo => "block I/O",
            Self::Network => "network",
            Self::PageFault => "page faults",
            Self::Sleep => "sleeping",
            Self::Other => "in the kernel, other",
        }
    }

    /// To which part a wait belongs; `None` for the time on a CPU, which samples divide.
    fn of(state: WaitState) -> Option<Self> {
        match state {
            WaitState::Sleep => Some(Self::Sleep),
            WaitState::Lock => Some(Self::Lock),
            WaitState::BlockIo => Some(Self::BlockIo),
            WaitState::Network => Some(Self::Network),
            WaitState::PageFault => Some(Self::PageFault),
            WaitState::Kernel => Some(Self::Other),
            WaitState::RunQueue | WaitState::Preempted => Some(Self::RunQueue),
            WaitState::Throttled => Some(Self::Throttled),
            WaitState::Running => None,
        }
    }
}

/// Where in a program a part of the time went, or who ended its waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    /// The process's name.
    pub(super) process: String,
    /// Functions of the program, outermost first; of a thread of the kernel's own, the kernel's. Before those of a waker stands who it
    /// was.
    pub(super) functions: Vec<String>,
    /// The innermost function of the kernel, if the program was in it.
    pub(super) kernel_function: Option<String>,
    /// How long, in nanoseconds.
    pub(super) ns: u64,
}

/// One part, and where its time went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PartTime {
    /// Which.
    pub(super) part: Part,
    /// How long all threads spent in it together, in nanoseconds.
    pub(super) ns: u64,
    /// Where, the longest first: each different stack once.
    pub(super) places: Vec<Place>,
    /// Who ended its waits, the longest waits first, as far as they were long enough to be asked about.
    pub(super) wakers: Vec<Place>,
}

/// What the threads' time went into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Breakdown {
    /// How long the threads lived together, in nanoseconds: the whole.
    pub(super) thread_time_ns: u64,
    /// All parts, in the order of [`Part::ALL`].
    pub(super) parts: Vec<PartTime>,
    /// What the parts lack of the whole, in nanoseconds; negative if they are more.
    pub(super) remainder_ns: i64,
    /// Samples that divide the time on CPU into program and kernel.
    pub(super) cpu_samples: u64,
}

impl Breakdown {
    /// Makes it of what was sampled on CPU and of all that threads did, waits and time on CPU.
    pub(super) fn new(cpu: &Profile, time: &Profile, thread_time_ns: u64) -> Self {
        let mut parts: BTreeMap<Part, Gathered> = BTreeMap::new();
        let mut running_ns = 0;
        for sample in &time.samples {
            let ns = sample.values.last().copied().unwrap_or_default();
            let Some((depth, state)) = wait_of(time, sample) else { continue };
            let Some(part) = Part::of(state) else {
                running_ns += ns;
                continue;
            };
            let gathered = parts.entry(part).or_default();
            gathered.ns += ns;
            gathered.places.add(time, sample, sample.stack.get(depth + 1..).unwrap_or_default(), ns);
            let waker = sample.stack.get(..depth).unwrap_or_default();
            if !waker.is_empty() {
                gathered.wakers.add(time, sample, waker, ns);
            }
        }
        let cpu_samples = divide_running(cpu, running_ns, &mut parts);
        let counted_ns: u64 = parts.values().map(|gathered| gathered.ns).sum();
        let parts = Part::ALL.map(|part| {
            let Gathered { ns, places, wakers } = parts.remove(&part).unwrap_or_default();
            PartTime { part, ns, places: places.longest_first(), wakers: wakers.longest_first() }
        });
        let remainder_ns = thread_time_ns.cast_signed().saturating_sub(counted_ns.cast_signed());
        Self { thread_time_ns, parts: parts.into(), remainder_ns, cpu_samples }
    }

    /// The share of the whole that some time is.
    pub(super) fn share(&self, ns: u64) -> f64 {
        if self.thread_time_ns == 0 { 0.0 } else { ns as f64 / self.thread_time_ns as f64 }
    }
}

/// Divides the time on CPU, which is exact, as the samples fell. Returns how many there were.
fn divide_running(cpu: &Profile, running_ns: u64, parts: &mut BTreeMap<Part, Gathered>) -> u64 {
    let samples: u64 = cpu.samples.iter().filter_map(|sample| sample.values.first()).sum();
    if samples == 0 {
        // Too little for one sample: of a program that runs at all, most is its own code.
        parts.entry(Part::OnCpuUser).or_default().ns += running_ns;
        return 0;
    }
    let mut kernel_samples = 0;
    for sample in &cpu.samples {
        let count = sample.values.first().copied().unwrap_or_default();
        let leaf = sample.stack.first().and_then(|frame| cpu.frames.get(*frame as usize));
        let part = if leaf.is_some_and(|leaf| leaf.kind.is_kernel()) { Part::OnCpuKernel } else { Part::OnCpuUser };
        if part == Part::OnCpuKernel {
            kernel_samples += count;
        }
        let ns = share_of(running_ns, count, samples);
        parts.entry(part).or_default().places.add(cpu, sample, &sample.stack, ns);
    }
    let kernel_ns = share_of(running_ns, kernel_samples, samples);
    parts.entry(Part::OnCpuKernel).or_default().ns += kernel_ns;
    parts.entry(Part::OnCpuUser).or_default().ns += running_ns - kernel_ns;
    samples
}

/// `whole * part / all`.
fn share_of(whole: u64, part: u64, all: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(all.max(1))).unwrap_or(u64::MAX)
}

/// For what a stack waited, and where in it that stands.
fn wait_of(profile: &Profile, sample: &ProfileSample) -> Option<(usize, WaitState)> {
    sample.stack.iter().enumerate().find_map(|(depth, frame)| {
        let frame = note(profile, *frame)?;
        let state = WaitState::ALL.into_iter().find(|state| frame.function.as_deref() == Some(state.frame()))?;
        Some((depth, state))
    })
}

/// A frame, if it stands for no code.
fn note(profile: &Profile, frame: u32) -> Option<&Frame> {
    profile.frames.get(frame as usize).filter(|frame| frame.kind == FrameKind::Wait)
}

#[derive(Debug, Default)]
struct Gathered {
    ns: u64,
    places: Places,
    wakers: Places,
}

/// Different stacks and their times.
#[derive(Debug, Default)]
struct Places(BTreeMap<(String, Vec<String>, Option<String>), u64>);

impl Places {
    /// Adds a stack, innermost first.
    fn add(&mut self, profile: &Profile, sample: &ProfileSample, frames: &[u32], ns: u64) {
        let process = profile.processes.get(sample.process as usize);
        let name = process.map_or_else(String::new, |process| process.name.to_string());
        let (kernel, program): (Vec<&Frame>, Vec<&Frame>) = frames
            .iter()
            .rev()
            .filter_map(|frame| profile.frames.get(*frame as usize))
            .partition(|frame| frame.kind.is_kernel());
        let is_kernel_only = program.iter().all(|frame| frame.kind == FrameKind::Wait);
        let cut = sample.cut.map(|end| format!("[cut: {}]", end.reason()));
        let inner = if is_kernel_only { kernel.as_slice() } else { &[] };
        let shown = program.iter().chain(inner).map(|frame| profile.label(frame));
        let kernel_function = if is_kernel_only { None } else { kernel.last().map(|frame| profile.label(frame)) };
        *self.0.entry((name, cut.into_iter().chain(shown).collect(), kernel_function)).or_default() += ns;
    }

    fn longest_first(self) -> Vec<Place> {
        let places = self.0.into_iter();
        let places =
            places.map(|((process, functions, kernel_function), ns)| Place { process, functions, kernel_function, ns });
        let mut places: Vec<Place> = places.filter(|place| place.ns > 0).collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.ns));
        places
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        process::{ProcessInfo, ProcessKey},
        profile::ValueType,
    };

    const USER: FrameKind = FrameKind::User;
    const KERNEL: FrameKind = FrameKind::Kernel;
    const NOTE: FrameKind = FrameKind::Wait;

    /// A profile of one process; stacks are given innermost first, with their values.
    fn profile(stacks: &[(&[(&str, FrameKind)], u64)]) -> Profile {
        let mut frames: Vec<Frame> = Vec::new();
        let mut samples = Vec::new();
        for (stack, value) in stacks {
            let places = stack.iter().map(|(function, kind)| {
                let function = Some(Arc::from(*function));
                frames.push(Frame { function, kind: *kind, module: None, address: 0, source: None });
                u32::try_from(frames.len() - 1).unwrap()
            });
            let stack: Arc<[u32]> = places.collect::<Vec<_>>().into();
            let values = vec![*value];
            samples.push(ProfileSample { process: 0, thread_name: "t".into(), stack, cut: None, values });
        }
        let key = ProcessKey { pid: 1, started_ns: 1, exec_id: 1 };
        Profile {
            collector: "test".into(),
            value_types: vec![ValueType::new("a", "count")],
            period: None,
            started_unix_ns: 0,
            duration_ns: 1,
            modules: Vec::new(),
            frames,
            processes: vec![ProcessInfo { key, name: "p".into(), executable: None, container_id: None, cgroup: None }],
            samples,
        }
    }

    fn ns_of(breakdown: &Breakdown, part: Part) -> u64 {
        breakdown.parts.iter().find(|time| time.part == part).unwrap().ns
    }

    #[test]
    fn the_parts_add_up_and_what_is_missing_is_said() {
        let cpu = profile(&[(&[("work", USER)], 3), (&[("read", KERNEL), ("work", USER)], 1)]);
        let time = profile(&[
            (&[("[on CPU]", NOTE)], 400),
            (&[("[lock]", NOTE), ("futex_wait", KERNEL), ("take", USER)], 100),
            (&[("[lock]", NOTE), ("[short waits]", NOTE)], 50),
            (&[("[pre-empted]", NOTE)], 20),
            (&[("[run queue]", NOTE)], 30),
            (&[("unlock", USER), ("[woken by w]", NOTE), ("[sleep]", NOTE), ("pause", USER)], 300),
        ]);
        let breakdown = Breakdown::new(&cpu, &time, 1_000);
        assert_eq!(ns_of(&breakdown, Part::OnCpuUser), 300);
        assert_eq!(ns_of(&breakdown, Part::OnCpuKernel), 100);
        assert_eq!(ns_of(&breakdown, Part::RunQueue), 50);
        assert_eq!(ns_of(&breakdown, Part::Lock), 150);
        assert_eq!(ns_of(&breakdown, Part::Sleep), 300);
        assert_eq!(breakdown.remainder_ns, 100);
        let sum: u64 = breakdown.parts.iter().map(|time| time.ns).sum();
        assert_eq!(i64::try_from(sum).unwrap() + breakdown.remainder_ns, 1_000);
    }

    #[test]
    fn a_function_named_like_a_wait_is_none() {
        let time = profile(&[(&[("[lock]", USER), ("[sleep]", NOTE)], 7)]);
        assert_eq!(ns_of(&Breakdown::new(&profile(&[]), &time, 7), Part::Sleep), 7);
    }

    #[test]
    fn places_and_wakers_are_told_apart() {
        let time = profile(&[
            (&[("unlock", USER), ("[woken by w]", NOTE), ("[lock]", NOTE), ("wait", KERNEL), ("take", USER)], 300),
            (&[("[lock]", NOTE), ("[short waits]", NOTE)], 50),
        ]);
        let breakdown = Breakdown::new(&profile(&[]), &time, 350);
        let lock = breakdown.parts.iter().find(|time| time.part == Part::Lock).unwrap();
        assert_eq!(lock.places[0].functions, ["take"]);
        assert_eq!(lock.places[0].kernel_function.as_deref(), Some("wait"));
        assert_eq!(lock.places[1].functions, ["[short waits]"]);
        assert_eq!(lock.wakers.len(), 1);
        assert_eq!(lock.wakers[0].functions, ["[woken by w]", "unlock"]);
    }

    #[test]
    fn of_the_kernels_own_threads_its_functions_are_told() {
        let time = profile(&[(&[("[sleep]", NOTE), ("worker", KERNEL), ("kthread", KERNEL)], 7)]);
        let breakdown = Breakdown::new(&profile(&[]), &time, 7);
        let sleep = breakdown.parts.iter().find(|time| time.part == Part::Sleep).unwrap();
        assert_eq!(
            (sleep.places[0].functions.join(" "), &sleep.places[0].kernel_function),
            ("kthread worker".into(), &None)
        );
    }

    #[test]
    fn more_than_the_whole_is_told_too() {
        let time = profile(&[(&[("[sleep]", NOTE)], 110)]);
        assert_eq!(Breakdown::new(&profile(&[]), &time, 100).remainder_ns, -10);
    }
}

//! The collectors: each turns what its BPF object left in the kernel into records of `model`.
//!
//! **Invariant:** [`COLLECTORS`] is the only list of collectors. The commands, their help, the default configuration, the
//! documentation table and the test that loads everything iterate over it.

pub mod cpu;
pub mod latency;
pub mod offcpu;
pub mod resources;
mod stacks;

use std::os::fd::BorrowedFd;

pub(crate) use self::stacks::user_stack;

use crate::{
    config::{
        filter::Filter,
        sampling::{Frequency, SamplingEvent},
        waits::WaitSettings,
    },
    kernel::{
        attach::KernelTypes,
        features::Feature,
        load::{KernelError, LoadOptions, Object},
        read::ProgramStats,
        unwind::UnwindMaps,
    },
    model::{
        process::ProcessEvent,
        profile::ValueType,
        record::Record,
        stack::{Stack, StackSnapshot},
        summary::SampleCounts,
    },
};

/// The BPF objects, built together with this binary.
mod objects {
    include!(concat!(env!("OUT_DIR"), "/bpf_objects.rs"));
}

/// Every collector.
pub static COLLECTORS: &[CollectorSpec] = &[cpu::SPEC, offcpu::SPEC, latency::SPEC];

/// The collector of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static CollectorSpec> {
    COLLECTORS.iter().find(|spec| spec.name == name)
}

/// All that the rest of obs knows of a collector.
#[derive(Debug)]
pub struct CollectorSpec {
    /// What users call it.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// The name of its BPF object: the file `obs-ebpf/src/bin/NAME.rs`.
    pub object: &'static str,
    /// The oldest kernel that it runs on.
    pub kernel_min: KernelVersion,
    /// What it needs of the kernel; `obs doctor` tries each.
    pub features: &'static [Feature],
    /// What it hands on.
    pub outputs: &'static [Output],
    /// Whether it samples: whether [`Settings::event`] and [`Settings::frequency`] mean something to it. Otherwise it measures
    /// waits, and [`Settings::waits`] does.
    pub samples: bool,
    /// Loads, attaches and starts it.
    pub start: fn(&Settings) -> Result<Box<dyn Collector>, KernelError>,
}

impl CollectorSpec {
    /// Whether it hands on stacks, of which a profile can be made.
    #[must_use]
    pub fn takes_stacks(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Stacks(_)))
    }
}

/// A kernel release, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

/// Something that a collector hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Stacks; each carries one value per type.
    Stacks(&'static [ValueType]),
    /// A growing sum: its name and unit.
    Counter {
        /// By OpenTelemetry's rules.
        name: &'static str,
        /// By OpenTelemetry's rules.
        unit: &'static str,
    },
    /// Distributions: their name and the unit of their values.
    Histogram {
        /// By OpenTelemetry's rules.
        name: &'static str,
        /// By OpenTelemetry's rules.
        unit: &'static str,
    },
}

/// What a collector is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to measure.
    pub filter: Filter,
    /// What triggers samples, for collectors that sample.
    pub event: SamplingEvent,
    /// How often, for collectors that sample.
    pub frequency: Frequency,
    /// Whether the BPF programs' own diagnostics are wanted.
    pub bpf_log: bool,
    /// Memory in the kernel for unwind tables, in bytes, for collectors that take stacks.
    pub unwind_bytes: u32,
    /// What is measured of waits, for collectors of waits.
    pub waits: WaitSettings,
}

/// Enough for the largest library that is common (LLVM: 5 MB) and some hundred of the usual size.
pub const UNWIND_BYTES_DEFAULT: u32 = 16 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            event: SamplingEvent::default(),
            frequency: Frequency::default(),
            bpf_log: false,
            unwind_bytes: UNWIND_BYTES_DEFAULT,
            waits: WaitSettings::default(),
        }
    }
}

/// What a collector says between two drains.
#[derive(Debug, Default)]
pub struct Polled {
    /// Processes that are measured for the first time.
    pub processes: Vec<ProcessEvent>,
    /// Stacks that the kernel side could not walk, for whoever can.
    pub snapshots: Vec<StackSnapshot>,
    /// Whether there is more that the next call says at once.
    pub has_more: bool,
}

/// A collector at work. Dropping it removes everything from the kernel.
pub trait Collector: Send {
    /// Becomes readable when [`Collector::poll`] has something to say at once.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// Takes what cannot wait. Never blocks.
    ///
    /// # Errors
    /// If the kernel side cannot be read.
    fn poll(&mut self) -> Result<Polled, KernelError>;

    /// Gives the stack that a snapshot ([`Polled::snapshots`]) turned out to be, or `None` if there was none. What was
    /// counted of it is handed out by the next [`Collector::drain`], and not before.
    fn complete(&mut self, snapshot: u64, stack: Option<Stack>);

    /// Takes everything that was measured since the last call. What is measured meanwhile waits for the next call.
    ///
    /// # Errors
    /// If the kernel side cannot be read; nothing is lost then.
    fn drain(&mut self, records: &mut Vec<Record>) -> Result<(), KernelError>;

    /// What became of the samples, since the start.
    ///
    /// # Errors
    /// If the kernel side cannot be read.
    fn sample_counts(&self) -> Result<SampleCounts, KernelError>;

    /// How long the threads that were measured lived together, in nanoseconds: what all that was counted adds up to. `None` for
    /// collectors that do not count all that threads do. Only after [`Collector::stop`].
    ///
    /// # Errors
    /// If the kernel side cannot be read.
    fn thread_time_ns(&self) -> Result<Option<u64>, KernelError> {
        Ok(None)
    }

    /// What the value types of stacks are, for this collector's settings.
    fn value_types(&self) -> &'static [ValueType];

    /// How far apart samples are, in the unit of the last value type; `None` if that is not fixed.
    fn period(&self) -> Option<u64>;

    /// What the BPF programs cost so far.
    fn program_stats(&self) -> Vec<ProgramStats>;

    /// The maps of the in-kernel unwinder, for whoever supplies it; once, and `None` for collectors without stacks.
    ///
    /// # Errors
    /// If they cannot be mapped.
    fn take_unwind_maps(&mut self) -> Result<Option<UnwindMaps>, KernelError>;

    /// Samples so often from now on, or not at all; of no effect on collectors that do not sample.
    ///
    /// # Errors
    /// If the kernel refuses; then nothing is sampled.
    fn set_frequency(&mut self, frequency: Option<Frequency>) -> Result<(), KernelError>;

    /// Stops measuring; what was measured can still be drained.
    ///
    /// # Errors
    /// If what is still under way cannot be read; what was measured before can be drained all the same.
    fn stop(&mut self) -> Result<(), KernelError>;
}

/// Brings a collector's object into the kernel.
fn load(spec: &CollectorSpec, settings: &Settings) -> Result<Object, KernelError> {
    load_with(spec, settings, &[], &[])
}

/// Brings a collector's object into the kernel, with constants and rooms of maps of its own.
fn load_with(
    spec: &CollectorSpec,
    settings: &Settings,
    constants: &[(&'static str, u32)],
    entries: &[(&'static str, u32)],
) -> Result<Object, KernelError> {
    let bytes = objects::OBJECTS.iter().find(|(name, _)| *name == spec.object).map(|(_, bytes)| *bytes);
    let bytes = bytes.ok_or(KernelError::Missing { object: spec.object, part: "embedded bytes" })?;
    crate::kernel::load::load(
        spec.object,
        bytes,
        &LoadOptions {
            filter: &settings.filter,
            log: settings.bpf_log,
            unwind_bytes: settings.unwind_bytes,
            waits: settings.waits,
            constants,
            entries,
        },
    )
}

/// Attaches the three programs by which the kernel side follows chosen processes when they fork, execute a program and end, if
/// that is asked for. Before anything is measured: else a child that is forked in between would be missed. Whether it was.
fn follow(
    object: &mut Object,
    settings: &Settings,
    [fork, exec, exit]: [&'static str; 3],
) -> Result<bool, KernelError> {
    let Filter { pids, pids_at_exec, follow_children, .. } = &settings.filter;
    let has_children = *follow_children && !pids.is_empty();
    if pids_at_exec.is_empty() && !has_children {
        return Ok(false);
    }
    let types = KernelTypes::read()?;
    if *follow_children {
        object.attach_btf_tracepoint(fork, "sched_process_fork", &types)?;
    }
    object.attach_btf_tracepoint(exec, "sched_process_exec", &types)?;
    object.attach_btf_tracepoint(exit, "sched_process_exit", &types)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_object_is_embedded_and_used() {
        let names: BTreeSet<_> = COLLECTORS.iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), COLLECTORS.len());
        let used: BTreeSet<_> = COLLECTORS.iter().map(|spec| spec.object).collect();
        let embedded: BTreeSet<_> = objects::OBJECTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(used, embedded);
    }

    #[test]
    fn an_object_pays_for_its_own_maps_only() {
        let unused = |object: &str| {
            let (_, bytes) = objects::OBJECTS.iter().find(|(name, _)| *name == object).unwrap();
            crate::kernel::load::unused_maps(bytes)
        };
        let has = |object: &str, map: &str| !unused(object).iter().any(|(name, _)| name == map);
        assert!(has("latency", "LATENCIES") && !has("latency", "UNWIND_ARENA") && !has("latency", "WAITS"));
        assert!(has("offcpu", "WAITS") && has("offcpu", "UNWIND_ARENA") && !has("offcpu", "LATENCIES"));
        assert!(has("cpu", "RING") && !has("cpu", "WAITS"));
        assert_eq!(unused("latency").iter().find(|(name, _)| name == "RING").map(|(_, entries)| *entries), Some(4_096));
    }
}

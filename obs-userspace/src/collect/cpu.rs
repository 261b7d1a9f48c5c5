//! CPU samples: which stacks were running when a clock (or the cycle counter) ticked.

use std::os::fd::BorrowedFd;

use super::{Collector, CollectorSpec, KernelVersion, Output, Settings, load, stacks::StackReader};
use crate::{
    config::sampling::SamplingEvent,
    kernel::{
        attach::KernelTypes,
        features::Feature,
        load::{KernelError, Object},
        read::{ProgramLog, ProgramStats},
        unwind::UnwindMaps,
    },
    model::{process::ProcessEvent, profile::ValueType, record::Record, summary::SampleCounts},
};

const SAMPLES: ValueType = ValueType { name: "samples", unit: "count" };
const CPU_TIME: &[ValueType] = &[SAMPLES, ValueType { name: "cpu", unit: "nanoseconds" }];
const CPU_CYCLES: &[ValueType] = &[SAMPLES, ValueType { name: "cycles", unit: "count" }];

/// The declaration of this collector.
pub const SPEC: CollectorSpec = CollectorSpec {
    name: "cpu",
    summary: "where CPU time goes: user and kernel stacks, sampled on every CPU",
    object: "cpu",
    kernel_min: KernelVersion { major: 5, minor: 15 },
    features: &[
        Feature::Bpf,
        Feature::KernelTypes,
        Feature::CpuClock,
        Feature::SamplingPrograms,
        Feature::TypedTracepoints,
        Feature::ProcessRecords,
        Feature::ProcessMappings,
        Feature::RingBuffer,
        Feature::LruHash,
        Feature::ArrayMmap,
        Feature::Loop,
        Feature::GetStack,
        Feature::TaskRegisters,
        Feature::BootClock,
        Feature::CgroupIds,
        Feature::KernelSymbols,
        Feature::RunTimeStats,
    ],
    outputs: &[Output::Stacks(CPU_TIME)],
    samples: true,
    start,
};

struct Cpu {
    object: Object,
    stacks: StackReader,
    event: SamplingEvent,
    period: Option<u64>,
    log: Option<ProgramLog>,
}

fn start(settings: &Settings) -> Result<Box<dyn Collector>, KernelError> {
    let mut object = load(&SPEC, settings)?;
    let stacks = StackReader::take(&mut object)?;
    let log = settings.bpf_log.then(|| ProgramLog::take(&mut object)).transpose()?;
    // Before the first sample: else a child that is forked in between would be missed. A program that a chosen process
    // executes is announced at once, so that its stacks can be unwound from the first sample on.
    if settings.filter.follow_children && !settings.filter.pids.is_empty() {
        let types = KernelTypes::read()?;
        object.attach_btf_tracepoint("cpu_fork", "sched_process_fork", &types)?;
        object.attach_btf_tracepoint("cpu_exec", "sched_process_exec", &types)?;
        object.attach_btf_tracepoint("cpu_exit", "sched_process_exit", &types)?;
    }
    object.attach_sampling("cpu_sample", settings.event, settings.frequency)?;
    let period = match settings.event {
        // The kernel turns the frequency of a software clock into this fixed period.
        SamplingEvent::CpuClock => Some(1_000_000_000 / u64::from(settings.frequency.hertz())),
        SamplingEvent::Cycles => None,
    };
    Ok(Box::new(Cpu { object, stacks, event: settings.event, period, log }))
}

impl Collector for Cpu {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.stacks.wake_fd()
    }

    fn poll(&mut self, events: &mut Vec<ProcessEvent>) -> Result<(), KernelError> {
        self.stacks.poll(events);
        if let Some(log) = &mut self.log {
            log.pass_on();
        }
        Ok(())
    }

    fn drain(&mut self, records: &mut Vec<Record>) -> Result<(), KernelError> {
        self.stacks.drain(records)
    }

    fn sample_counts(&self) -> Result<SampleCounts, KernelError> {
        self.stacks.sample_counts()
    }

    fn value_types(&self) -> &'static [ValueType] {
        match self.event {
            SamplingEvent::CpuClock => CPU_TIME,
            SamplingEvent::Cycles => CPU_CYCLES,
        }
    }

    fn period(&self) -> Option<u64> {
        self.period
    }

    fn program_stats(&self) -> Vec<ProgramStats> {
        self.object.program_stats()
    }

    fn take_unwind_maps(&mut self) -> Result<Option<UnwindMaps>, KernelError> {
        UnwindMaps::take(&mut self.object).map(Some)
    }

    fn stop(&mut self) {
        self.object.detach();
    }
}

//! CPU samples: which stacks were running when a clock (or the cycle counter) ticked.

use std::os::fd::BorrowedFd;

use super::{Collector, CollectorSpec, KernelVersion, Output, Polled, Settings, follow, load, stacks::StackReader};
use crate::{
    config::sampling::{Frequency, SamplingEvent},
    kernel::{
        features::Feature,
        load::{KernelError, Object},
        read::{ProgramLog, ProgramStats},
        unwind::UnwindMaps,
    },
    model::{profile::ValueType, record::Record, stack::Stack, summary::SampleCounts},
};

const SAMPLES: ValueType = ValueType::new("samples", "count");
const CPU_TIME: &[ValueType] = &[SAMPLES, ValueType::new("cpu", "nanoseconds")];
const CPU_CYCLES: &[ValueType] = &[SAMPLES, ValueType::new("cycles", "count")];

/// The program that runs at each tick.
const SAMPLER: &str = "cpu_sample";

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
    /// `None` while nothing is sampled.
    frequency: Option<Frequency>,
    log: Option<ProgramLog>,
}

fn start(settings: &Settings) -> Result<Box<dyn Collector>, KernelError> {
    let mut object = load(&SPEC, settings)?;
    let stacks = StackReader::take(&mut object)?;
    let log = settings.bpf_log.then(|| ProgramLog::take(&mut object)).transpose()?;
    follow(&mut object, settings, ["cpu_fork", "cpu_exec", "cpu_exit"])?;
    object.attach_sampling(SAMPLER, settings.event, settings.frequency)?;
    Ok(Box::new(Cpu { object, stacks, event: settings.event, frequency: Some(settings.frequency), log }))
}

impl Collector for Cpu {
    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.stacks.wake_fd()
    }

    fn poll(&mut self) -> Result<Polled, KernelError> {
        if let Some(log) = &mut self.log {
            log.pass_on();
        }
        Ok(self.stacks.poll())
    }

    fn complete(&mut self, snapshot: u64, stack: Option<Stack>) {
        self.stacks.complete(snapshot, stack);
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
        match self.event {
            // The kernel turns the frequency of a software clock into this fixed period.
            SamplingEvent::CpuClock => self.frequency.map(|frequency| 1_000_000_000 / u64::from(frequency.hertz())),
            SamplingEvent::Cycles => None,
        }
    }

    fn program_stats(&self) -> Vec<ProgramStats> {
        self.object.program_stats()
    }

    fn take_unwind_maps(&mut self) -> Result<Option<UnwindMaps>, KernelError> {
        UnwindMaps::take(&mut self.object).map(Some)
    }

    fn set_frequency(&mut self, frequency: Option<Frequency>) -> Result<(), KernelError> {
        if frequency == self.frequency {
            return Ok(());
        }
        self.object.detach_sampling();
        self.frequency = None;
        if let Some(frequency) = frequency {
            self.object.attach_sampling(SAMPLER, self.event, frequency)?;
        }
        self.frequency = frequency;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), KernelError> {
        self.object.detach();
        Ok(())
    }
}

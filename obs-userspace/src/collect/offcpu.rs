//! Waits: where threads do not run, for how long, and what for.

use std::{os::fd::BorrowedFd, time::Duration};

use super::{
    Collector, CollectorSpec, KernelVersion, Output, Polled, Settings, follow, load_with, stacks::StackReader,
};
use crate::{
    config::{sampling::Frequency, waits::WaitSettings},
    kernel::{
        attach::KernelTypes,
        features::Feature,
        load::{KernelError, Object},
        read::{ProgramLog, ProgramStats},
        unwind::UnwindMaps,
        waits::{Ends, UnfinishedWaits},
    },
    model::{profile::ValueType, record::Record, stack::Stack, summary::SampleCounts},
};

const WAITS: &[ValueType] = &[ValueType::new("waits", "count"), ValueType::new("offcpu", "nanoseconds")];

/// The declaration of this collector.
pub const SPEC: CollectorSpec = CollectorSpec {
    name: "offcpu",
    summary: "where threads wait, for how long and what for: locks, disks, the network, a CPU",
    object: "offcpu",
    kernel_min: KernelVersion { major: 5, minor: 15 },
    features: &[
        Feature::Bpf,
        Feature::KernelTypes,
        Feature::TypedTracepoints,
        Feature::SwitchEnd,
        Feature::TaskIterators,
        Feature::ProcessRecords,
        Feature::ProcessMappings,
        Feature::RingBuffer,
        Feature::LruHash,
        Feature::ArrayMmap,
        Feature::Loop,
        Feature::TaskRegisters,
        Feature::BootClock,
        Feature::CgroupIds,
        Feature::KernelSymbols,
        Feature::RunTimeStats,
    ],
    outputs: &[Output::Stacks(WAITS)],
    samples: false,
    start,
};

struct OffCpu {
    object: Object,
    stacks: StackReader,
    unfinished: UnfinishedWaits,
    settings: WaitSettings,
    log: Option<ProgramLog>,
    /// When threads were seen last whose end nobody saw; see [`Ends`].
    last_seen_ns: u64,
}

/// How long the last switch of a thread may come behind the notice that its process has ended, by which a recording may end.
const LAST_SWITCH: Duration = Duration::from_millis(50);

/// The program that runs for each thread at the beginning.
const BEGUN: &str = "offcpu_begun";
/// The program that runs for each thread at the end.
const UNFINISHED: &str = "offcpu_unfinished";

fn start(settings: &Settings) -> Result<Box<dyn Collector>, KernelError> {
    let types = KernelTypes::read()?;
    let switch_end = types.switch_end();
    let constants = [("HAS_SWITCH_END", u32::from(switch_end.is_some()))];
    let mut object = load_with(&SPEC, settings, &constants, &[])?;
    let stacks = StackReader::take(&mut object)?;
    let log = settings.bpf_log.then(|| ProgramLog::take(&mut object)).transpose()?;
    let unfinished = UnfinishedWaits::take(&mut object)?;
    object.load_task_iterator(BEGUN, &types)?;
    object.load_task_iterator(UNFINISHED, &types)?;
    follow(&mut object, settings, ["offcpu_fork", "offcpu_exec", "offcpu_exit"])?;
    // Who ends a wait comes first: a wait that nobody could end would seem to last for ever.
    match switch_end {
        Some(tracepoint) => object.attach_btf_tracepoint("offcpu_resumed", tracepoint, &types)?,
        None => object.attach_btf_tracepoint("offcpu_return", "sys_exit", &types)?,
    }
    object.attach_btf_tracepoint("offcpu_waking", "sched_waking", &types)?;
    object.attach_btf_tracepoint("offcpu_switch", "sched_switch", &types)?;
    object.attach_btf_tracepoint("offcpu_new", "sched_wakeup_new", &types)?;
    // Last: a thread whose wait ends meanwhile is seen by the others.
    object.run_task_iterator(BEGUN)?;
    Ok(Box::new(OffCpu { object, stacks, unfinished, settings: settings.waits, log, last_seen_ns: 0 }))
}

impl Collector for OffCpu {
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
        WAITS
    }

    fn period(&self) -> Option<u64> {
        None
    }

    fn program_stats(&self) -> Vec<ProgramStats> {
        self.object.program_stats()
    }

    fn take_unwind_maps(&mut self) -> Result<Option<UnwindMaps>, KernelError> {
        UnwindMaps::take(&mut self.object).map(Some)
    }

    fn set_frequency(&mut self, _frequency: Option<Frequency>) -> Result<(), KernelError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), KernelError> {
        if self.settings.running {
            std::thread::sleep(LAST_SWITCH);
        }
        self.object.detach();
        let Ends { waits, last_seen_ns } = self.unfinished.read(&mut self.object, UNFINISHED)?;
        self.stacks.add_unfinished(waits);
        self.last_seen_ns = last_seen_ns;
        Ok(())
    }

    fn thread_time_ns(&self) -> Result<Option<u64>, KernelError> {
        if self.settings.running {
            self.stacks.thread_time_ns().map(|time_ns| Some(time_ns.wrapping_add(self.last_seen_ns)))
        } else {
            Ok(None)
        }
    }
}

//! Attaches the programs of a loaded object to what makes them run.

use aya::{
    Btf,
    programs::tp_btf::BtfTracePointLink,
    programs::{
        BtfTracePoint, PerfEvent, Program,
        perf_event::{HardwareEvent, PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};

use super::load::{KernelError, Object};
use crate::config::sampling::{Frequency, SamplingEvent};

/// What keeps a program attached.
pub(super) enum Attached {
    Sampling(PerfEventLink),
    Tracepoint(BtfTracePointLink),
}

impl Object {
    /// Runs a program at each tick of an event, on every online CPU, until [`Object::detach`]. Returns the number of CPUs.
    ///
    /// # Errors
    /// If the program is refused, or the event does not exist on this machine.
    pub fn attach_sampling(
        &mut self,
        program: &'static str,
        event: SamplingEvent,
        frequency: Frequency,
    ) -> Result<usize, KernelError> {
        let cpus = online_cpus().map_err(|(what, error)| KernelError::system(format!("read {what}"), error))?;
        let perf: &mut PerfEvent = self.program_mut(program)?;
        perf.load().map_err(|error| KernelError::program(format!("load the BPF program {program}"), error))?;
        let config = match event {
            SamplingEvent::CpuClock => PerfEventConfig::Software(SoftwareEvent::CpuClock),
            SamplingEvent::Cycles => PerfEventConfig::Hardware(HardwareEvent::CpuCycles),
        };
        let policy = SamplePolicy::Frequency(u64::from(frequency.hertz()));
        let mut links = Vec::with_capacity(cpus.len());
        for &cpu in &cpus {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            let attached =
                perf.attach(config, scope, policy, false).and_then(|id| perf.take_link(id)).map_err(|error| {
                    let hint = match event {
                        SamplingEvent::CpuClock => "",
                        SamplingEvent::Cycles => " (this machine may have no hardware counters: try --event cpu-clock)",
                    };
                    KernelError::program(format!("sample CPU {cpu} by {event}{hint}"), error)
                })?;
            links.push(Attached::Sampling(attached));
        }
        self.attached.append(&mut links);
        Ok(cpus.len())
    }

    /// Runs a program at each hit of a tracepoint that it takes typed arguments from.
    ///
    /// # Errors
    /// If the program is refused, or this kernel has no such tracepoint.
    pub fn attach_btf_tracepoint(
        &mut self,
        program: &'static str,
        tracepoint: &str,
        btf: &KernelTypes,
    ) -> Result<(), KernelError> {
        let typed: &mut BtfTracePoint = self.program_mut(program)?;
        let what = || format!("attach the BPF program {program} to the tracepoint {tracepoint}");
        typed.load(tracepoint, &btf.0).map_err(|error| KernelError::program(what(), error))?;
        let link = typed.attach().and_then(|id| typed.take_link(id));
        let link = link.map_err(|error| KernelError::program(what(), error))?;
        self.attached.push(Attached::Tracepoint(link));
        Ok(())
    }

    /// Detaches everything. Programs and maps stay, so that what they counted can still be read.
    pub fn detach(&mut self) {
        for attached in self.attached.drain(..) {
            // The kernel side of a link goes with its descriptor; there is nothing that could fail and be mended.
            match attached {
                Attached::Sampling(link) => drop(link),
                Attached::Tracepoint(link) => drop(link),
            }
        }
    }

    fn program_mut<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, KernelError>
    where
        &'a mut P: TryFrom<&'a mut Program>,
    {
        let object = self.name;
        let missing = || KernelError::Missing { object, part: name };
        self.ebpf.program_mut(name).and_then(|program| <&mut P>::try_from(program).ok()).ok_or_else(missing)
    }
}

/// The kernel's own types, in the form that attaching to typed tracepoints needs; tens of megabytes while it lives.
pub struct KernelTypes(Btf);

impl KernelTypes {
    /// Reads them.
    ///
    /// # Errors
    /// If the kernel does not publish them.
    pub fn read() -> Result<Self, KernelError> {
        let path = super::btf::path();
        Btf::parse_file(&path, aya::Endianness::default()).map(Self).map_err(|error| KernelError::Map {
            map: "(kernel types)",
            why: format!("{} cannot be read: {error}", path.display()),
        })
    }
}

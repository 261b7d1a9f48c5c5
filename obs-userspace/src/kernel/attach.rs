//! Attaches the programs of a loaded object to what makes them run.

use aya::{
    Btf,
    programs::{
        BtfTracePoint, PerfEvent, Program,
        perf_event::{HardwareEvent, PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};

use super::load::{KernelError, Object};
use crate::config::sampling::{Frequency, SamplingEvent};

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
        for &cpu in &cpus {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            perf.attach(config, scope, policy, false).map_err(|error| {
                let hint = match event {
                    SamplingEvent::CpuClock => "",
                    SamplingEvent::Cycles => " (this machine may have no hardware counters: try --event cpu-clock)",
                };
                KernelError::program(format!("sample CPU {cpu} by {event}{hint}"), error)
            })?;
        }
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
        typed.attach().map_err(|error| KernelError::program(what(), error))?;
        Ok(())
    }

    /// Stops a program from running; its maps stay.
    ///
    /// # Errors
    /// If the object has no such program.
    pub fn unload_program(&mut self, program: &'static str) -> Result<(), KernelError> {
        let missing = KernelError::Missing { object: self.name, part: program };
        let unloaded = match self.ebpf.program_mut(program).ok_or(missing)? {
            Program::PerfEvent(perf) => perf.unload(),
            Program::BtfTracePoint(typed) => typed.unload(),
            _ => Ok(()),
        };
        unloaded.map_err(|error| KernelError::program(format!("unload the BPF program {program}"), error))
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

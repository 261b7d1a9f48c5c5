//! Attaches the programs of a loaded object to what makes them run.

use std::io::Read as _;

use aya::{
    Btf,
    programs::tp_btf::BtfTracePointLink,
    programs::{
        BtfTracePoint, Iter, PerfEvent, Program,
        perf_event::{HardwareEvent, PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use aya_obj::btf::BtfKind;

use super::{
    btf,
    load::{KernelError, Object},
};
use crate::config::sampling::{Frequency, SamplingEvent};

/// What keeps a program attached.
pub(super) enum Attached {
    Sampling(PerfEventLink),
    Tracepoint(BtfTracePointLink),
}

/// A kind of page fault that the kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFaultEvent {
    /// What was missing was in memory.
    Minor,
    /// It had to be read from a disk.
    Major,
}

impl Object {
    /// Runs a program at each tick of an event, on every online CPU, until [`Object::detach`] or [`Object::detach_sampling`].
    /// Returns the number of CPUs.
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
        // Loaded already if it was attached before.
        if perf.fd().is_err() {
            perf.load().map_err(|error| KernelError::program(format!("load the BPF program {program}"), error))?;
        }
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
        types: &KernelTypes,
    ) -> Result<(), KernelError> {
        let what = || format!("attach the BPF program {program} to the tracepoint {tracepoint}");
        let typed: &mut BtfTracePoint = self.program_mut(program)?;
        let types = types.tracepoint(tracepoint).ok_or_else(|| KernelError::Program {
            what: what(),
            why: "this kernel has no such tracepoint".to_owned(),
        })?;
        typed.load(tracepoint, &types).map_err(|error| KernelError::program(what(), error))?;
        let link = typed.attach().and_then(|id| typed.take_link(id));
        let link = link.map_err(|error| KernelError::program(what(), error))?;
        self.attached.push(Attached::Tracepoint(link));
        Ok(())
    }

    /// Loads a program that runs for each thread when it is asked to.
    ///
    /// # Errors
    /// If the program is refused.
    pub fn load_task_iterator(&mut self, program: &'static str, types: &KernelTypes) -> Result<(), KernelError> {
        let what = || format!("load the BPF program {program} that looks at each thread");
        let iterator: &mut Iter = self.program_mut(program)?;
        let types = types.task_iterator().ok_or_else(|| KernelError::Program {
            what: what(),
            why: "this kernel has no iterator over threads".to_owned(),
        })?;
        iterator.load("task", &types).map_err(|error| KernelError::program(what(), error))
    }

    /// Runs a loaded program for each thread, and returns what it wrote.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn run_task_iterator(&mut self, program: &'static str) -> Result<Vec<u8>, KernelError> {
        let what = || format!("run the BPF program {program} for each thread");
        let iterator: &mut Iter = self.program_mut(program)?;
        let link = iterator.attach().and_then(|id| iterator.take_link(id));
        let link = link.map_err(|error| KernelError::program(what(), error))?;
        let mut file =
            link.into_file().map_err(|error| KernelError::Program { what: what(), why: error.to_string() })?;
        let mut written = Vec::new();
        file.read_to_end(&mut written).map_err(|error| KernelError::system(what(), error))?;
        Ok(written)
    }

    /// Runs a program at each page fault of a kind, on every online CPU.
    ///
    /// # Errors
    /// If the program is refused, or the kernel does not count page faults.
    pub fn attach_page_faults(&mut self, program: &'static str, kind: PageFaultEvent) -> Result<(), KernelError> {
        let cpus = online_cpus().map_err(|(what, error)| KernelError::system(format!("read {what}"), error))?;
        let perf: &mut PerfEvent = self.program_mut(program)?;
        perf.load().map_err(|error| KernelError::program(format!("load the BPF program {program}"), error))?;
        let (event, name) = match kind {
            PageFaultEvent::Minor => (SoftwareEvent::PageFaultsMin, "minor"),
            PageFaultEvent::Major => (SoftwareEvent::PageFaultsMaj, "major"),
        };
        let config = PerfEventConfig::Software(event);
        let mut links = Vec::with_capacity(cpus.len());
        for &cpu in &cpus {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            // Each one, and not one in so many.
            let attached = perf.attach(config, scope, SamplePolicy::Period(1), false).and_then(|id| perf.take_link(id));
            let what = || format!("run the BPF program {program} at each {name} page fault on CPU {cpu}");
            links.push(Attached::Sampling(attached.map_err(|error| KernelError::program(what(), error))?));
        }
        self.attached.append(&mut links);
        Ok(())
    }

    /// Detaches what samples. It may be attached again, at another frequency.
    pub fn detach_sampling(&mut self) {
        self.attached.retain(|attached| match attached {
            Attached::Sampling(_) => false,
            Attached::Tracepoint(_) => true,
        });
    }

    /// Detaches everything. Programs and maps stay, so that what they counted can still be read.
    pub fn detach(&mut self) {
        // The other way round than they were attached: some rely on what others note before.
        for attached in self.attached.drain(..).rev() {
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

/// The name of the tracepoint that a thread hits at the end of the switch to it, which came with Linux 6.15.
pub(super) fn switch_end(types: &btf::Btf) -> Option<&'static str> {
    const NAME: &str = "sched_exit_tp";
    types.has_tracepoint(NAME).then_some(NAME)
}

/// The kernel's own types, by which typed tracepoints are found.
pub struct KernelTypes(btf::Btf);

impl KernelTypes {
    /// Reads them.
    ///
    /// # Errors
    /// If the kernel does not publish them.
    pub fn read() -> Result<Self, KernelError> {
        let path = btf::path();
        btf::Btf::open(&path).map(Self).map_err(|why| KernelError::Btf { path, why })
    }

    /// The name of the tracepoint that a thread hits at the end of the switch to it, if the kernel has one.
    #[must_use]
    pub fn switch_end(&self) -> Option<&'static str> {
        switch_end(&self.0)
    }

    /// A tracepoint's type in the form that aya looks it up in.
    fn tracepoint(&self, name: &str) -> Option<Btf> {
        Self::alone(self.0.tracepoint_type_id(name)?, &format!("btf_trace_{name}"), BtfKind::Typedef)
    }

    /// The type of iterators over threads.
    fn task_iterator(&self) -> Option<Btf> {
        const NAME: &str = "bpf_iter_task";
        Self::alone(self.0.function_type_id(NAME)?, NAME, BtfKind::Func)
    }

    /// A type in the form that aya looks it up in. It only takes its number from there, so all types before it are the smallest
    /// that there are: reading the whole of the kernel's would take 20 MB.
    fn alone(id: u32, name: &str, kind: BtfKind) -> Option<Btf> {
        const HEADER_BYTES: u32 = 24;
        const TYPE_BYTES: u32 = 12;
        let (float, kind) = (BtfKind::Float as u32, kind as u32);
        let name = format!("\0{name}\0");
        let types_bytes = id * TYPE_BYTES;
        let header = [HEADER_BYTES, 0, types_bytes, types_bytes, u32::try_from(name.len()).ok()?];
        // Each type: its name, its kind, its size or what it stands for. Type 0 is not written.
        let types = std::iter::repeat_n([0, float << 24, 4], id as usize - 1).chain([[1, kind << 24, 0]]);
        let mut bytes = [0xeb9f_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        bytes.extend(header.into_iter().chain(types.flatten()).flat_map(u32::to_ne_bytes));
        bytes.extend(name.as_bytes());
        Btf::parse(&bytes, aya::Endianness::default()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_tracepoint_keeps_its_number() {
        // Without the kernel's types there is nothing to compare with.
        let Ok(types) = KernelTypes::read() else { return };
        let id = types.0.tracepoint_type_id("sched_process_fork").unwrap();
        let stand_in = types.tracepoint("sched_process_fork").unwrap();
        assert_eq!(stand_in.id_by_type_name_kind("btf_trace_sched_process_fork", BtfKind::Typedef).unwrap(), id);
        assert!(types.tracepoint("no_such_tracepoint").is_none());
    }
}

//! Trials of what makes programs run: each is attached, provoked, and must have counted.

use std::{
    ffi::CStr,
    io::Read as _,
    os::fd::{AsFd, BorrowedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::{
    super::{
        attach,
        sideband::{Sideband, SidebandOptions},
        sys::{
            SysError, online_cpus,
            perf::{Event, PerfEvent, Sampling, Target},
            program::{ProgramSpec, load_program, open_iterator, open_raw_tracepoint},
        },
    },
    Outcome, Prober,
    bpf::{TRIAL_NAME, counted, counter},
    files,
    instructions::count_in,
    wait_until,
};

/// As often as obs samples unless told otherwise.
const FREQUENCY_HZ: u64 = 99;
/// How often a trial samples itself.
const TRIAL_PERIOD_NS: u64 = 1_000_000;
/// A tracepoint that every kernel has and that any pause provokes.
const TRACEPOINT: &str = "sched_switch";
/// The kernel function that stands for iterators over threads.
const TASK_ITERATOR: &str = "bpf_iter_task";
/// The folder and name under which tracefs has it.
const TRACEPOINT_IN_TRACEFS: &str = "sched/sched_switch";
/// A kernel function that clock_nanosleep(2) calls, from another of the kernel's source files: it was not inlined there.
const KERNEL_FUNCTION: &CStr = c"hrtimer_nanosleep";
/// Where the kernel lists the units that perf events come from.
const UNITS: &str = "/sys/bus/event_source/devices";

/// The advice where a trial was attached but did not run.
const SILENT: &str = "report this, with the kernel's release: the kernel accepted it, yet nothing happened";

/// Loads a counting program, has it attached by `attach`, provokes it, and sees whether it counted.
fn counts<Attached>(
    kind: bpf_prog_type,
    attach_type: Option<bpf_attach_type>,
    attach_btf_id: u32,
    attach: impl FnOnce(BorrowedFd<'_>) -> Result<Attached, SysError>,
    provoke: impl FnMut(),
) -> Result<Outcome, SysError> {
    let counter = counter()?;
    let program = load_program(&ProgramSpec {
        kind,
        instructions: count_in(counter.as_fd()).words(),
        attach_type,
        attach_btf_id,
        functions: None,
        name: TRIAL_NAME,
    })?;
    let attached = attach(program.as_fd())?;
    let happened = wait_until(provoke, || Ok(counted(counter.as_fd())? > 0))?;
    drop(attached);
    Ok(if happened { Outcome::Works } else { Outcome::missing("a program was attached but never ran", SILENT) })
}

fn open_and_attach(event: Event<'_>, sampling: Sampling, program: BorrowedFd<'_>) -> Result<PerfEvent, SysError> {
    let event = PerfEvent::open(event, sampling, Target::Thread(0))?;
    event.attach(program)?;
    event.enable()?;
    Ok(event)
}

/// Sleeps, so that the scheduler switches.
fn pause() {
    let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000 };
    // Woken early is as good.
    let _ = rustix::thread::clock_nanosleep_relative(rustix::thread::ClockId::Monotonic, &moment);
}

/// Takes time of the CPU.
fn spin() {
    for step in 0..20_000_u32 {
        std::hint::black_box(step);
    }
}

pub(super) fn cpu_clock(prober: &Prober) -> Outcome {
    let tried = || {
        let mut opened = 0;
        for cpu in online_cpus()? {
            match PerfEvent::open(Event::CpuClock, Sampling::FrequencyHz(FREQUENCY_HZ), Target::Cpu(cpu)) {
                Ok(event) => {
                    event.enable()?;
                    opened += 1;
                }
                // It went offline since.
                Err(error) if error.errno() == libc::ENODEV => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if opened > 0 { Outcome::Works } else { Outcome::missing("no CPU could be sampled", SILENT) })
    };
    prober.judge(tried(), "use a kernel built with CONFIG_PERF_EVENTS; free file descriptors (ulimit -n)")
}

pub(super) fn hardware_cycles(prober: &Prober) -> Outcome {
    let none = || {
        Outcome::missing(
            "this machine has no such counter (virtual machines often have none)",
            "nothing to do: obs samples by the timer of the CPU",
        )
    };
    let tried = || -> Result<Outcome, SysError> {
        let event = PerfEvent::open(Event::HardwareCycles, Sampling::FrequencyHz(FREQUENCY_HZ), Target::Thread(0))?;
        event.enable()?;
        // Some virtual machines have a counter that stands still.
        let counted = wait_until(spin, || Ok(event.count()? > 0))?;
        Ok(if counted { Outcome::Works } else { none() })
    };
    match tried() {
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => none(),
        tried => prober.judge(tried, "nothing to do: obs samples by the timer of the CPU"),
    }
}

pub(super) fn sampling_programs(prober: &Prober) -> Outcome {
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT,
        None,
        0,
        |program| open_and_attach(Event::CpuClock, Sampling::Period(TRIAL_PERIOD_NS), program),
        spin,
    );
    prober.judge(tried, "use a kernel built with CONFIG_BPF_EVENTS and CONFIG_PERF_EVENTS")
}

pub(super) fn typed_tracepoints(prober: &Prober) -> Outcome {
    let Some(type_id) = prober.types().as_ref().ok().and_then(|types| types.tracepoint_type_id(TRACEPOINT)) else {
        return Outcome::missing(
            format!("the kernel's types do not describe the tracepoint {TRACEPOINT}"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS",
        );
    };
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_TRACING,
        Some(bpf_attach_type::BPF_TRACE_RAW_TP),
        type_id,
        |program| open_raw_tracepoint(None, program),
        pause,
    );
    prober.judge(tried, "use Linux 5.5 or newer, whose own types (not a file's) describe its tracepoints")
}

pub(super) fn switch_end(prober: &Prober) -> Outcome {
    const FALLBACK: &str = "a program at each return of a system call, which makes system calls slower";
    let types = prober.types().as_ref().ok();
    let found = types.and_then(|types| types.tracepoint_type_id(attach::switch_end(types)?));
    let Some(type_id) = found else { return Outcome::works_by(FALLBACK) };
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    let attach = |program: BorrowedFd<'_>| open_raw_tracepoint(None, program);
    let tried = counts(kind, Some(bpf_attach_type::BPF_TRACE_RAW_TP), type_id, attach, pause);
    prober.judge(tried, SILENT)
}

pub(super) fn task_iterators(prober: &Prober) -> Outcome {
    let Some(type_id) = prober.types().as_ref().ok().and_then(|types| types.function_type_id(TASK_ITERATOR)) else {
        return Outcome::missing("the kernel's types do not describe iterators over threads", "use Linux 5.8 or newer");
    };
    let attach = |program: BorrowedFd<'_>| {
        let mut iterator = open_iterator(program)?;
        let read = iterator.read_to_end(&mut Vec::new());
        read.map_err(|source| SysError::new("running an iterator over threads", source))?;
        Ok(iterator)
    };
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    let tried = counts(kind, Some(bpf_attach_type::BPF_TRACE_ITER), type_id, attach, || {});
    prober.judge(tried, "use Linux 5.8 or newer, built with CONFIG_BPF_EVENTS")
}

pub(super) fn raw_tracepoints(prober: &Prober) -> Outcome {
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
        None,
        0,
        |program| open_raw_tracepoint(Some(c"sched_switch"), program),
        pause,
    );
    prober.judge(tried, "use a kernel built with CONFIG_BPF_EVENTS")
}

pub(super) fn tracepoints(prober: &Prober) -> Outcome {
    let Some(id) = files::tracepoint_id(TRACEPOINT_IN_TRACEFS) else {
        return Outcome::missing(
            format!("tracefs does not show the tracepoint {TRACEPOINT_IN_TRACEFS}"),
            "use a kernel built with CONFIG_EVENT_TRACING",
        );
    };
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_TRACEPOINT,
        None,
        0,
        |program| open_and_attach(Event::Tracepoint { id }, Sampling::Period(1), program),
        pause,
    );
    prober.judge(tried, "use a kernel built with CONFIG_BPF_EVENTS")
}

/// The type of a unit that perf events come from; nothing if the kernel has no such unit.
fn unit(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("{UNITS}/{name}/type")).ok()?.trim().parse().ok()
}

/// What the trial of uprobes probes: nobody else calls it.
#[inline(never)]
extern "C" fn probed(step: u32) -> u32 {
    std::hint::black_box(step) + 1
}

pub(super) fn uprobes(prober: &Prober) -> Outcome {
    let Some(unit) = unit("uprobe") else {
        return Outcome::missing(
            "the kernel has no uprobes",
            "use a kernel built with CONFIG_UPROBE_EVENTS and CONFIG_PERF_EVENTS",
        );
    };
    let address = probed as extern "C" fn(u32) -> u32 as usize as u64;
    let Some(offset_bytes) = files::offset_of_own_code(address) else {
        return Outcome::missing("/proc/self/maps does not show obs's own code", "mount /proc");
    };
    let event = Event::Uprobe {
        unit,
        path: c"/proc/self/exe",
        offset_bytes,
        reference_counter_offset_bytes: 0,
        on_return: false,
    };
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_KPROBE,
        None,
        0,
        |program| open_and_attach(event, Sampling::Period(1), program),
        || {
            std::hint::black_box(probed(1));
        },
    );
    let remedy = "keep the binary on a file system that allows uprobes (some overlay and FUSE file systems do not)";
    prober.judge_for_admin(tried, "or do without probes in libraries", remedy)
}

/// Nothing of obs depends on the two kinds of probes on kernel functions.
const NOT_REQUIRED: &str = "nothing to do: no collector requires it (hardened kernels forbid or lack it)";

fn not_required(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Missing { why, .. } => Outcome::missing(why, NOT_REQUIRED),
        outcome => outcome,
    }
}

pub(super) fn fentry(prober: &Prober) -> Outcome {
    let name = KERNEL_FUNCTION.to_string_lossy();
    let Some(type_id) = prober.types().as_ref().ok().and_then(|types| types.function_type_id(&name)) else {
        return Outcome::missing(format!("the kernel's types do not describe the function {name}"), NOT_REQUIRED);
    };
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_TRACING,
        Some(bpf_attach_type::BPF_TRACE_FENTRY),
        type_id,
        |program| open_raw_tracepoint(None, program),
        pause,
    );
    not_required(prober.judge(tried, NOT_REQUIRED))
}

pub(super) fn kprobes(prober: &Prober) -> Outcome {
    let Some(unit) = unit("kprobe") else {
        return Outcome::missing("the kernel has no kprobes", NOT_REQUIRED);
    };
    let event = Event::Kprobe { unit, function: KERNEL_FUNCTION };
    let tried = counts(
        bpf_prog_type::BPF_PROG_TYPE_KPROBE,
        None,
        0,
        |program| open_and_attach(event, Sampling::Period(1), program),
        pause,
    );
    not_required(prober.judge(tried, NOT_REQUIRED))
}

pub(super) fn process_records(prober: &Prober) -> Outcome {
    let tried = || {
        let mut sideband = Sideband::open(SidebandOptions::default())?;
        let mut seen = false;
        // The end of a thread of our own is a record.
        let provoke = || drop(std::thread::spawn(|| {}).join());
        let happened = wait_until(provoke, || {
            sideband.read(|_| seen = true);
            Ok(seen)
        })?;
        Ok(match (happened, sideband.has_build_ids()) {
            (false, _) => Outcome::missing("perf's records of processes stay away", SILENT),
            (true, true) => Outcome::Works,
            (true, false) => Outcome::works_by("files known by inode: Linux 5.12 tells build ids"),
        })
    };
    let remedy = "use a kernel built with CONFIG_PERF_EVENTS; raise kernel.perf_event_mlock_kb; grant CAP_IPC_LOCK";
    prober.judge(tried(), remedy)
}

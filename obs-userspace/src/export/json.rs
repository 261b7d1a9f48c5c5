//! obs's own JSON: everything that the profile holds, one entry per line. `docs/formats.md` describes it.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    check::{Checked, cut_of},
    lines::{self, Streamed},
    order::Order,
};
use crate::model::{
    process::ProcessInfo,
    profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
    stack::StackEnd,
};

/// Raised when a reader of the former version would misread a file; added fields don't raise it.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct File<'a, Modules, Frames, Processes, Samples> {
    format: &'static str,
    version: u32,
    collector: &'a str,
    value_types: &'a [ValueType],
    totals: &'a [u64],
    period: Option<Period<'a>>,
    started_unix_ns: u64,
    duration_ns: u64,
    modules: Modules,
    frames: Frames,
    processes: Processes,
    samples: Samples,
}

#[derive(Serialize)]
struct Period<'a> {
    name: &'a str,
    unit: &'a str,
    value: u64,
}

#[derive(Serialize)]
struct ModuleRow<'a> {
    path: &'a str,
    build_id: Option<&'a str>,
}

#[derive(Serialize)]
struct FrameRow<'a> {
    function: Option<&'a str>,
    kind: FrameKind,
    module: Option<u32>,
    /// A string: many readers keep numbers as floating point, which cannot hold kernel addresses.
    address: String,
    file: Option<&'a str>,
    line: Option<u32>,
}

#[derive(Serialize)]
struct ProcessRow<'a> {
    pid: u32,
    started_ns: u64,
    exec_id: u32,
    name: &'a str,
    executable: Option<&'a str>,
    container_id: Option<&'a str>,
    cgroup: Option<&'a str>,
}

#[derive(Serialize)]
struct SampleRow<'a, Stack> {
    process: u32,
    thread: &'a str,
    stack: Stack,
    cut: Option<StackEnd>,
    values: &'a [u64],
}

pub(super) fn write(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let order = &Order::new(checked.profile);
    let Profile { collector, value_types, period, started_unix_ns, duration_ns, modules, frames, processes, samples } =
        checked.profile;
    let file = File {
        format: "obs-profile",
        version: VERSION,
        collector,
        value_types,
        totals: &checked.totals,
        period: period.as_ref().map(|(ValueType { name, unit }, value)| Period { name, unit, value: *value }),
        started_unix_ns: *started_unix_ns,
        duration_ns: *duration_ns,
        modules: Streamed(|| order.modules.of(modules).map(module_row)),
        frames: Streamed(|| order.frames.of(frames).map(|frame| frame_row(order, frame))),
        processes: Streamed(|| order.processes.of(processes).map(process_row)),
        samples: Streamed(|| order.samples.of(samples).map(|sample| sample_row(order, sample))),
    };
    lines::write(&file, 2, 1, out)
}

fn module_row(module: &Module) -> ModuleRow<'_> {
    let Module { path, build_id } = module;
    ModuleRow { path, build_id: build_id.as_deref() }
}

fn frame_row<'a>(order: &Order, frame: &'a Frame) -> FrameRow<'a> {
    let Frame { function, kind, module, address, source } = frame;
    FrameRow {
        function: function.as_deref(),
        kind: *kind,
        module: module.map(|index| order.modules.rank(index)),
        address: format!("{address:#x}"),
        file: source.as_ref().map(|(file, _)| &**file),
        line: source.as_ref().map(|(_, line)| *line),
    }
}

fn process_row(process: &ProcessInfo) -> ProcessRow<'_> {
    let ProcessInfo { key, name, executable, container_id, cgroup } = process;
    ProcessRow {
        pid: key.pid,
        started_ns: key.started_ns,
        exec_id: key.exec_id,
        name,
        executable: executable.as_deref(),
        container_id: container_id.as_deref(),
        cgroup: cgroup.as_deref(),
    }
}

fn sample_row<'a>(order: &'a Order, sample: &'a ProfileSample) -> SampleRow<'a, impl Serialize> {
    let ProfileSample { process, thread_name, stack, cut: _, values } = sample;
    SampleRow {
        process: order.processes.rank(*process),
        thread: thread_name,
        stack: Streamed(|| stack.iter().map(|frame| order.frames.rank(*frame))),
        cut: cut_of(sample),
        values,
    }
}

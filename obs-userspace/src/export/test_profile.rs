//! Profiles with known answers for the tests of this module.

use std::sync::Arc;

use proptest::prelude::*;

use crate::model::{
    process::{ProcessInfo, ProcessKey},
    profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
    stack::StackEnd,
};

pub(super) const SAMPLES: ValueType = ValueType::new("samples", "count");
pub(super) const CPU: ValueType = ValueType::new("cpu", "nanoseconds");
const PERIOD_NS: u64 = 10_000_000;

/// A `cpu` profile of 100 Hz without content.
pub(super) fn empty() -> Profile {
    Profile {
        collector: "cpu".into(),
        value_types: vec![SAMPLES, CPU],
        period: Some((CPU, PERIOD_NS)),
        started_unix_ns: 1_700_000_000_123_456_789,
        duration_ns: 2_500_000_000,
        modules: Vec::new(),
        frames: Vec::new(),
        processes: Vec::new(),
        samples: Vec::new(),
    }
}

pub(super) fn process(pid: u32, name: &str) -> ProcessInfo {
    let key = ProcessKey { pid, started_ns: u64::from(pid) * 1000, exec_id: 1 };
    ProcessInfo { key, name: name.into(), executable: None, container_id: None, cgroup: None }
}

pub(super) fn frame(function: &str, kind: FrameKind, module: Option<u32>, address: u64) -> Frame {
    let function = (!function.is_empty()).then(|| function.into());
    Frame { function, kind, module, address, source: None }
}

pub(super) fn sample(process: u32, thread: &str, stack: &[u32], cut: Option<StackEnd>, count: u64) -> ProfileSample {
    let (thread_name, stack) = (thread.into(), stack.into());
    ProfileSample { process, thread_name, stack, cut, values: vec![count, count * PERIOD_NS] }
}

/// A profile with one of everything: inlined, kernel, JIT, unnamed frames, two processes, cut and empty stacks.
pub(super) fn one_of_everything() -> Profile {
    let module = |path: &str, build_id: Option<&str>| Module { path: path.into(), build_id: build_id.map(Into::into) };
    let mut profile = empty();
    profile.modules = vec![
        module("/usr/bin/app", Some("abcd1234")),
        module("[kernel]", Some("feed")),
        module("/usr/lib/libc.so.6", None),
        module("[jit]", None),
    ];
    profile.frames = vec![
        frame("_start", FrameKind::User, Some(0), 0x1000),
        frame("main", FrameKind::User, Some(0), 0x1100),
        frame("work", FrameKind::User, Some(0), 0x1200),
        frame("step", FrameKind::UserInlined, Some(0), 0x1200),
        frame("", FrameKind::User, Some(2), 0x2abc),
        frame("do_syscall_64", FrameKind::Kernel, Some(1), 0xffff_ffff_8100_0010),
        frame("copy_user", FrameKind::KernelInlined, Some(1), 0xffff_ffff_8100_0010),
        frame("LazyCompile:~f file.js:1", FrameKind::Jit, Some(3), 0x7f00_0000_1000),
        frame("", FrameKind::User, None, 0x7f00_dead_beef),
        // The same function at another address.
        frame("work", FrameKind::User, Some(0), 0x1208),
    ];
    profile.frames[2].source = Some(("/src/app.c".into(), 12));
    profile.frames[3].source = Some(("/src/step.h".into(), 3));
    profile.processes = vec![process(42, "app"), process(7, "node")];
    profile.processes[0].executable = Some("/usr/bin/app".into());
    profile.processes[0].container_id = Some("c0ffee".into());
    profile.processes[0].cgroup = Some("/system.slice/app.service".into());
    profile.samples = vec![
        sample(0, "app", &[3, 2, 1, 0], None, 40),
        sample(0, "app", &[9, 1, 0], None, 5),
        sample(0, "worker", &[2, 1, 0], None, 10),
        sample(0, "app", &[6, 5, 4, 1, 0], None, 20),
        sample(1, "node", &[7, 8], Some(StackEnd::FramePointerChain), 4),
        sample(1, "node", &[], Some(StackEnd::Lost), 2),
        sample(1, "node", &[], None, 1),
    ];
    profile
}

/// A profile of user functions: per stack its process, its functions from the outermost to the innermost, its count.
pub(super) fn of_stacks(stacks: &[(&str, &[&str], u64)]) -> Profile {
    let mut profile = empty();
    for (name, functions, count) in stacks {
        let stack: Vec<u32> = functions
            .iter()
            .rev()
            .map(|name| index_of(&mut profile.frames, frame(name, FrameKind::User, None, 0)))
            .collect();
        let at = profile.processes.iter().position(|known| *known.name == **name).unwrap_or(profile.processes.len());
        if at == profile.processes.len() {
            profile.processes.push(process(at as u32 + 1, name));
        }
        profile.samples.push(sample(at as u32, name, &stack, None, *count));
    }
    profile
}

fn index_of(frames: &mut Vec<Frame>, frame: Frame) -> u32 {
    let at = frames.iter().position(|known| *known == frame).unwrap_or_else(|| {
        frames.push(frame);
        frames.len() - 1
    });
    at as u32
}

/// Names that hurt, and names that look like the syntax of a format.
pub(super) fn hostile_name() -> impl Strategy<Value = String> {
    let nasty: Vec<&str> = vec![
        "",
        " ",
        ";",
        "a;b;c",
        "a\nb 3\n",
        "# comment",
        "f 12",
        "f 1 2.5",
        "\"quoted\" 'and' \\",
        "</script><script>alert(1)</script>",
        "]]>",
        "<!--",
        "&amp;",
        "\u{0}\u{1}\u{1b}[2J",
        "\u{7f}\u{85}\u{9f}",
        "\u{202e}evil\u{2028}",
        "\u{fffe}\u{ffff}\u{10ffff}",
        "x_[k]",
        "[cut: too deep]",
        "-",
        "--",
        "é日本🦀",
    ];
    prop_oneof![3 => prop::sample::select(nasty).prop_map(str::to_owned), 1 => any::<String>(), 2 => "[a-c]{1,2}"]
}

fn kind() -> impl Strategy<Value = FrameKind> {
    use FrameKind::{Jit, Kernel, KernelInlined, User, UserInlined};
    prop::sample::select(vec![User, UserInlined, Jit, Kernel, KernelInlined])
}

fn end() -> impl Strategy<Value = Option<StackEnd>> {
    use StackEnd::{Complete, Lost, NoRow, TooDeep};
    prop::sample::select(vec![None, None, None, Some(Lost), Some(NoRow), Some(TooDeep), Some(Complete)])
}

/// Small profiles with hostile names everywhere, whose entries are all different.
pub(super) fn any_profile() -> impl Strategy<Value = Profile> {
    let text = || hostile_name().prop_map(Arc::<str>::from);
    let modules = prop::collection::btree_map(text(), prop::option::of(text()), 1..4);
    let frame = (
        prop::option::of(text()),
        kind(),
        prop::option::of(0..1_u32),
        any::<u64>(),
        prop::option::of((text(), any::<u32>())),
    );
    let process = (text(), prop::option::of(text()), prop::option::of(text()), prop::option::of(text()));
    let stack = (0..3_u32, text(), prop::collection::vec(0..6_u32, 0..7), end(), 0..1000_u64, 0..1_000_000_u64);
    (modules, prop::collection::vec(frame, 6), prop::collection::vec(process, 3), prop::collection::vec(stack, 0..12))
        .prop_map(|(modules, frames, processes, stacks)| {
            let mut profile = empty();
            profile.modules = modules.into_iter().map(|(path, build_id)| Module { path, build_id }).collect();
            for (function, kind, module, address, source) in frames {
                profile.frames.push(Frame { function, kind, module, address, source });
            }
            for (pid, (name, executable, container_id, cgroup)) in (1..).zip(processes) {
                let key = ProcessKey { pid, started_ns: 5, exec_id: 0 };
                profile.processes.push(ProcessInfo { key, name, executable, container_id, cgroup });
            }
            for (process, thread_name, stack, cut, count, weight) in stacks {
                let (stack, values) = (stack.into(), vec![count, weight]);
                profile.samples.push(ProfileSample { process, thread_name, stack, cut, values });
            }
            profile
        })
}

/// The same profile with its tables in reverse order.
pub(super) fn reversed(profile: &Profile) -> Profile {
    let flip = |index: u32, length: usize| length as u32 - 1 - index;
    let mut reversed = profile.clone();
    reversed.modules.reverse();
    reversed.frames.reverse();
    reversed.processes.reverse();
    reversed.samples.reverse();
    for frame in &mut reversed.frames {
        frame.module = frame.module.map(|index| flip(index, profile.modules.len()));
    }
    for sample in &mut reversed.samples {
        sample.process = flip(sample.process, profile.processes.len());
        sample.stack = sample.stack.iter().map(|index| flip(*index, profile.frames.len())).collect();
    }
    reversed
}

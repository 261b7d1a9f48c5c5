//! Profiles of our own process, whose functions are known.

use super::*;
use crate::{
    enrich::{
        process::Procfs,
        symbolize::{NoSymbol, Symbolizer, SymbolizerOptions},
    },
    model::{process::ProcessEvent, profile::FrameKind},
};

const COUNT: ValueType = ValueType::new("samples", "count");
const TIME: ValueType = ValueType::new("cpu", "nanoseconds");

fn options(detail: FrameDetail) -> BuildOptions {
    let values = vec![(COUNT, ValueSource::Count), (TIME, ValueSource::CountTimes(10)), (TIME, ValueSource::Weight)];
    BuildOptions { collector: "cpu", values, period: Some((TIME, 10)), detail }
}

fn ourselves() -> ProcessKey {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    ProcessKey { pid: std::process::id(), started_ns: ticks * 10_000_000, exec_id: 1 }
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(Procfs::new());
    let key = ourselves();
    ledger.apply(ProcessEvent::Seen { key, time_ns: key.started_ns + 1, name: "tested".into() });
    ledger
}

#[inline(never)]
fn obs_enrich_leaf(number: u64) -> u64 {
    std::hint::black_box(number.wrapping_mul(3))
}

#[inline(never)]
fn obs_enrich_caller(number: u64) -> u64 {
    std::hint::black_box(obs_enrich_leaf(number).wrapping_add(1))
}

fn exact(address: u64) -> StackFrame {
    StackFrame { address, exact: true, by_frame_pointer: false }
}

fn stack(frames: &[u64], end: StackEnd) -> Option<Arc<Stack>> {
    let returned = |address: &u64| StackFrame { address: address + 1, exact: false, by_frame_pointer: false };
    let frames =
        frames.iter().enumerate().map(|(index, address)| if index == 0 { exact(*address) } else { returned(address) });
    Some(Arc::new(Stack { frames: frames.collect(), end }))
}

fn sample(thread_name: &str, user: Option<Arc<Stack>>, count: u64) -> StackSample {
    StackSample {
        process: ourselves(),
        thread_name: thread_name.into(),
        cgroup_id: 1,
        user,
        kernel: None,
        wait: None,
        waker: None,
        count,
        weight: count * 7,
    }
}

fn build(detail: FrameDetail, samples: &[StackSample]) -> BuiltProfile {
    let mut ledger = ledger();
    let mut builder = ProfileBuilder::new(options(detail));
    for sample in samples {
        builder.add(&mut ledger, sample);
    }
    builder.gather(&ledger).name(&mut Symbolizer::new(SymbolizerOptions::default()), 1, 2)
}

fn leaf() -> u64 {
    obs_enrich_leaf as *const () as u64
}

fn caller() -> u64 {
    obs_enrich_caller as *const () as u64
}

fn functions(built: &BuiltProfile, sample: &ProfileSample) -> Vec<String> {
    sample.stack.iter().map(|frame| built.profile.label(&built.profile.frames[*frame as usize])).collect()
}

#[test]
fn names_values_and_merging() {
    assert_eq!(obs_enrich_caller(2), 7);
    let user = || stack(&[leaf(), caller()], StackEnd::Complete);
    // Two addresses of the same functions are the same stack, once they have names.
    let shifted = stack(&[leaf() + 1, caller()], StackEnd::Complete);
    let samples =
        [sample("one", user(), 2), sample("one", shifted, 3), sample("two", user(), 5), sample("one", user(), 1)];
    let built = build(FrameDetail::Functions, &samples);
    assert_eq!(built.profile.samples.len(), 2);
    let [one, two] = built.profile.samples.as_slice() else { panic!("two samples") };
    assert_eq!((&*one.thread_name, one.values.as_slice(), one.cut), ("one", [6, 60, 42].as_slice(), None));
    assert_eq!((&*two.thread_name, two.values.as_slice(), two.cut), ("two", [5, 50, 35].as_slice(), None));
    let named = functions(&built, one);
    let physical: Vec<&str> = named
        .iter()
        .filter_map(|name| name.rsplit("::").next())
        .filter(|name| name.starts_with("obs_enrich"))
        .collect();
    assert_eq!(physical, ["obs_enrich_leaf", "obs_enrich_caller"]);
    assert_eq!(built.samples, 11);
    assert_eq!((built.user_stacks.complete, built.user_stacks.absent), (11, 0));
    assert_eq!(built.processes.len(), 1);
    assert_eq!((&*built.processes[0].name, built.processes[0].samples), ("tested", 11));
    assert_eq!(built.frames.unsymbolized, BTreeMap::new());
    assert_eq!(built.frames.symbolized, built.profile.frames.len() as u64);
    let module = &built.profile.modules[built.profile.frames[one.stack[0] as usize].module.unwrap() as usize];
    assert_eq!(module.path.as_ref(), std::env::current_exe().unwrap().to_str().unwrap());
    assert!(module.build_id.is_some());
}

#[test]
fn addresses_keep_frames_apart() {
    let samples = [
        sample("one", stack(&[leaf()], StackEnd::Complete), 1),
        sample("one", stack(&[leaf() + 1], StackEnd::Complete), 1),
    ];
    assert_eq!(build(FrameDetail::Functions, &samples).profile.samples.len(), 1);
    let built = build(FrameDetail::Addresses, &samples);
    assert_eq!(built.profile.samples.len(), 2);
    assert!(built.profile.frames.iter().all(|frame| frame.address != 0));
}

#[test]
fn what_is_not_known_is_said() {
    let gone = ProcessKey { pid: 4_000_000_001, started_ns: 5, exec_id: 1 };
    let unknown = StackSample { process: gone, ..sample("gone", stack(&[0x1234], StackEnd::NoRow), 4) };
    let unmapped = sample("here", stack(&[0x10, caller()], StackEnd::ReadFailed), 2);
    let built = build(FrameDetail::Lines, &[unknown, unmapped]);
    let reasons = &built.frames.unsymbolized;
    assert_eq!(reasons.get(NoSymbol::UnknownProcess.phrase()), Some(&1), "{reasons:?}");
    assert_eq!(reasons.get(NoSymbol::NoMapping.phrase()), Some(&1), "{reasons:?}");
    assert_eq!(built.user_stacks.incomplete.get(StackEnd::NoRow.reason()), Some(&4));
    assert_eq!(built.user_stacks.incomplete.get(StackEnd::ReadFailed.reason()), Some(&2));
    let sample = built.profile.samples.iter().find(|sample| &*sample.thread_name == "gone").unwrap();
    assert_eq!((functions(&built, sample), sample.cut), (vec!["[0x1234]".to_owned()], Some(StackEnd::NoRow)));
    assert_eq!(built.processes.iter().map(|process| &*process.name).collect::<Vec<_>>(), ["gone", "tested"]);
}

/// The address of a kernel function; `None` without the privilege to see it.
fn kernel_address(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/kallsyms").ok()?;
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(name))?;
    u64::from_str_radix(line.split_whitespace().next()?, 16).ok().filter(|address| *address != 0)
}

#[test]
fn a_stack_that_went_with_its_program_is_none() {
    let Some((exec, schedule)) = kernel_address("begin_new_exec").zip(kernel_address("schedule")) else { return };
    let in_kernel = |function: u64, end| StackSample {
        kernel: stack(&[function + 3], StackEnd::Complete),
        ..sample("one", stack(&[leaf()], end), 1)
    };
    for end in [StackEnd::ReadFailed, StackEnd::Gone] {
        let gone = build(FrameDetail::Functions, &[in_kernel(exec, end)]);
        assert_eq!((gone.user_stacks.absent, gone.user_stacks.incomplete.len()), (1, 0));
        assert_eq!(functions(&gone, &gone.profile.samples[0]), ["begin_new_exec"]);
    }
    // Before that the old program's stack is there, and elsewhere a stack that cannot be read is cut.
    let elsewhere = [StackEnd::ReadFailed, StackEnd::Gone].map(|end| in_kernel(schedule, end));
    for still_there in elsewhere.into_iter().chain([in_kernel(exec, StackEnd::Complete)]) {
        let built = build(FrameDetail::Functions, &[still_there]);
        assert_eq!(built.user_stacks.absent, 0);
        assert!(functions(&built, &built.profile.samples[0]).len() > 1);
    }
}

#[test]
fn kernel_frames_come_before_user_frames() {
    let Some(schedule) = kernel_address("schedule") else { return };
    let mut both = sample("both", stack(&[leaf()], StackEnd::Complete), 1);
    both.kernel = stack(&[schedule + 3], StackEnd::Complete);
    let thread = StackSample { user: None, ..both.clone() };
    let built = build(FrameDetail::Functions, &[both, thread]);
    let stacks: Vec<Vec<String>> = built.profile.samples.iter().map(|sample| functions(&built, sample)).collect();
    assert!(stacks.iter().any(|stack| stack == &["schedule"]), "{stacks:?}");
    let whole = stacks.iter().find(|stack| stack.len() > 1).unwrap();
    assert_eq!(whole.first().map(String::as_str), Some("schedule"));
    assert!(whole.last().is_some_and(|name| name.ends_with("::obs_enrich_leaf")), "{whole:?}");
    assert_eq!((built.user_stacks.complete, built.user_stacks.absent), (1, 1));
    let kernel = &built.profile.frames[built.profile.samples[0].stack[0] as usize];
    assert_eq!(kernel.kind, FrameKind::Kernel);
    assert_eq!(&*built.profile.modules[kernel.module.unwrap() as usize].path, "[kernel]");
}

#[test]
fn a_chain_of_frame_pointers_is_complete_if_it_ends_where_threads_begin() {
    let broken = sample("one", stack(&[leaf(), caller()], StackEnd::FramePointerChain), 1);
    let built = build(FrameDetail::Functions, &[broken]);
    assert_eq!(built.profile.samples[0].cut, Some(StackEnd::FramePointerChain));
    let entry = {
        // Our own `_start`, by the program's headers.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let base = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        base + u64::from_le_bytes(bytes[24..32].try_into().unwrap())
    };
    let whole = sample("one", stack(&[leaf(), entry + 8], StackEnd::FramePointerChain), 1);
    let built = build(FrameDetail::Functions, &[whole]);
    assert_eq!(built.profile.samples[0].cut, None, "{:?}", functions(&built, &built.profile.samples[0]));
}

#[test]
fn first_functions() {
    for name in ["_start", "__libc_start_main@@GLIBC_2.34", "start_thread", "runtime.goexit.abi0", "_rt0_amd64_linux"] {
        assert!(is_first_function(name), "{name}");
    }
    for name in ["", "main", "_start_x", "restart", "runtime.goexit2"] {
        assert!(!is_first_function(name), "{name}");
    }
}

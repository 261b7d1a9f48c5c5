//! Nothing stays in the kernel: no program, map, link or perf event, however a recording ends.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::{
    harness::{Background, Context, Need, Scenario, wait_until},
    lifecycle::{perf_events_of, wait_until_sampling},
};

const NEEDS: &[Need] = &[Need::Root, Need::Workload("bpf_ids"), Need::Workload("call_tree")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_objects::sigkill_leaves_nothing",
        needs: NEEDS,
        run: |context| leaves_nothing(context, Signal::KILL),
    },
    Scenario {
        name: "kernel_objects::ctrl_c_leaves_nothing",
        needs: NEEDS,
        run: |context| leaves_nothing(context, Signal::INT),
    },
    Scenario { name: "kernel_objects::sigkill_with_a_command_leaves_nothing", needs: NEEDS, run: with_command },
];

/// The BPF programs, maps and links that the kernel holds, one line each.
fn bpf_objects(context: &Context) -> Result<BTreeSet<String>> {
    Ok(context.output("bpf_ids", &[])?.lines().map(str::to_owned).collect())
}

/// The names in a folder, hidden ones included.
fn listing(folder: &std::path::Path) -> Result<BTreeSet<std::ffi::OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn leaves_nothing(context: &Context, signal: Signal) -> Result<()> {
    let target = context.background("call_tree", &["100000"])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.svg").display().to_string();
    let before = bpf_objects(context)?;
    let pid = target.pid().to_string();
    let recording = Background::start(&mut context.obs(&["record", "cpu", "-p", &pid, "-o", &output]))?;
    ends_clean(context, recording, signal, &before)?;
    let expected = if signal == Signal::KILL { vec![] } else { vec!["out.svg".into()] };
    ensure!(listing(folder.path())? == expected.into_iter().collect(), "files: {:?}", listing(folder.path())?);
    Ok(())
}

/// Waits until the recording is under way, ends it with the signal, and sees that everything it made goes away.
fn ends_clean(context: &Context, recording: Background, signal: Signal, before: &BTreeSet<String>) -> Result<()> {
    wait_until_sampling(context, &recording)?;
    let obs_pid = recording.pid();
    let made: BTreeSet<String> = bpf_objects(context)?.difference(before).cloned().collect();
    // Else the check below would not see anything that stays either.
    for kind in ["prog ", "map "] {
        ensure!(made.iter().any(|line| line.starts_with(kind)), "obs records, but made no BPF {kind}: {made:?}");
    }
    println!("  {} BPF objects and {} perf events while recording", made.len(), perf_events_of(obs_pid));

    recording.signal(signal)?;
    recording.finish(context.limit())?;
    ensure!(perf_events_of(obs_pid) == 0, "the process {obs_pid} still holds perf events");
    // The kernel frees them after a grace period. Other programs' objects may have come meanwhile, and may stay.
    wait_until("what obs made is gone from the kernel", context.limit(), || {
        Ok(bpf_objects(context)?.is_disjoint(&made))
    })
    .with_context(|| format!("made: {made:?}"))?;
    let pinned = pinned_objects();
    ensure!(pinned.is_empty(), "pinned objects were left: {pinned:?}");
    Ok(())
}

/// What is pinned under a name of ours in the BPF file system.
fn pinned_objects() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/fs/bpf") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("obs")).collect()
}

/// obs is killed while it waits for a command: the command is not ours to kill, but nothing of ours stays in it.
fn with_command(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.folded").display().to_string();
    let program = context.program("call_tree");
    let before = bpf_objects(context)?;
    let recording = Background::start(&mut context.obs(&["record", "cpu", "-o", &output, "--", &program, "100000"]))?;
    wait_until_sampling(context, &recording)?;
    let children = children_of(recording.pid())?;
    let outcome = ends_clean(context, recording, Signal::KILL, &before);
    // The orphan goes before anything is judged.
    let ours: Vec<u32> = children.into_iter().filter(|pid| runs(*pid, &program)).collect();
    for pid in &ours {
        ensure!(perf_events_of(*pid) == 0, "the command inherited obs's perf events");
        let pid = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
    }
    outcome?;
    ensure!(listing(folder.path())?.is_empty(), "files: {:?}", listing(folder.path())?);
    Ok(())
}

fn children_of(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Absent where the kernel was built without it; then the search below finds none.
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

fn runs(pid: u32, program: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(program.as_bytes()))
}

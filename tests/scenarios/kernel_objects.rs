//! Nothing stays in the kernel: no program, map, link or perf event, however a recording ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

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

/// The BPF programs, maps and links that the kernel holds, as `map 3`, and the maps that each program uses.
pub(crate) fn bpf_objects(context: &Context) -> Result<BTreeMap<String, Vec<String>>> {
    let text = context.output("bpf_ids", &[])?;
    let object = |line: &str| {
        let mut fields = line.split(' ');
        let name = format!("{} {}", fields.next()?, fields.next()?);
        Some((name, fields.skip(1).map(|map| format!("map {map}")).collect()))
    };
    text.lines().map(|line| object(line).with_context(|| format!("bpf_ids printed {line:?}"))).collect()
}

/// The BPF objects that a process made: those that it has open, and the maps of its programs. Other programs' objects
/// come and go meanwhile; they are not looked at.
pub(crate) fn bpf_objects_of(context: &Context, pid: u32) -> Result<BTreeSet<String>> {
    let all = bpf_objects(context)?;
    let mut made = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("listing obs's open files")? {
        // One that was closed meanwhile is no longer of interest.
        for line in fs::read_to_string(entry?.path()).unwrap_or_default().lines() {
            for kind in ["prog", "map", "link"] {
                let id = line.strip_prefix(kind).and_then(|rest| rest.strip_prefix("_id:"));
                made.extend(id.map(|id| format!("{kind} {}", id.trim())));
            }
        }
    }
    let maps: Vec<_> = made.iter().filter_map(|object| all.get(object)).flatten().cloned().collect();
    made.extend(maps);
    Ok(made)
}

/// The names in a folder, hidden ones included.
fn listing(folder: &std::path::Path) -> Result<BTreeSet<std::ffi::OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn leaves_nothing(context: &Context, signal: Signal) -> Result<()> {
    let target = context.background("call_tree", &["100000"])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.svg").display().to_string();
    let pid = target.pid().to_string();
    let recording = Background::start(&mut context.obs(&["record", "cpu", "-p", &pid, "-o", &output]))?;
    ends_clean(context, recording, signal)?;
    let expected = if signal == Signal::KILL { vec![] } else { vec!["out.svg".into()] };
    ensure!(listing(folder.path())? == expected.into_iter().collect(), "files: {:?}", listing(folder.path())?);
    Ok(())
}

/// Waits until the recording is under way, ends it with the signal, and sees that everything it made goes away.
fn ends_clean(context: &Context, recording: Background, signal: Signal) -> Result<()> {
    wait_until_sampling(context, &recording)?;
    let obs_pid = recording.pid();
    let made = bpf_objects_of(context, obs_pid)?;
    // Else the check below would not see anything that stays either.
    for kind in ["prog ", "map "] {
        ensure!(made.iter().any(|line| line.starts_with(kind)), "obs records, but made no BPF {kind}: {made:?}");
    }
    println!("  {} BPF objects and {} perf events while recording", made.len(), perf_events_of(obs_pid));

    recording.signal(signal)?;
    recording.finish(context.limit())?;
    ensure!(perf_events_of(obs_pid) == 0, "the process {obs_pid} still holds perf events");
    // The kernel frees them after a grace period.
    wait_until("what obs made is gone from the kernel", context.limit(), || {
        let left = bpf_objects(context)?;
        Ok(!made.iter().any(|object| left.contains_key(object)))
    })
    .with_context(|| format!("made: {made:?}"))?;
    let pinned = pinned_objects();
    ensure!(pinned.is_empty(), "pinned objects were left: {pinned:?}");
    Ok(())
}

/// What is pinned under a name of ours in the BPF file system.
pub(crate) fn pinned_objects() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/fs/bpf") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("obs")).collect()
}

/// obs is killed while it waits for a command: the command is not ours to kill, but nothing of ours stays in it.
fn with_command(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for the output")?;
    let output = folder.path().join("out.folded").display().to_string();
    // A copy: by its path its process is known, whoever its parent is by then.
    let programs = tempfile::tempdir().context("making a folder for the program")?;
    let orphan = Orphan { program: programs.path().join("call_tree") };
    fs::copy(context.workload("call_tree"), &orphan.program).context("copying the workload")?;
    let program = orphan.program.display().to_string();

    // It must not hold obs's own output open: else waiting for the end of that would be waiting for the orphan.
    let line = format!("exec {program} 100000 >/dev/null 2>&1");
    let command = ["record", "cpu", "-o", &output, "--", "sh", "-c", &line];
    let recording = Background::start(&mut context.obs(&command))?;
    wait_until("the command runs", context.limit(), || Ok(!orphan.pids().is_empty()))?;
    ends_clean(context, recording, Signal::KILL)?;
    for pid in orphan.pids() {
        ensure!(perf_events_of(pid) == 0, "the command inherited obs's perf events");
    }
    ensure!(listing(folder.path())?.is_empty(), "files: {:?}", listing(folder.path())?);
    Ok(())
}

/// A program whose parent is killed. Dropping this kills it too.
struct Orphan {
    program: PathBuf,
}

impl Orphan {
    /// The processes that run the program.
    fn pids(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|link| link == self.program)).collect()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        for pid in self.pids() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

//! A filter gives what was asked for and nothing else, and works in the kernel.

use std::{collections::BTreeSet, fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    harness::{Background, Cgroup, Context, Need, Recording, Scenario, wait_until},
    stats::sample_tolerance,
};

const BUSY: &[Need] = &[Need::Root, Need::Workload("busy"), Need::Workload("call_tree")];
/// What the kernel side looks up as it does in another one.
const VARIATION: &[Need] = &[Need::Root, Need::FastCpu, Need::Workload("busy"), Need::Workload("call_tree")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "filters::by_process", needs: BUSY, run: by_process },
    Scenario { name: "filters::by_two_processes", needs: VARIATION, run: by_two_processes },
    Scenario { name: "filters::by_thread", needs: BUSY, run: by_thread },
    Scenario { name: "filters::by_process_name", needs: VARIATION, run: by_process_name },
    Scenario { name: "filters::by_a_name_longer_than_the_kernel_keeps", needs: VARIATION, run: by_long_name },
    Scenario { name: "filters::by_thread_name", needs: BUSY, run: by_thread_name },
    Scenario {
        name: "filters::by_cgroup",
        needs: &[Need::Root, Need::Cgroup, Need::Workload("busy"), Need::Workload("call_tree")],
        run: by_cgroup,
    },
    Scenario {
        name: "filters::children_are_followed_or_not",
        needs: &[Need::Root, Need::Workload("spawner"), Need::Workload("short")],
        run: children,
    },
    Scenario { name: "filters::a_command_and_nothing_else", needs: BUSY, run: command_only },
];

/// What hogs and targets are started with: longer than any recording. They are killed at the end.
const FOREVER: &str = "100000";

/// Records for a while with this filter, beside whatever runs.
fn record(context: &Context, filter: &[&str]) -> Result<Recording> {
    let mut arguments = vec!["-F", "499", "-d", "2s"];
    arguments.extend(filter);
    context.record(".folded", &arguments)
}

/// The samples were turned away before anything was paid for: the kernel side counted them, and its programs ran for
/// each of them.
fn ensure_filtered_in_kernel(recording: &Recording) -> Result<()> {
    let filtered = recording.number("/samples/filtered")?;
    ensure!(filtered > 0, "a hog was running, but nothing was filtered: {}", recording.summary["samples"]);
    let handled = recording.taken()? + filtered;
    let runs = recording.program_runs()?;
    // The kernel's count of runs lies a little beside ours: it is read while the programs still run.
    ensure!(runs as f64 >= 0.99 * handled as f64, "{handled} samples were handled, but the programs ran {runs} times");
    Ok(())
}

fn ensure_only_pids(recording: &Recording, wanted: &[u32]) -> Result<()> {
    let seen: BTreeSet<u32> = recording.processes()?.iter().map(|(pid, _, _)| *pid).collect();
    let wanted = wanted.iter().copied().collect();
    ensure!(seen == wanted, "the processes {wanted:?} were asked for, {seen:?} are in the profile");
    Ok(())
}

fn by_process(context: &Context) -> Result<()> {
    let _hog = context.background("busy", &["1", FOREVER])?;
    let target = context.background("call_tree", &[FOREVER])?;
    let recording = record(context, &["-p", &target.pid().to_string()])?;
    ensure_only_pids(&recording, &[target.pid()])?;
    ensure!(recording.folded()?.processes() == ["call_tree"], "foreign: {:?}", recording.folded()?.processes());
    ensure_filtered_in_kernel(&recording)
}

fn by_two_processes(context: &Context) -> Result<()> {
    let _hog = context.background("busy", &["1", FOREVER])?;
    let first = context.background("call_tree", &[FOREVER])?;
    let second = context.background("call_tree", &[FOREVER])?;
    let recording = record(context, &["-p", &first.pid().to_string(), "-p", &second.pid().to_string()])?;
    ensure_only_pids(&recording, &[first.pid(), second.pid()])?;
    ensure_filtered_in_kernel(&recording)
}

fn by_thread(context: &Context) -> Result<()> {
    let target = context.background("busy", &["2", FOREVER])?;
    let tid = thread_named(context, target.pid(), "busy-1")?;
    let recording = context.record(".pb.gz", &["-F", "499", "-d", "2s", "--tid", &tid.to_string()])?;
    ensure_only_threads(&recording, "busy-1")?;
    ensure_filtered_in_kernel(&recording)
}

fn by_process_name(context: &Context) -> Result<()> {
    let _hog = context.background("call_tree", &[FOREVER])?;
    let target = context.background("busy", &["2", FOREVER])?;
    // The threads' own names are busy-0 and busy-1: it is the process that is named.
    let recording = record(context, &["--comm", "busy"])?;
    ensure_only_pids(&recording, &[target.pid()])?;
    ensure_filtered_in_kernel(&recording)
}

/// The kernel keeps 15 bytes of a name; who writes the whole name means that process all the same.
fn by_long_name(context: &Context) -> Result<()> {
    let _hog = context.background("call_tree", &[FOREVER])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let name = "busy-under-a-name-of-many-letters";
    let program = folder.path().join(name);
    fs::copy(context.workload("busy"), &program).context("copying the workload")?;
    let target = Background::start(Command::new(&program).args(["1", FOREVER]))?;
    let recording = record(context, &["--comm", name])?;
    ensure_only_pids(&recording, &[target.pid()])?;
    ensure_filtered_in_kernel(&recording)
}

fn by_thread_name(context: &Context) -> Result<()> {
    let target = context.background("busy", &["2", FOREVER])?;
    thread_named(context, target.pid(), "busy-1")?;
    let recording = context.record(".pb.gz", &["-F", "499", "-d", "2s", "--comm", "busy-1"])?;
    ensure_only_threads(&recording, "busy-1")?;
    ensure_filtered_in_kernel(&recording)
}

/// In the group or below it; not beside it, and not in one whose name begins alike.
fn by_cgroup(context: &Context) -> Result<()> {
    let group = Cgroup::make("chosen")?;
    let below = group.make_child("below")?;
    let beside = Cgroup::make("chosen-not")?;
    let inside = context.background("call_tree", &[FOREVER])?;
    let deeper = context.background("call_tree", &[FOREVER])?;
    let outside = context.background("busy", &["1", FOREVER])?;
    group.put(inside.pid())?;
    below.put(deeper.pid())?;
    beside.put(outside.pid())?;

    let recording = record(context, &["--cgroup", group.path().to_str().context("a path that is not UTF-8")?])?;
    ensure_only_pids(&recording, &[inside.pid(), deeper.pid()])?;
    ensure_filtered_in_kernel(&recording)
}

/// The children that a chosen process starts belong to it, unless they are left out.
fn children(context: &Context) -> Result<()> {
    let parent = context.background("spawner", &["100000", &context.program("short")])?;
    let pid = parent.pid().to_string();
    let followed = record(context, &["-p", &pid])?;
    let of_children = followed.samples_of("short")?;
    // The parent only forks and waits: nearly all the time is its children's. What is not sampled under their name is
    // what they do before exec.
    let (taken, expected) = (followed.taken()?, 2.0 * 499.0);
    println!("  {of_children} of {taken} samples are the children's");
    ensure!(of_children * 2 > taken, "{of_children} of {taken} samples are the children's, which do all the work");
    ensure!(
        taken as f64 <= expected + sample_tolerance(expected, 1.0),
        "more samples than one running process can have"
    );

    let alone = record(context, &["-p", &pid, "--no-follow"])?;
    let seen = alone.processes()?;
    ensure!(seen.iter().all(|(seen, _, _)| *seen == parent.pid()), "children were not to be followed: {seen:?}");
    Ok(())
}

/// `-- CMD` measures the command, not what else runs.
fn command_only(context: &Context) -> Result<()> {
    let _hog = context.background("busy", &["2", FOREVER])?;
    let recording = context.record(".folded", &["-F", "499", "--", &context.program("call_tree"), "1"])?;
    let names = recording.folded()?;
    ensure!(names.processes().iter().all(|name| *name != "busy"), "foreign samples: {:?}", names.processes());
    // One process, which may be there under two names: that before exec, and its own.
    let pids: BTreeSet<u32> = recording.processes()?.iter().map(|(pid, _, _)| *pid).collect();
    ensure!(pids.len() == 1, "foreign processes: {:?}", recording.processes()?);
    ensure_filtered_in_kernel(&recording)
}

/// Waits until a process has a thread of this name; its id.
fn thread_named(context: &Context, pid: u32, name: &str) -> Result<u32> {
    let mut found = None;
    wait_until("the thread has its name", context.limit(), || {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
                found = path.file_name().and_then(|tid| tid.to_str()?.parse().ok());
            }
        }
        Ok(found.is_some())
    })?;
    found.context("no such thread")
}

fn ensure_only_threads(recording: &Recording, name: &str) -> Result<()> {
    let profile = crate::read::pprof::Pprof::parse(&recording.data)?;
    let threads: BTreeSet<_> =
        profile.samples.iter().filter_map(|sample| sample.labels.get("thread").map(String::as_str)).collect();
    ensure!(threads == BTreeSet::from([name]), "the thread {name} was asked for, {threads:?} are in the profile");
    Ok(())
}

impl Context {
    /// Starts a workload beside the scenario and lets it get going.
    pub(crate) fn background(&self, name: &str, arguments: &[&str]) -> Result<Background> {
        let background = Background::start(Command::new(self.workload(name)).args(arguments))?;
        // Until exec is over, the process has another name and other code.
        wait_until("the workload runs", self.limit(), || {
            let executable = self.workload(name).canonicalize()?;
            // Any thread's: that of a first thread which has ended already leads nowhere.
            let threads = fs::read_dir(format!("/proc/{}/task", background.pid()))?;
            Ok(threads
                .flatten()
                .any(|thread| fs::read_link(thread.path().join("exe")).is_ok_and(|it| it == executable)))
        })?;
        thread::sleep(Duration::from_millis(20));
        Ok(background)
    }
}

//! How a recording ends: with its command, by Ctrl-C, by a second Ctrl-C; and whose exit status obs returns.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::{
    harness::{Background, Context, Need, Scenario, wait_until},
    read::folded::Folded,
};

const TARGET: &[Need] = &[Need::Root, Need::Workload("call_tree")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "lifecycle::the_commands_exit_status_is_returned",
        needs: &[Need::Root, Need::Workload("exit_with")],
        run: exit_status,
    },
    Scenario {
        name: "lifecycle::a_command_is_measured_from_its_first_instruction",
        needs: &[Need::Root, Need::Tool("sh"), Need::Workload("call_tree")],
        run: first_instruction,
    },
    Scenario { name: "lifecycle::ctrl_c_ends_early_and_writes_the_profile", needs: TARGET, run: interrupt_once },
    Scenario { name: "lifecycle::a_second_ctrl_c_stops_at_once", needs: TARGET, run: interrupt_twice },
    Scenario { name: "lifecycle::a_recording_ends_with_its_process", needs: TARGET, run: ends_with_process },
    Scenario { name: "lifecycle::obs_sleeps_when_one_of_two_has_ended", needs: TARGET, run: one_of_two_ends },
    Scenario { name: "lifecycle::an_older_file_is_replaced_whole", needs: TARGET, run: replaces },
    Scenario { name: "lifecycle::a_reader_that_goes_away", needs: &[Need::Root, Need::Tool("sh")], run: broken_pipe },
];

fn exit_status(context: &Context) -> Result<()> {
    let program = context.program("exit_with");
    let kill = 9;
    let segv = 11;
    for (arguments, expected) in [
        (vec!["0"], 0),
        (vec!["3"], 3),
        (vec!["255"], 255),
        // As shells report it: 128 and the signal's number.
        (vec!["signal", "9"], 128 + kill),
        (vec!["signal", "11"], 128 + segv),
    ] {
        let folder = tempfile::tempdir().context("making a folder")?;
        let output = folder.path().join("out.folded").display().to_string();
        let mut command = context.obs(&["record", "cpu", "-o", &output, "--", &program]);
        let finished = context.run(command.args(&arguments))?;
        ensure!(
            finished.status.code() == Some(expected),
            "exit_with {arguments:?}: obs ended with {}",
            finished.status
        );
        ensure!(Path::new(&output).exists(), "exit_with {arguments:?}: no profile was written");
    }
    Ok(())
}

/// The program's loader and start-up are in the profile at a frequency that hits them, under the program's own name.
fn first_instruction(context: &Context) -> Result<()> {
    let program = context.program("call_tree");
    // The program's exec takes a kernel walk that only a measurement from the very start sees. Some 100 short runs at
    // 9,999 Hz: were the beginning missed, none would have a sample of it.
    let script = format!("i=0; while [ $i -lt 100 ]; do {program} 0.001 > /dev/null; i=$((i+1)); done");
    let recording = context.record(".folded", &["-F", "4999", "--", "sh", "-c", &script])?;
    let folded = recording.folded()?;
    let of_exec =
        folded.count(|stack| stack.frames.iter().any(|frame| frame.contains("execve") && frame.ends_with("_[k]")));
    println!("  {of_exec} samples in exec, of {}", folded.total());
    ensure!(of_exec > 0, "no sample of the programs' exec");
    Ok(())
}

/// A recording of these processes that has begun to take samples.
fn begun(context: &Context, pids: &[u32], output: &str) -> Result<Background> {
    let mut command = context.obs(&["record", "cpu", "--summary", "json", "-F", "499", "-o", output]);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let recording = Background::start(&mut command)?;
    wait_until_sampling(context, &recording)?;
    Ok(recording)
}

/// Waits until obs has attached its programs to events, and been at it for a little.
pub(crate) fn wait_until_sampling(context: &Context, recording: &Background) -> Result<()> {
    let pid = recording.pid();
    // It also holds perf events without a program, and links to tracepoints, from long before.
    wait_until("obs has attached a BPF program to a perf event", context.limit(), || {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Ok(false) };
        let mut details = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        Ok(details.any(|detail| detail.contains("link_type:\tperf\n")))
    })?;
    // Long enough for samples, on any machine: what is measured runs all the while.
    std::thread::sleep(std::time::Duration::from_millis(500));
    Ok(())
}

/// What a process has open, as /proc names it.
fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string())).collect()
}

/// How many perf events a process holds open.
pub(crate) fn perf_events_of(pid: u32) -> usize {
    open_files(pid).iter().filter(|file| file.contains("[perf_event]")).count()
}

fn interrupt_once(context: &Context) -> Result<()> {
    let target = context.background("call_tree", &["100000"])?;
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().context("making a folder")?;
        let output = folder.path().join("out.folded").display().to_string();
        let recording = begun(context, &[target.pid()], &output)?;
        recording.signal(signal)?;
        let finished = recording.finish(context.limit())?;
        ensure!(
            finished.status.code() == Some(0),
            "after {signal:?} obs ended with {}: {}",
            finished.status,
            finished.stderr
        );
        let folded = Folded::parse(&fs::read(&output).context("no profile was written")?)?;
        ensure!(folded.total() > 0, "the profile is empty");
        ensure!(folded.count_with("main") > 0, "the profile does not hold what was measured:\n{folded:#?}");
        let taken = finished.summary()?.pointer("/samples/taken").and_then(serde_json::Value::as_u64);
        ensure!(taken == Some(folded.total()), "{taken:?} samples in the summary, {} in the file", folded.total());
    }
    Ok(())
}

/// The second signal comes right after the first, while obs still looks up names: nothing more is written.
fn interrupt_twice(context: &Context) -> Result<()> {
    let target = context.background("call_tree", &["100000"])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.folded").display().to_string();
    let recording = begun(context, &[target.pid()], &output)?;
    // Stopped, obs cannot act on the first before the second is there. Two signals of one kind would be merged.
    recording.signal(Signal::STOP)?;
    recording.signal(Signal::INT)?;
    recording.signal(Signal::TERM)?;
    recording.signal(Signal::CONT)?;
    let finished = recording.finish(context.limit())?;
    // As a shell reports a program that Ctrl-C ended.
    ensure!(finished.status.code() == Some(130), "obs ended with {}: {}", finished.status, finished.stderr);
    ensure!(fs::read_dir(folder.path())?.count() == 0, "something was left in the output folder");
    ensure!(!finished.stderr.contains("panicked"), "obs broke down: {}", finished.stderr);
    Ok(())
}

/// When everything that was chosen has ended there is nothing more to wait for.
fn ends_with_process(context: &Context) -> Result<()> {
    let target = context.background("call_tree", &["100000"])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.folded").display().to_string();
    let recording = begun(context, &[target.pid()], &output)?;
    target.signal(Signal::KILL)?;
    let finished = recording.finish(context.limit())?;
    ensure!(finished.status.success(), "obs ended with {}: {}", finished.status, finished.stderr);
    let folded = Folded::parse(&fs::read(&output)?)?;
    ensure!(folded.count_with("main") > 0, "the profile does not hold what was measured:\n{folded:#?}");
    Ok(())
}

/// The first of two has ended: obs waits for the other, and does not go round and round meanwhile.
fn one_of_two_ends(context: &Context) -> Result<()> {
    let first = context.background("call_tree", &["100000"])?;
    let second = context.background("call_tree", &["100000"])?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let output = folder.path().join("out.folded").display().to_string();
    let recording = begun(context, &[first.pid(), second.pid()], &output)?;
    first.signal(Signal::KILL)?;
    wait_until("obs sleeps", context.limit(), || is_mostly_asleep(recording.pid()))?;
    second.signal(Signal::KILL)?;
    let finished = recording.finish(context.limit())?;
    ensure!(finished.status.success(), "obs ended with {}: {}", finished.status, finished.stderr);
    Ok(())
}

/// Whether a process is found asleep more often than not. One that never waits is not, however little of a CPU it gets.
fn is_mostly_asleep(pid: u32) -> Result<bool> {
    const LOOKS: usize = 50;
    let mut asleep = 0;
    for _ in 0..LOOKS {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("obs has ended")?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        asleep += usize::from(state == Some('S'));
    }
    Ok(2 * asleep > LOOKS)
}

fn replaces(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let path = folder.path().join("out.folded");
    let older = "older;content 1\n".repeat(100_000);
    fs::write(&path, &older)?;
    let output = path.display().to_string();
    let target = context.background("call_tree", &["100000"])?;
    let recording = begun(context, &[target.pid()], &output)?;
    ensure!(fs::read_to_string(&path)? == older, "the older file was changed before the recording was over");
    recording.signal(Signal::INT)?;
    let finished = recording.finish(context.limit())?;
    ensure!(finished.status.success(), "obs ended with {}: {}", finished.status, finished.stderr);
    let folded = Folded::parse(&fs::read(&path)?)?;
    ensure!(folded.processes() == ["call_tree"], "the older content is still there: {:?}", folded.processes());
    ensure!(fs::read_dir(folder.path())?.count() == 1, "a temporary file was left");
    Ok(())
}

/// `obs record cpu … | head -0` ends without a panic.
fn broken_pipe(context: &Context) -> Result<()> {
    let obs = context.obs_path().display();
    let script = format!("{obs} record cpu -d 300ms -a | true; echo done");
    let finished = context.run(Command::new("sh").args(["-c", &script]))?;
    ensure!(!finished.stderr.contains("panicked"), "obs broke down: {}", finished.stderr);
    ensure!(finished.stdout_text() == "done\n", "{}", finished.stdout_text());
    Ok(())
}

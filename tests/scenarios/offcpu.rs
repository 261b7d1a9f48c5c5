//! Waits: each has its length, its reason and its stack, and together they are all the time that a thread did not run.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    harness::{Background, Context, Need, Recording, Scenario, wait_until},
    read::folded::FoldedStack,
};

const WAITS: &[Need] = &[Need::Root, Need::RealCpu, Need::Workload("waits")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "offcpu::a_hundred_sleeps_in_a_named_function", needs: WAITS, run: sleeps },
    Scenario { name: "offcpu::one_long_wait_among_many_short_ones", needs: WAITS, run: long_among_short },
    Scenario {
        name: "offcpu::a_lock",
        needs: WAITS,
        run: |context| kind(context, "lock", "waits_for_the_lock", "[lock]"),
    },
    Scenario { name: "offcpu::a_pipe", needs: WAITS, run: |context| kind(context, "pipe", "reads_a_byte", "[sleep]") },
    Scenario {
        name: "offcpu::poll",
        needs: WAITS,
        run: |context| kind(context, "poll", "polls_for_a_byte", "[sleep]"),
    },
    Scenario {
        name: "offcpu::a_socket",
        needs: WAITS,
        run: |context| kind(context, "socket", "reads_a_byte", "[network]"),
    },
    Scenario {
        name: "offcpu::two_busy_threads_on_one_cpu",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("taskset"), Need::Workload("busy")],
        run: shared_cpu,
    },
    Scenario {
        name: "offcpu::who_waits_for_a_cpu_at_the_end",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("taskset"), Need::Tool("nice"), Need::Workload("busy")],
        run: starved,
    },
    Scenario {
        name: "offcpu::a_wait_longer_than_the_recording",
        needs: &[Need::Root, Need::Workload("waits")],
        run: longer_than_the_recording,
    },
    Scenario { name: "offcpu::who_woke_it", needs: &[Need::Root, Need::Workload("waits")], run: wakers },
    Scenario { name: "offcpu::what_it_waits_for", needs: &[Need::Root, Need::Workload("waits")], run: on_any_kernel },
];

/// Records the workload for one kind of wait. The profile's nanoseconds are what stacks are weighted by.
fn record(context: &Context, kind: &str) -> Result<Recording> {
    let recording = context.record_by("offcpu", ".folded", &["--", &context.program("waits"), kind])?;
    ensure!(recording.lost()? == 0, "waits were lost: {}", recording.summary["samples"]);
    Ok(recording)
}

/// How long the workload says that it was in the function of a kind, in nanoseconds.
fn waited_ns(recording: &Recording, kind: &str) -> Result<f64> {
    let text = recording.finished.stdout_text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("waited_seconds {kind} ")));
    let seconds: f64 = line.context("the workload printed no time")?.trim().parse()?;
    Ok(seconds * 1e9)
}

fn is_within(what: &str, seen: f64, expected: f64, share: f64) -> Result<()> {
    println!("  {what}: {:.1} ms, {:.1} ms expected", seen / 1e6, expected / 1e6);
    ensure!(
        (seen - expected).abs() <= share * expected,
        "{what}: {seen:.0} ns, but {expected:.0} ns ± {:.0} % are true",
        share * 100.0
    );
    Ok(())
}

/// The nanoseconds of all stacks through a function, with and without its waits for a CPU after each.
fn through(recording: &Recording, function: &str) -> Result<f64> {
    Ok(recording.folded()?.count_with(function) as f64)
}

fn sleeps(context: &Context) -> Result<()> {
    let recording = record(context, "sleep")?;
    let expected = waited_ns(&recording, "sleep")?;
    is_within("in the named function", through(&recording, "sleeps_in_a_named_function")?, expected, 0.02)?;
    let folded = recording.folded()?;
    let asleep = folded.count(|stack| stack.has("sleeps_in_a_named_function") && leaf(stack) == "[sleep]");
    ensure!(asleep as f64 > 0.95 * expected, "only {asleep} ns of it are [sleep]");
    Ok(())
}

fn leaf(stack: &FoldedStack) -> &str {
    stack.frames.last().map_or("", String::as_str)
}

/// Of a million short waits not one may push out the long one; and the short ones are counted without stacks.
fn long_among_short(context: &Context) -> Result<()> {
    let recording = record(context, "long")?;
    let expected = waited_ns(&recording, "long")?;
    is_within("the long sleep", through(&recording, "sleeps_long_once")?, expected, 0.01)?;
    let folded = recording.folded()?;
    let short = folded.count(|stack| stack.process == "waits" && stack.has("[short waits]"));
    // 10,000 sleeps of 50 us and a little, for that is how late timers are by default.
    println!("  short waits: {:.1} ms", short as f64 / 1e6);
    ensure!(short > 10_000 * 50_000, "only {short} ns in short waits");
    Ok(())
}

/// A kind of wait: all of its time is in its function, under its name.
fn kind(context: &Context, kind: &str, function: &str, state: &str) -> Result<()> {
    let recording = record(context, kind)?;
    let expected = waited_ns(&recording, kind)?;
    let seen = recording.folded()?.count(|stack| {
        stack.has(function) && (leaf(stack) == state || leaf(stack) == "[run queue]" || leaf(stack) == "[pre-empted]")
    });
    is_within(state, seen as f64, expected, 0.03)?;
    let other = recording.folded()?.count(|stack| stack.has(function)) - seen;
    ensure!((other as f64) < 0.01 * expected, "{other} ns in {function} have another state than {state}");
    Ok(())
}

/// Two threads that both want one CPU: each waits for it half of the time.
fn shared_cpu(context: &Context) -> Result<()> {
    let busy = context.program("busy");
    let arguments = ["--", "taskset", "-c", "0", &busy, "2", "1.5"];
    let recording = context.record_by("offcpu", ".folded", &arguments)?;
    let cpu_ns = recording.finished.cpu_seconds()? * 1e9;
    let folded = recording.folded()?;
    let waiting = folded
        .count(|stack| stack.process == "busy" && (leaf(stack) == "[pre-empted]" || leaf(stack) == "[run queue]"))
        as f64;
    // While one of them runs the other waits: as much as both ran. What else runs on that CPU comes on top, for both.
    println!("  {:.0} ms on the CPU, {:.0} ms waiting for it", cpu_ns / 1e6, waiting / 1e6);
    let all_ns = recording.seconds()? * 1e9;
    ensure!(waiting > 0.95 * cpu_ns, "{waiting} ns of waiting beside {cpu_ns} ns of CPU time");
    ensure!(waiting < 2.0 * all_ns - cpu_ns + 0.05 * all_ns, "{waiting} ns of waiting are more than there is");
    Ok(())
}

/// A thread that gets hardly any time beside another one, and most likely waits for some when the recording ends, is where it was.
fn starved(context: &Context) -> Result<()> {
    let busy = context.program("busy");
    let on_one_cpu = |niceness: &str| {
        Background::start(Command::new("taskset").args(["-c", "0", "nice", "-n", niceness, &busy, "1", "100000"]))
    };
    let _hog = on_one_cpu("0")?;
    let starved = on_one_cpu("19")?;
    wait_until("the workload has begun", context.limit(), || {
        Ok(fs::read_to_string(format!("/proc/{}/comm", starved.pid()))?.trim() == "busy")
    })?;
    let pid = starved.pid().to_string();
    // If it happens to get the CPU just as it is looked at, it does go on. That is not so each time.
    for _ in 0..5 {
        let recording = context.record_by("offcpu", ".folded", &["-d", "2s", "-p", &pid])?;
        let folded = recording.folded()?;
        let is_waiting = |stack: &FoldedStack| ["[pre-empted]", "[run queue]"].contains(&leaf(stack));
        let all = folded.count(is_waiting);
        let cut = folded.count(|stack| is_waiting(stack) && stack.has("[cut: thread went on]"));
        println!("  {:.0} ms waiting for the CPU, {:.0} without a stack", all as f64 / 1e6, cut as f64 / 1e6);
        ensure!(all > 1_000_000_000, "only {all} ns of waiting for a CPU");
        if cut == 0 {
            return Ok(());
        }
    }
    bail!("each time it is said to have gone on")
}

/// What waits before a recording begins, and still when it ends, passes no tracepoint meanwhile.
fn longer_than_the_recording(context: &Context) -> Result<()> {
    let waiting = context.background("waits", &["hour"])?;
    wait_until("the workload waits", context.limit(), || {
        let name = fs::read_to_string(format!("/proc/{}/wchan", waiting.pid()))?;
        Ok(name.contains("nanosleep"))
    })?;
    let pid = waiting.pid().to_string();
    let recording = context.record_by("offcpu", ".folded", &["-d", "3s", "-p", &pid])?;
    let folded = recording.folded()?;
    let asleep = folded.count(|stack| stack.has("sleeps_for_an_hour") && leaf(stack) == "[sleep]");
    is_within("asleep all the while", asleep as f64, recording.seconds()? * 1e9, 0.05)
}

/// Long waits tell who ended them, and where that was.
fn wakers(context: &Context) -> Result<()> {
    let program = context.program("waits");
    let recording = context.record_by("offcpu", ".folded", &["--wakers", "--", &program, "pipe", "lock", "sleep"])?;
    let folded = recording.folded()?;
    for (waiting, state, waker, waking) in [
        ("reads_a_byte", "[sleep]", "[woken by waits]", "writes_bytes"),
        ("waits_for_the_lock", "[lock]", "[woken by waits]", "holds_the_lock"),
        ("sleeps_in_a_named_function", "[sleep]", "[woken by an interrupt]", ""),
    ] {
        let is_long = |stack: &FoldedStack| stack.has(waiting) && stack.has(state);
        let all = folded.count(is_long);
        let told = folded.count(|stack| is_long(stack) && stack.has(waker) && (waking.is_empty() || stack.has(waking)));
        println!("  {waiting}: of {:.1} ms, {:.1} ms ended by {waker} {waking}", all as f64 / 1e6, told as f64 / 1e6);
        ensure!(all > 400_000_000, "only {all} ns in {waiting}");
        ensure!(
            told as f64 > 0.9 * all as f64,
            "of {all} ns in {waiting} only {told} were ended by {waker} in {waking}"
        );
    }
    Ok(())
}

/// On kernels whose clock runs strangely, too, each wait has its reason and its function.
fn on_any_kernel(context: &Context) -> Result<()> {
    let program = context.program("waits");
    let kinds = ["sleep", "lock", "pipe", "socket", "poll"];
    let arguments: Vec<&str> = ["--", &program].into_iter().chain(kinds).collect();
    let recording = context.record_by("offcpu", ".folded", &arguments)?;
    let folded = recording.folded()?;
    for (function, state) in [
        ("sleeps_in_a_named_function", "[sleep]"),
        ("waits_for_the_lock", "[lock]"),
        ("reads_a_byte", "[network]"),
        ("reads_a_byte", "[sleep]"),
        ("polls_for_a_byte", "[sleep]"),
    ] {
        let seen = folded.count(|stack| stack.has(function) && leaf(stack) == state);
        println!("  {function} {state}: {:.1} ms", seen as f64 / 1e6);
        // 20 times 25 ms of each, at least; a lock is held for 50 times 20 ms.
        ensure!(seen > 400_000_000, "{seen} ns of {state} in {function}");
    }
    Ok(())
}

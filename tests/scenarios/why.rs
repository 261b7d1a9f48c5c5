//! `obs why`: that the parts are the true ones, and add up.

use std::{fs, os::unix::process::CommandExt as _, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    harness::{Background, Cgroup, Context, Need, Scenario, tool},
    stats::taken_seconds,
};

const WAITS: &[Need] = &[Need::Root, Need::RealCpu, Need::Workload("waits")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "why::a_busy_program",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("busy")],
        run: |context| {
            let why = Why::of(context, &[&context.program("busy"), "1", "2"])?;
            why.has("on CPU", &["on_cpu_user", "on_cpu_kernel"], why.printed("cpu_seconds ")?)
        },
    },
    Scenario {
        name: "why::two_busy_threads_on_one_cpu",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("taskset"), Need::Workload("busy")],
        run: shared_cpu,
    },
    Scenario {
        name: "why::a_program_with_a_quota_of_cpu_time",
        needs: &[
            Need::Root,
            Need::RealCpu,
            Need::Tool("sh"),
            Need::File("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
            Need::Workload("busy"),
        ],
        run: quota,
    },
    Scenario { name: "why::a_sleeper", needs: WAITS, run: |context| waits(context, &[("sleep", "sleep")], &[]) },
    Scenario {
        name: "why::a_program_that_waits_for_a_lock",
        needs: WAITS,
        // The thread that holds the lock sleeps as long.
        run: |context| waits(context, &[("lock", "lock")], &[("lock", "sleep")]),
    },
    Scenario {
        name: "why::a_program_that_waits_for_the_network",
        needs: WAITS,
        run: |context| waits(context, &[("socket", "network")], &[("socket", "sleep")]),
    },
    Scenario { name: "why::a_program_that_writes_to_the_disk", needs: WAITS, run: disk },
    Scenario {
        name: "why::a_bit_of_everything",
        needs: WAITS,
        run: |context| {
            let kinds =
                [("sleep", "sleep"), ("lock", "lock"), ("pipe", "sleep"), ("socket", "network"), ("poll", "sleep")];
            waits(context, &kinds, &[("lock", "sleep"), ("pipe", "sleep"), ("socket", "sleep"), ("poll", "sleep")])
        },
    },
    Scenario {
        name: "why::a_shell_that_starts_other_programs",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("sh")],
        run: shell,
    },
    Scenario {
        name: "why::a_program_that_is_stopped",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("sh"), Need::Workload("busy")],
        run: stopped,
    },
    Scenario { name: "why::adds_up_on_any_kernel", needs: &[Need::Root, Need::Workload("waits")], run: adds_up },
];

/// Parts of the whole may be so far from the truth, as shares of it.
const TOLERANCE: f64 = 0.02;

/// An answer, and what the program itself printed.
struct Why {
    answer: Value,
    printed: String,
    /// What interrupts and a hypervisor took of all CPUs meanwhile, in seconds: a program's CPU time leaves it out.
    taken_seconds: f64,
}

impl Why {
    /// Of a command.
    fn of(context: &Context, command: &[&str]) -> Result<Self> {
        Self::ask(context, &[&["--"], command].concat())
    }

    fn ask(context: &Context, whom: &[&str]) -> Result<Self> {
        let mut why = context.obs(&["why", "--format", "json", "--symbol-cache", "none"]);
        let before = taken_seconds()?;
        let finished = context.run(why.args(whom))?;
        let taken_seconds = taken_seconds()? - before;
        ensure!(finished.status.success(), "{} ended with {}:\n{}", finished.line, finished.status, finished.stderr);
        let printed = finished.stdout_text();
        let last = printed.lines().last().unwrap_or_default();
        let answer = serde_json::from_str(last).with_context(|| format!("no JSON in the last line of {printed:?}"))?;
        let why = Self { answer, printed, taken_seconds };
        why.adds_up()?;
        Ok(why)
    }

    fn number(&self, pointer: &str) -> Result<f64> {
        self.answer.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {}", self.answer))
    }

    fn all_ns(&self) -> Result<f64> {
        self.number("/thread_time_ns")
    }

    /// The time of parts together, in nanoseconds.
    fn ns(&self, parts: &[&str]) -> Result<f64> {
        let all = self.answer["parts"].as_array().context("no parts")?;
        let wanted = all.iter().filter(|part| parts.iter().any(|name| part["part"] == **name));
        Ok(wanted.filter_map(|part| part["ns"].as_f64()).sum())
    }

    /// All parts are the whole, but for 1 %, and what is missing is told.
    fn adds_up(&self) -> Result<()> {
        let all = self.answer["parts"].as_array().context("no parts")?;
        let sum: f64 = all.iter().filter_map(|part| part["ns"].as_f64()).sum();
        let (whole, remainder) = (self.all_ns()?, self.number("/remainder_ns")?);
        println!("  {:.1} of {:.1} ms accounted for", sum / 1e6, whole / 1e6);
        ensure!((sum + remainder - whole).abs() < 1_000.0, "{sum} and {remainder} are not {whole}");
        ensure!(remainder.abs() < 0.01 * whole, "{remainder} of {whole} ns are not accounted for");
        Ok(())
    }

    /// The seconds that the program printed behind these words.
    fn printed(&self, words: &str) -> Result<f64> {
        let line = self.printed.lines().find_map(|line| line.strip_prefix(words));
        Ok(line.with_context(|| format!("no {words} in {:?}", self.printed))?.trim().parse()?)
    }

    /// A part is what the program says of it, but for 2 % of the whole, and but for the time in which it waited for a CPU after that.
    fn has_waited(&self, part: &str, seconds: f64) -> Result<()> {
        let (seen, queued, whole) = (self.ns(&[part])?, self.ns(&["run_queue"])?, self.all_ns()?);
        println!(
            "  {part}: {:.1} ms, and up to {:.1} waiting for a CPU; {:.1} expected, {:.1} in all",
            seen / 1e6,
            queued / 1e6,
            seconds * 1e3,
            whole / 1e6
        );
        let (expected, tolerance) = (seconds * 1e9, TOLERANCE * whole);
        ensure!(seen <= expected + tolerance, "{part}: {seen} ns are more than {seconds} s");
        ensure!(
            seen + queued >= expected - tolerance,
            "{part}: {seen} ns and {queued} of waiting for a CPU are not {seconds} s"
        );
        Ok(())
    }

    /// Some parts together are so many seconds, but for 2 % of the whole.
    fn has(&self, what: &str, parts: &[&str], seconds: f64) -> Result<()> {
        let (seen, whole) = (self.ns(parts)?, self.all_ns()?);
        println!("  {what}: {:.1} ms, {:.1} expected, {:.1} in all", seen / 1e6, seconds * 1e3, whole / 1e6);
        let wrong = (seen - seconds * 1e9) / whole;
        let taken = self.taken_seconds * 1e9 / whole;
        ensure!(
            (-TOLERANCE..=TOLERANCE + taken).contains(&wrong),
            "{what}: {seen} ns for {seconds} s are {:.1} % of the whole off",
            100.0 * wrong
        );
        Ok(())
    }
}

/// What the program says of how long its main thread waited for kinds of things, as parts; `other` is what other threads waited
/// for as long.
fn waits(context: &Context, main: &[(&str, &str)], other: &[(&str, &str)]) -> Result<()> {
    let program = context.program("waits");
    let command: Vec<&str> = std::iter::once(program.as_str()).chain(main.iter().map(|(kind, _)| *kind)).collect();
    let why = Why::of(context, &command)?;
    let mut parts: Vec<&str> = main.iter().chain(other).map(|(_, part)| *part).collect();
    parts.sort_unstable();
    parts.dedup();
    for part in parts {
        let kinds = main.iter().chain(other).filter(|(_, of)| *of == part);
        let seconds = kinds.map(|(kind, _)| why.printed(&format!("waited_seconds {kind} "))).sum::<Result<f64>>()?;
        why.has_waited(part, seconds)?;
    }
    Ok(())
}

/// A fifth of a CPU is too little for a busy program: the kernel itself counts for how long it was held up.
fn quota(context: &Context) -> Result<()> {
    const TOLERANCE: f64 = 0.05;
    let group = Cgroup::with_quota("why", Duration::from_millis(20))?;
    let script = format!("echo $$ > {}/cgroup.procs && exec {} 1 1", group.path().display(), context.program("busy"));
    let why = Why::of(context, &["sh", "-c", &script])?;
    let stat = fs::read_to_string(group.path().join("cpu.stat")).context("reading the group's cpu.stat")?;
    let held_up = stat.lines().find_map(|line| line.strip_prefix("throttled_time "));
    let held_up: f64 = held_up.with_context(|| format!("no throttled_time in {stat:?}"))?.trim().parse()?;
    let (seen, queued) = (why.ns(&["throttled"])?, why.ns(&["run_queue"])?);
    println!(
        "  throttled: {:.1} ms, {:.1} by the kernel's own count; {:.1} waiting for a CPU",
        seen / 1e6,
        held_up / 1e6,
        queued / 1e6
    );
    ensure!(held_up > 2e9, "the quota held it up for {held_up} ns only");
    // On a busy machine it waits for a CPU after that, which the kernel does not tell apart.
    ensure!(
        seen >= held_up * (1.0 - TOLERANCE) && seen <= held_up * (1.0 + TOLERANCE) + queued,
        "{seen} ns throttled, but {held_up} ns are true"
    );
    Ok(())
}

fn disk(context: &Context) -> Result<()> {
    let why = Why::of(context, &[&context.program("waits"), "disk"])?;
    // How it waits for the disk is the file system's business: for the write itself, or for the journal's thread.
    let waited_ns = 1e9 * why.printed("waited_seconds disk ")?;
    let (blocked, queued) = (why.ns(&["block_io", "other"])?, why.ns(&["run_queue"])?);
    let kernel = why.ns(&["on_cpu_kernel"])?;
    println!(
        "  block I/O: {:.1} ms, and {:.1} until a CPU took it up, {:.1} expected, {:.1} in the kernel",
        blocked / 1e6,
        queued / 1e6,
        waited_ns / 1e6,
        kernel / 1e6
    );
    let tolerance = TOLERANCE * why.all_ns()?;
    // A CPU that was idle charges a thread from when it was woken, some microseconds before it is switched to: thousands of times here.
    ensure!(blocked <= waited_ns + tolerance, "{blocked} ns are more than the {waited_ns} that it waited");
    // To hand a request to a virtual disk takes the hypervisor, whose time the CPU clock leaves out.
    let most = blocked + queued + kernel;
    ensure!(
        most >= waited_ns - tolerance,
        "{blocked} ns, {queued} until it ran, and {kernel} in the kernel, for {waited_ns} ns"
    );
    ensure!(why.ns(&["block_io", "run_queue"])? > 0.3 * why.all_ns()?, "hardly any block I/O: {}", why.answer);
    let disks = why.answer["disks"].as_array().context("no disks")?;
    let writes: f64 = disks.iter().filter_map(|disk| disk["writes"].as_f64()).fold(0.0, f64::max);
    ensure!(writes >= 300.0, "300 writes, of which the disks show {writes}");
    Ok(())
}

/// Two threads that both want one CPU: each waits for it half of the time.
fn shared_cpu(context: &Context) -> Result<()> {
    let why = Why::of(context, &["taskset", "-c", "0", &context.program("busy"), "2", "1.5"])?;
    let cpu_seconds = why.printed("cpu_seconds ")?;
    why.has("on CPU", &["on_cpu_user", "on_cpu_kernel"], cpu_seconds)?;
    let queued = why.ns(&["run_queue"])? / 1e9;
    println!("  {queued:.2} s waiting for the CPU, {cpu_seconds:.2} s on it");
    // While one of them runs the other waits; what else runs there comes on top.
    ensure!(queued > 0.95 * cpu_seconds, "{queued} s of waiting beside {cpu_seconds} s on the CPU");
    Ok(())
}

/// By its name, a shell is asked for alone. What it starts is the shell at first, and then another program: what that one does is
/// neither part of the whole nor of the parts.
fn shell(context: &Context) -> Result<()> {
    const NAME: &str = "obs-why-shell";
    let folder = tempfile::tempdir().context("making a folder")?;
    let program = folder.path().join(NAME);
    fs::copy(tool("sh").context("no sh")?, &program).context("copying the shell")?;
    // What it is depends on how it is called where all tools are one.
    let mut shell = Command::new(&program);
    let _shell = Background::start(shell.arg0("sh").args(["-c", "while :; do sleep 0.4; done"]))?;
    let why = Why::ask(context, &["--comm", NAME, "-d", "3s"])?;
    let threads = why.number("/threads")?;
    println!("  {threads:.2} threads on average");
    // While it is forked there are two. With what it starts there would be two all the time.
    ensure!((0.95..1.5).contains(&threads), "one shell, but {threads} threads on average: {}", why.answer);
    Ok(())
}

/// Who is stopped sleeps, wherever it was stopped.
fn stopped(context: &Context) -> Result<()> {
    let script = format!("{} 1 2 & sleep 0.5; kill -STOP $!; sleep 1; kill -CONT $!; wait", context.program("busy"));
    let why = Why::of(context, &["sh", "-c", &script])?;
    // The shell and its `sleep` besides.
    let (asleep, faults, whole) = (why.ns(&["sleep"])?, why.ns(&["page_fault"])?, why.all_ns()?);
    println!("  {:.1} ms asleep, {:.1} waiting for pages", asleep / 1e6, faults / 1e6);
    ensure!(faults < TOLERANCE * whole, "{faults} ns of waiting for pages: {}", why.answer);
    ensure!(asleep > 4e9, "2.5 s of a shell, 1.5 of its sleep, 1 of being stopped; but {asleep} ns asleep");
    Ok(())
}

/// Under emulation, shares tell nothing; but nothing goes missing.
fn adds_up(context: &Context) -> Result<()> {
    let why = Why::of(context, &[&context.program("waits"), "sleep", "lock", "socket"])?;
    for part in ["sleep", "lock", "network"] {
        ensure!(why.ns(&[part])? > 400e6, "too little {part}: {}", why.answer);
    }
    Ok(())
}

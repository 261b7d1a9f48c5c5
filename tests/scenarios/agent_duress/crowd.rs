//! Very many processes, threads and functions, and process ids that come again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{client, running::Running};
use crate::harness::{Background, Context, wait_until};

/// Sampled at the asked frequency, whatever that costs on a busy machine: the answers are counts.
const UNGOVERNED: &str = "governor: {enabled: false}\n";

/// How often each of two programs has the process id that the other has had.
const REUSES: &str = "20";

/// How long each time, in seconds of CPU.
const REUSE_SECONDS: &str = "0.05";

/// Above this many process ids, going round once takes too long for a scenario.
const ROUND_MAX: u64 = 65_536;

/// The default budget for everything that is resident and in maps, in bytes.
const MEMORY_BUDGET: f64 = 100e6;

/// The value of `NAME VALUE` that a workload printed.
fn printed(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no line `{name} …` in {text:?}"))
}

/// The folded stacks of all that was measured in the last minutes, by their process.
fn folded(agent: &Running) -> Result<BTreeMap<String, Vec<(String, u64)>>> {
    let reply = client::get(agent.address(), "/api/v1/profile?from=-10m&type=samples&format=folded")?;
    ensure!(reply.status == 200, "the profile was answered with {}: {}", reply.status, reply.text());
    let mut by_process: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for line in reply.text().lines() {
        let (stack, count) = line.rsplit_once(' ').with_context(|| format!("no folded line: {line:?}"))?;
        let process = stack.split(';').next().unwrap_or_default().to_owned();
        by_process.entry(process).or_default().push((stack.to_owned(), count.parse().context("reading a count")?));
    }
    Ok(by_process)
}

/// One program has more names than a window may hold. It loses samples for that, and nobody loses a window.
pub(super) fn long_names(context: &Context) -> Result<()> {
    let agent = Running::start(context, UNGOVERNED)?;
    agent.wait_for_windows(context, 1)?;
    let _named = context.background("long_names", &["1000"])?;
    let lost = || agent.metric("obs_agent_samples_lost_total", &["\"window too large\""]);
    wait_until("samples are lost for the window's size", context.limit(), || Ok(lost()? > 0.0))
        .with_context(|| format!("the log: {}", agent.log()))?;
    let before = agent.windows(context)?;
    agent.wait_for_windows(context, before + 3)?;
    let errors = agent.metric("obs_agent_stage_errors_total", &["\"keep\""])?;
    ensure!(errors == 0.0, "{errors} windows were not kept; the log: {}", agent.log());
    let health = client::get(agent.address(), "/health")?;
    ensure!(health.status == 200, "the agent is not healthy: {}", health.text());
    println!("  {} samples were lost for the size of their windows", lost()?);
    agent.stop(context).map(drop)
}

/// Two programs take turns under one process id. Neither may have the other's name, nor the other's functions.
pub(super) fn pid_reused(context: &Context) -> Result<()> {
    let agent = Running::start(context, UNGOVERNED)?;
    agent.wait_for_windows(context, 1)?;
    let programs = [context.program("reuse_alpha"), context.program("reuse_beta")];
    let text = context.output("pid_reuse", &[REUSES, REUSE_SECONDS, &programs[0], &programs[1]])?;
    let pids: BTreeSet<u64> =
        text.lines().filter_map(|line| line.strip_prefix("pid ")?.split(' ').next()?.parse().ok()).collect();
    let used = [printed(&text, "first")?, printed(&text, "second")?];
    let before = agent.windows(context)?;
    agent.wait_for_windows(context, before + 2)?;
    let by_process = folded(&agent)?;
    for (name, own, other, seconds) in
        [("reuse_alpha", "alpha_work", "beta_work", used[0]), ("reuse_beta", "beta_work", "alpha_work", used[1])]
    {
        let stacks = by_process.get(name).with_context(|| format!("there is no process {name}"))?;
        let with = |function: &str| -> u64 {
            stacks
                .iter()
                .filter(|(stack, _)| stack.split(';').any(|frame| frame == function))
                .map(|(_, count)| count)
                .sum()
        };
        ensure!(with(other) == 0, "{name} has {} samples in {other}, which is the other program's", with(other));
        // Of each life, the first moments are in the kernel, in the loader, or before the first sample.
        let expected = seconds * 99.0;
        let seen = with(own) as f64;
        println!("  {name}: {seen} samples in {own}, of {expected:.0} by the kernel's account");
        ensure!(
            (0.6 * expected..1.4 * expected).contains(&seen),
            "{name} used {seconds} s of CPU, and {seen} samples of {own} were taken"
        );
    }
    for (process, stacks) in &by_process {
        let is_theirs = |stack: &str| stack.split(';').any(|frame| frame == "alpha_work" || frame == "beta_work");
        let strange = stacks.iter().find(|(stack, _)| is_theirs(stack));
        ensure!(
            process == "reuse_alpha" || process == "reuse_beta" || strange.is_none(),
            "{process} has a stack of the two programs: {strange:?}"
        );
    }
    // Each life was a process of its own: as many with this id as there were lives, and half of them of each name.
    let processes = agent.json("/api/v1/processes?from=-10m&limit=10000")?;
    let all = processes["processes"].as_array().context("no list of processes")?;
    let is_one = |process: &&Value| process["pid"].as_u64().is_some_and(|pid| pids.contains(&pid));
    let names = all.iter().filter(is_one).filter_map(|process| process["name"].as_str());
    let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
    names.for_each(|name| *lives.entry(name).or_default() += 1);
    println!("  of {text:?}: {lives:?}");
    let wanted: usize = REUSES.parse()?;
    for name in ["reuse_alpha", "reuse_beta"] {
        let lives = lives.get(name).copied().unwrap_or(0);
        // A life of five sampling periods may have been seen by none of them; never may there be more than there were.
        ensure!((wanted * 8 / 10..=wanted).contains(&lives), "{name} had {wanted} lives, and {lives} are known");
    }
    agent.stop(context).map(drop)
}

/// The machine's process ids go round once, as fast as it can fork.
pub(super) fn pid_space_wraps(context: &Context) -> Result<()> {
    let most: u64 = std::fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse().context("reading pid_max")?;
    let agent = Running::start(context, UNGOVERNED)?;
    agent.wait_for_windows(context, 2)?;
    let (before, kept) = (agent.memory()?, agent.windows(context)?);
    if most > ROUND_MAX {
        println!("  this machine has {most} process ids: going round would take too long, and is left out");
        return agent.stop(context).map(drop);
    }
    let forks = printed(&context.output("pid_reuse", &["0", "0", "-", "-"])?, "forks")?;
    agent.wait_for_windows(context, kept + 2)?;
    let events = agent.metric("obs_agent_stage_dropped_total", &["too-many-events"])?;
    let notices = agent.metric("obs_agent_stage_dropped_total", &["notices-of-processes"])?;
    let after = agent.memory()?;
    println!(
        "  {forks} forks: {events} events of processes beyond what a window keeps, {notices} notices lost; memory {} -> {} kB",
        before.0 / 1024,
        after.0 / 1024
    );
    ensure!((after.1 as f64) < MEMORY_BUDGET, "it needed {} bytes", after.1);
    no_unexplained_error(&agent)?;
    agent.stop(context).map(drop)
}

/// A crowd that sleeps, how many processes and threads it has, and why not more.
struct Crowd {
    _process: Background,
    processes: u64,
    threads: u64,
}

impl Crowd {
    /// Starts it and waits until it is complete, or as complete as the machine's limits allow.
    fn gather(context: &Context, processes: u64, threads: u64) -> Result<Self> {
        let said = tempfile::NamedTempFile::new().context("making a file")?;
        let counts = [processes.to_string(), threads.to_string()];
        let line =
            format!("exec {} {} {} >{} 2>&1", context.program("sleepers"), counts[0], counts[1], said.path().display());
        let process = Background::start(std::process::Command::new("sh").args(["-c", &line]))?;
        let mut text = String::new();
        wait_until("the crowd has gathered", context.limit(), || {
            text = std::fs::read_to_string(said.path()).context("reading what the crowd says")?;
            Ok(text.lines().any(|line| line.starts_with("processes ") && text.ends_with('\n')))
        })?;
        let fields: Vec<&str> = text.lines().last().unwrap_or_default().split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
        let (processes, threads) = (number(1).context("no count")?, number(3).context("no count")?);
        for limit in text.lines().filter(|line| line.starts_with("sleepers: ")) {
            println!("  this machine allows no more: {limit}");
        }
        Ok(Self { _process: process, processes, threads })
    }
}

/// What the log calls an error must be one of those that a crowd explains.
fn no_unexplained_error(agent: &Running) -> Result<()> {
    let log = agent.log();
    let error = log.lines().find(|line| line.contains("\"level\":\"ERROR\""));
    ensure!(error.is_none(), "the log has an error: {error:?}");
    Ok(())
}

/// The agent goes on keeping windows beside a crowd, within its budget for memory.
fn beside(context: &Context, processes: u64, threads: u64) -> Result<()> {
    // Every second, so that a few seconds show what it costs.
    let agent = Running::start(context, "resources: {interval: 1s}\ngovernor: {interval: 1s, shed_after: 1000}\n")?;
    agent.wait_for_windows(context, 3)?;
    let (before, _) = agent.memory()?;
    let crowd = Crowd::gather(context, processes, threads)?;
    ensure!(crowd.processes >= processes.min(20), "only {} processes could be made", crowd.processes);
    let kept = agent.windows(context)?;
    agent.wait_for_windows(context, kept + 4)?;
    // The last judgement was beside the crowd.
    std::thread::sleep(Duration::from_secs(1));
    let (after, most) = agent.memory()?;
    let share = |side: &str| agent.metric("obs_agent_cpu_share_ratio", &[side]);
    let seconds = agent.metric("obs_agent_stage_latency_seconds_sum", &["stage=\"keep\""])?;
    let windows = agent.metric("obs_agent_stage_latency_seconds_count", &["stage=\"keep\""])?;
    println!(
        "  {} processes and {} threads: memory {} -> {} kB (at most {} kB), CPU {:.2} % user and {:.2} % kernel side of the \
         host with everything read each second, {:.0} ms per window",
        crowd.processes,
        crowd.threads,
        before / 1024,
        after / 1024,
        most / 1024,
        share("user")? * 100.0,
        share("bpf")? * 100.0,
        seconds / windows * 1e3,
    );
    ensure!((most as f64) < MEMORY_BUDGET, "it needed {most} bytes, above its budget of {MEMORY_BUDGET}");
    let dropped = agent.metric("obs_agent_stage_dropped_total", &["stage=\"keep\""])?;
    ensure!(dropped == 0.0, "{dropped} windows or events were given up");
    // What has no series of its own is in one that says so: nothing is left out.
    let counted = agent.metric("system_process", &[])?;
    println!("  the host's processes, as counted: {counted}");
    no_unexplained_error(&agent)?;
    // When the crowd goes at once, so many ends come at once.
    drop(crowd);
    let kept = agent.windows(context)?;
    agent.wait_for_windows(context, kept + 2)?;
    no_unexplained_error(&agent)?;
    agent.stop(context).map(drop)
}

/// 5,000 processes.
pub(super) fn processes(context: &Context) -> Result<()> {
    beside(context, 5_000, 0)
}

/// 20,000 threads.
pub(super) fn threads(context: &Context) -> Result<()> {
    beside(context, 20, 1_000)
}

//! SIGKILL at random moments under load.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::running::{self, Random, Running, WINDOW_SECONDS, repetitions, windows};
use crate::{
    harness::{Background, Context, wait_until},
    kernel_objects::{bpf_objects, bpf_objects_of, pinned_objects},
};

/// How many rounds, unless the environment says otherwise.
const ROUNDS: u64 = 10;
const ROUNDS_VARIABLE: &str = "OBS_SCENARIOS_KILL_ROUNDS";

/// Windows that may be lost by a kill: the one that is measured, the one that is being named and written, and where the machine is
/// so busy that this takes longer than a window, the two that may wait for it.
const WINDOWS_LOST_MAX: f64 = 4.0;

/// When a killed agent had started, and when it was killed, in seconds since 1970.
struct Kill {
    /// As it says itself, in `obs_agent_start_time`.
    started: Option<f64>,
    at: f64,
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
}

pub(super) fn at_random(context: &Context) -> Result<()> {
    let rounds = repetitions(ROUNDS_VARIABLE, ROUNDS)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    println!("  seed {seed}");
    let mut random = Random::new(seed);
    // A thread that computes, and processes that come and go.
    let _busy = context.background("busy", &["1", "100000"])?;
    let short = context.program("short");
    let _spawner = context.background("spawner", &["100000000", &short, "0.005"])?;

    let state_folder = tempfile::tempdir().context("making a folder")?;
    let state = state_folder.path().join("state");
    let begun = now()?;
    let (mut kills, mut kept) = (Vec::new(), 0);
    for round in 0..rounds {
        // Every second time it is killed while it still starts, or soon after.
        let killed = if round % 2 == 0 {
            kill_at_work(context, &state, kept, &mut random)
        } else {
            kill_at_start(context, &state, &mut random)
        };
        let (kill, before) = killed.with_context(|| format!("round {round} of seed {seed}"))?;
        // Before the next start: what is on the disk is whole, but for an unfinished end.
        kept = windows_after_kill(context, &state)?;
        ensure!(kept >= before, "round {round}: of {before} windows {kept} are left");
        kills.push(kill);
    }

    let agent = Running::start_in(context, "", tempfile::tempdir()?, state.clone())?;
    agent.wait_for_windows(context, kept + 2)?;
    ensure!(!agent.log().contains("\"ERROR\""), "the last start was not clean: {}", agent.log());
    nothing_older_is_lost(context, &agent, &kills, begun)?;
    agent.stop(context)?;
    ensure!(windows(context, &state)? >= kept + 2, "windows are gone");
    let left: Vec<_> =
        fs::read_dir(state.join("blocks"))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ensure!(left.iter().all(|name| !name.ends_with(".tmp")), "half-written files are left: {left:?}");
    let pinned = pinned_objects();
    ensure!(pinned.is_empty(), "pinned objects were left: {pinned:?}");
    println!("  {rounds} kills, {kept} windows kept");
    Ok(())
}

/// Kills it at a random moment of its second or third window. Returns how many windows were on the disk before.
fn kill_at_work(context: &Context, state: &Path, kept: u64, random: &mut Random) -> Result<(Kill, u64)> {
    let agent = Running::start_in(context, "", tempfile::tempdir()?, state.to_owned())?;
    agent.wait_for_windows(context, kept + 2)?;
    let log = agent.log();
    ensure!(!log.contains("\"ERROR\""), "the start was not clean: {log}");
    let started = agent.metric("obs_agent_start_time_seconds", &[])?;
    sleep_up_to(2.0 * WINDOW_SECONDS, random);
    let objects = bpf_objects_of(context, agent.pid())?;
    ensure!(!objects.is_empty(), "the agent had no BPF object");
    let before = stored(context, state)?;
    let at = now()?;
    let (_, finished) = agent.kill(context)?;
    ensure!(!finished.stderr.contains("panicked"), "the agent panicked: {}", finished.stderr);
    gone(context, &objects)?;
    Ok((Kill { started: Some(started), at }, before))
}

/// Kills it at a random moment of its first window or before.
fn kill_at_start(context: &Context, state: &Path, random: &mut Random) -> Result<(Kill, u64)> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let config = folder.path().join("obs.yaml");
    fs::write(&config, "").context("writing a configuration")?;
    let mut command = running::command(context, state, &config, &folder.path().join("obs.log"));
    let agent = Background::start(&mut command)?;
    sleep_up_to(1.5 * WINDOW_SECONDS, random);
    let objects = bpf_objects_of(context, agent.pid())?;
    let before = stored(context, state)?;
    let at = now()?;
    agent.signal(Signal::KILL)?;
    let finished = agent.finish(context.limit())?;
    ensure!(finished.status.code().is_none(), "it ended by itself with {}: {}", finished.status, finished.stderr);
    gone(context, &objects)?;
    Ok((Kill { started: None, at }, before))
}

fn sleep_up_to(seconds: f64, random: &mut Random) {
    std::thread::sleep(Duration::from_secs_f64(seconds * random.below(1_000_000) as f64 / 1e6));
}

/// How many whole windows there are, whatever else there is: the agent may be writing.
fn stored(context: &Context, state: &Path) -> Result<u64> {
    if !state.join("blocks").exists() {
        return Ok(0);
    }
    let report = report(context, state)?;
    let files = report["files"].as_array().context("the report has no files")?;
    Ok(files.iter().filter_map(|file| file["windows"].as_u64()).sum())
}

fn report(context: &Context, state: &Path) -> Result<Value> {
    let finished = context.run(context.obs(&["store", "check", "--json", "--state-dir"]).arg(state))?;
    serde_json::from_slice(&finished.stdout).with_context(|| format!("no JSON: {}", finished.stderr))
}

/// The same, and that a kill left nothing but what the next start cleans up.
fn windows_after_kill(context: &Context, state: &Path) -> Result<u64> {
    if !state.join("blocks").exists() {
        return Ok(0);
    }
    let report = report(context, state)?;
    for file in report["files"].as_array().context("the report has no files")? {
        let is_whole = file["state"] == "whole" || file["state"] == "unfinished";
        ensure!(is_whole, "a file is damaged: {file}");
    }
    ensure!(report["foreign"].as_array().is_some_and(Vec::is_empty), "strange files were left: {report}");
    stored(context, state)
}

/// The kernel frees them after a grace period.
fn gone(context: &Context, objects: &std::collections::BTreeSet<String>) -> Result<()> {
    wait_until("the agent's BPF objects are gone", context.limit(), || {
        let left = bpf_objects(context)?;
        Ok(!objects.iter().any(|object| left.contains_key(object)))
    })
}

/// Of each agent, the windows are there up to shortly before it was killed, without a gap.
fn nothing_older_is_lost(context: &Context, agent: &Running, kills: &[Kill], begun: f64) -> Result<()> {
    let slow = context.slow_factor();
    let target = format!("/api/v1/series?name=obs_agent_start_time&step=1s&from={}", begun.floor() as u64 - 1);
    let answer = agent.json(&target)?;
    ensure!(answer["completeness"]["is_complete"] == true, "the answer is not complete: {}", answer["completeness"]);
    let points = answer.pointer("/series/0/points").and_then(Value::as_array).context("no points")?;
    // The windows of each agent, known by when it says that it started.
    let mut windows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for point in points {
        let (time, started) = (point["time"].as_f64().context("no time")?, point["last"].as_f64().context("no value")?);
        windows.entry(milliseconds(started)).or_default().push(time);
    }
    let mut worst: f64 = 0.0;
    for Kill { started, at } in kills {
        let Some(started) = started else { continue };
        let own =
            windows.get(&milliseconds(*started)).with_context(|| format!("no window of the agent of {started}"))?;
        let (first, last) = own.first().zip(own.last()).context("no window")?;
        // Where the machine is so busy that names are found more slowly than windows end, windows are longer.
        let longest = own.windows(2).map(|pair| pair[1] - pair[0]).fold(WINDOW_SECONDS, f64::max);
        let lost = (at - last) / longest - 1.0;
        worst = worst.max(lost);
        ensure!(
            lost < WINDOWS_LOST_MAX * slow,
            "{lost:.1} windows before a kill are lost, of {longest} s at most; the agent's began at {own:?}"
        );
        // The first one began within the second that is told.
        let covered = covered_seconds(agent, *first, *last)?;
        let expected = last - first - 1.0;
        ensure!(covered >= 0.95 * expected, "of {expected} s before a kill, {covered} s are covered: {own:?}");
    }
    println!("  from the end of the last window to the kill it was {worst:.2} windows at most");
    Ok(())
}

/// How much time the windows cover that began in a range, in seconds.
fn covered_seconds(agent: &Running, from: f64, to: f64) -> Result<f64> {
    if to <= from {
        return Ok(0.0);
    }
    let answer = agent.json(&format!("/api/v1/profile?from={from}&to={to}"))?;
    answer["covered_seconds"].as_f64().with_context(|| format!("no covered_seconds in {answer}"))
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3).round() as u64
}

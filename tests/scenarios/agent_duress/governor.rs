//! Each step of the governor, forced in a running agent by budgets that cannot be kept, and each taken back.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::running::Running;
use crate::harness::{Background, Context, wait_until};

/// Every step, and how it is known that it is in force, as far as the status says.
const STEPS: [&str; 7] =
    ["half-frequency", "low-frequency", "snapshots", "latency", "symbol-details", "process-resources", "sampling"];

/// The smallest budgets that can be asked for. obs alone needs more memory, and being asked more CPU time.
const TIGHT: &str = "governor: {cpu_percent: 0.05, memory_mb: 20, interval: 1s, shed_after: 1, recover_after: 1, \
                     recover_below: 10, breaker: {enabled: false}}\n";

/// Budgets that nothing exceeds.
const GENEROUS: &str = "governor: {cpu_percent: 100, memory_mb: 100000, interval: 1s, shed_after: 1, recover_after: 1, \
                        recover_below: 95, breaker: {enabled: false}}\n";

/// The host is in distress from this load on, which a few programs make.
const BREAKS_SOON: &str = "governor: {enabled: false, interval: 1s, breaker: {load_per_core: 0.1, resume_after: 1s}}\n";

/// And never from this one on.
const BREAKS_LATE: &str = "governor: {enabled: false, interval: 1s, breaker: {load_per_core: 10000, memory_available: 0, \
                           memory_pressure: 100, resume_after: 1s}}\n";

/// What the status says is shed.
fn shed(status: &Value) -> Result<BTreeSet<String>> {
    let steps = status["shed"].as_array().context("the status has no list of what is shed")?;
    for step in steps {
        ensure!(!step["reason"].as_str().unwrap_or_default().is_empty(), "a step has no explanation: {step}");
    }
    Ok(steps.iter().filter_map(|step| step["step"].as_str().map(str::to_owned)).collect())
}

/// What the status says of the collector: how often it samples, or why it does not.
fn frequency(status: &Value) -> Result<Option<f64>> {
    let collector = status.pointer("/collectors/0").context("the status has no collector")?;
    let frequency = collector["frequency_hertz"].as_f64();
    ensure!(
        collector["is_running"].as_bool() == Some(frequency.is_some()),
        "the status contradicts itself: {collector}"
    );
    if frequency.is_none() {
        ensure!(collector["reason"].as_str().is_some_and(|why| !why.is_empty()), "nothing says why: {collector}");
    }
    Ok(frequency)
}

/// Whether latencies are measured.
fn measures_latencies(status: &Value) -> Result<Option<bool>> {
    let collector = status.pointer("/collectors/1").context("the status has one collector only")?;
    ensure!(collector["name"] == "latency", "another collector than latency: {collector}");
    Ok(collector["is_running"].as_bool())
}

/// The metrics say the same as the status.
fn published(agent: &Running) -> Result<BTreeMap<&'static str, f64>> {
    STEPS
        .into_iter()
        .map(|step| Ok((step, agent.metric("obs_agent_shed_ratio", &[&format!("step=\"{step}\"")])?)))
        .collect()
}

/// All steps are shed in turn, each is said everywhere, and all are taken back when the budgets allow it again.
pub(super) fn ladder(context: &Context) -> Result<()> {
    let agent = Running::start(context, TIGHT)?;
    let all: BTreeSet<String> = STEPS.iter().map(|step| (*step).to_owned()).collect();
    let (mut seen, mut before) = (Vec::new(), BTreeSet::new());
    // Asking is part of the load: nobody else may want anything from this agent.
    wait_until("every step is shed", context.limit(), || {
        let status = agent.json("/api/v1/status")?;
        if status.pointer("/collectors/0").is_none() {
            // It has only just started.
            return Ok(false);
        }
        let (now, hertz) = (shed(&status)?, frequency(&status)?);
        if now.contains("sampling") {
            ensure!(hertz.is_none(), "sampling is shed, but it goes on with {hertz:?} Hz");
        } else if now.contains("low-frequency") {
            ensure!(hertz == Some(19.0), "low-frequency is shed, but it goes on with {hertz:?} Hz");
        } else if now.contains("half-frequency") {
            ensure!(hertz == Some(49.0), "half-frequency is shed, but it goes on with {hertz:?} Hz");
        }
        ensure!(now.is_superset(&before), "with budgets exceeded all the time, {now:?} came after {before:?}");
        if now != before {
            seen.push(now.len());
            before = now;
        }
        Ok(before == all && measures_latencies(&status)? == Some(false))
    })?;
    println!("  as many steps were shed, one after the other: {seen:?}");
    let metrics = published(&agent)?;
    ensure!(metrics.values().all(|value| *value == 1.0), "the metrics do not say what is shed: {metrics:?}");
    ensure!(agent.metric("obs_agent_shed_level", &[])? == 7.0, "the level is not 7");
    for resource in ["cpu", "memory"] {
        let used = agent.metric("obs_agent_budget_used_ratio", &[resource])?;
        ensure!(used > 1.0, "of the budget for {resource} {used} is used, yet everything is shed");
    }
    for step in STEPS {
        agent.wait_for_log(context, &format!("shed {step}: "))?;
    }
    agent.wait_for_log(context, "everything that would help is shed already")?;
    let at_rest = wait_for_rest(context, &agent)?;
    ensure!(agent.metric("obs_agent_collector_running_ratio", &["cpu"])? == 0.0, "the collector is said to run");

    agent.reload(GENEROUS)?;
    wait_until("every step is taken back", context.limit(), || {
        let status = agent.json("/api/v1/status")?;
        let now = shed(&status)?;
        ensure!(now.is_subset(&before), "with nothing exceeded, {now:?} came after {before:?}");
        before = now;
        Ok(before.is_empty() && frequency(&status)? == Some(99.0) && measures_latencies(&status)? == Some(true))
    })?;
    for step in STEPS {
        agent.wait_for_log(context, &format!("took {step} back"))?;
    }
    wait_until("the metrics say so", context.limit(), || Ok(published(&agent)?.values().all(|value| *value == 0.0)))?;
    wait_until("it samples again", context.limit(), || Ok(runs(&agent)? > at_rest))?;
    agent.stop(context).map(drop)
}

/// How often the sampling program ran, as far as the last judgement has told.
fn runs(agent: &Running) -> Result<f64> {
    agent.metric("obs_agent_program_runs_total", &["cpu_sample"])
}

/// Waits until windows go on and no program runs. The last runs are told with the next judgement, which may come late.
fn wait_for_rest(context: &Context, agent: &Running) -> Result<f64> {
    let mut before = runs(agent)?;
    wait_until("no program runs any more", context.limit(), || {
        let kept = agent.windows(context)?;
        agent.wait_for_windows(context, kept + 2)?;
        let now = runs(agent)?;
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    Ok(before)
}

/// While the host is in distress nothing is measured; afterwards everything is again.
pub(super) fn breaker(context: &Context) -> Result<()> {
    // The load of one minute rises slowly: with so many programs it is there within seconds.
    let cpus = std::thread::available_parallelism().context("counting CPUs")?.get();
    let hogs = (0..cpus.min(16))
        .map(|_| Background::start(std::process::Command::new(context.workload("busy")).args(["8", "100000"])))
        .collect::<Result<Vec<_>>>()?;
    let agent = Running::start(context, BREAKS_SOON)?;
    wait_until("everything is paused", context.limit(), || {
        Ok(agent.json("/api/v1/status")?["paused"].as_str().is_some_and(|why| why.contains("load is")))
    })?;
    agent.wait_for_log(context, "paused all measuring: the host's load is")?;
    wait_until("the metric says so", context.limit(), || Ok(agent.metric("obs_agent_paused_ratio", &[])? == 1.0))?;
    ensure!(frequency(&agent.json("/api/v1/status")?)?.is_none(), "it is paused, and samples");
    let at_rest = wait_for_rest(context, &agent)?;
    drop(hogs);

    agent.reload(BREAKS_LATE)?;
    agent.wait_for_log(context, "resumed measuring")?;
    wait_until("it samples again", context.limit(), || Ok(runs(&agent)? > at_rest))?;
    let status = agent.json("/api/v1/status")?;
    ensure!(status["paused"].is_null() && frequency(&status)? == Some(99.0), "it has not resumed: {status}");
    agent.stop(context).map(drop)
}

//! The agent: what it keeps, how it ends, and how it starts again after it was killed.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::{
    agent_duress::{
        client::{Client, exchange, request},
        running::{self, Running},
    },
    harness::{Background, Context, Finished, Need, Scenario, wait_until},
    kernel_objects::{bpf_objects, bpf_objects_of},
};

const NEEDS: &[Need] = &[Need::Root, Need::Workload("busy"), Need::Workload("bpf_ids")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "agent::keeps_what_it_measured", needs: NEEDS, run: keeps },
    Scenario { name: "agent::ends_in_time_whatever_clients_do", needs: &[Need::Root], run: ends },
    Scenario { name: "agent::a_second_one_is_refused_with_the_firsts_pid", needs: NEEDS, run: second },
    Scenario { name: "agent::reads_its_configuration_again_or_says_why_not", needs: NEEDS, run: reload },
    Scenario { name: "agent::starts_clean_after_it_was_killed", needs: NEEDS, run: killed },
];

/// Windows of a second, so that a scenario need not wait long.
const WINDOW: &str = "1s";

/// How long an end may take here. What is promised is five seconds; the rest is for a machine that is busy with other things.
const END_MAX: Duration = Duration::from_secs(10);

fn agent(context: &Context, state: &Path, arguments: &[&str]) -> Command {
    let mut command = context.obs(&["agent"]);
    command.args(arguments).env("OBS_STATE_DIR", state).env("OBS_WINDOW", WINDOW).env("OBS_HTTP_LISTEN", "127.0.0.1:0");
    command
}

/// What `obs store VERB` prints of a folder.
fn store(context: &Context, verb: &str, state: &Path) -> Result<Finished> {
    context.run(context.obs(&["store", verb, "--state-dir"]).arg(state))
}

/// How many windows there are, by `obs store check`, which must find nothing wrong.
fn windows(context: &Context, state: &Path) -> Result<u64> {
    let finished = store(context, "check", state)?;
    let text = finished.stdout_text();
    ensure!(finished.status.success(), "the store is not clean: {text}{}", finished.stderr);
    let last = text.lines().last().unwrap_or_default();
    let count = last.rsplit(", ").next().and_then(|words| words.split(' ').next()?.parse().ok());
    count.with_context(|| format!("`obs store check` ended with {last:?}"))
}

/// Waits until so many windows are kept.
fn wait_for_windows(context: &Context, state: &Path, count: u64) -> Result<()> {
    wait_until(&format!("{count} windows are kept"), context.limit(), || {
        Ok(state.join("lock").exists() && windows(context, state).is_ok_and(|kept| kept >= count))
    })
}

fn keeps(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let _busy = context.background("busy", &["1", "100"])?;
    let running = Background::start(&mut agent(context, folder.path(), &[]))?;
    wait_for_windows(context, folder.path(), 3)?;
    let objects = bpf_objects_of(context, running.pid())?;
    let asked = Instant::now();
    running.signal(Signal::TERM)?;
    let finished = running.finish(context.limit())?;
    ensure!(finished.status.success(), "the agent ended with {}: {}", finished.status, finished.stderr);
    check_end(context, asked)?;
    ensure!(!finished.stderr.contains("\"ERROR\""), "it logged an error: {}", finished.stderr);
    let stat = store(context, "stat", folder.path())?.stdout_text();
    for expected in ["cpu: samples/count, cpu/nanoseconds", "system.cpu.time", "obs_agent_stage_sent"] {
        ensure!(stat.contains(expected), "`obs store stat` does not know {expected}: {stat}");
    }
    wait_until_gone(context, &objects)
}

fn check_end(context: &Context, asked: Instant) -> Result<()> {
    let taken = asked.elapsed();
    ensure!(taken < END_MAX.mul_f64(context.slow_factor()), "it took {taken:?} to end");
    Ok(())
}

/// Clients that finish neither their questions nor the reading of what they asked for, and others that do not cease to ask: the windows
/// are kept all the same, and in time.
fn ends(context: &Context) -> Result<()> {
    let state_folder = tempfile::tempdir().context("making a folder")?;
    let state = state_folder.path().join("state");
    let logs = tempfile::tempdir().context("making a folder")?;
    let running = Running::start_in(context, "", logs, state.clone())?;
    running.wait_for_windows(context, 2)?;
    let (before, address) = (running.windows(context)?, running.address());
    let mut clients = Vec::new();
    for request in ["GET /assets/main.js HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET / HTTP/1.1\r\nHost: local"] {
        let mut client = Client::connect(address)?;
        client.send(request.as_bytes())?;
        clients.push(client);
    }
    let answers = Arc::new(AtomicU64::new(0));
    let asking = (0..4).map(|_| {
        let answers = Arc::clone(&answers);
        thread::spawn(move || {
            let question = request("GET", "/api/v1/profile?from=-1h&format=json", &[], b"");
            // Until nobody answers any more.
            while matches!(exchange(address, &question), Ok(Some(_))) {
                answers.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let asking: Vec<thread::JoinHandle<()>> = asking.collect();
    wait_until("clients are answered", context.limit(), || Ok(answers.load(Ordering::Relaxed) > 0))?;
    let asked = Instant::now();
    running.stop(context)?;
    check_end(context, asked)?;
    for client in asking {
        ensure!(client.join().is_ok(), "a client has panicked");
    }
    let after = running::windows(context, &state)?;
    ensure!(after > before, "the last window is missing: there are {after}, and there were {before} before the end");
    Ok(())
}

/// The kernel frees them when no program runs any more.
fn wait_until_gone(context: &Context, objects: &BTreeSet<String>) -> Result<()> {
    ensure!(!objects.is_empty(), "the agent had no BPF object");
    wait_until("the agent's BPF objects are gone", context.limit(), || {
        let left = bpf_objects(context)?;
        Ok(!objects.iter().any(|object| left.contains_key(object)))
    })
}

fn second(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let running = Background::start(&mut agent(context, folder.path(), &[]))?;
    wait_for_windows(context, folder.path(), 1)?;
    let refused = context.run(&mut agent(context, folder.path(), &[]))?;
    ensure!(refused.status.code() == Some(1), "the second agent ended with {}", refused.status);
    let pid = running.pid().to_string();
    ensure!(refused.stderr.contains(&pid), "the refusal does not name process {pid}: {}", refused.stderr);
    Ok(())
}

fn reload(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let (config, log) = (folder.path().join("obs.yaml"), folder.path().join("obs.log"));
    let write = |text: &str| fs::write(&config, text).context("writing a configuration");
    write("log: {level: info}\n")?;
    let (state, config_text) = (folder.path().join("state"), config.display().to_string());
    let mut command = agent(context, &state, &["--config", &config_text]);
    let running = Background::start(command.env("OBS_LOG_FILE", &log))?;
    wait_for_windows(context, &state, 1)?;
    let says = |what: &str| {
        wait_until(&format!("the log says {what:?}"), context.limit(), || {
            Ok(fs::read_to_string(&log).is_ok_and(|text| text.contains(what)))
        })
    };
    write("collectors: {cpu: {frequency: 19Hz}}\n")?;
    running.signal(Signal::HUP)?;
    says("collectors.cpu.frequency")?;
    // What only a restart changes, and what makes no sense: refused, and the place is named.
    write("unwind: {memory: 24MiB}\n")?;
    running.signal(Signal::HUP)?;
    says("the old one kept")?;
    write("log: {levle: info}\n")?;
    running.signal(Signal::HUP)?;
    says("levle")?;
    let before = windows(context, &state)?;
    wait_for_windows(context, &state, before + 1)
}

fn killed(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let _busy = context.background("busy", &["1", "100"])?;
    let mut kept = 0;
    for round in 0..5_u64 {
        let running = Background::start(&mut agent(context, folder.path(), &[]))?;
        wait_for_windows(context, folder.path(), kept + 2)?;
        // At another moment of a window each time.
        thread::sleep(Duration::from_millis(170 * round));
        let (before, objects) = (windows(context, folder.path())?, bpf_objects_of(context, running.pid())?);
        running.signal(Signal::KILL)?;
        running.finish(context.limit())?;
        kept = windows(context, folder.path())?;
        ensure!(kept >= before, "round {round}: of {before} windows {kept} are left");
        wait_until_gone(context, &objects)?;
    }
    Ok(())
}

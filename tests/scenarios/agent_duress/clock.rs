//! The clock is set back, and forward again. Only where the machine's clock belongs to the scenarios: in a guest.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;

use super::{client, running::Running};
use crate::harness::{Context, wait_until};

const HOUR_SECONDS: i64 = 3_600;

/// Moves the clock by so many seconds. Dropping it moves it back.
struct Moved {
    seconds: i64,
}

impl Moved {
    fn by(seconds: i64) -> Result<Self> {
        step(seconds).context("setting the clock")?;
        Ok(Self { seconds })
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Err(error) = step(-self.seconds) {
            println!("  could not set the clock again: {error}");
        }
    }
}

fn step(seconds: i64) -> rustix::io::Result<()> {
    let mut time = clock_gettime(ClockId::Realtime);
    time.tv_sec += seconds;
    clock_settime(ClockId::Realtime, time)
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
}

/// When the windows of a range began, in seconds since 1970.
fn times(agent: &Running, range: &str) -> Result<Vec<f64>> {
    let answer = agent.json(&format!("/api/v1/series?name=obs_agent_start_time&step=1s&{range}"))?;
    let points = answer.pointer("/series/0/points").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(points.iter().filter_map(|point| point["time"].as_f64()).collect())
}

/// Windows go on at once and by the new time, those of before stay, and both are found by their own time.
pub(super) fn set_back(context: &Context) -> Result<()> {
    let agent = Running::start(context, "")?;
    agent.wait_for_windows(context, 3)?;
    let (start, kept) = (now()?, agent.windows(context)?);
    let moved = Moved::by(-HOUR_SECONDS)?;
    // Within the time of the scenario, not within the hour until the old time comes again. Windows of the old time may still
    // wait to be written.
    wait_until("there are windows of the new time", context.limit(), || Ok(times(&agent, "from=-10m")?.len() >= 2))?;
    let live = client::get(agent.address(), "/live")?;
    ensure!(live.status == 200, "/live says {}: {}", live.status, live.text());
    let after = times(&agent, "from=-10m")?;
    let set = now()?;
    ensure!(after.iter().all(|time| *time <= set), "it is {set}, and there are windows of later: {after:?}");
    let old = format!("from={}&to={}", start as u64 - 600, start as u64 + 600);
    let before = times(&agent, &old)?;
    ensure!(before.len() >= 3, "by the old time there were {kept} windows, and there are {before:?}");
    println!("  {} windows before the hour was set back, {} after", before.len(), after.len());

    drop(moved);
    wait_until("with the clock set forward, windows follow those of before", context.limit(), || {
        Ok(times(&agent, "from=-10m")?.len() >= before.len() + 2)
    })?;
    ensure!(!agent.log().contains("\"ERROR\""), "it logged an error: {}", agent.log());
    let kept = agent.windows(context)?;
    let state = agent.state().to_owned();
    let (folder, _) = agent.kill(context)?;
    let agent = Running::start_in(context, "", tempfile::tempdir()?, state)?;
    agent.wait_for_windows(context, kept + 1)?;
    ensure!(times(&agent, &old)?.len() >= before.len(), "after another start, windows are gone");
    drop(folder);
    agent.stop(context).map(drop)
}

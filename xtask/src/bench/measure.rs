//! What a command costs: CPU time, memory, wall time.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wait4::Wait4 as _;

use crate::host;

/// What one or more commands cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// User and system CPU time of the processes and of the children that they waited for, in seconds.
    pub(crate) cpu_seconds: f64,
    /// The largest resident set of any one process, in bytes.
    pub(crate) peak_rss_bytes: u64,
    /// From the start of the first to the end of the last, in seconds.
    pub(crate) wall_seconds: f64,
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or fails: the cost of a failure is of no interest.
pub(crate) fn run(command: &mut Command) -> Result<Cost> {
    let begin = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start `{}`", host::line(command)))?;
    let mut cost = wait(child, &host::line(command))?;
    cost.wall_seconds = begin.elapsed().as_secs_f64();
    Ok(cost)
}

/// Waits for a child that was started elsewhere; the wall time is that of the waiting.
///
/// # Errors
/// When it fails.
pub(crate) fn wait(child: Child, line: &str) -> Result<Cost> {
    let begin = Instant::now();
    let used = child.wait4().with_context(|| format!("cannot wait for `{line}`"))?;
    if !used.status.success() {
        bail!("`{line}` failed: {}", used.status);
    }
    let cpu: Duration = used.rusage.utime + used.rusage.stime;
    Ok(Cost {
        cpu_seconds: cpu.as_secs_f64(),
        peak_rss_bytes: used.rusage.maxrss,
        wall_seconds: begin.elapsed().as_secs_f64(),
    })
}

/// The middle value; of an even number, the mean of the two in the middle. Zero for none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len().is_multiple_of(2).then(|| values.get(middle.wrapping_sub(1))).flatten()) {
        (Some(high), Some(low)) => low.midpoint(*high),
        (Some(only), None) => *only,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).abs() < f64::EPSILON);
    }

    #[test]
    fn a_busy_command_costs_cpu_time_and_memory() {
        let busy = run(host::program("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])).unwrap();
        let idle = run(host::program("true").arg("x")).unwrap();
        assert!(busy.cpu_seconds > idle.cpu_seconds);
        assert!(busy.peak_rss_bytes > 100_000, "{busy:?}");
    }

    #[test]
    fn a_failing_command_has_no_cost() {
        assert!(run(&mut host::program("false")).is_err());
    }
}

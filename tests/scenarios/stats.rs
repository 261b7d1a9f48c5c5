//! How far a count may be from what is expected, and why.

use std::fs;

use anyhow::{Context as _, Result};

/// How many standard deviations a check allows: a correct obs fails one check in some 16,000.
const SIGMAS: f64 = 4.0;

/// How far the samples of threads that kept `load` of their CPUs (0 to 1) may be from `expected`.
///
/// The sampling clock of each CPU ticks with a fixed period. A thread that has a CPU to itself gets a sample at every
/// tick: the count is exact but for the ends, which is what the 2 % and the 2 samples are for. A thread that shares its
/// CPU is hit when a tick falls in its slices; were ticks and slices independent, the count would be binomial with
/// variance `expected × (1 − load)`, and slices longer than the period only make it smaller.
pub(crate) fn sample_tolerance(expected: f64, load: f64) -> f64 {
    let shared = (1.0 - load).clamp(0.0, 1.0);
    0.02 * expected + 2.0 + SIGMAS * (expected * shared).sqrt()
}

/// How far a count of independent events may be from `expected`: Poisson, variance `expected`. An upper bound for
/// samples of many short slices, which a fixed period hits more evenly than that.
pub(crate) fn poisson_tolerance(expected: f64) -> f64 {
    SIGMAS * expected.sqrt()
}

/// What interrupts and a hypervisor have taken of all CPUs, in seconds: programs' CPU time leaves it out, and clocks do not.
pub(crate) fn taken_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    // cpu, user, nice, system, idle, iowait, irq, softirq, steal: in clock ticks, which are hundredths of a second.
    let ticks = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(6).take(3);
    Ok(ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

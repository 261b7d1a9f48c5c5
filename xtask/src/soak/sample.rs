//! What is looked at every few seconds during a soak.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::agent::metrics::Metrics;
use crate::agent::{Agent, Cost};
use crate::host;

/// The agent at one moment, and its costs since the sample before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Since the beginning of the soak.
    pub(super) at_seconds: f64,
    /// Index of the phase that the time since the sample before belongs to.
    pub(super) phase: usize,
    /// Share of the host's CPU time, 1 being all of it: the process.
    pub(super) user_share: f64,
    /// The same: BPF programs, by the kernel's count.
    pub(super) bpf_share: f64,
    /// The same, as the agent tells it; not a number while it does not.
    pub(super) bpf_share_told: f64,
    /// CPU seconds by thread since the sample before.
    pub(super) threads: BTreeMap<String, f64>,
    pub(super) rss_bytes: f64,
    /// The part of it that no file stands behind.
    pub(super) anonymous_bytes: f64,
    /// Kernel memory of maps; not a number if it was not told.
    pub(super) map_bytes: f64,
    /// The history on disk.
    pub(super) store_bytes: f64,
    /// What the agent remembers of names, on disk.
    pub(super) symbols_bytes: f64,
    /// What was lost since the sample before, by reason.
    pub(super) lost: BTreeMap<String, f64>,
    /// Samples that came out of the kernel since the sample before.
    pub(super) received: f64,
    /// How many steps are shed.
    pub(super) shed: f64,
    /// Whether measuring pauses.
    pub(super) is_paused: bool,
}

/// Takes samples.
pub(super) struct Sampler {
    before: Cost,
    counts: BTreeMap<String, f64>,
    received: f64,
    cpus: f64,
}

/// The folder in the state folder where names are kept.
const SYMBOLS: &str = "symbols";

impl Sampler {
    pub(super) fn start(agent: &Agent) -> Result<Self> {
        Ok(Self { before: agent.cost()?, counts: BTreeMap::new(), received: 0.0, cpus: host::cpus() as f64 })
    }

    /// The agent now. Metrics that it does not tell in time are not numbers, and its silence is told.
    pub(super) fn take(&mut self, agent: &Agent, at_seconds: f64, phase: usize) -> Result<Sample> {
        let cost = agent.cost()?;
        let spent = cost.since(&self.before);
        self.before = cost;
        let metrics = agent.metrics().unwrap_or_else(|error| {
            eprintln!("at {at_seconds:.0} s: {error:#}");
            Metrics::default()
        });
        let value = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
        let received = value("obs_agent_stage_received_total", &[("stage", "collect")]).unwrap_or(self.received);
        let counts = losses(&metrics);
        let lost = counts.iter().map(|(reason, count)| {
            let before = self.counts.get(reason).copied().unwrap_or(0.0);
            (reason.clone(), (count - before).max(0.0))
        });
        let (mut store_bytes, mut symbols_bytes) = (0.0, 0.0);
        for (name, bytes) in agent.state_bytes()? {
            *(if name == SYMBOLS { &mut symbols_bytes } else { &mut store_bytes }) += bytes as f64;
        }
        let of_host = spent.seconds * self.cpus;
        let sample = Sample {
            at_seconds,
            phase,
            user_share: spent.cpu_seconds / of_host,
            bpf_share: spent.bpf_seconds / of_host,
            bpf_share_told: value("obs_agent_cpu_share_ratio", &[("side", "bpf")]).unwrap_or(f64::NAN),
            threads: spent.threads,
            rss_bytes: self.before.process.rss_bytes as f64,
            anonymous_bytes: self.before.process.anonymous_bytes as f64,
            map_bytes: value("obs_agent_map_memory_bytes", &[]).unwrap_or(f64::NAN),
            store_bytes,
            symbols_bytes,
            lost: lost.collect(),
            received: received - self.received,
            shed: value("obs_agent_shed_level", &[]).unwrap_or(f64::NAN),
            is_paused: value("obs_agent_paused_ratio", &[]).is_some_and(|paused| paused > 0.0),
        };
        (self.received, self.counts) = (received, self.counts.clone().into_iter().chain(counts).collect());
        Ok(sample)
    }
}

/// Everything that was lost since the agent's start, by reason: samples, and what stages dropped or could not do.
fn losses(metrics: &Metrics) -> BTreeMap<String, f64> {
    let mut lost = BTreeMap::new();
    let mut add = |reason: String, value: f64| *lost.entry(reason).or_insert(0.0) += value;
    for series in metrics.named("obs_agent_samples_lost_total") {
        add(format!("sample: {}", series.label("reason")), series.value);
    }
    for series in metrics.named("obs_agent_stage_dropped_total") {
        add(format!("{}: {}", series.label("stage"), series.label("reason")), series.value);
    }
    for series in metrics.named("obs_agent_stage_errors_total") {
        add(format!("{}: errors", series.label("stage")), series.value);
    }
    lost
}

/// All samples, for spreadsheets: one line each, columns separated by tabs.
pub(super) fn tsv(samples: &[Sample], phases: &[&str]) -> String {
    let mut text = String::from(
        "at_seconds\tphase\tuser_share\tbpf_share\tbpf_share_told\trss_bytes\tanonymous_bytes\tmap_bytes\tstore_bytes\t\
         symbols_bytes\treceived\tlost\tshed\tpaused\tthreads\n",
    );
    for sample in samples {
        let Sample {
            at_seconds,
            phase,
            user_share,
            bpf_share,
            bpf_share_told,
            threads,
            rss_bytes,
            anonymous_bytes,
            map_bytes,
            store_bytes,
            symbols_bytes,
            lost,
            received,
            shed,
            is_paused,
        } = sample;
        let phase = phases.get(*phase).copied().unwrap_or_default();
        let lost: f64 = lost.values().sum();
        let threads: Vec<String> = threads.iter().map(|(name, seconds)| format!("{name}={seconds:.3}")).collect();
        let threads = threads.join(" ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{at_seconds:.1}\t{phase}\t{user_share:.6}\t{bpf_share:.6}\t{bpf_share_told:.6}\t{rss_bytes}\t{anonymous_bytes}\t\
             {map_bytes}\t{store_bytes}\t{symbols_bytes}\t{received}\t{lost}\t{shed}\t{is_paused}\t{threads}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_apart_by_reason() {
        let text = "obs_agent_samples_lost_total{collector=\"cpu\",reason=\"full\"} 2\n\
                    obs_agent_samples_lost_total{collector=\"other\",reason=\"full\"} 3\n\
                    obs_agent_stage_dropped_total{stage=\"keep\",reason=\"queue-full\"} 4\n\
                    obs_agent_stage_errors_total{stage=\"keep\"} 0\n";
        let lost = losses(&Metrics::parse(text, "obs_").unwrap());
        let expected = [("keep: errors", 0.0), ("keep: queue-full", 4.0), ("sample: full", 5.0)];
        assert_eq!(lost, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    }
}

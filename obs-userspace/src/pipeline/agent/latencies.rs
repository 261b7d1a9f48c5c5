//! The collector of latencies, as the agent runs it: started and stopped with the configuration and by the governor.

use std::collections::BTreeMap;

use super::{
    governing::{Orders, ProgramsTime},
    options,
};
use crate::{
    collect::{
        Collector as _, CollectorSpec,
        latency::{Latency, SPEC},
    },
    config::agent::{AgentConfig, CollectorConfig},
    model::{record::Record, summary::SampleCounts},
    telemetry::{
        governor::{Relief, Shed, Step},
        self_metrics::{COLLECTOR_RUNNING, Registry, SAMPLES_LOST},
    },
    web::{CollectorStatus, Health},
};

/// What is shed when obs costs too much: later than what costs profiles little, earlier than names and processes.
pub(super) const STEP: Step = Step {
    shed: Shed::Collector(SPEC.name),
    rank: 35,
    relief: Relief { cpu: true, memory: true },
    effect: "no latencies are measured",
};

fn may_run(orders: &Orders) -> bool {
    !orders.is_paused && !orders.shed.contains(&STEP.shed)
}

/// As `/health/detailed` names it.
pub(super) const COMPONENT: &str = "collector.latency";

/// Latencies at work, or why not.
pub(super) struct Latencies {
    state: State,
    /// How often it began: what is summed up is so since then.
    generation: u64,
    /// Whether nothing was handed on since it began.
    are_new: bool,
    /// What was asked for when it was started last.
    config: Option<CollectorConfig>,
    /// What was lost so far, by reason, as it was counted last.
    lost: BTreeMap<String, u64>,
}

enum State {
    Running(Box<Latency>),
    /// It is to be shed, and measures no more; what it measured is still to be handed on.
    Stopping(Box<Latency>),
    /// For what it costs, or for the host's sake; it will be started again.
    Shed,
    /// This kernel does not let it run; the log says why.
    Failed,
    /// Nobody asked for it.
    Off,
}

impl Latencies {
    /// Starts to measure what the configuration asks for.
    pub(super) fn start(config: &AgentConfig, registry: &Registry) -> Self {
        let lost = BTreeMap::new();
        let mut latencies = Self { state: State::Off, generation: 0, are_new: true, config: None, lost };
        latencies.begin(config, registry);
        latencies
    }

    fn begin(&mut self, config: &AgentConfig, registry: &Registry) {
        self.config = config.collectors.by_name.get(SPEC.name).cloned();
        self.lost.clear();
        self.are_new = true;
        self.generation += 1;
        self.state = if !self.is_wanted() {
            State::Off
        } else {
            let options = options::latencies(config);
            match Latency::start(&options) {
                Ok(latency) => {
                    let kinds = options.kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
                    tracing::info!(collector = SPEC.name, kinds, "a collector runs");
                    State::Running(Box::new(latency))
                }
                Err(error) => {
                    tracing::error!(collector = SPEC.name, %error, "a collector cannot run");
                    State::Failed
                }
            }
        };
        self.publish(registry);
    }

    fn is_wanted(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.enabled)
    }

    fn publish(&self, registry: &Registry) {
        registry.gauge(&COLLECTOR_RUNNING, &[SPEC.name]).set_bool(matches!(self.state, State::Running(_)));
    }

    /// Measures nothing from now on if it must not. Whether there is something that is to be drained, and then to be shed.
    pub(super) fn stop(&mut self, orders: &Orders, registry: &Registry) -> bool {
        self.state = match std::mem::replace(&mut self.state, State::Off) {
            State::Running(mut latency) if !may_run(orders) => {
                if let Err(error) = latency.stop() {
                    tracing::warn!(collector = SPEC.name, %error, "a collector did not stop well");
                }
                State::Stopping(latency)
            }
            state => state,
        };
        self.publish(registry);
        matches!(self.state, State::Stopping(_))
    }

    /// Frees what is left of it, until it is resumed.
    pub(super) fn shed(&mut self) {
        if matches!(self.state, State::Stopping(_)) {
            self.state = State::Shed;
        }
    }

    /// Measures again if it may.
    pub(super) fn resume(&mut self, orders: &Orders, config: &AgentConfig, registry: &Registry) {
        if matches!(self.state, State::Shed) && may_run(orders) {
            self.begin(config, registry);
        }
    }

    /// Whether nothing was handed on since it began.
    pub(super) fn are_new(&self) -> bool {
        self.are_new
    }

    /// Measures something else if the configuration says so. What was measured is to be drained before.
    pub(super) fn reconfigure(&mut self, orders: &Orders, config: &AgentConfig, registry: &Registry) {
        let wanted = config.collectors.by_name.get(SPEC.name);
        if wanted == self.config.as_ref() {
            return;
        }
        // Its maps have to go before there are others.
        self.state = State::Off;
        if may_run(orders) {
            self.begin(config, registry);
            return;
        }
        self.config = wanted.cloned();
        if self.is_wanted() {
            // The governor says when.
            self.state = State::Shed;
        }
        self.publish(registry);
    }

    /// The sums since the collector began, at the end of a window; `None` if they cannot be read.
    pub(super) fn drain(&mut self, registry: &Registry) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let (State::Running(latency) | State::Stopping(latency)) = &mut self.state else { return Some(records) };
        let drained = latency.drain(&mut records).and_then(|()| latency.sample_counts());
        match drained {
            Ok(SampleCounts { lost, .. }) => {
                for (reason, count) in lost {
                    let counter = registry.counter(&SAMPLES_LOST, &[SPEC.name, &reason]);
                    let before = self.lost.insert(reason, count).unwrap_or(0);
                    counter.add(count.saturating_sub(before));
                }
                self.are_new = false;
                Some(records)
            }
            Err(error) => {
                // The kernel still has what it counted: nothing is lost.
                tracing::warn!(collector = SPEC.name, %error, "latencies cannot be read");
                None
            }
        }
    }

    /// CPU time of its programs, as far as the kernel measured it; `None` while none is loaded.
    pub(super) fn measured(&self) -> Option<ProgramsTime> {
        let State::Running(latency) = &self.state else { return None };
        let nanoseconds = latency.program_stats().iter().map(|program| program.run_time_ns).sum();
        Some(ProgramsTime { generation: self.generation, nanoseconds })
    }

    /// What was lost since it began, by reason.
    pub(super) fn losses(&self) -> impl Iterator<Item = (&String, u64)> {
        self.lost.iter().map(|(reason, count)| (reason, *count))
    }

    /// How it is, and why it is not as it should be.
    pub(super) fn health(&self) -> (Health, &'static str) {
        match self.state {
            State::Running(_) => (Health::Healthy, ""),
            State::Shed | State::Stopping(_) => {
                (Health::Degraded, "no latencies are measured: obs costs too much, or the host is in distress")
            }
            State::Failed => (Health::Failed, "it cannot run here; the log says why"),
            State::Off => (Health::Off, "it was not asked for"),
        }
    }

    /// How it is, for the page.
    pub(super) fn status(&self) -> CollectorStatus {
        let spec: &CollectorSpec = &SPEC;
        let (_, why) = self.health();
        CollectorStatus {
            name: spec.name.to_owned(),
            summary: spec.summary.to_owned(),
            is_running: matches!(self.state, State::Running(_)),
            reason: (!why.is_empty()).then(|| why.to_owned()),
            frequency_hertz: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::governor::BUILT_IN;

    /// The step stands in the document, in its place.
    #[test]
    fn the_document_has_the_step() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let place = BUILT_IN.iter().filter(|step| step.rank < STEP.rank).count() + 1;
        let row = format!("| {place} | `{}` | CPU time, memory | {} |\n", STEP.shed, STEP.effect);
        assert!(text.contains(&row), "docs/configuration.md lacks {row}");
        assert!(BUILT_IN.iter().all(|step| step.rank != STEP.rank), "another step has its rank");
    }
}

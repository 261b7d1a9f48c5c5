//! The collector of stacks, as the agent runs it: started and stopped with the configuration, slowed down by the governor.

use std::{collections::BTreeMap, time::Duration};

use super::{
    governing::{Orders, ProgramTime},
    options,
    who::Who,
};
use crate::{
    collect::{COLLECTORS, CollectorSpec},
    config::{agent::AgentConfig, sampling::Frequency},
    enrich::build::{BuildOptions, Gathered, ProfileBuilder, ValueSource},
    model::{profile::FrameDetail, record::Record},
    pipeline::session::{History, Session},
    telemetry::{
        governor::{Shed, sampling_hertz},
        self_metrics::{COLLECTOR_RUNNING, Registry, SAMPLES_LOST, Stage},
    },
};

/// How long at least from one look at what processes do to the next: on hosts that start a hundred a second, each look costs more than
/// what there is to see. What ends sooner is known by the kernel's notices alone.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The collector of stacks at work.
pub(super) struct Sampler {
    pub(super) spec: &'static CollectorSpec,
    pub(super) session: Session,
    options: BuildOptions,
    builder: ProfileBuilder,
    /// How often samples are asked for.
    pub(super) configured: Frequency,
    /// How often they are taken.
    pub(super) frequency: Option<Frequency>,
    /// What was lost so far, by reason, as it was counted last.
    lost: BTreeMap<String, u64>,
    notices_lost: u64,
}

impl Sampler {
    /// Which collector it is.
    pub(super) fn spec() -> Option<&'static CollectorSpec> {
        COLLECTORS.iter().find(|spec| spec.samples && spec.takes_stacks())
    }

    /// Whether the configuration asks for it.
    pub(super) fn wanted(config: &AgentConfig) -> bool {
        Self::spec().is_some_and(|spec| config.collectors.by_name.get(spec.name).is_some_and(|it| it.enabled))
    }

    /// Starts it; `None` if nobody wants it, or with a line in the log if it cannot run.
    pub(super) fn start(config: &AgentConfig, registry: &Registry, who: &Who) -> Option<Self> {
        let spec = Self::spec().filter(|_| Self::wanted(config))?;
        let settings = options::settings(config, spec);
        let session = Session::start(spec, &settings).map(|mut session| {
            session.history = Some(History::default());
            session.identities = who.identities();
            session.look_pause = LOOK_PAUSE;
            session
        });
        registry.gauge(&COLLECTOR_RUNNING, &[spec.name]).set_bool(session.is_ok());
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                tracing::error!(collector = spec.name, error = format!("{error:#}"), "a collector cannot run");
                return None;
            }
        };
        for note in &session.notes {
            tracing::warn!(collector = spec.name, "{note}");
        }
        let values = session.collector.value_types();
        let source = |index| if index == 0 { ValueSource::Count } else { ValueSource::Weight };
        let options = BuildOptions {
            collector: spec.name,
            values: values.iter().enumerate().map(|(index, value)| (value.clone(), source(index))).collect(),
            period: None,
            detail: FrameDetail::Functions,
        };
        tracing::info!(collector = spec.name, hertz = settings.frequency.hertz(), "a collector runs");
        let builder = ProfileBuilder::new(options.clone());
        let frequency = settings.frequency;
        Some(Self {
            spec,
            session,
            options,
            builder,
            configured: frequency,
            frequency: Some(frequency),
            lost: BTreeMap::new(),
            notices_lost: 0,
        })
    }

    /// Takes out of the kernel what was measured.
    pub(super) fn drain(&mut self, registry: &Registry, stage: &Stage) -> anyhow::Result<()> {
        let Self { session, builder, .. } = self;
        session.drain(|ledger, record| {
            stage.received.add(1);
            if let Record::StackSample(sample) = record {
                builder.add(ledger, sample);
                stage.sent.add(1);
            }
        })?;
        for (reason, count) in session.collector.sample_counts()?.lost {
            // Its own counts begin anew whenever it is started again; the agent's go on.
            let counter = registry.counter(&SAMPLES_LOST, &[self.spec.name, &reason]);
            let before = self.lost.insert(reason, count).unwrap_or(0);
            counter.add(count.saturating_sub(before));
        }
        stage.dropped("notices-of-processes").add(session.notices_lost - self.notices_lost);
        self.notices_lost = session.notices_lost;
        Ok(())
    }

    /// What was measured in the window that ends now; the next one begins.
    pub(super) fn take_window(&mut self) -> Gathered {
        let fresh = ProfileBuilder::new(self.options.clone());
        std::mem::replace(&mut self.builder, fresh).gather(&self.session.ledger)
    }

    /// How often the programs ran, and what the kernel measured of them.
    pub(super) fn cost(&self) -> (u64, ProgramTime) {
        let counts = self.session.collector.sample_counts().unwrap_or_default();
        let runs = counts.taken + counts.filtered + counts.idle + counts.lost.values().sum::<u64>();
        let measured = self.session.collector.program_stats();
        let measured = measured.iter().fold(ProgramTime::default(), |sum, program| ProgramTime {
            runs: sum.runs + program.run_count,
            nanoseconds: sum.nanoseconds + program.run_time_ns,
        });
        (runs, measured)
    }

    /// Samples as often, and walks as much, as it may.
    pub(super) fn obey(&mut self, orders: &Orders) {
        let frequency = sampling_hertz(self.configured.hertz(), &orders.shed).and_then(Frequency::new);
        self.session.walk_snapshots(!orders.shed.contains(&Shed::Snapshots));
        self.set_frequency(frequency);
    }

    /// Samples nothing from now on.
    pub(super) fn pause(&mut self) {
        self.set_frequency(None);
    }

    fn set_frequency(&mut self, frequency: Option<Frequency>) {
        if frequency == self.frequency {
            return;
        }
        match self.session.collector.set_frequency(frequency) {
            Ok(()) => self.frequency = frequency,
            Err(error) => {
                self.frequency = None;
                tracing::error!(collector = self.spec.name, %error, "nothing is sampled any more");
            }
        }
    }
}

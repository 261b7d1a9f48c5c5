//! The agent: measures the whole host all the time, in windows of ten seconds, and keeps them.
//!
//! This thread looks at the kernel, as in a recording. At the end of a window it hands what was measured to the keeper's thread,
//! which finds names and writes; and now and then it judges what obs costs.

mod governing;
mod keeper;
mod latencies;
mod options;
mod progress;
mod reload;
mod sampler;
mod serve;
mod web_budget;
mod who;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;

pub use self::options::known_collectors;
use self::{
    governing::{Governing, Orders, ProgramTime},
    keeper::{Keeper, Measured, Shared},
    latencies::Latencies,
    sampler::Sampler,
    who::Who,
};
use super::{
    session::{History, Session},
    signals::AgentSignals,
};
use crate::{
    collect::CollectorSpec,
    config::agent::{AgentConfig, ConfigErrors, Loaded},
    kernel::heap,
    telemetry::{
        governor::Shed,
        log,
        self_metrics::{COLLECTOR_RUNNING, Registry, STARTED, Stage},
    },
    web::{AgentStatus, CollectorStatus, Health, HealthBoard, Loss, Need, Server},
};

/// How often counts are taken out of the kernel.
const DRAIN_EVERY: Duration = Duration::from_secs(1);

/// How long the end may take, from the signal to the last window on disk. Five seconds are promised for all of it: the rest is for the
/// log's last lines, and for the kernel to free what this process had.
const STOP_MAX: Duration = Duration::from_secs(4);

/// How much of it may go by until there is room for the last window.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long answers may take that are under way, while the last windows are written.
const SERVER_STOP_MAX: Duration = Duration::from_secs(1);

/// How long the end waits for the log's last lines.
const LOG_FLUSH_MAX: Duration = Duration::from_millis(250);

/// Components, as `/health/detailed` names them.
const STORE: &str = "store";
const SAMPLER: &str = "collector.cpu";

/// How long before the end of a window a process must have ended to be forgotten with it: longer than stacks wait for being walked.
/// What the window itself needs to know of its processes was handed on with it.
const ENDED_KEPT: Duration = Duration::from_secs(5);

/// Runs until a signal ends it. `reload` reads the configuration again.
///
/// # Errors
/// If the state folder cannot be had, or the log cannot be opened. A collector that cannot run is no error.
pub fn run(loaded: Loaded, reload: &mut dyn FnMut() -> Result<Loaded, ConfigErrors>) -> anyhow::Result<()> {
    let Loaded { config, file, warnings } = loaded;
    let log = log::start(&options::log(&config.log)).context("cannot open the log")?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let signals = AgentSignals::listen().context("cannot listen for signals")?;
    let registry = Registry::default();
    registry.gauge(&STARTED, &[]).set(since_1970().as_secs_f64());
    let shared = Arc::new(Shared::default());
    let who = Who::start(&config.privacy);
    let keeper = Keeper::start(&config, &registry, Arc::clone(&shared), who.clone())?;
    let state_dir = config.state_dir.display();
    match &file {
        Some(file) => tracing::info!(config = %file.display(), %state_dir, "the agent starts"),
        None => tracing::info!(%state_dir, "the agent starts with its default configuration"),
    }
    let (log, health) = (Arc::new(log), Arc::new(HealthBoard::new()));
    // Who starts is not stuck.
    health.beat();
    health.declare(STORE, Need::Required);
    health.declare(latencies::COMPONENT, Need::Optional);
    health.declare(SAMPLER, if Sampler::wanted(&config) { Need::Required } else { Need::Optional });
    let status = Arc::new(Mutex::new(AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        started_unix_ns: nanoseconds(since_1970()),
        window_ns: nanoseconds(config.window),
        ..AgentStatus::default()
    }));
    let shown = serve::Shown {
        reader: keeper.reader(),
        registry: registry.clone(),
        shared: Arc::clone(&shared),
        status: Arc::clone(&status),
        health: Arc::clone(&health),
        log: Arc::clone(&log),
    };
    let server = serve::start(&config, shown)?;
    tracing::info!(url = server.url(), "the page, the API and the metrics are served");
    let mut agent = Agent {
        governing: Governing::new(options::policy(&config.governor), registry.clone(), shared),
        sampler: Sampler::start(&config, &registry, &who),
        is_sampler_shed: false,
        latencies: Latencies::start(&config, &registry),
        who,
        server,
        status,
        health,
        stage: registry.stage("collect"),
        registry,
        keeper,
        config,
        log,
    };
    let end_by = agent.work(&signals, reload)?;
    agent.stop(end_by);
    Ok(())
}

struct Agent {
    config: AgentConfig,
    registry: Registry,
    stage: Stage,
    keeper: Keeper,
    governing: Governing,
    /// `None` if this kernel does not let it run, nobody wants it, or it is stopped for what it costs.
    sampler: Option<Sampler>,
    /// Whether it was stopped for what it costs, or for the host's sake, and will be started again.
    is_sampler_shed: bool,
    latencies: Latencies,
    who: Who,
    server: Server,
    status: Arc<Mutex<AgentStatus>>,
    health: Arc<HealthBoard>,
    log: Arc<log::Log>,
}

impl Agent {
    /// Until a signal ends it. Returns until when the end may take.
    fn work(
        &mut self,
        signals: &AgentSignals,
        reload: &mut dyn FnMut() -> Result<Loaded, ConfigErrors>,
    ) -> anyhow::Result<Instant> {
        let mut window = Span::begin(self.config.window);
        self.health.beat();
        self.report();
        let (mut drained, mut judged) = (Instant::now(), Instant::now());
        loop {
            let until_judged = self.config.governor.interval.saturating_sub(judged.elapsed());
            let timeout = window.left().min(DRAIN_EVERY.saturating_sub(drained.elapsed())).min(until_judged);
            match &mut self.sampler {
                Some(sampler) => {
                    sampler.session.sleep(Some(timeout), signals.fds().into_iter())?;
                    sampler.session.look()?;
                }
                None => wait_for(signals, timeout)?,
            }
            if signals.end.received() {
                return Ok(self.begin_stop(&window));
            }
            if signals.reload_asked() {
                self.reload(reload, &mut window);
            }
            if drained.elapsed() >= DRAIN_EVERY {
                drained = Instant::now();
                // Whoever started the agent starts it again: better than to measure on and keep nothing.
                anyhow::ensure!(
                    self.keeper.is_alive(),
                    "the thread that names and writes windows has ended; its last words are on standard error"
                );
                self.drain()?;
                self.governing.look();
                // Here and not where costs are judged: that may be much rarer than a window is long. A round ends on the disk.
                if self.keeper.stuck().is_none() {
                    self.health.beat();
                }
            }
            if judged.elapsed() >= self.config.governor.interval {
                judged = Instant::now();
                self.judge(&mut window);
            }
            if window.left().is_zero() {
                if self.keeper.is_full() {
                    // Nothing is lost: this window goes on until the next one would end.
                    tracing::warn!(
                        "names are found more slowly than samples come in: a window is longer than it should be"
                    );
                    window.length += self.config.window;
                } else {
                    self.close(&window);
                    window = Span::begin(self.config.window);
                }
            }
        }
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        let Some(sampler) = &mut self.sampler else { return Ok(()) };
        let since = Instant::now();
        sampler.drain(&self.registry, &self.stage)?;
        self.stage.latency.observe(since.elapsed());
        Ok(())
    }

    /// Hands on what was measured in a window.
    fn close(&mut self, window: &Span) {
        let mut measured = Measured {
            started_unix_ns: nanoseconds(window.started_unix),
            duration_ns: nanoseconds(window.started.elapsed()),
            samples: Vec::new(),
            kernel_code: Default::default(),
            events: Vec::new(),
            latencies_are_new: self.latencies.are_new(),
            latencies: self.latencies.drain(&self.registry),
        };
        if let Some(sampler) = &mut self.sampler {
            if let Err(error) = sampler.drain(&self.registry, &self.stage) {
                self.stage.errors.add(1);
                tracing::error!(error = format!("{error:#}"), "samples were lost: they cannot be read");
            }
            measured.samples.push(sampler.take_window());
            let Session { ledger, kernel_code, history, .. } = &mut sampler.session;
            if let Some(History { events, dropped }) = history.replace(History::default()) {
                self.stage.dropped("too-many-events").add(dropped);
                measured.events = events;
            }
            measured.kernel_code = kernel_code.clone();
            kernel_code.forget_unloaded();
            ledger.forget_exited(boot_time_ns().saturating_sub(nanoseconds(ENDED_KEPT)));
        }
        self.keeper.keep(measured);
        // Now and not when it was changed: nothing that was measured is lost.
        self.latencies.reconfigure(&self.governing.orders(), &self.config, &self.registry);
    }

    fn judge(&mut self, window: &mut Span) {
        let (runs, measured) = self.sampler.as_ref().map_or((0, ProgramTime::default()), Sampler::cost);
        let orders = self.governing.judge(runs, measured, self.latencies.measured(), self.server.question_time());
        self.obey(&orders, window);
        self.report();
    }

    /// Says how everything is.
    fn report(&self) {
        let (store, why) = match (self.keeper.stuck(), self.keeper.trouble()) {
            (Some(stuck), _) => {
                tracing::error!(cause = "stuck", "no window is kept: {stuck}");
                (Health::Failed, format!("no window is kept: {stuck}"))
            }
            (None, Some(trouble)) => (Health::Failed, format!("windows are lost: {trouble}")),
            (None, None) => (Health::Healthy, String::new()),
        };
        self.health.set(STORE, store, &why);
        let (sampler, why) = match &self.sampler {
            Some(Sampler { frequency: Some(_), .. }) => (Health::Healthy, ""),
            _ if self.is_sampler_shed => {
                (Health::Degraded, "nothing is sampled: obs costs too much, or the host is in distress")
            }
            Some(_) => (Health::Degraded, "it could not be started again; the log says why"),
            None if !Sampler::wanted(&self.config) => (Health::Off, "it was not asked for"),
            None => (Health::Failed, "it cannot run here; the log says why, and `obs doctor` what is missing"),
        };
        self.health.set(SAMPLER, sampler, why);
        let (latencies, reason) = self.latencies.health();
        self.health.set(latencies::COMPONENT, latencies, reason);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        self.governing.tell(&mut status);
        let sampler = Sampler::spec().map(|spec| self.collector_status(spec, why));
        status.collectors = sampler.into_iter().chain([self.latencies.status()]).collect();
        let lost = self.sampler.iter().filter_map(|sampler| sampler.session.collector.sample_counts().ok());
        let lost = lost.flat_map(|counts| counts.lost).map(|(reason, count)| (SAMPLER, reason, count));
        let latencies = self.latencies.losses();
        let latencies = latencies.map(|(reason, count)| (latencies::COMPONENT, reason.clone(), count));
        status.losses = lost
            .chain(latencies)
            .filter(|(.., count)| *count > 0)
            .map(|(source, reason, count)| Loss { source: source.to_owned(), reason, count })
            .collect();
    }

    fn collector_status(&self, spec: &CollectorSpec, why: &str) -> CollectorStatus {
        let frequency = self.sampler.as_ref().and_then(|sampler| sampler.frequency);
        CollectorStatus {
            name: spec.name.to_owned(),
            summary: spec.summary.to_owned(),
            is_running: frequency.is_some(),
            reason: (!why.is_empty()).then(|| why.to_owned()),
            frequency_hertz: frequency.map(|frequency| f64::from(frequency.hertz())),
        }
    }

    /// Does as much as it may. Where nothing is to be sampled, all that is needed for it goes: what it keeps in the kernel and here, and
    /// the watching of processes, which on a host that starts thousands a second costs more than samples do.
    fn obey(&mut self, orders: &Orders, window: &mut Span) {
        let may_sample = !orders.is_paused && !orders.shed.contains(&Shed::Sampling);
        let latencies_stop = self.latencies.stop(orders, &self.registry);
        let mut sampler_stops = false;
        if let Some(sampler) = self.sampler.as_mut().filter(|_| !may_sample) {
            self.is_sampler_shed = true;
            sampler.pause();
            sampler_stops = true;
        }
        // What they measured so far has to be handed on first; if there is no room for it now, there is at a later judgement.
        if (latencies_stop || sampler_stops) && !self.keeper.is_full() {
            self.close(window);
            *window = Span::begin(self.config.window);
            self.latencies.shed();
            if sampler_stops {
                self.sampler = None;
            }
            heap::give_back();
        }
        self.latencies.resume(orders, &self.config, &self.registry);
        match &mut self.sampler {
            Some(sampler) if may_sample => {
                self.is_sampler_shed = false;
                sampler.obey(orders);
            }
            None if may_sample && self.is_sampler_shed => {
                self.is_sampler_shed = false;
                self.sampler = Sampler::start(&self.config, &self.registry, &self.who);
                if let Some(sampler) = &mut self.sampler {
                    sampler.obey(orders);
                }
            }
            // It is to stop as soon as there is room for its window; or nobody wants it.
            Some(_) | None => {}
        }
        if let Some(spec) = Sampler::spec() {
            let is_running = self.sampler.as_ref().is_some_and(|sampler| sampler.frequency.is_some());
            self.registry.gauge(&COLLECTOR_RUNNING, &[spec.name]).set_bool(is_running);
        }
    }

    /// Takes over a changed configuration, or says why not.
    fn reload(&mut self, read: &mut dyn FnMut() -> Result<Loaded, ConfigErrors>, window: &mut Span) {
        let Some(config) = reload::read_again(&self.config, read, &self.server, &self.log) else { return };
        if config.privacy != self.config.privacy {
            self.who = Who::start(&config.privacy);
        }
        self.config = config;
        self.governing.set_policy(options::policy(&self.config.governor));
        self.keeper.reconfigure(&self.config, self.who.clone());
        let wanted = Sampler::wanted(&self.config);
        match &mut self.sampler {
            Some(sampler) if wanted => {
                sampler.configured = options::settings(&self.config, sampler.spec).frequency;
                sampler.session.identities = self.who.identities();
            }
            Some(_) => {
                self.sampler = None;
                self.is_sampler_shed = false;
            }
            None if !wanted => self.is_sampler_shed = false,
            // The governor starts it when it may run again.
            None if self.is_sampler_shed => {}
            None => self.sampler = Sampler::start(&self.config, &self.registry, &self.who),
        }
        self.obey(&self.governing.orders(), window);
    }

    /// Hands on the last window, while the server ends by itself. Returns until when all of the end may take: one time for all of
    /// its steps, which would add up if each had its own.
    fn begin_stop(&mut self, window: &Span) -> Instant {
        tracing::info!("the agent was asked to end");
        let asked = Instant::now();
        // First, so that questions to the history take nothing away from the windows that are to be written.
        self.server.begin_stop(SERVER_STOP_MAX);
        while self.keeper.is_full() && asked.elapsed() < ROOM_WAIT_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.close(window);
        asked + STOP_MAX
    }

    fn stop(mut self, end_by: Instant) {
        // What the kernel still holds is in the last window already.
        self.sampler = None;
        let kept = self.keeper.stop(end_by);
        let cut = self.server.stop(SERVER_STOP_MAX);
        if cut > 0 {
            tracing::info!(cut, "requests were cut short by the end");
        }
        match kept {
            Ok(()) => tracing::info!("the agent has ended; all windows are on disk"),
            Err(missing) => tracing::error!("the agent has ended; {missing}"),
        }
        let log::LogCounts { dropped, failed, .. } = self.log.counts();
        if dropped + failed > 0 {
            tracing::warn!(dropped, failed, "lines of this log are missing");
        }
        // The server's threads may hold the log a little longer than this process lives.
        self.log.flush(LOG_FLUSH_MAX);
    }
}

/// A window of time that is being measured.
struct Span {
    started: Instant,
    started_unix: Duration,
    length: Duration,
}

impl Span {
    /// From now to the next multiple of the length since 1970, so that windows of all hosts agree.
    fn begin(length: Duration) -> Self {
        let started_unix = since_1970();
        let length_ns = length.as_nanos().max(1);
        let left_ns = length_ns - started_unix.as_nanos() % length_ns;
        let length = Duration::from_nanos(u64::try_from(left_ns).unwrap_or(u64::MAX));
        Self { started: Instant::now(), started_unix, length }
    }

    fn left(&self) -> Duration {
        self.length.saturating_sub(self.started.elapsed())
    }
}

fn wait_for(signals: &AgentSignals, timeout: Duration) -> anyhow::Result<()> {
    super::session::wait_until(signals.fds().into_iter(), Instant::now() + timeout)?;
    Ok(())
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn boot_time_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! What obs costs, and what it gives up when that is too much.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    kernel::read::{RunTimeStats, map_memory_bytes},
    telemetry::{
        cost::{self, CpuMeter},
        governor::{Change, Governor, Policy, Shed, Usage},
        host,
        self_metrics::{CPU_TIME, PROGRAM_RUNS, Registry},
    },
    web::{AgentCost, AgentStatus, ShedStep},
};

use super::{keeper::Shared, latencies, nanoseconds, since_1970, web_budget::WebBudget};

/// Of so many judgements, one has the kernel measure how long programs run: it counts for every BPF program of the host while it
/// does, which costs all of them a little.
const MEASURED_EVERY: u32 = 6;

/// What is to be done with those who measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// What is shed.
    pub(super) shed: Vec<Shed>,
    /// Whether nothing is to be measured at all.
    pub(super) is_paused: bool,
}

/// Judges what obs costs, and says what to do.
pub(super) struct Governing {
    governor: Governor,
    meter: CpuMeter,
    web: WebBudget,
    web_meter: CpuMeter,
    /// CPU time of this process without the HTTP server's.
    user: Duration,
    bpf: BpfCost,
    registry: Registry,
    shared: Arc<Shared>,
    usage: Usage,
    /// When each step was shed, in nanoseconds since 1970.
    shed_since: BTreeMap<&'static str, u64>,
    cpus: usize,
}

impl Governing {
    pub(super) fn new(policy: Policy, registry: Registry, shared: Arc<Shared>) -> Self {
        Self {
            governor: Governor::new(policy, &[latencies::STEP]),
            meter: CpuMeter::new(Instant::now(), cost::cpu_time(), Some(Duration::ZERO)),
            web: WebBudget::new(),
            web_meter: CpuMeter::new(Instant::now(), Duration::ZERO, None),
            user: Duration::ZERO,
            bpf: BpfCost::default(),
            registry,
            shared,
            usage: Usage::default(),
            shed_since: BTreeMap::new(),
            cpus: host::cpus(),
        }
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.governor.set_policy(policy);
    }

    /// Judges. `runs` is how often the programs that sample ran so far, and `measured` what the kernel counted of them while it was
    /// asked to; `latencies` the same of those that measure latencies, if there are any. `questions` is the CPU time of answers from the history.
    pub(super) fn judge(
        &mut self,
        runs: u64,
        measured: ProgramTime,
        latencies: Option<ProgramsTime>,
        questions: Duration,
    ) -> Orders {
        let runs_before = self.bpf.runs;
        self.web.look();
        let web = self.web.total();
        self.web.add_questions(Instant::now(), questions);
        // The server's is known less finely: the difference must not go back for that.
        self.user = self.user.max(cost::cpu_time().saturating_sub(web));
        let (user, bpf) = (self.user, self.bpf.look(Instant::now(), runs, measured, latencies));
        let shares = self.meter.look(Instant::now(), user, bpf, self.cpus);
        let web_shares = self.web_meter.look(Instant::now(), web, None, self.cpus);
        let host::HostDistress { load_per_core, memory_pressure, memory_available } = host::read();
        self.usage = Usage {
            user_cpu_share: shares.map(|shares| shares.user),
            bpf_cpu_share: shares.and_then(|shares| shares.bpf),
            web_cpu_share: web_shares.map(|shares| shares.user),
            rss_bytes: cost::rss_bytes(),
            map_bytes: map_memory_bytes().ok(),
            load_per_core,
            memory_pressure,
            memory_available,
        };
        for change in self.governor.tick(&self.usage) {
            match change {
                // Each step is a cause of its own: else one a minute would be told, of six in a few judgements.
                Change::Shed { step, .. } => tracing::warn!(cause = step.shed.name(), "{change}"),
                Change::Paused { .. } => tracing::warn!("{change}"),
                Change::Exhausted { because } => tracing::error!(cause = because.resource.name(), "{change}"),
                Change::TakenBack { .. } | Change::Resumed => tracing::info!("{change}"),
            }
        }
        self.governor.publish(&self.usage, &self.registry);
        let (shed, now) = (self.governor.shed(), nanoseconds(since_1970()));
        self.shed_since.retain(|name, _| shed.iter().any(|shed| shed.name() == *name));
        for shed in &shed {
            self.shed_since.entry(shed.name()).or_insert(now);
        }
        self.registry.counter(&CPU_TIME, &["user"]).raise_to(nanoseconds(user));
        self.registry.counter(&CPU_TIME, &["web"]).raise_to(nanoseconds(web));
        if let Some(bpf) = bpf {
            self.registry.counter(&CPU_TIME, &["bpf"]).raise_to(nanoseconds(bpf));
        }
        self.judge_web();
        self.registry.counter(&PROGRAM_RUNS, &["cpu", "cpu_sample"]).add(new_runs(runs_before, runs));
        self.orders()
    }

    /// Has questions to the history refused while those of the last minute cost too much. Nothing that measures is shed for them:
    /// else whoever reaches the port could have it switched off.
    fn judge_web(&self) {
        let policy = self.governor.policy();
        let is_spent = policy.enabled && self.web.is_spent(policy.cpu_share_max * self.cpus as f64);
        if self.shared.is_web_spent.swap(is_spent, Ordering::Relaxed) != is_spent {
            if is_spent {
                tracing::warn!(
                    "questions to the history cost too much CPU time in the last minute: they are refused for a while"
                );
            } else {
                tracing::info!("questions to the history are answered again");
            }
        }
    }

    /// Looks at what is gone if it is looked at too rarely.
    pub(super) fn look(&mut self) {
        self.web.look();
    }

    /// What was measured at the last judgement, and what is shed, for people.
    pub(super) fn tell(&self, status: &mut AgentStatus) {
        let policy = self.governor.policy();
        status.cost = AgentCost {
            user_cpu_share: self.usage.user_cpu_share,
            bpf_cpu_share: self.usage.bpf_cpu_share,
            web_cpu_share: self.usage.web_cpu_share,
            cpu_share_max: Some(policy.cpu_share_max),
            rss_bytes: self.usage.rss_bytes,
            map_bytes: self.usage.map_bytes,
            memory_bytes_max: Some(policy.memory_bytes_max),
        };
        let shed = self.governor.shed();
        let steps = self.governor.steps().iter().filter(|step| shed.contains(&step.shed));
        status.shed = steps
            .map(|step| ShedStep {
                step: step.shed.name().to_owned(),
                reason: step.effect.to_owned(),
                since_unix_ns: self.shed_since.get(step.shed.name()).copied(),
            })
            .collect();
        status.paused = self.governor.paused().map(|because| because.to_string());
    }

    /// What holds since the last judgement.
    pub(super) fn orders(&self) -> Orders {
        let shed = self.governor.shed();
        self.shared.plain_names.store(shed.contains(&Shed::SymbolDetails), Ordering::Relaxed);
        self.shared.no_processes.store(shed.contains(&Shed::ProcessResources), Ordering::Relaxed);
        Orders { shed, is_paused: self.governor.paused().is_some() }
    }
}

/// How many runs came on top. Programs that were loaded meanwhile count from 0.
fn new_runs(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// What the kernel counted of programs while it was asked to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProgramTime {
    pub(super) runs: u64,
    pub(super) nanoseconds: u64,
}

/// The same of programs that do not count their runs, and which ones they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramsTime {
    /// Another one for other programs.
    pub(super) generation: u64,
    pub(super) nanoseconds: u64,
}

/// CPU time of the BPF programs. The kernel measures it now and then. For those that sample, which count their runs themselves, a run's
/// time is multiplied by their number; those that measure latencies are taken to cost as much in between as while they were measured.
#[derive(Default)]
struct BpfCost {
    judgements: u32,
    stats: Option<RunTimeStats>,
    measured: ProgramTime,
    nanoseconds_a_run: Option<f64>,
    runs: u64,
    /// What latencies had cost at the last look.
    latencies: Option<ProgramsTime>,
    /// What they cost, in nanoseconds a second; `None` while that is not known.
    latencies_rate: Option<f64>,
    looked: Option<Instant>,
    total: f64,
}

impl BpfCost {
    /// The time so far; `None` while nothing was measured yet.
    fn look(
        &mut self,
        now: Instant,
        runs: u64,
        measured: ProgramTime,
        latencies: Option<ProgramsTime>,
    ) -> Option<Duration> {
        let seconds = self.looked.map_or(0.0, |looked| now.duration_since(looked).as_secs_f64());
        self.looked = Some(now);
        let before = std::mem::replace(&mut self.latencies, latencies);
        let both = before.zip(latencies).filter(|(before, now)| before.generation == now.generation);
        if both.is_none() {
            self.latencies_rate = None;
        }
        if self.stats.take().is_some() {
            if let Some((before, now)) = both
                && seconds > 0.0
            {
                self.latencies_rate = Some(now.nanoseconds.saturating_sub(before.nanoseconds) as f64 / seconds);
            }
            // The programs may be others by now, which began to count anew.
            let runs = measured.runs.saturating_sub(self.measured.runs);
            let nanoseconds = measured.nanoseconds.saturating_sub(self.measured.nanoseconds);
            if runs > 0 {
                self.nanoseconds_a_run = Some(nanoseconds as f64 / runs as f64);
            }
        }
        let is_unknown = latencies.is_some() && self.latencies_rate.is_none();
        if is_unknown || self.judgements.is_multiple_of(MEASURED_EVERY) {
            self.measured = measured;
            // A kernel that cannot is before 5.8, which is not supported; without the right nothing else works either.
            self.stats = RunTimeStats::enable().ok();
        }
        self.judgements = self.judgements.wrapping_add(1);
        let new_runs = new_runs(self.runs, runs);
        self.runs = runs;
        self.total += self.latencies_rate.unwrap_or(0.0) * seconds;
        self.total += self.nanoseconds_a_run.unwrap_or(0.0) * new_runs as f64;
        let is_known = self.nanoseconds_a_run.is_some() || self.latencies_rate.is_some();
        is_known.then(|| Duration::from_nanos(self.total as u64))
    }
}

//! What obs does when it costs more than it may, or when the host is in distress. Decisions only: whoever measures calls
//! [`Governor::tick`], and whoever does the work asks what is shed.
//!
//! Each step gives up some work, the costliest and least valuable first. CPU time and memory each have a ladder of the
//! steps that relieve them; a step is in force while either ladder stands on it. A ladder goes up by one when its budget
//! was exceeded for some judgements in a row, and down by one when costs were well below it for many. A step that has to be
//! shed again soon after it was taken back waits twice as long before the next try, so that a constant load makes ever
//! fewer changes. The breaker is apart: it pauses everything while the host itself is in distress.
//!
//! Time is counted in judgements ("ticks"), which makes everything here a function of its inputs.

mod breaker;
mod ladder;
mod publish;
mod steps;
#[cfg(test)]
mod tests;

use std::fmt;

use self::{
    breaker::Breaker,
    ladder::{Ladder, Move, Patience},
};
pub use self::{
    breaker::{BreakerPolicy, Distress},
    steps::{BUILT_IN, Relief, Shed, Step, sampling_hertz},
};

/// Memory comes back later than CPU time: what is freed stays resident for a while. Its ladder waits so much longer.
const MEMORY_PATIENCE: u32 = 4;

/// Most steps of collectors; further ones are never shed.
const STEPS_MAX: usize = 64;

/// What obs may cost, and how patiently it is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether anything is shed.
    pub enabled: bool,
    /// Most CPU time, as a share of all CPUs' (0.01 is one percent of the host).
    pub cpu_share_max: f64,
    /// Most memory, resident and in kernel maps, in bytes.
    pub memory_bytes_max: u64,
    /// After how many ticks above a budget a step is shed.
    pub shed_after_ticks: u32,
    /// After how many ticks below `recover_below` of a budget a step is taken back.
    pub recover_after_ticks: u32,
    /// Share of a budget; below 1.
    pub recover_below: f64,
    /// Most ticks from a step's shedding to the next try without it.
    pub holdoff_ticks_max: u32,
    /// When the host is in distress; `None` if that is nobody's business.
    pub breaker: Option<BreakerPolicy>,
}

impl Default for Policy {
    /// What the documented default configuration says, at five seconds per tick.
    fn default() -> Self {
        Self {
            enabled: true,
            cpu_share_max: 0.01,
            memory_bytes_max: 100_000_000,
            shed_after_ticks: 3,
            recover_after_ticks: 12,
            recover_below: 0.8,
            holdoff_ticks_max: 720,
            breaker: Some(BreakerPolicy::default()),
        }
    }
}

/// What was measured over the last tick. What is unknown (or no number) is judged as nothing: it neither sheds nor recovers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of this process without its HTTP server, as a share of all CPUs'.
    pub user_cpu_share: Option<f64>,
    /// CPU time of the BPF programs, as a share of all CPUs'.
    pub bpf_cpu_share: Option<f64>,
    /// CPU time of this process's HTTP server, as a share of all CPUs': not in the first, and relieved by no step.
    pub web_cpu_share: Option<f64>,
    /// Resident memory of this process, without the maps, in bytes.
    pub rss_bytes: Option<u64>,
    /// Memory of the kernel's maps, in bytes.
    pub map_bytes: Option<u64>,
    /// The host's load of one minute, per CPU.
    pub load_per_core: Option<f64>,
    /// Share of the last ten seconds in which all work of the host waited for memory.
    pub memory_pressure: Option<f64>,
    /// Share of the host's memory that is available.
    pub memory_available: Option<f64>,
}

impl Usage {
    /// CPU time of both sides that the budget is for, as far as it is known.
    #[must_use]
    pub fn cpu_share(&self) -> Option<f64> {
        let user = self.user_cpu_share.filter(|share| share.is_finite());
        let bpf = self.bpf_cpu_share.filter(|share| share.is_finite());
        if user.is_none() && bpf.is_none() { None } else { Some(user.unwrap_or(0.0) + bpf.unwrap_or(0.0)) }
    }

    /// Memory of both sides, as far as it is known, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        match (self.rss_bytes, self.map_bytes) {
            (None, None) => None,
            (rss, maps) => Some(rss.unwrap_or(0).saturating_add(maps.unwrap_or(0))),
        }
    }
}

/// What has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
}

impl Resource {
    /// Its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// How much too much it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    /// Of what.
    pub resource: Resource,
    /// What was used: a share of all CPUs' time, or bytes.
    pub used: f64,
    /// What may be used, in the same unit.
    pub budget: f64,
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, used, budget } = self;
        match resource {
            Resource::Cpu => {
                write!(
                    formatter,
                    "obs uses {:.2} % of the host's CPU time and may use {:.2} %",
                    used * 100.0,
                    budget * 100.0
                )
            }
            Resource::Memory => {
                write!(formatter, "obs uses {:.0} MB of memory and may use {:.0} MB", used / 1e6, budget / 1e6)
            }
        }
    }
}

/// What a tick changed; its text is for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A step is in force from now on.
    Shed {
        /// Which.
        step: Step,
        /// Why.
        because: Excess,
    },
    /// A step is in force no longer.
    TakenBack {
        /// Which.
        step: Step,
    },
    /// A budget is exceeded although all that would relieve it is shed.
    Exhausted {
        /// By how much.
        because: Excess,
    },
    /// Nothing is measured any more until the host is better.
    Paused {
        /// Why.
        because: Distress,
    },
    /// Everything that is not shed is measured again.
    Resumed,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shed { step, because } => write!(formatter, "shed {}: {}; {because}", step.shed, step.effect),
            Self::TakenBack { step } => {
                write!(formatter, "took {} back: costs are well below the budget again", step.shed)
            }
            Self::Exhausted { because } => {
                write!(formatter, "everything that would help is shed already, and {because}")
            }
            Self::Paused { because } => write!(formatter, "paused all measuring: {because}"),
            Self::Resumed => formatter.write_str("resumed measuring: the host is better"),
        }
    }
}

/// Decides what is shed.
#[derive(Clone, Debug)]
pub struct Governor {
    policy: Policy,
    /// In the order in which they are shed.
    steps: Vec<Step>,
    cpu: Climber,
    memory: Climber,
    breaker: Breaker,
}

/// A resource's ladder, and the steps (by their place in the order) that it is made of.
#[derive(Clone, Debug)]
struct Climber {
    steps: Vec<usize>,
    ladder: Ladder,
}

impl Climber {
    fn new(steps: &[Step], relieves: impl Fn(&Relief) -> bool) -> Self {
        let steps = steps.iter().enumerate().filter(|(_, step)| relieves(&step.relief)).map(|(at, _)| at);
        let steps: Vec<usize> = steps.collect();
        Self { ladder: Ladder::new(steps.len()), steps }
    }

    /// Whether it stands on a step.
    fn holds(&self, step: usize) -> bool {
        self.steps[..self.ladder.level()].contains(&step)
    }
}

impl Governor {
    /// With the built-in steps, and those that collectors have on top of them.
    #[must_use]
    pub fn new(policy: Policy, of_collectors: &[Step]) -> Self {
        let mut steps: Vec<Step> = BUILT_IN.iter().chain(of_collectors.iter().take(STEPS_MAX)).copied().collect();
        // Stable: of equal ranks, the built-in one goes first.
        steps.sort_by_key(|step| step.rank);
        let cpu = Climber::new(&steps, |relief| relief.cpu);
        let memory = Climber::new(&steps, |relief| relief.memory);
        Self { policy, steps, cpu, memory, breaker: Breaker::default() }
    }

    /// What it holds to.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Holds to another policy from the next tick on. What is shed stays shed until costs allow otherwise.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Judges what was measured, and says what changed.
    pub fn tick(&mut self, usage: &Usage) -> Vec<Change> {
        let mut changes = Vec::new();
        let was_paused = self.paused();
        self.breaker.tick(usage, self.policy.breaker.as_ref());
        match (was_paused, self.paused()) {
            (None, Some(because)) => changes.push(Change::Paused { because }),
            (Some(_), None) => changes.push(Change::Resumed),
            // Another reason is no news: it is paused.
            (None, None) | (Some(_), Some(_)) => {}
        }
        let before: Vec<bool> = (0..self.steps.len()).map(|step| self.holds(step)).collect();
        let excess = |resource, used: Option<f64>, budget: f64| {
            used.filter(|_| budget > 0.0).map(|used| Excess { resource, used, budget })
        };
        let mut because = [None, None];
        if !self.policy.enabled {
            self.cpu.ladder.clear();
            self.memory.ladder.clear();
        } else if self.breaker.distress().is_some() || was_paused.is_some() {
            // What obs costs while it is paused says nothing about what it will cost.
            self.cpu.ladder.interrupt();
            self.memory.ladder.interrupt();
        } else {
            let Policy { cpu_share_max, memory_bytes_max, .. } = self.policy;
            let cpu = excess(Resource::Cpu, usage.cpu_share(), cpu_share_max);
            let memory =
                excess(Resource::Memory, usage.memory_bytes().map(|bytes| bytes as f64), memory_bytes_max as f64);
            let patience = Patience::of(&self.policy, 1);
            because[0] = judge(&mut self.cpu, &self.memory, cpu, &patience, &mut changes);
            let patience = Patience::of(&self.policy, MEMORY_PATIENCE);
            because[1] = judge(&mut self.memory, &self.cpu, memory, &patience, &mut changes);
        }
        for (at, step) in self.steps.iter().enumerate() {
            let because = because[0].filter(|_| self.cpu.holds(at)).or(because[1]);
            match (before[at], self.holds(at), because) {
                (false, true, Some(because)) => changes.push(Change::Shed { step: *step, because }),
                (true, false, _) => changes.push(Change::TakenBack { step: *step }),
                // Nothing is shed without an excess.
                (false, true, None) | (false, false, _) | (true, true, _) => {}
            }
        }
        changes
    }

    fn holds(&self, step: usize) -> bool {
        self.cpu.holds(step) || self.memory.holds(step)
    }

    /// Every step, in the order in which they are shed.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is shed now, in that order.
    #[must_use]
    pub fn shed(&self) -> Vec<Shed> {
        self.steps.iter().enumerate().filter(|(at, _)| self.holds(*at)).map(|(_, step)| step.shed).collect()
    }

    /// Why nothing is measured now, if nothing is.
    #[must_use]
    pub fn paused(&self) -> Option<Distress> {
        self.breaker.distress()
    }
}

/// Moves one ladder; returns why, if it went up.
fn judge(
    climber: &mut Climber,
    other: &Climber,
    excess: Option<Excess>,
    patience: &Patience,
    changes: &mut Vec<Change>,
) -> Option<Excess> {
    let excess = excess?;
    match climber.ladder.tick(excess.used / excess.budget, patience) {
        Move::Stay | Move::Down => None,
        Move::Up => {
            // What the other ladder has shed already relieves nothing: on to the next.
            let Climber { steps, ladder } = climber;
            while ladder.level().checked_sub(1).and_then(|top| steps.get(top)).is_some_and(|step| other.holds(*step)) {
                if !ladder.climb() {
                    changes.push(Change::Exhausted { because: excess });
                    break;
                }
            }
            Some(excess)
        }
        Move::Exhausted => {
            changes.push(Change::Exhausted { because: excess });
            None
        }
    }
}

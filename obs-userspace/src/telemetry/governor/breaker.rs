//! The breaker: nothing is measured while the host itself is in distress.

use std::fmt;

use super::Usage;

/// When the host is in distress, and when it is no longer.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Most load of one minute, per CPU.
    pub load_per_core_max: f64,
    /// Largest share of time in which all work waits for memory.
    pub memory_pressure_max: f64,
    /// Least share of memory that is available; 0 asks for none.
    pub memory_available_min: f64,
    /// Share of the thresholds below which the host is well; below 1.
    pub resume_below: f64,
    /// How many ticks in a row it must be.
    pub resume_after_ticks: u32,
}

impl Default for BreakerPolicy {
    /// What the documented default configuration says, at five seconds per tick.
    fn default() -> Self {
        Self {
            load_per_core_max: 16.0,
            memory_pressure_max: 0.2,
            memory_available_min: 0.02,
            resume_below: 0.8,
            resume_after_ticks: 12,
        }
    }
}

/// What is wrong with the host. Its text is for the log and the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distress {
    /// Too much waits for a CPU.
    Load {
        /// The load of one minute, per CPU.
        per_core: f64,
        /// The threshold.
        max: f64,
    },
    /// Too much waits for memory.
    MemoryPressure {
        /// Share of time in which all work waits.
        share: f64,
        /// The threshold.
        max: f64,
    },
    /// Too little memory is left.
    MemoryAvailable {
        /// Share of memory.
        share: f64,
        /// The threshold.
        min: f64,
    },
}

impl fmt::Display for Distress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { per_core, max } => {
                write!(formatter, "the host's load is {per_core:.1} per CPU, above {max:.1}")
            }
            Self::MemoryPressure { share, max } => write!(
                formatter,
                "all work of the host waits for memory {:.0} % of the time, above {:.0} %",
                share * 100.0,
                max * 100.0
            ),
            Self::MemoryAvailable { share, min } => {
                write!(
                    formatter,
                    "{:.1} % of the host's memory is available, below {:.1} %",
                    share * 100.0,
                    min * 100.0
                )
            }
        }
    }
}

/// Open while the host is in distress.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    distress: Option<Distress>,
    /// Ticks in a row in which the host was well.
    well: u32,
}

impl Breaker {
    pub(super) fn distress(&self) -> Option<Distress> {
        self.distress
    }

    /// Opens at once: distress is what must not be added to. Closes patiently. Without a policy it is closed.
    pub(super) fn tick(&mut self, usage: &Usage, policy: Option<&BreakerPolicy>) {
        let Some(policy) = policy else {
            *self = Self::default();
            return;
        };
        if let Some(distress) = distress(usage, policy, 1.0) {
            *self = Self { distress: Some(distress), well: 0 };
        } else if self.distress.is_some() {
            // What is not known cannot hold measuring up for ever: it counts as well.
            let is_well = distress_below(usage, policy).is_none();
            self.well = if is_well { self.well.saturating_add(1) } else { 0 };
            if self.well >= policy.resume_after_ticks.max(1) {
                *self = Self::default();
            }
        }
    }
}

/// What is still too near to the thresholds to resume.
fn distress_below(usage: &Usage, policy: &BreakerPolicy) -> Option<Distress> {
    distress(usage, policy, policy.resume_below.clamp(0.01, 1.0))
}

/// What is wrong, with thresholds that are `share` as high (or, where low is bad, low).
fn distress(usage: &Usage, policy: &BreakerPolicy, share: f64) -> Option<Distress> {
    let BreakerPolicy { load_per_core_max, memory_pressure_max, memory_available_min, .. } = policy;
    let load = || {
        let (per_core, max) = (usage.load_per_core?, load_per_core_max * share);
        (per_core > max).then_some(Distress::Load { per_core, max })
    };
    let pressure = || {
        let (pressure, max) = (usage.memory_pressure?, memory_pressure_max * share);
        (pressure > max).then_some(Distress::MemoryPressure { share: pressure, max })
    };
    let available = || {
        let (available, min) = (usage.memory_available?, memory_available_min / share);
        (available < min).then_some(Distress::MemoryAvailable { share: available, min })
    };
    load().or_else(pressure).or_else(available)
}

//! What can be shed, in which order, and what it means.

use std::fmt;

/// Work that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shed {
    /// Collectors that sample do so half as often.
    HalfFrequency,
    /// Collectors that sample do so at most 19 times a second and CPU.
    LowFrequency,
    /// Stacks that the kernel side could not walk are sent cut, and not walked in user space.
    Snapshots,
    /// Source lines and inlined functions are not looked up, and caches are kept small.
    SymbolDetails,
    /// The resource monitor reads the host only, not each process and container.
    ProcessResources,
    /// Collectors that sample stop.
    Sampling,
    /// A step that a collector has of its own, by the collector's name or `NAME-what`.
    Collector(&'static str),
}

impl Shed {
    /// The name in metrics, in the log and on the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfFrequency => "half-frequency",
            Self::LowFrequency => "low-frequency",
            Self::Snapshots => "snapshots",
            Self::SymbolDetails => "symbol-details",
            Self::ProcessResources => "process-resources",
            Self::Sampling => "sampling",
            Self::Collector(name) => name,
        }
    }
}

impl fmt::Display for Shed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Which budgets a step relieves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relief {
    /// CPU time.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
}

const CPU: Relief = Relief { cpu: true, memory: false };
const BOTH: Relief = Relief { cpu: true, memory: true };

/// A step: what is shed, when its turn comes, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is shed.
    pub shed: Shed,
    /// Its place in the order: smaller ones go first. What costs most and is worth least has the smallest.
    pub rank: u16,
    /// What it relieves; it is shed for that only.
    pub relief: Relief,
    /// What users notice of it.
    pub effect: &'static str,
}

const fn step(shed: Shed, rank: u16, relief: Relief, effect: &'static str) -> Step {
    Step { shed, rank, relief, effect }
}

/// The steps that obs has without any collector's own. Ranks are ten apart, so that a collector finds room between them.
pub const BUILT_IN: [Step; 6] = [
    step(Shed::HalfFrequency, 10, CPU, "samples are taken half as often, each counting for two"),
    step(Shed::LowFrequency, 20, CPU, "samples are taken at most 19 times a second and CPU"),
    step(Shed::Snapshots, 30, BOTH, "stacks of programs that have just started are cut"),
    step(Shed::SymbolDetails, 40, BOTH, "frames have functions, but no source lines and inlined functions"),
    step(Shed::ProcessResources, 50, BOTH, "resources are measured of the host, not of processes and containers"),
    step(Shed::Sampling, 60, BOTH, "no profile is taken, and processes are not watched"),
];

/// The frequency of [`Shed::LowFrequency`], in hertz.
const LOW_HERTZ: u32 = 19;

/// How often to sample, given how often was asked for and what is shed, in hertz; `None` for not at all.
#[must_use]
pub fn sampling_hertz(configured: u32, shed: &[Shed]) -> Option<u32> {
    let mut hertz = configured;
    for step in shed {
        match step {
            Shed::HalfFrequency => hertz = hertz.min(configured / 2),
            Shed::LowFrequency => hertz = hertz.min(LOW_HERTZ),
            Shed::Sampling => return None,
            Shed::Snapshots | Shed::SymbolDetails | Shed::ProcessResources | Shed::Collector(_) => {}
        }
    }
    Some(hertz.max(1))
}

//! What scenarios are made of.
//!
//! To add one: write a `fn name(context: &Context) -> anyhow::Result<()>` in the file of its theme and a line in that
//! file's `SCENARIOS`. It fails by returning an error that says what was seen and what was expected. What it needs of the
//! machine stands in `needs`; where that is missing it is skipped, and the reason printed.
//!
//! From the environment: `OBS_BIN` is the binary under test (default: `release/obs` in cargo's target folder);
//! `OBS_WORKLOADS` is a folder of compiled workloads (default: they are compiled into the target folder);
//! `OBS_SCENARIOS_SLOW_FACTOR` stretches time limits, and runs that need many samples (default: 1, under software
//! emulation 8). Nothing else changes with it: what must be true stays the same. `OBS_SCENARIOS_OWN_CLOCK=1` allows to set the
//! machine's clock; `cargo xtask vm` says so in its guests.

mod background;
mod cgroup;
mod environment;
mod recording;

use anyhow::Result;

pub(crate) use self::{
    background::{Background, wait_until},
    cgroup::Cgroup,
    environment::{Context, tool},
    recording::{Finished, Recording},
};

/// One thing that must be true.
pub(crate) struct Scenario {
    /// `theme::what_is_true`.
    pub(crate) name: &'static str,
    /// What it needs of the machine.
    pub(crate) needs: &'static [Need],
    /// Finds out.
    pub(crate) run: fn(&Context) -> Result<()>,
}

/// What a scenario needs of the machine that it runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The rights of root, which obs needs to record.
    Root,
    /// A compiled workload.
    Workload(&'static str),
    /// A program of the system.
    Tool(&'static str),
    /// A unified cgroup hierarchy in which groups can be made.
    Cgroup,
    /// A CPU that is not emulated: what is compared with a clock, or waits for unwind tables, says nothing on one.
    RealCpu,
    /// A CPU that is not emulated, for it would take long on one, and show nothing of its kernel that others do not.
    FastCpu,
    /// A file that not every kernel has.
    File(&'static str),
    /// A clock that may be set: of a guest that is there for nothing else, which `OBS_SCENARIOS_OWN_CLOCK=1` says.
    OwnClock,
}

//! How waits are measured.

use std::time::Duration;

/// Long enough that a stack costs little beside the wait itself.
pub const THRESHOLD_DEFAULT: Duration = Duration::from_millis(1);

/// What a collector of waits measures of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitSettings {
    /// How long a wait must be to have a stack.
    pub threshold: Duration,
    /// Whether it is measured who ended long waits, and where.
    pub wakers: bool,
    /// Whether the time counts too in which threads run, so that all of their time is accounted for.
    pub running: bool,
}

impl Default for WaitSettings {
    fn default() -> Self {
        Self { threshold: THRESHOLD_DEFAULT, wakers: false, running: false }
    }
}

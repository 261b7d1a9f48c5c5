//! How to sample CPUs.

use std::{fmt, str::FromStr};

/// What makes a CPU sample itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SamplingEvent {
    /// The software clock that runs on every machine; weights are nanoseconds.
    #[default]
    CpuClock,
    /// The hardware's cycle counter; weights are cycles. Absent in most virtual machines.
    Cycles,
}

impl SamplingEvent {
    /// Every event.
    pub const ALL: [Self; 2] = [Self::CpuClock, Self::Cycles];

    /// The name that users write and read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuClock => "cpu-clock",
            Self::Cycles => "cycles",
        }
    }
}

impl fmt::Display for SamplingEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SamplingEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|event| event.name() == text)
            .ok_or_else(|| format!("there is no event '{text}'; known are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Samples per second and CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency(u32);

impl Frequency {
    /// Most samples per second and CPU; beyond this the sampling itself would fill the profile.
    pub const MAX_HERTZ: u32 = 10_000;

    /// A number of hertz; `None` if it is 0 or above [`Self::MAX_HERTZ`].
    #[must_use]
    pub fn new(hertz: u32) -> Option<Self> {
        (1..=Self::MAX_HERTZ).contains(&hertz).then_some(Self(hertz))
    }

    /// The number, in hertz.
    #[must_use]
    pub fn hertz(self) -> u32 {
        self.0
    }
}

impl Default for Frequency {
    /// 99 Hz: just off the 100 Hz at which much of a machine's periodic work runs.
    fn default() -> Self {
        Self(99)
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl FromStr for Frequency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("a frequency is a whole number of samples per second, 1 to {}", Self::MAX_HERTZ);
        let hertz: u32 = text.parse().map_err(|_| wanted())?;
        Self::new(hertz).ok_or_else(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_has_bounds() {
        assert_eq!("1".parse::<Frequency>().unwrap().hertz(), 1);
        assert_eq!("10000".parse::<Frequency>().unwrap().hertz(), 10_000);
        for bad in ["0", "10001", "-1", "99.5", "", "many", "4294967297"] {
            assert!(bad.parse::<Frequency>().is_err(), "{bad}");
        }
    }

    #[test]
    fn events_read_back() {
        for event in SamplingEvent::ALL {
            assert_eq!(event.name().parse(), Ok(event));
        }
        assert!("clock".parse::<SamplingEvent>().unwrap_err().contains("cpu-clock, cycles"));
    }
}

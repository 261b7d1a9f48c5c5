//! Values with a unit of their own: shares and amounts of memory.

use super::{Scalar, number};

/// A share of a whole, as users write it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From a number of percent.
    #[must_use]
    pub const fn new(percent: f64) -> Self {
        Self(percent)
    }

    /// The number of percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0
    }

    /// The share, 1 being the whole.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl Scalar for Percent {
    fn parse(text: &str) -> Result<Self, String> {
        number(text.strip_suffix('%').unwrap_or(text).trim_end()).map(Self).ok_or_else(|| "is no share".to_owned())
    }

    fn text(&self) -> String {
        format!("{}%", self.0)
    }

    fn example() -> &'static str {
        "a number of percent such as 1% or 0.5%"
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

/// Units of bytes, the largest first.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// From a number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From a number of megabytes, 1,000,000 bytes each.
    #[must_use]
    pub const fn megabytes(megabytes: u64) -> Self {
        Self(megabytes.saturating_mul(1_000_000))
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Scalar for Bytes {
    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (amount, unit) = (&text[..digits], text[digits..].trim_start());
        let value = number(amount).ok_or("is no number of bytes")?;
        let unit = BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, bytes)| *bytes);
        let unit = unit.ok_or("lacks a unit of bytes (B, kB, MB, GB, TB; KiB, MiB, GiB, TiB)")?;
        if let Ok(whole) = amount.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(|| "is too large".to_owned());
        }
        // Whole numbers were exact; what has a point is rounded to whole bytes, and far from the end of the range.
        let bytes = value * unit as f64;
        if bytes < 9e15 { Ok(Self(bytes.round() as u64)) } else { Err("is too large".to_owned()) }
    }

    fn text(&self) -> String {
        let (name, bytes) =
            BYTE_UNITS.iter().find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes)).unwrap_or(&("B", 1));
        format!("{}{name}", self.0 / bytes)
    }

    fn example() -> &'static str {
        "a number of bytes such as 100MB or 16MiB"
    }
}

/// A number of megabytes, for settings that have the unit in their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Megabytes(u32);

impl Megabytes {
    /// From a number of megabytes.
    #[must_use]
    pub const fn new(megabytes: u32) -> Self {
        Self(megabytes)
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * 1_000_000
    }
}

impl Scalar for Megabytes {
    fn parse(text: &str) -> Result<Self, String> {
        u32::parse(text.strip_suffix("MB").unwrap_or(text).trim_end()).map(Self)
    }

    fn text(&self) -> String {
        self.0.to_string()
    }

    fn example() -> &'static str {
        "a whole number of megabytes such as 100"
    }
}

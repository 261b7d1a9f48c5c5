//! Whether the host itself is in distress: what the governor's breaker judges. The resource monitor measures more, and may
//! be off.

use std::{fs, thread};

/// What was read; `None` is what this kernel does not show.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostDistress {
    /// Load of one minute per CPU, from `/proc/loadavg`.
    pub load_per_core: Option<f64>,
    /// Share of the last ten seconds in which all work waited for memory, from `/proc/pressure/memory` (`full avg10`).
    pub memory_pressure: Option<f64>,
    /// Share of memory that is available, from `/proc/meminfo` (`MemAvailable` of `MemTotal`).
    pub memory_available: Option<f64>,
}

/// Reads it.
#[must_use]
pub fn read() -> HostDistress {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    HostDistress {
        load_per_core: load(&text("/proc/loadavg")).map(|load| load / cpus() as f64),
        memory_pressure: full_avg10(&text("/proc/pressure/memory")).map(|percent| percent / 100.0),
        memory_available: available(&text("/proc/meminfo")),
    }
}

/// CPUs of the host that are online; at least one. Not those that this process may use: what obs costs is judged as a share
/// of the host.
#[must_use]
pub fn cpus() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| count_cpus(&list));
    online.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Counts a list such as `0-3,6`.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0_usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

fn load(loadavg: &str) -> Option<f64> {
    finite(loadavg.split_whitespace().next()?)
}

fn full_avg10(pressure: &str) -> Option<f64> {
    let full = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    finite(full.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?)
}

fn available(meminfo: &str) -> Option<f64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        finite(line.trim().strip_suffix("kB")?.trim_end())
    };
    let total = field("MemTotal").filter(|total| *total > 0.0)?;
    Some(field("MemAvailable")? / total)
}

/// A number that is one, and is not negative.
fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        assert_eq!(load("0.83 0.62 1.09 2/345 21831\n"), Some(0.83));
        let pressure =
            "some avg10=1.53 avg60=0.87 avg300=0.00 total=123\nfull avg10=20.50 avg60=0.10 avg300=0.00 total=9\n";
        assert_eq!(full_avg10(pressure), Some(20.5));
        let meminfo = "MemTotal:       24000000 kB\nMemFree:        1 kB\nMemAvailable:    6000000 kB\n";
        assert_eq!(available(meminfo), Some(0.25));
        assert_eq!(count_cpus("0-3,6\n"), Some(5));
        assert_eq!(count_cpus("0"), Some(1));
    }

    #[test]
    fn what_is_not_there_is_unknown() {
        for text in ["", "x", "full", "full avg10=", "full avg10=NaN", "MemTotal: 0 kB\nMemAvailable: 0 kB", "-1 2 3"] {
            assert_eq!((load(text), full_avg10(text), available(text)), (None, None, None), "{text}");
        }
        for list in ["", "3-1", "a", "0-18446744073709551615", "0,"] {
            assert_eq!(count_cpus(list), None, "{list}");
        }
    }

    #[test]
    fn this_host_shows_its_load_and_memory() {
        let distress = read();
        assert!(distress.load_per_core.is_some_and(|load| load >= 0.0));
        assert!(distress.memory_available.is_some_and(|share| share > 0.0 && share <= 1.0));
        assert!(cpus() >= 1);
    }
}

//! What `/proc/PID` says that a process costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What a process has cost since its start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessCost {
    /// CPU time, also of threads that have ended, as fine as the kernel's clock tick.
    pub(crate) cpu_seconds: f64,
    /// Memory that is resident now, without what is mapped of BPF maps: the kernel's own count of those has it.
    pub(crate) rss_bytes: u64,
    /// The part of it that no file stands behind.
    pub(crate) anonymous_bytes: u64,
    /// CPU time of the threads that live, by name.
    pub(crate) threads: BTreeMap<String, f64>,
}

/// Reads it from the process's folder in procfs.
pub(super) fn read(folder: &Path) -> Result<ProcessCost> {
    let text = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (stat, status) = (text("stat")?, text("status")?);
    let ticks = cpu_ticks(&stat).with_context(|| format!("{}/stat has no CPU times: {stat}", folder.display()))?;
    let bytes = |field: &str| {
        status_bytes(&status, field).with_context(|| format!("{}/status has no {field}", folder.display()))
    };
    let mut threads = BTreeMap::new();
    let tasks = folder.join("task");
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {}", tasks.display()))? {
        let Ok(task) = task else { continue };
        // A thread may end meanwhile.
        let read = |name: &str| fs::read_to_string(task.path().join(name));
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else { continue };
        let seconds = times.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
        *threads.entry(name.trim_end().to_owned()).or_insert(0.0) += seconds;
    }
    Ok(ProcessCost {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_bytes: bytes("VmRSS:")?.saturating_sub(resident_map_bytes(&text("smaps")?)),
        anonymous_bytes: bytes("RssAnon:")?,
        threads,
    })
}

/// Clock ticks in user mode and in the kernel together, in the text of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name, in brackets, may hold anything; after it comes field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(14 - 3);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

/// How much of BPF maps is resident in a process, in the text of `/proc/PID/smaps`.
fn resident_map_bytes(smaps: &str) -> u64 {
    let mut is_map = false;
    let mut sum_bytes = 0;
    for line in smaps.lines() {
        // Each mapping begins with a line of its addresses and its file; the others are fields.
        if line.split(' ').next().is_some_and(|first| first.contains('-')) {
            is_map = line.ends_with(" anon_inode:bpf-map");
        } else if is_map {
            sum_bytes += status_bytes(line, "Rss:").unwrap_or(0);
        }
    }
    sum_bytes
}

/// A number of kilobytes in the text of `/proc/PID/status`, in bytes.
fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        let stat = "12 (a ) name) S 1 2 3 4 5 6 7 8 9 10 31 11 0 0 20 0 3";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("12 (name) S 1 2"), None);
        assert_eq!(status_bytes("VmHWM:\t  9 kB\nVmRSS:\t     3 kB\n", "VmRSS:"), Some(3072));
        assert_eq!(status_bytes("VmRSS:\t     3 MB\n", "VmRSS:"), None);
    }

    #[test]
    fn maps_are_told_from_other_mappings() {
        let smaps = "7f00-8f00 rw-s 00000000 00:0e 10    anon_inode:bpf-map\nSize:      4 kB\nRss:       4 kB\n\
                     9f00-af00 rw-p 00000000 00:00 0     [heap]\nRss:       8 kB\n";
        assert_eq!(resident_map_bytes(smaps), 4_096);
    }

    #[test]
    fn this_process_costs_something() {
        let cost = read(Path::new("/proc/self")).unwrap();
        assert!(cost.rss_bytes > 100_000 && cost.anonymous_bytes < cost.rss_bytes, "{cost:?}");
        assert!(cost.threads.values().sum::<f64>() > 0.0, "{cost:?}");
    }
}

//! What the host's disks did meanwhile, by the kernel's own count.

use std::{collections::BTreeMap, fs, io};

use serde::Serialize;

const PATH: &str = "/proc/diskstats";

/// The kernel's counters of every disk and partition, when they were read.
#[derive(Debug, Default)]
pub(super) struct Disks(BTreeMap<String, Counters>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    reads: u64,
    reads_ms: u64,
    writes: u64,
    writes_ms: u64,
    busy_ms: u64,
}

/// What one disk did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct DiskUse {
    /// Its name.
    pub(super) name: String,
    /// Reads that ended.
    pub(super) reads: u64,
    /// How long one took on average, from the queue to its end; absent without any.
    pub(super) read_mean_seconds: Option<f64>,
    /// Writes that ended.
    pub(super) writes: u64,
    /// How long one took on average.
    pub(super) write_mean_seconds: Option<f64>,
    /// How long it had something to do.
    pub(super) busy_seconds: f64,
}

impl Disks {
    /// Reads the counters.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(PATH)?))
    }

    fn parse(text: &str) -> Self {
        let disks = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let number = |index: usize| words.get(index)?.parse::<u64>().ok();
            // Numbers of the device, name; reads completed, merged, sectors, ms; writes the same; in flight, ms busy.
            let counters = Counters {
                reads: number(3)?,
                reads_ms: number(6)?,
                writes: number(7)?,
                writes_ms: number(10)?,
                busy_ms: number(12)?,
            };
            Some(((*words.get(2)?).to_owned(), counters))
        });
        Self(disks.collect())
    }

    /// What those disks did up to a later reading that did something, the busiest first.
    pub(super) fn until(&self, later: &Self) -> Vec<DiskUse> {
        let mean = |ms: u64, count: u64| (count > 0).then(|| ms as f64 / 1e3 / count as f64);
        let mut used: Vec<DiskUse> = later
            .0
            .iter()
            .filter_map(|(name, now)| {
                let before = self.0.get(name).copied().unwrap_or_default();
                let reads = now.reads.saturating_sub(before.reads);
                let writes = now.writes.saturating_sub(before.writes);
                (reads + writes > 0).then(|| DiskUse {
                    name: name.clone(),
                    reads,
                    read_mean_seconds: mean(now.reads_ms.saturating_sub(before.reads_ms), reads),
                    writes,
                    write_mean_seconds: mean(now.writes_ms.saturating_sub(before.writes_ms), writes),
                    busy_seconds: now.busy_ms.saturating_sub(before.busy_ms) as f64 / 1e3,
                })
            })
            .collect();
        used.sort_by(|left, right| right.busy_seconds.total_cmp(&left.busy_seconds).then(left.name.cmp(&right.name)));
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_happened_in_between() {
        let before =
            Disks::parse(" 254 0 vda 100 0 800 50 10 0 80 20 0 60 70\n 254 1 vda1 1 0 8 5 1 0 8 2 0 6 7\nnonsense\n");
        let after = Disks::parse(" 254 0 vda 110 0 880 90 10 0 80 20 0 160 110\n 254 1 vda1 1 0 8 5 1 0 8 2 0 6 7\n");
        let used = before.until(&after);
        assert_eq!(used.len(), 1);
        assert_eq!((used[0].name.as_str(), used[0].reads, used[0].writes), ("vda", 10, 0));
        assert_eq!((used[0].read_mean_seconds, used[0].write_mean_seconds), (Some(0.004), None));
        assert!((used[0].busy_seconds - 0.1).abs() < 1e-9);
    }
}

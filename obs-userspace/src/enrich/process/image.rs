//! One process image, as far as it is known.

use std::sync::Arc;

use super::{mappings::MappingTable, perf_map_file::PerfMapFile};
use crate::model::{
    container::CgroupPlace,
    process::{ProcessInfo, ProcessKey},
};

/// How long to wait before a process's mappings are read again after an address was in none of them, in nanoseconds. It
/// doubles with every time.
const FIRST_REREAD_NS: u64 = 250_000_000;

/// How often it doubles at most: from then on about every 17 minutes.
const REREAD_DOUBLINGS_MAX: u32 = 12;

/// Something that may be tried again, but ever more rarely.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    next_ns: u64,
    tries: u32,
}

impl Backoff {
    /// Whether it may be tried now; if so, it counts as tried.
    pub(super) fn try_at(&mut self, now_ns: u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        self.next_ns = now_ns.saturating_add(FIRST_REREAD_NS << self.tries);
        self.tries = (self.tries + 1).min(REREAD_DOUBLINGS_MAX);
        true
    }
}

/// One process image.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) pid: u32,
    /// Its key, once it was measured, and when that was.
    pub(super) seen: Option<(ProcessKey, u64)>,
    /// When it began (fork or exec), or was first heard of.
    pub(super) began_ns: u64,
    /// When it ended (exec or exit).
    pub(super) ended_ns: Option<u64>,
    /// Whether the process's first thread has ended.
    pub(super) is_leaderless: bool,
    /// Whether it was only inferred: its fork or exec has not been told (yet).
    pub(super) is_inferred: bool,
    /// Whether its mappings are known from its beginning, or were read from `/proc`.
    pub(super) is_whole: bool,
    /// When its mappings were last read from `/proc`.
    pub(super) read_ns: Option<u64>,
    pub(super) mappings: Arc<MappingTable>,
    pub(super) name: Option<Arc<str>>,
    pub(super) executable: Option<Arc<str>>,
    pub(super) place: CgroupPlace,
    /// When it was last used, in the ledger's own count.
    pub(super) touched: u64,
    pub(super) reread: Backoff,
    pub(super) perf_map: Option<Arc<PerfMapFile>>,
    pub(super) perf_map_retry: Backoff,
}

impl Image {
    /// Whether it was the process's image at a time.
    pub(super) fn covers(&self, time_ns: u64) -> bool {
        self.began_ns <= time_ns && self.ended_ns.is_none_or(|ended_ns| time_ns <= ended_ns)
    }

    /// Its key, if it was measured.
    pub(super) fn key(&self) -> Option<ProcessKey> {
        self.seen.map(|(key, _)| key)
    }

    pub(super) fn info(&self, key: ProcessKey) -> ProcessInfo {
        ProcessInfo {
            key,
            name: self.name.clone().unwrap_or_default(),
            executable: self.executable.clone(),
            container_id: self.place.container_id.clone(),
            cgroup: self.place.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer() {
        let mut backoff = Backoff::default();
        let tries = (0..10_000).filter(|millisecond| backoff.try_at(millisecond * 1_000_000)).count();
        // At 0, 250, 750, 1,750, 3,750 and 7,750 ms.
        assert_eq!(tries, 6);
        for _ in 0..100 {
            backoff.try_at(u64::MAX);
        }
        assert!(backoff.try_at(u64::MAX), "the time saturates; it does not overflow");
    }
}

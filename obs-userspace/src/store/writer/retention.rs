//! What goes of the history, and when.

use super::{Finished, SECOND_NS, Store};
use crate::store::{limits::FILES_MAX, seal};

/// What retention removed.
#[derive(Clone, Copy, Debug, Default)]
struct Removed {
    files: u64,
    bytes: u64,
}

impl Store {
    /// Removes what is too old, thins what is old, and removes the oldest while there is too much.
    pub(super) fn retain(&mut self) {
        if let Some(now_ns) = self.now_ns() {
            let is_older = |file: &Finished, seconds: u64| {
                file.times.is_some_and(|(_, end, _)| end.saturating_add(seconds.saturating_mul(SECOND_NS)) < now_ns)
            };
            // What lies ahead of now was written while the clock was wrong: its time says nothing of its age.
            let is_expired = |file: &Finished| {
                let (start, ..) = file.times?;
                (start <= now_ns).then(|| is_older(file, self.options.retention_seconds))
            };
            let expired = with_neighbours(&self.finished.iter().map(is_expired).collect::<Vec<_>>());
            let mut expired = expired.into_iter();
            self.stats.blocks_expired += self.remove(|_| expired.next().unwrap_or_default()).files;
            if self.options.windows_seconds < self.options.retention_seconds {
                for index in 0..self.finished.len() {
                    let file = self.finished[index];
                    let is_fine = file.times.is_some_and(|(.., is_coarse)| !is_coarse);
                    if is_fine && is_older(&file, self.options.windows_seconds) {
                        self.thin(index);
                    }
                }
            }
        }
        let (bytes, files) = (self.stats().bytes, self.finished.len() as u64);
        let (bytes_max, files_max) = (self.options.retention_bytes, FILES_MAX as u64);
        let is_too_much = |gone: Removed| bytes - gone.bytes > bytes_max || files - gone.files > files_max;
        self.stats.blocks_evicted += self.remove(is_too_much).files;
    }

    /// The time by which ages are measured: the beginning of the newest block that is whole. Not the clock's: one that jumped
    /// ahead for a moment would cost the whole history. A block counts when it spans half of what blocks do.
    fn now_ns(&self) -> Option<u64> {
        let least_ns = u64::from(self.options.block_seconds) * SECOND_NS / 2;
        let spans = self.finished.iter().rev().filter_map(|file| file.times);
        spans.filter(|(start, end, _)| end - start >= least_ns).map(|(start, ..)| start).next()
    }

    /// Removes finished files. Of each in the order of writing it is asked whether it goes, given what went before it. One that
    /// cannot be removed stays, and is tried again with the next block: it keeps no other from going.
    fn remove(&mut self, mut is_going: impl FnMut(Removed) -> bool) -> Removed {
        let Self { folder, finished, stats, .. } = self;
        let mut gone = Removed::default();
        finished.retain(|file| {
            if !is_going(gone) {
                return true;
            }
            match folder.remove(&folder.path(file.name)) {
                Ok(()) => {
                    gone.files += 1;
                    gone.bytes += file.bytes;
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, "a file of the history is too old or too much: it stays, and is tried again with the next block");
                    stats.removals_failed += 1;
                    true
                }
            }
        });
        if gone.files > 0 {
            // If that fails: what comes back after a crash goes again.
            let _ = folder.sync();
        }
        gone
    }

    /// A block that cannot be thinned stays as it is; it is tried again with the next one.
    fn thin(&mut self, index: usize) {
        let Some(file) = self.finished.get_mut(index) else { return };
        match seal::thin(&self.folder, file.name) {
            Ok(bytes) => {
                self.stats.blocks_thinned += 1;
                self.stats.bytes_written += bytes;
                file.bytes = bytes;
                if let Some((.., is_coarse)) = &mut file.times {
                    *is_coarse = true;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a block could not be made smaller: it stays as it is, and is tried again with the next");
                self.stats.seals_failed += 1;
            }
        }
    }
}

/// Whether each file goes, in the order of writing: as its own time says or, where that says nothing, once those that were
/// written right before and right after it go.
fn with_neighbours(is_expired: &[Option<bool>]) -> Vec<bool> {
    let carry = |last: &mut bool, is_expired: &Option<bool>| {
        *last = is_expired.unwrap_or(*last);
        Some(*last)
    };
    let mut after: Vec<bool> = is_expired.iter().rev().scan(true, carry).collect();
    after.reverse();
    is_expired.iter().scan(true, carry).zip(after).map(|(before, after)| before && after).collect()
}

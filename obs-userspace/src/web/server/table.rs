//! The connections that are open. When there are as many as there may be, a new one takes the place of the one that has been
//! doing nothing for longest: those that wait cannot keep out those that ask.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

use super::watch::{Phase, Watch};
use crate::web::stats::{Ended, Stats};

/// How long the kernel must have taken nothing of a connection before it counts as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

struct Entry {
    watch: Arc<Watch>,
    task: AbortHandle,
}

struct State {
    next_id: u64,
    entries: BTreeMap<u64, Entry>,
}

pub(in crate::web) struct Table {
    state: Mutex<State>,
    connections_max: usize,
    stats: Arc<Stats>,
}

impl Table {
    pub(super) fn new(connections_max: usize, stats: Arc<Stats>) -> Self {
        Self { state: Mutex::new(State { next_id: 0, entries: BTreeMap::new() }), connections_max, stats }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more. `false` if every connection is being answered.
    pub(super) fn make_room(&self) -> bool {
        let mut state = self.state();
        if state.entries.len() < self.connections_max {
            return true;
        }
        let waiting = state.entries.iter().filter_map(|(id, entry)| {
            let (phase, since) = entry.watch.phase();
            match phase {
                Phase::New | Phase::Idle | Phase::Head => Some((since, *id)),
                Phase::Request | Phase::Sending => None,
            }
        });
        let Some((_, id)) = waiting.min() else { return false };
        self.end(&mut state, id);
        true
    }

    /// Ends the connection whose answer has been waiting in memory for longest without its client taking any of it.
    pub(in crate::web) fn end_stalled(&self) {
        let mut state = self.state();
        let now = Instant::now();
        let stalled = state.entries.iter().filter_map(|(id, entry)| {
            let since = entry.watch.waits_since()?;
            (now.duration_since(since) >= STALLED_AFTER).then_some((since, *id))
        });
        if let Some((_, id)) = stalled.min() {
            self.end(&mut state, id);
        }
    }

    fn end(&self, state: &mut State, id: u64) {
        if let Some(entry) = state.entries.remove(&id) {
            entry.task.abort();
            self.stats.ended(Ended::Evicted);
        }
    }

    /// A number for a connection, which its task needs before there is a handle of the task.
    pub(super) fn next_id(&self) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        state.next_id
    }

    pub(super) fn add(&self, id: u64, watch: Arc<Watch>, task: AbortHandle) {
        self.state().entries.insert(id, Entry { watch, task });
    }

    pub(super) fn remove(&self, id: u64) {
        self.state().entries.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().entries.is_empty()
    }

    /// Ends all of them. Returns how many there were.
    pub(super) fn end_all(&self) -> usize {
        let entries = std::mem::take(&mut self.state().entries);
        entries.values().for_each(|entry| entry.task.abort());
        entries.len()
    }
}

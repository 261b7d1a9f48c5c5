//! Remembers what was sent once, stacks and wakers, by the ids under which it is counted.

use std::{collections::HashMap, sync::Arc};

use super::decode::WakerIds;
use crate::model::stack::{Stack, StackFrame};

/// Stacks of one generation, between two drains: twice what the kernel side remembers having sent.
const GENERATION_MAX: usize = 2 * obs_common::limits::STACKS_SENT_MAX as usize;

/// Most bytes of a generation after a drain. Each short-lived process has its code at other addresses, and so stacks of its
/// own, which never come again.
const GENERATION_BYTES_MAX: usize = 1 << 20;

/// Bytes of a stack besides its frames: the entry in the table, the counts of references, and what the allocator adds.
const STACK_BYTES: usize = 96;

/// What a table remembers.
pub(super) trait Sent: Clone {
    /// The memory that it takes.
    fn bytes(&self) -> usize;
}

impl Sent for Arc<Stack> {
    fn bytes(&self) -> usize {
        STACK_BYTES + self.frames.len() * size_of::<StackFrame>()
    }
}

impl Sent for WakerIds {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.thread_name.len() + STACK_BYTES
    }
}

/// What was sent, in generations. What is looked up moves to the youngest one; when that is full the older one goes, so that only
/// what was not looked up for long goes.
#[derive(Debug)]
pub(super) struct SentTable<T> {
    young: Generation<T>,
    old: Generation<T>,
    /// What the kernel side was told to send again, and may have counted just before.
    leaving: Generation<T>,
}

impl<T> Default for SentTable<T> {
    fn default() -> Self {
        Self { young: Generation::default(), old: Generation::default(), leaving: Generation::default() }
    }
}

#[derive(Debug)]
struct Generation<T> {
    sent: HashMap<u64, T>,
    bytes: usize,
}

impl<T> Default for Generation<T> {
    fn default() -> Self {
        Self { sent: HashMap::new(), bytes: 0 }
    }
}

impl<T: Sent> Generation<T> {
    fn insert(&mut self, id: u64, sent: T) {
        self.bytes += sent.bytes();
        if let Some(before) = self.sent.insert(id, sent) {
            self.bytes -= before.bytes();
        }
    }

    fn remove(&mut self, id: u64) -> Option<T> {
        let sent = self.sent.remove(&id)?;
        self.bytes -= sent.bytes();
        Some(sent)
    }
}

impl<T: Sent> SentTable<T> {
    pub(super) fn insert(&mut self, id: u64, sent: T) {
        if self.young.sent.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, sent);
    }

    pub(super) fn get(&mut self, id: u64) -> Option<T> {
        if let Some(sent) = self.young.sent.get(&id) {
            return Some(sent.clone());
        }
        let sent = self.old.remove(id).or_else(|| self.leaving.remove(id))?;
        self.insert(id, sent.clone());
        Some(sent)
    }

    /// Notes that a drain is over. Returns the stacks that go with the next one unless they are looked up before: the kernel
    /// side has to send them again.
    pub(super) fn age(&mut self) -> Vec<u64> {
        self.leaving = Generation::default();
        if self.young.bytes < GENERATION_BYTES_MAX {
            return Vec::new();
        }
        self.leaving = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.leaving.sent.keys().copied().collect()
    }
}

/// Stacks that were walked in user space. Each is of one moment, so what was counted of it is looked up soon: it goes with the second
/// drain after it came.
#[derive(Debug, Default)]
pub(super) struct WalkedStacks {
    recent: HashMap<u64, Option<Arc<Stack>>>,
    earlier: HashMap<u64, Option<Arc<Stack>>>,
}

impl WalkedStacks {
    /// `None` is a snapshot of no stack.
    pub(super) fn insert(&mut self, id: u64, stack: Option<Stack>) {
        self.recent.insert(id, stack.map(Arc::new));
    }

    pub(super) fn get(&self, id: u64) -> Option<Option<Arc<Stack>>> {
        self.recent.get(&id).or_else(|| self.earlier.get(&id)).cloned()
    }

    /// Notes that a drain is over.
    pub(super) fn age(&mut self) {
        self.earlier = std::mem::take(&mut self.recent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stack::StackEnd;

    fn stack() -> Arc<Stack> {
        Arc::new(Stack { frames: Box::default(), end: StackEnd::Complete })
    }

    #[test]
    fn what_is_looked_up_stays_and_the_rest_is_bounded() {
        let mut table = SentTable::default();
        table.insert(7, stack());
        for id in 0..10 * GENERATION_MAX as u64 {
            table.insert(1_000 + id, stack());
            if id.is_multiple_of(1_000) {
                assert!(table.get(7).is_some(), "after {id}");
            }
        }
        assert!(table.young.sent.len() + table.old.sent.len() <= 2 * GENERATION_MAX);
        assert!(table.get(1_000).is_none());
    }

    #[test]
    fn memory_is_bounded_and_nothing_goes_before_it_is_sent_again() {
        let frame = StackFrame { address: 1, exact: false, by_frame_pointer: false };
        let deep = || Arc::new(Stack { frames: vec![frame; 100].into(), end: StackEnd::Complete });
        let mut table = SentTable::default();
        let mut told: Vec<u64> = Vec::new();
        for id in 0..100_000_u64 {
            table.insert(id, deep());
            if id.is_multiple_of(200) {
                // What the kernel side was told of can still be looked up now.
                let asked = told.first().copied();
                assert!(asked.is_none_or(|asked| table.get(asked).is_some()));
                assert!(table.get(0).is_some(), "it is looked up all the time");
                told = table.age();
                let held = table.young.bytes + table.old.bytes + table.leaving.bytes;
                assert!(held < 3 * (GENERATION_BYTES_MAX + 200 * deep().bytes()), "{held}");
            }
        }
        let sum = |generation: &Generation<Arc<Stack>>| generation.sent.values().map(Sent::bytes).sum::<usize>();
        assert_eq!([table.young.bytes, table.old.bytes], [sum(&table.young), sum(&table.old)]);
        assert!(table.get(1).is_none());
    }

    #[test]
    fn a_walked_stack_serves_all_parts_of_its_wait_and_does_not_stay_for_ever() {
        let mut walked = WalkedStacks::default();
        walked.insert(1, None);
        walked.age();
        assert_eq!((walked.get(1), walked.get(1)), (Some(None), Some(None)));
        walked.age();
        assert_eq!(walked.get(1), None);
    }
}

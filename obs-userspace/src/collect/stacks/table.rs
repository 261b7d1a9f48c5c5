//! Remembers stacks by the ids under which they are counted.

use std::{collections::HashMap, sync::Arc};

use crate::model::stack::{Stack, StackFrame};

/// Stacks of one generation, between two drains: twice what the kernel side remembers having sent.
const GENERATION_MAX: usize = 2 * obs_common::limits::STACKS_SENT_MAX as usize;

/// Most bytes of a generation after a drain. Each short-lived process has its code at other addresses, and so stacks of its
/// own, which never come again.
const GENERATION_BYTES_MAX: usize = 1 << 20;

/// Bytes of a stack besides its frames: the entry in the table, the counts of references, and what the allocator adds.
const STACK_BYTES: usize = 96;

/// Stacks in generations. What is looked up moves to the youngest one; when that is full the older one goes, so that only
/// stacks go that were not looked up for long.
#[derive(Debug, Default)]
pub(super) struct StackTable {
    young: Generation,
    old: Generation,
    /// What the kernel side was told to send again, and may have counted just before.
    leaving: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    stacks: HashMap<u64, Arc<Stack>>,
    bytes: usize,
}

impl Generation {
    fn insert(&mut self, id: u64, stack: Arc<Stack>) {
        self.bytes += bytes(&stack);
        if let Some(before) = self.stacks.insert(id, stack) {
            self.bytes -= bytes(&before);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Stack>> {
        let stack = self.stacks.remove(&id)?;
        self.bytes -= bytes(&stack);
        Some(stack)
    }
}

fn bytes(stack: &Stack) -> usize {
    STACK_BYTES + stack.frames.len() * size_of::<StackFrame>()
}

impl StackTable {
    pub(super) fn insert(&mut self, id: u64, stack: Arc<Stack>) {
        if self.young.stacks.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, stack);
    }

    pub(super) fn get(&mut self, id: u64) -> Option<Arc<Stack>> {
        if let Some(stack) = self.young.stacks.get(&id) {
            return Some(Arc::clone(stack));
        }
        let stack = self.old.remove(id).or_else(|| self.leaving.remove(id))?;
        self.insert(id, Arc::clone(&stack));
        Some(stack)
    }

    /// Notes that a drain is over. Returns the stacks that go with the next one unless they are looked up before: the kernel
    /// side has to send them again.
    pub(super) fn age(&mut self) -> Vec<u64> {
        self.leaving = Generation::default();
        if self.young.bytes < GENERATION_BYTES_MAX {
            return Vec::new();
        }
        self.leaving = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.leaving.stacks.keys().copied().collect()
    }
}

/// Stacks that were walked in user space. Each is counted once, so it goes when it was looked up, or with the second
/// drain after it came if nobody did.
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

    pub(super) fn take(&mut self, id: u64) -> Option<Option<Arc<Stack>>> {
        self.recent.remove(&id).or_else(|| self.earlier.remove(&id))
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
        let mut table = StackTable::default();
        table.insert(7, stack());
        for id in 0..10 * GENERATION_MAX as u64 {
            table.insert(1_000 + id, stack());
            if id.is_multiple_of(1_000) {
                assert!(table.get(7).is_some(), "after {id}");
            }
        }
        assert!(table.young.stacks.len() + table.old.stacks.len() <= 2 * GENERATION_MAX);
        assert!(table.get(1_000).is_none());
    }

    #[test]
    fn memory_is_bounded_and_nothing_goes_before_it_is_sent_again() {
        let frame = StackFrame { address: 1, exact: false, by_frame_pointer: false };
        let deep = || Arc::new(Stack { frames: vec![frame; 100].into(), end: StackEnd::Complete });
        let mut table = StackTable::default();
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
                assert!(held < 3 * (GENERATION_BYTES_MAX + 200 * bytes(&deep())), "{held}");
            }
        }
        let sum = |generation: &Generation| generation.stacks.values().map(|stack| bytes(stack)).sum::<usize>();
        assert_eq!([table.young.bytes, table.old.bytes], [sum(&table.young), sum(&table.old)]);
        assert!(table.get(1).is_none());
    }

    #[test]
    fn a_walked_stack_is_given_once_and_does_not_wait_for_ever() {
        let mut walked = WalkedStacks::default();
        walked.insert(1, None);
        walked.insert(2, None);
        walked.age();
        assert_eq!((walked.take(1), walked.take(1)), (Some(None), None));
        walked.age();
        assert_eq!(walked.take(2), None);
    }
}

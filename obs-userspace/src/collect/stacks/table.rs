//! Remembers stacks by the ids under which they are counted.

use std::{collections::HashMap, sync::Arc};

use crate::model::stack::Stack;

/// Stacks of one generation: twice what the kernel side remembers having sent.
const GENERATION_MAX: usize = 2 * obs_common::limits::STACKS_SENT_MAX as usize;

/// Stacks in two generations. What is looked up moves to the younger one; when that is full the older one goes, so that
/// only stacks go that were not looked up for long.
#[derive(Debug, Default)]
pub(super) struct StackTable {
    young: HashMap<u64, Arc<Stack>>,
    old: HashMap<u64, Arc<Stack>>,
}

impl StackTable {
    pub(super) fn insert(&mut self, id: u64, stack: Arc<Stack>) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, stack);
    }

    pub(super) fn get(&mut self, id: u64) -> Option<Arc<Stack>> {
        if let Some(stack) = self.young.get(&id) {
            return Some(Arc::clone(stack));
        }
        let stack = self.old.remove(&id)?;
        self.insert(id, Arc::clone(&stack));
        Some(stack)
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
        assert!(table.young.len() + table.old.len() <= 2 * GENERATION_MAX);
        assert!(table.get(1_000).is_none());
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

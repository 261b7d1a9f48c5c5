//! Reads counted stacks: what every collector that counts stacks shares in user space.
//!
//! Stacks arrive once through the ring buffer, counts by stack id through two maps that take turns. Both are joined here.
//! A stack that the kernel side could not walk arrives as a snapshot; its counts wait until someone has walked it.

mod decode;
mod table;

use std::{collections::HashSet, os::fd::AsFd as _, os::fd::BorrowedFd, sync::Arc};

use obs_common::{
    counters::KernelCounter,
    stack::{LOST_STACK, NO_STACK, StackKey, StackValue},
};

pub(crate) use self::decode::user_stack;
use self::{
    decode::{Decoded, decode, text, wait},
    table::{StackTable, WalkedStacks},
};
use super::Polled;
use crate::{
    kernel::{
        load::{KernelError, Object},
        read::{KernelCounters, Ring, StackCounts, StacksSent},
    },
    model::{
        process::ProcessKey,
        record::{Record, StackSample},
        stack::{Stack, StackEnd},
        summary::SampleCounts,
    },
};

/// The user-space half of `obs_ebpf::{stack, counts, process, loss}`.
pub(super) struct StackReader {
    ring: Ring,
    counts: StackCounts,
    counters: KernelCounters,
    sent: StacksSent,
    stacks: StackTable,
    walked: WalkedStacks,
    /// What was read and not yet handed out.
    polled: Polled,
    /// Snapshots that nobody has completed yet.
    incomplete: HashSet<u64>,
    /// Counts of those.
    waiting: Vec<(StackKey, StackValue)>,
    malformed_count: u64,
}

impl StackReader {
    /// Takes the maps out of an object.
    pub(super) fn take(object: &mut Object) -> Result<Self, KernelError> {
        Ok(Self {
            ring: Ring::take(object)?,
            counts: StackCounts::take(object)?,
            counters: KernelCounters::take(object)?,
            sent: StacksSent::take(object)?,
            stacks: StackTable::default(),
            walked: WalkedStacks::default(),
            polled: Polled::default(),
            incomplete: HashSet::new(),
            waiting: Vec::new(),
            malformed_count: 0,
        })
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Hands on what came through the ring buffer, but keeps the stacks.
    pub(super) fn poll(&mut self) -> Polled {
        self.read_ring();
        std::mem::take(&mut self.polled)
    }

    fn read_ring(&mut self) {
        let Self { ring, stacks, polled, incomplete, malformed_count, .. } = self;
        ring.drain(|bytes| match decode(bytes) {
            Some(Decoded::Stack { id, stack }) => stacks.insert(id, Arc::new(stack)),
            Some(Decoded::Seen(event)) => polled.processes.push(event),
            Some(Decoded::Snapshot(snapshot)) => {
                incomplete.insert(snapshot.id);
                polled.snapshots.push(*snapshot);
            }
            None => *malformed_count += 1,
        });
    }

    /// Takes what became of a snapshot.
    pub(super) fn complete(&mut self, snapshot: u64, stack: Option<Stack>) {
        if self.incomplete.remove(&snapshot) {
            self.walked.insert(snapshot, stack);
        }
    }

    /// Takes the counts since the last call and joins them with their stacks.
    pub(super) fn drain(&mut self, records: &mut Vec<Record>) -> Result<(), KernelError> {
        let mut counted = std::mem::take(&mut self.waiting);
        self.counts.drain(|key, value| counted.push((*key, *value)))?;
        // After the counts: every stack that they name has been sent by now.
        self.read_ring();
        let (waiting, ready) = counted.into_iter().partition(|(key, _)| self.incomplete.contains(&key.user_stack));
        self.waiting = waiting;
        let ready: Vec<(StackKey, StackValue)> = ready;
        let lost = Arc::new(Stack { frames: Box::default(), end: StackEnd::Lost });
        records.extend(ready.iter().map(|(key, value)| Record::StackSample(self.sample(key, value, &lost))));
        self.walked.age();
        for id in self.stacks.age() {
            self.sent.forget(id);
        }
        Ok(())
    }

    fn sample(&mut self, key: &StackKey, value: &StackValue, lost: &Arc<Stack>) -> StackSample {
        let mut stack = |id| match id {
            NO_STACK => None,
            LOST_STACK => Some(lost.clone()),
            id => self.walked.take(id).unwrap_or_else(|| {
                let known = self.stacks.get(id);
                if known.is_none() {
                    // The kernel side believes that it was sent: let it be sent again.
                    self.sent.forget(id);
                }
                Some(known.unwrap_or_else(|| lost.clone()))
            }),
        };
        StackSample {
            process: ProcessKey { pid: key.tgid, started_ns: key.started_ns, exec_id: key.exec_id },
            thread_name: text(&key.comm),
            cgroup_id: key.cgroup_id,
            user: stack(key.user_stack),
            kernel: stack(key.kernel_stack),
            wait: wait(key.state),
            count: value.count,
            weight: value.weight,
        }
    }

    /// What became of the samples.
    pub(super) fn sample_counts(&self) -> Result<SampleCounts, KernelError> {
        let counters = self.counters.read()?;
        let of = |counter: KernelCounter| counters[counter as usize];
        let losses = [
            ("map of counts full", of(KernelCounter::LostCountsFull)),
            ("task could not be examined", of(KernelCounter::LostNoTask)),
            ("map of waiting threads full", of(KernelCounter::LostWaitsFull)),
            ("children not followed: filter full", of(KernelCounter::LostFilterFull)),
        ];
        Ok(SampleCounts {
            taken: of(KernelCounter::Taken),
            lost: losses.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect(),
            filtered: of(KernelCounter::Filtered),
            idle: of(KernelCounter::Idle),
        })
    }
}

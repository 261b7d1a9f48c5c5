//! Reads counted stacks: what every collector that counts stacks shares in user space.
//!
//! Stacks arrive once through the ring buffer, counts by stack id through two maps that take turns. Both are joined here.
//! A stack that the kernel side could not walk arrives as a snapshot; its counts wait until someone has walked it.

mod decode;
mod table;

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use obs_common::{
    counters::KernelCounter,
    limits::SNAPSHOT_BELOW_BYTES,
    stack::{GONE_STACK, LOST_STACK, NO_STACK, StackKey, StackValue},
    wait::{NO_WAKER, UnfinishedWait, WAIT_IS_SHORT, WAKER_INTERRUPT, WaitState},
};

pub(crate) use self::decode::user_stack;
use self::{
    decode::{Decoded, WakerIds, decode, decode_registers, text, wait},
    table::{SentTable, WalkedStacks},
};
use super::Polled;
use crate::{
    kernel::{
        load::{KernelError, Object},
        read::{KernelCounters, Ring, StackCounts, StacksSent},
        waits::Standing,
    },
    model::{
        process::ProcessKey,
        record::{Record, StackSample},
        stack::{Stack, StackEnd, StackSnapshot},
        summary::SampleCounts,
        wait::{Waker, WakerThread},
    },
};

/// Most stacks of threads that still wait that are read at a time: each takes 28 KiB until it is walked.
const UNFINISHED_AT_A_TIME: usize = 64;

/// The user-space half of `obs_ebpf::{stack, counts, process, loss}`.
pub(super) struct StackReader {
    ring: Ring,
    counts: StackCounts,
    counters: KernelCounters,
    sent: StacksSent,
    stacks: SentTable<Arc<Stack>>,
    wakers: SentTable<WakerIds>,
    walked: WalkedStacks,
    /// What was read and not yet handed out.
    polled: Polled,
    /// Snapshots that nobody has completed yet.
    incomplete: HashSet<u64>,
    /// Counts of those.
    waiting: Vec<(StackKey, StackValue)>,
    /// Waits that had not ended, of which the user stacks are still to be read, by their numbers.
    unfinished: Vec<(u64, UnfinishedWait)>,
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
            stacks: SentTable::default(),
            wakers: SentTable::default(),
            walked: WalkedStacks::default(),
            polled: Polled::default(),
            incomplete: HashSet::new(),
            waiting: Vec::new(),
            unfinished: Vec::new(),
            malformed_count: 0,
        })
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Hands on what came through the ring buffer, but keeps the stacks.
    pub(super) fn poll(&mut self) -> Polled {
        self.read_ring();
        self.read_unfinished();
        self.polled.has_more = !self.unfinished.is_empty();
        std::mem::take(&mut self.polled)
    }

    fn read_ring(&mut self) {
        let Self { ring, stacks, wakers, polled, incomplete, malformed_count, .. } = self;
        ring.drain(|bytes| match decode(bytes) {
            Some(Decoded::Stack { id, stack }) => stacks.insert(id, Arc::new(stack)),
            Some(Decoded::Waker { id, waker }) => wakers.insert(id, waker),
            Some(Decoded::Seen(event)) => polled.processes.push(event),
            Some(Decoded::Snapshot(snapshot)) => {
                incomplete.insert(snapshot.id);
                polled.snapshots.push(*snapshot);
            }
            None => *malformed_count += 1,
        });
    }

    /// Counts what had not ended. User stacks that are still to be taken are handed on by the next calls of [`Self::poll`].
    pub(super) fn add_unfinished(&mut self, waits: Vec<UnfinishedWait>) {
        for (number, wait) in (0..).zip(waits) {
            let UnfinishedWait { mut key, blocked_ns, queued_ns, .. } = wait;
            if wait.has_registers != 0 {
                // Other ids are hashes.
                key.user_stack = u64::MAX - number;
                self.incomplete.insert(key.user_stack);
                self.unfinished.push((key.user_stack, wait));
            }
            let queue = WaitState::RunQueue as u32 | (key.state & WAIT_IS_SHORT);
            for (state, weight) in [(key.state, blocked_ns), (queue, queued_ns)] {
                if weight > 0 {
                    self.waiting.push((StackKey { state, ..key }, StackValue { count: 1, weight }));
                }
            }
        }
    }

    /// Reads stacks of threads that still wait.
    fn read_unfinished(&mut self) {
        let first = self.unfinished.len().saturating_sub(UNFINISHED_AT_A_TIME);
        for (id, wait) in self.unfinished.split_off(first) {
            let UnfinishedWait { key, tid, runs, registers, .. } = wait;
            let registers = decode_registers(&registers);
            let memory_start = registers.sp.wrapping_sub(SNAPSHOT_BELOW_BYTES as u64);
            let standing = Standing { pid: key.tgid, tid, ip: registers.ip, sp: registers.sp, runs };
            match standing.memory(memory_start) {
                Some(memory) => {
                    let process = process(&key);
                    self.polled.snapshots.push(StackSnapshot { id, process, registers, memory_start, memory });
                }
                None => self.complete(id, Some(Stack { frames: Box::default(), end: StackEnd::Gone })),
            }
        }
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
        let (waiting, ready) = counted.into_iter().partition(|(key, _)| self.is_incomplete(key));
        self.waiting = waiting;
        let ready: Vec<(StackKey, StackValue)> = ready;
        records.extend(ready.iter().map(|(key, value)| Record::StackSample(self.sample(key, value))));
        self.walked.age();
        for id in self.stacks.age().into_iter().chain(self.wakers.age()) {
            self.sent.forget(id);
        }
        Ok(())
    }

    /// Whether a stack is still to be walked.
    fn is_incomplete(&mut self, key: &StackKey) -> bool {
        let waker = (key.waker > WAKER_INTERRUPT).then(|| self.wakers.get(key.waker)).flatten();
        self.incomplete.contains(&key.user_stack)
            || waker.is_some_and(|waker| self.incomplete.contains(&waker.user_stack))
    }

    fn sample(&mut self, key: &StackKey, value: &StackValue) -> StackSample {
        StackSample {
            process: process(key),
            thread_name: text(&key.comm),
            cgroup_id: key.cgroup_id,
            user: self.stack(key.user_stack),
            kernel: self.stack(key.kernel_stack),
            wait: wait(key.state),
            waker: self.waker(key.waker),
            count: value.count,
            weight: value.weight,
        }
    }

    fn stack(&mut self, id: u64) -> Option<Arc<Stack>> {
        let without_frames = |end| Some(Arc::new(Stack { frames: Box::default(), end }));
        match id {
            NO_STACK => None,
            LOST_STACK => without_frames(StackEnd::Lost),
            GONE_STACK => without_frames(StackEnd::Gone),
            id => self.walked.get(id).unwrap_or_else(|| {
                let known = self.stacks.get(id);
                if known.is_none() {
                    // The kernel side believes that it was sent: let it be sent again.
                    self.sent.forget(id);
                }
                known.or_else(|| without_frames(StackEnd::Lost))
            }),
        }
    }

    fn waker(&mut self, id: u64) -> Option<Waker> {
        match id {
            NO_WAKER => None,
            WAKER_INTERRUPT => Some(Waker::Interrupt),
            id => {
                let Some(WakerIds { process, thread_name, user_stack, kernel_stack }) = self.wakers.get(id) else {
                    self.sent.forget(id);
                    return Some(Waker::Lost);
                };
                let (user, kernel) = (self.stack(user_stack), self.stack(kernel_stack));
                Some(Waker::Thread(Arc::new(WakerThread { process, thread_name, user, kernel })))
            }
        }
    }

    /// How long all threads lived together that were followed, in nanoseconds.
    pub(super) fn thread_time_ns(&self) -> Result<u64, KernelError> {
        Ok(self.counters.read()?[KernelCounter::ThreadTimeNs as usize])
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

fn process(key: &StackKey) -> ProcessKey {
    ProcessKey { pid: key.tgid, started_ns: key.started_ns, exec_id: key.exec_id }
}

//! Walks the stacks that the kernel side could not: pieces of stack memory, with registers, of which something was not
//! known yet.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use obs_common::{
    limits::{RING_BYTES, SNAPSHOT_STACK_BYTES_MAX, USER_FRAMES_MAX},
    stack::{SNAPSHOT_HEADER_BYTES, StackEnd},
    unwind_row::FRAME_POINTER_RULE,
};
use obs_unwind::{Machine, Registers, Walk};

use super::image_key;
use crate::{
    collect::user_stack,
    kernel::unwind::{Found, UnwindMaps},
    model::{
        self,
        process::ProcessKey,
        stack::{Stack, StackSnapshot, UserRegisters},
    },
};

/// Most snapshots that wait at a time.
const WAITING_MAX: usize = 512;

/// Most memory of snapshots that wait, in bytes.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Snapshots that the kernel side may send per second, and how many of them at once: what bounds their cost.
const PER_SECOND: f64 = 256.0;
const BURST: f64 = 256.0;

/// Snapshots that may be under way at a time: they share the ring with stacks and announcements, and have half of it.
const RING_SHARE: u64 = RING_BYTES as u64 / 2 / (SNAPSHOT_HEADER_BYTES + SNAPSHOT_STACK_BYTES_MAX) as u64;

/// How long a snapshot waits for news of its process: mappings are heard of a few milliseconds after the fact.
const NEWS_PATIENCE: Duration = Duration::from_millis(300);

/// Snapshots of one process that led into no mapping, one after another, until no more are asked for.
const FUTILE_MAX: u32 = 16;

#[cfg(target_arch = "x86_64")]
const MACHINE: Machine = Machine::X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: Machine = Machine::Aarch64;

/// What a snapshot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The table of a file.
    Table(u32),
    /// The mappings of its process.
    News {
        /// Until when.
        until: Instant,
        /// Whether they were told anew since the last try.
        has_come: bool,
    },
}

#[derive(Debug)]
struct Waiting {
    snapshot: StackSnapshot,
    wait: Wait,
}

/// What the owner of the snapshots has to do.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Files whose tables are needed.
    pub(super) files_wanted: Vec<u32>,
    /// Whether some snapshots do not reach as far as the stack: what lies further out may need tables too.
    pub(super) are_short: bool,
    /// Process images of which more snapshots are of no use.
    pub(super) processes_settled: Vec<ProcessKey>,
}

/// The snapshots that could not be walked to their end yet.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// How many snapshots each process image has led into nowhere since its mappings were last told.
    futile: HashMap<ProcessKey, u32>,
    /// How many may be sent now; grows with time.
    tokens: f64,
    refilled: Instant,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            futile: HashMap::new(),
            tokens: BURST,
            refilled: Instant::now(),
        }
    }

    /// Notes that the mappings of a process image are other ones now.
    pub(super) fn process_was_told(&mut self, key: ProcessKey) {
        self.futile.remove(&key);
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.snapshot.process == key) {
            if let Wait::News { has_come, .. } = &mut waiting.wait {
                *has_come = true;
            }
        }
    }

    /// Forgets a process image that has ended.
    pub(super) fn forget(&mut self, key: ProcessKey) {
        self.futile.remove(&key);
    }

    /// What snapshots wait for.
    pub(super) fn waits(&self) -> impl Iterator<Item = Wait> {
        self.waiting.iter().map(|waiting| waiting.wait)
    }

    /// Whether snapshots of this process image wait.
    pub(super) fn has(&self, key: ProcessKey) -> bool {
        self.waiting.iter().any(|waiting| waiting.snapshot.process == key)
    }

    /// How many more snapshots the kernel side may send now.
    pub(super) fn allowance(&mut self) -> u64 {
        let elapsed = self.refilled.elapsed();
        self.refilled += elapsed;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * PER_SECOND).min(BURST);
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        (self.tokens as u64).min(room as u64).min(RING_SHARE)
    }

    /// Takes in new snapshots and walks every one that may go further now.
    pub(super) fn walk(
        &mut self,
        maps: &UnwindMaps,
        snapshots: Vec<StackSnapshot>,
        done: &mut impl FnMut(u64, Option<Stack>),
    ) -> Walked {
        let now = Instant::now();
        let mut walked = Walked::default();
        self.tokens = (self.tokens - snapshots.len() as f64).max(0.0);
        let earlier: Vec<Waiting> = self.waiting.drain(..).collect();
        for waiting in earlier {
            let may_go_on = match waiting.wait {
                Wait::Table(file) => maps.is_decided(file),
                Wait::News { until, has_come } => has_come || until <= now,
            };
            if may_go_on {
                self.step(maps, waiting.snapshot, Some(waiting.wait), now, &mut walked, done);
            } else {
                if let Wait::Table(file) = waiting.wait {
                    // The queue may have been full, or the table was evicted.
                    walked.files_wanted.push(file);
                }
                self.waiting.push_back(waiting);
            }
        }
        for snapshot in snapshots {
            self.waiting_bytes += snapshot.memory.len();
            self.step(maps, snapshot, None, now, &mut walked, done);
        }
        while self.waiting.len() > WAITING_MAX || self.waiting_bytes > WAITING_BYTES_MAX {
            let Some(Waiting { snapshot, .. }) = self.waiting.pop_front() else { break };
            self.finish_one(maps, &snapshot, done);
        }
        walked
    }

    /// Walks what is left as far as it goes.
    pub(super) fn finish(&mut self, maps: &UnwindMaps, done: &mut impl FnMut(u64, Option<Stack>)) {
        while let Some(Waiting { snapshot, .. }) = self.waiting.pop_front() {
            self.finish_one(maps, &snapshot, done);
        }
    }

    fn finish_one(&mut self, maps: &UnwindMaps, snapshot: &StackSnapshot, done: &mut impl FnMut(u64, Option<Stack>)) {
        self.waiting_bytes -= snapshot.memory.len();
        let (walk, _) = walk(maps, snapshot);
        done(snapshot.id, stack(snapshot, &walk));
    }

    /// Walks one snapshot; it is done, or waits.
    fn step(
        &mut self,
        maps: &UnwindMaps,
        snapshot: StackSnapshot,
        waited: Option<Wait>,
        now: Instant,
        walked: &mut Walked,
        done: &mut impl FnMut(u64, Option<Stack>),
    ) {
        let (walk, missing) = walk(maps, &snapshot);
        let wait = match missing {
            Some(Missing::Table(file)) => {
                walked.files_wanted.push(file);
                Some(Wait::Table(file))
            }
            Some(Missing::Mapping) => {
                let until = match waited {
                    Some(Wait::News { until, .. }) => until,
                    Some(Wait::Table(_)) | None => now + NEWS_PATIENCE,
                };
                (now < until).then_some(Wait::News { until, has_come: false })
            }
            None => None,
        };
        if let Some(wait) = wait {
            self.waiting.push_back(Waiting { snapshot, wait });
            return;
        }
        walked.are_short |= walk.end == StackEnd::ReadFailed;
        if missing.is_some() {
            let futile = self.futile.entry(snapshot.process).or_default();
            *futile += 1;
            if *futile == FUTILE_MAX {
                walked.processes_settled.push(snapshot.process);
            }
        }
        self.waiting_bytes -= snapshot.memory.len();
        done(snapshot.id, stack(&snapshot, &walk));
    }
}

/// What a walk lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Table(u32),
    Mapping,
}

/// Walks a snapshot as far as it goes.
fn walk(maps: &UnwindMaps, snapshot: &StackSnapshot) -> (Walk, Option<Missing>) {
    let image = image_key(snapshot.process);
    let mut missing = None;
    let mut is_told = true;
    let lookup = |address| match maps.find(&image, address) {
        Found::NoProcess => {
            is_told = false;
            missing = Some(Missing::Mapping);
            obs_unwind::Found::NoMapping
        }
        Found::NoMapping => {
            missing = Some(Missing::Mapping);
            obs_unwind::Found::NoMapping
        }
        Found::NotLoaded(file) => {
            missing = Some(Missing::Table(file));
            obs_unwind::Found::NoTable
        }
        Found::Never => obs_unwind::Found::NoTable,
        Found::NoFile => obs_unwind::Found::Rule(FRAME_POINTER_RULE),
        Found::Table { table, address } => {
            let rule = obs_unwind::find(u64::from(table.first_page), table.pages, table.rows, table.rules, address);
            obs_unwind::Found::Rule(rule.unwrap_or_default())
        }
    };
    let UserRegisters { ip, sp, fp, lr, general } = snapshot.registers;
    let registers = Registers { ip, sp, fp, lr, general };
    let mut walk = obs_unwind::unwind(MACHINE, &registers, lookup, |address| snapshot.word(address), USER_FRAMES_MAX);
    if !is_told {
        walk.end = StackEnd::NoProcessTable;
    } else if matches!(missing, Some(Missing::Table(_))) {
        walk.end = StackEnd::TableNotReady;
    }
    (walk, missing)
}

fn stack(snapshot: &StackSnapshot, walk: &Walk) -> Option<Stack> {
    // A process that is executing a program still has the registers of the one before, and the memory of neither.
    let is_between_programs = snapshot.memory.is_empty() && walk.frames.len() == 1 && walk.end == StackEnd::NoMapping;
    let mut stack = user_stack(walk.frames.iter().map(|frame| frame.0), walk.end);
    if walk.end == StackEnd::ReadFailed {
        stack.end = model::stack::StackEnd::NotInSnapshot;
    }
    (!is_between_programs).then_some(stack)
}

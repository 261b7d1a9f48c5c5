//! Who a process is: command line, executable, user, systemd unit, container, pod.
//!
//! Whoever wants to know asks [`Identities::lookup`], which never waits: what is not known yet is found out by threads of
//! its own, and there the next time. One thread reads `/proc`. Reading a command line reads the process's own memory, and
//! a process can make that wait for ever; then another thread takes over and the process stays unknown. A second thread
//! asks container runtimes.

mod command_line;
mod container;
mod read;
mod redact;
mod users;
mod worker;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::{container::KnownByState, read::NS_PER_TICK};
pub use self::{
    container::RuntimePaths,
    redact::{DEFAULT_RULES, DefaultRule, REDACTED, RULES_MAX, RedactionOptions, Redactor, RuleError},
};
use crate::model::process::{ContainerIdentity, Identity};

/// Most processes that are remembered, alive or not.
pub const PROCESSES_MAX: usize = 8_192;

/// Most bytes of their names and command lines, together.
pub const PROCESS_BYTES_MAX: usize = 8 << 20;

/// Most containers that are remembered.
pub const CONTAINERS_MAX: usize = 1_024;

/// Most processes, and most containers, that wait to be looked at.
pub const QUEUE_MAX: usize = 4_096;

/// Most cgroups of which is remembered whether they are a container's.
const CGROUPS_MAX: usize = 4_096;

/// How many processes a second are read because they were noticed: what a storm of short programs costs at most …
const NOTICED_PER_SECOND: f64 = 32.0;

/// … after this many at once.
const NOTICED_AT_ONCE: f64 = 256.0;

/// How often what is known of a process that is asked for is read again: a program may change its command line.
const PROCESS_REFRESH: Duration = Duration::from_secs(300);

/// How often a container that is asked for is: labels of pods change.
const CONTAINER_REFRESH: Duration = Duration::from_secs(600);

/// How long what a cgroup is not is remembered.
const CGROUP_REFRESH: Duration = Duration::from_secs(60);

/// How long to wait before a runtime is asked again that did not answer. It doubles with every time …
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// … so often at most: from then on every 8.5 minutes.
const RETRY_DOUBLINGS_MAX: u32 = 9;

/// How long a process may take to be read before another thread takes over.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Most threads that may be stuck. When so many are, no more processes are read until one is free.
const STUCK_MAX: u32 = 8;

/// How to find out who processes are.
#[derive(Clone, Debug)]
pub struct IdentityOptions {
    /// procfs.
    pub proc: PathBuf,
    /// The host's file of users.
    pub passwd: PathBuf,
    /// What to replace in command lines.
    pub redaction: RedactionOptions,
    /// Where container runtimes are.
    pub runtimes: RuntimePaths,
    /// How long one source may take to answer.
    pub answer_limit: Duration,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            passwd: "/etc/passwd".into(),
            redaction: RedactionOptions::default(),
            runtimes: RuntimePaths::default(),
            answer_limit: Duration::from_secs(2),
        }
    }
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A redaction rule cannot be used.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A thread could not be started.
    #[error("cannot start a thread to find out who processes are: {0}; is the limit of processes reached (ulimit -u)?")]
    Thread(#[source] io::Error),
}

/// What is known of a process at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Who it is. What its container's runtime says may come later.
    Known(Arc<Identity>),
    /// It will be found out.
    Pending,
    /// It cannot be found out, for this reason.
    Unknown(Arc<str>),
}

/// What became of what was asked, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityCounts {
    /// Processes that were read.
    pub processes_read: u64,
    /// Processes that had ended before they were read.
    pub processes_missed: u64,
    /// Processes that could not be read for another reason.
    pub processes_failed: u64,
    /// Questions that found no room in the queue.
    pub questions_dropped: u64,
    /// Processes that were noticed and not read, because there were too many at once. Who asks for them has them read.
    pub notices_skipped: u64,
    /// Processes forgotten because there were too many.
    pub processes_evicted: u64,
    /// Processes whose reading did not end in time.
    pub processes_stuck: u64,
    /// Secrets that were replaced.
    pub secrets_redacted: u64,
    /// Containers that a runtime told of.
    pub containers_answered: u64,
    /// Containers that no runtime told of, counted once per try.
    pub containers_failed: u64,
}

/// A process: its id and when it started, in ticks since boot.
type Key = (u32, u64);

/// A process to be read: the one that started then, or the one that has the id now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    pid: u32,
    started_ticks: Option<u64>,
}

#[derive(Debug)]
struct Process {
    known: Result<Arc<Identity>, Arc<str>>,
    bytes: usize,
    read: Instant,
    touched: u64,
}

#[derive(Debug)]
struct Container {
    /// As it was first seen, and where: what is asked.
    cgroup: Arc<str>,
    known: Arc<ContainerIdentity>,
    is_queued: bool,
    next: Instant,
    failures: u32,
    touched: u64,
}

/// How many noticed processes may still be read.
#[derive(Debug)]
struct Allowance {
    left: f64,
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: NOTICED_AT_ONCE, since: Instant::now() }
    }
}

impl Allowance {
    fn take(&mut self) -> bool {
        let earned = self.since.elapsed().as_secs_f64() * NOTICED_PER_SECOND;
        self.since = Instant::now();
        self.left = (self.left + earned).min(NOTICED_AT_ONCE);
        let is_granted = self.left >= 1.0;
        if is_granted {
            self.left -= 1.0;
        }
        is_granted
    }
}

#[derive(Debug, Default)]
struct State {
    questions: VecDeque<Question>,
    asked: HashSet<Question>,
    allowance: Allowance,
    processes: HashMap<Key, Process>,
    process_bytes: usize,
    containers: HashMap<Arc<str>, Container>,
    container_questions: VecDeque<Arc<str>>,
    /// What was found of a cgroup whose path shows no container, and when.
    cgroups: HashMap<Arc<str>, (Option<KnownByState>, Instant)>,
    /// Which thread reads processes now, and what it is at.
    reader: u64,
    reading: Option<(Question, Instant)>,
    stuck: u32,
    clock: u64,
    is_over: bool,
    counts: IdentityCounts,
}

#[derive(Debug)]
struct Shared {
    options: IdentityOptions,
    redactor: Redactor,
    state: Mutex<State>,
    /// Something is to be done, or all is over.
    wake: Condvar,
}

impl Shared {
    /// The state is consistent between any two statements that could panic, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out who processes are. Dropping it ends its threads, as soon as each is done with what it is at.
#[derive(Debug)]
pub struct Identities {
    shared: Arc<Shared>,
}

impl Identities {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a redaction rule cannot be used, or a thread cannot be started.
    pub fn start(options: IdentityOptions) -> Result<Self, IdentityError> {
        let redactor = Redactor::new(&options.redaction)?;
        let shared = Arc::new(Shared { options, redactor, state: Mutex::new(State::default()), wake: Condvar::new() });
        // From here on a failure ends what was started.
        let identities = Self { shared };
        worker::start_reader(&identities.shared, 0).map_err(IdentityError::Thread)?;
        worker::start_asker(&identities.shared).map_err(IdentityError::Thread)?;
        Ok(identities)
    }

    /// Who the process with this id is that started at this time of the boot-time clock (to 10 ms). Never waits.
    #[must_use]
    pub fn lookup(&self, pid: u32, started_ns: u64) -> Lookup {
        let started_ticks = started_ns / NS_PER_TICK;
        let mut state = self.shared.lock();
        state.clock += 1;
        let clock = state.clock;
        let question = Question { pid, started_ticks: Some(started_ticks) };
        let Some(process) = state.processes.get_mut(&(pid, started_ticks)) else {
            self.ask(&mut state, question);
            return Lookup::Pending;
        };
        process.touched = clock;
        let is_old = process.read.elapsed() >= PROCESS_REFRESH;
        let known = process.known.clone();
        if is_old {
            self.ask(&mut state, question);
        }
        match known {
            Ok(identity) => {
                if let Some(container) = &identity.container {
                    self.ask_container(&mut state, &container.id);
                }
                Lookup::Known(identity)
            }
            Err(reason) => Lookup::Unknown(reason),
        }
    }

    /// Reads a process soon that may end soon: it has just started another program, or, where `started_ns` says when it
    /// started, was seen for the first time. It is then known to [`Identities::lookup`] when it has ended. In a storm of
    /// short programs not all are read. Never waits.
    pub fn notice(&self, pid: u32, started_ns: Option<u64>) {
        let started_ticks = started_ns.map(|started_ns| started_ns / NS_PER_TICK);
        let mut state = self.shared.lock();
        if started_ticks.is_some_and(|ticks| state.processes.contains_key(&(pid, ticks))) {
            return;
        }
        if !state.allowance.take() {
            state.counts.notices_skipped += 1;
            return;
        }
        self.ask(&mut state, Question { pid, started_ticks });
    }

    /// What became of what was asked.
    #[must_use]
    pub fn counts(&self) -> IdentityCounts {
        self.shared.lock().counts
    }

    fn ask(&self, state: &mut State, question: Question) {
        self.relieve(state);
        if state.asked.contains(&question) {
            return;
        }
        if state.questions.len() >= QUEUE_MAX {
            state.counts.questions_dropped += 1;
            return;
        }
        state.asked.insert(question);
        state.questions.push_back(question);
        self.shared.wake.notify_all();
    }

    /// Has another thread read processes if the present one is stuck.
    fn relieve(&self, state: &mut State) {
        let Some((question, since)) = state.reading else { return };
        if since.elapsed() < STUCK_AFTER || state.stuck >= STUCK_MAX {
            return;
        }
        // It waits for the lock that we hold, and then finds itself the reader.
        if let Err(error) = worker::start_reader(&self.shared, state.reader + 1) {
            tracing::warn!(%error, "cannot start a thread to read processes");
            return;
        }
        state.reading = None;
        state.reader += 1;
        state.stuck += 1;
        state.counts.processes_stuck += 1;
        state.asked.remove(&question);
        if let Some(started_ticks) = question.started_ticks {
            let reason = "reading it took too long: the process makes readers of its command line wait";
            state.note_unknown((question.pid, started_ticks), reason.into());
        }
        tracing::warn!(pid = question.pid, "reading a process takes too long; another thread goes on");
    }

    fn ask_container(&self, state: &mut State, id: &Arc<str>) {
        state.clock += 1;
        let clock = state.clock;
        let Some(container) = state.containers.get_mut(id) else { return };
        container.touched = clock;
        if !container.is_queued && Instant::now() >= container.next && state.container_questions.len() < QUEUE_MAX {
            container.is_queued = true;
            state.container_questions.push_back(Arc::clone(id));
            self.shared.wake.notify_all();
        }
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.wake.notify_all();
    }
}

impl State {
    fn note_known(&mut self, identity: Identity) {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let bytes = identity.name.len()
            + text(&identity.command_line)
            + text(&identity.executable)
            + text(&identity.cgroup)
            + size_of::<Identity>();
        let key = (identity.pid, identity.started_ns / NS_PER_TICK);
        self.note(key, Ok(Arc::new(identity)), bytes);
    }

    /// Notes why a process cannot be known. What was known of it before it ended stays.
    fn note_unknown(&mut self, key: Key, reason: Arc<str>) {
        match self.processes.get_mut(&key) {
            Some(process) if process.known.is_ok() => process.read = Instant::now(),
            _ => self.note(key, Err(reason), size_of::<Process>()),
        }
    }

    fn note(&mut self, key: Key, known: Result<Arc<Identity>, Arc<str>>, bytes: usize) {
        self.clock += 1;
        let process = Process { known, bytes, read: Instant::now(), touched: self.clock };
        self.process_bytes += bytes;
        if let Some(before) = self.processes.insert(key, process) {
            self.process_bytes -= before.bytes;
        }
        if self.processes.len() > PROCESSES_MAX || self.process_bytes > PROCESS_BYTES_MAX {
            self.evict_processes();
        }
    }

    /// Forgets an eighth of the processes: those that nobody has asked for the longest.
    fn evict_processes(&mut self) {
        let mut by_age: Vec<(u64, Key)> = self.processes.iter().map(|(key, process)| (process.touched, *key)).collect();
        by_age.sort_unstable();
        for (_, key) in by_age.iter().take(by_age.len().div_ceil(8)) {
            if let Some(process) = self.processes.remove(key) {
                self.process_bytes -= process.bytes;
                self.counts.processes_evicted += 1;
            }
        }
    }

    /// The same of containers.
    fn evict_containers(&mut self) {
        let mut by_age: Vec<(u64, Arc<str>)> =
            self.containers.iter().map(|(id, container)| (container.touched, Arc::clone(id))).collect();
        by_age.sort_unstable();
        for (_, id) in by_age.iter().take(by_age.len().div_ceil(8)) {
            self.containers.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;

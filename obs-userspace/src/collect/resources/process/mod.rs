//! Processes: the ones that matter each by itself, the others together, so that the sums are those of all.
//!
//! Every process's `stat` is read, which is where CPU time, memory, faults and threads stand. What costs more files is
//! read of the listed ones only.

mod detail;
mod stat;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    detail::{Folder, Switches, THREADS_MAX, THREADS_PER_PROCESS_MAX},
    stat::ProcessStat,
};
use super::{
    ProcessSeen,
    budget::{Growing, OTHER},
    emit::{
        Out,
        Value::{Name, Word},
    },
    host::{TICKS_PER_SECOND, seconds_since},
    metrics as m,
};

/// Most processes that are looked at.
const PROCESSES_MAX: usize = 65_536;

/// The name under which the CPU time of processes is added up that ended between two readings.
const ENDED: &str = "~ended";

/// Most CPU ticks by which the processes' account may be ahead of the host's: ten seconds. The host's is a sample, and wanders by seconds
/// in an hour on a host of many CPUs: with less room, its way up again would be told as time of processes that never were.
const AHEAD_TICKS_MAX: u64 = 10 * TICKS_PER_SECOND as u64;

const ALL: &[&m::ResourceMetric] = &[
    m::PROCESS_COUNT,
    m::PROCESS_CPU_TIME,
    m::PROCESS_MEMORY,
    m::PROCESS_VIRTUAL,
    m::PROCESS_FAULTS,
    m::PROCESS_THREADS,
    m::PROCESS_UPTIME,
    m::PROCESS_FILES,
    m::PROCESS_DISK_IO,
    m::PROCESS_SWITCHES,
];

/// The sums of `stat` that are followed: user and system ticks, minor and major faults.
type Flows = [u64; 4];

/// What is known of a process.
#[derive(Debug)]
struct Process {
    started_ticks: u64,
    name: Arc<str>,
    /// The kernel's sums, and what of them was counted while it was listed.
    last: Flows,
    own: Flows,
    /// CPU ticks of late: each reading counts half as much as the next.
    recent_ticks: f64,
    resident_pages: u64,
    virtual_bytes: u64,
    threads: u64,
    is_listed: bool,
    /// Whether it started after the previous reading, so that all it did is news.
    is_new: bool,
    round: u64,
    detail: Option<Box<Detail>>,
}

/// What is kept of a process that is listed, or was.
#[derive(Debug)]
struct Detail {
    pid: Arc<str>,
    started: Arc<str>,
    disk: Option<[Growing; 2]>,
    /// What the disk sums were when they were first read; not counted.
    disk_before: [u64; 2],
    switches: Option<Switches>,
}

/// Reads the processes.
#[derive(Debug)]
pub(super) struct Processes {
    proc: PathBuf,
    folder: Option<Folder>,
    known: HashMap<u32, Process>,
    listed_max: usize,
    round: u64,
    /// Sums of what processes did while they were not listed.
    other: Flows,
    has_others: bool,
    ended: Ended,
    page_bytes: f64,
}

/// The CPU time of the whole that is no process's: of those that ended between two readings.
#[derive(Debug, Default)]
struct Ended {
    /// The host's CPU ticks of threads (user, system) at the first reading.
    before: Option<[u64; 2]>,
    /// Ticks counted of processes since.
    counted: [u64; 2],
    /// Ticks that processes were ahead of the host, and that are no longer held against those that ended.
    forgiven: [u64; 2],
    /// The remainder, as far as it was handed on. It only grows.
    sums: [u64; 2],
}

impl Ended {
    /// Takes the host's ticks at the end of a reading.
    fn read(&mut self, whole: Option<[u64; 2]>) {
        let Some(whole) = whole else { return };
        let before = *self.before.get_or_insert(whole);
        let open = [0, 1].map(|mode| {
            let due = i128::from(whole[mode]) + i128::from(self.forgiven[mode]) - i128::from(before[mode]);
            due - i128::from(self.counted[mode]) - i128::from(self.sums[mode])
        });
        let total: i128 = open.iter().sum();
        // The kernel keeps two accounts, by ticks for the host and exact for processes, and divides them into user and
        // system differently: only what is missing in all can be somebody's.
        let mut growth = u64::try_from(total).unwrap_or(0);
        for (sum, open) in self.sums.iter_mut().zip(open) {
            let part = u64::try_from(open).unwrap_or(0).min(growth);
            *sum += part;
            growth -= part;
        }
        // Where interrupts are in the exact account only, processes get ahead for good, and that would hide all that ends. Some is kept:
        // what the host's ticks happened to miss of the processes, they happen to find later.
        let mut ahead = u64::try_from(-total).unwrap_or(0).saturating_sub(AHEAD_TICKS_MAX);
        for (forgiven, open) in self.forgiven.iter_mut().zip(open) {
            let part = u64::try_from(-open).unwrap_or(0).min(ahead);
            *forgiven = forgiven.saturating_add(part);
            ahead -= part;
        }
    }
}

/// What one reading of all processes found.
#[derive(Debug, Default)]
struct Round {
    running: u64,
    sleeping: u64,
    stopped: u64,
    defunct: u64,
    /// What each process did since the previous reading.
    grown: Vec<(u32, Flows)>,
}

impl Processes {
    pub(super) fn new(proc: &Path, listed_max: usize) -> Self {
        Self {
            proc: proc.to_owned(),
            folder: None,
            known: HashMap::new(),
            listed_max,
            round: 0,
            other: [0; 4],
            has_others: false,
            ended: Ended::default(),
            page_bytes: rustix::param::page_size() as f64,
        }
    }

    /// When a process started, in ticks since boot, as of the last reading.
    pub(super) fn started_ticks(&self, pid: u32) -> Option<u64> {
        self.known.get(&pid).map(|process| process.started_ticks)
    }

    /// The processes that have series of their own, as of the last reading.
    pub(super) fn listed(&self) -> Vec<ProcessSeen> {
        let listed = self.known.iter().filter(|(_, process)| process.is_listed);
        let mut listed: Vec<_> = listed
            .map(|(pid, process)| ProcessSeen {
                pid: *pid,
                started_ns: process.started_ticks.saturating_mul(10_000_000),
            })
            .collect();
        listed.sort_unstable_by_key(|process| process.pid);
        listed
    }

    /// Reads all processes. `whole` gives the host's CPU ticks of threads when the processes have been read.
    pub(super) fn read(&mut self, out: &mut Out<'_>, whole: impl FnOnce() -> Option<[u64; 2]>) {
        let mut folder = match self.folder.take().map_or_else(|| Folder::open(&self.proc), Ok) {
            Ok(folder) => folder,
            Err(error) => return out.unreadable(ALL, "proc", &self.proc, &error),
        };
        match self.read_all(&mut folder, out) {
            Ok(round) => {
                self.ended.read(whole());
                self.choose(&round);
                self.put(&round, &mut folder, out);
                self.folder = Some(folder);
                self.round += 1;
            }
            Err(error) => out.unreadable(ALL, "proc", &self.proc, &error),
        }
    }

    fn read_all(&mut self, folder: &mut Folder, out: &mut Out<'_>) -> io::Result<Round> {
        let (pids, has_more) = folder.numbers(format_args!("."), PROCESSES_MAX)?;
        if has_more {
            out.failed("proc: more processes than are looked at");
        }
        let mut found = Round { grown: Vec::with_capacity(pids.len()), ..Round::default() };
        for pid in pids {
            // Gone since the folder was listed: no error.
            let Ok(text) = folder.read(format_args!("{pid}/stat")) else { continue };
            let Some(stat) = stat::parse_stat(text) else {
                out.failed("proc/PID/stat");
                continue;
            };
            match stat.state {
                b'R' => found.running += 1,
                b'T' | b't' => found.stopped += 1,
                b'Z' | b'X' | b'x' => found.defunct += 1,
                _ => found.sleeping += 1,
            }
            let grown = self.take(pid, &stat);
            found.grown.push((pid, grown));
        }
        let round = self.round;
        self.known.retain(|_, process| process.round == round);
        Ok(found)
    }

    /// Notes one process; returns what it did since the previous reading.
    fn take(&mut self, pid: u32, stat: &ProcessStat<'_>) -> Flows {
        let now = [stat.user_ticks, stat.system_ticks, stat.minor_faults, stat.major_faults];
        let is_first_round = self.round == 0;
        let process = self.known.entry(pid).or_insert_with(|| Process {
            // Not this process's, so that it counts as new below.
            started_ticks: stat.started_ticks.wrapping_add(1),
            name: "".into(),
            last: [0; 4],
            own: [0; 4],
            recent_ticks: 0.0,
            resident_pages: 0,
            virtual_bytes: 0,
            threads: 0,
            is_listed: false,
            is_new: false,
            round: 0,
            detail: None,
        });
        process.is_new = process.started_ticks != stat.started_ticks;
        if process.is_new {
            process.started_ticks = stat.started_ticks;
            // What was done before the first reading is nobody's news.
            process.last = if is_first_round { now } else { [0; 4] };
            process.own = [0; 4];
            process.recent_ticks = 0.0;
            process.is_listed = false;
            process.detail = None;
            process.is_new = !is_first_round;
        }
        if process.name.as_bytes() != stat.name {
            process.name = String::from_utf8_lossy(stat.name).into();
        }
        let mut grown = [0; 4];
        for ((grown, now), last) in grown.iter_mut().zip(now).zip(&mut process.last) {
            // The kernel's division into user and system may step back.
            *grown = now.saturating_sub(*last);
            *last = now.max(*last);
        }
        let [user, system, ..] = grown;
        process.recent_ticks = process.recent_ticks / 2.0 + (user + system) as f64;
        process.resident_pages = stat.resident_pages;
        process.virtual_bytes = stat.virtual_bytes;
        process.threads = stat.threads;
        process.round = self.round;
        for (counted, grown) in self.ended.counted.iter_mut().zip([user, system]) {
            *counted = counted.saturating_add(grown);
        }
        grown
    }

    /// Chooses who is listed: half by CPU time of late, the rest by memory. Then everybody's growth goes where it belongs.
    fn choose(&mut self, round: &Round) {
        let mut by_cpu: Vec<(f64, u64, u32)> =
            self.known.iter().map(|(pid, process)| (process.recent_ticks, process.resident_pages, *pid)).collect();
        for process in self.known.values_mut() {
            process.is_listed = false;
        }
        // Ties are broken by the pid, so that nobody's series flickers.
        by_cpu.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
        let busy = by_cpu.iter().take(self.listed_max / 2).take_while(|(ticks, ..)| *ticks > 0.01).count();
        let mut rest = by_cpu.split_off(busy);
        rest.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.2.cmp(&b.2)));
        for (_, _, pid) in by_cpu.iter().chain(rest.iter().take(self.listed_max - busy)) {
            if let Some(process) = self.known.get_mut(pid) {
                process.is_listed = true;
            }
        }
        for (pid, grown) in &round.grown {
            let Some(process) = self.known.get_mut(pid) else { continue };
            let sums = if process.is_listed {
                &mut process.own
            } else {
                self.has_others = true;
                &mut self.other
            };
            for (sum, grown) in sums.iter_mut().zip(grown) {
                *sum = sum.saturating_add(*grown);
            }
        }
    }

    fn put(&mut self, round: &Round, folder: &mut Folder, out: &mut Out<'_>) {
        if self.known.is_empty() {
            let reason = format!("no process can be seen in {}", self.proc.display());
            return out.absent(ALL, reason);
        }
        for (state, count) in [
            ("running", round.running),
            ("sleeping", round.sleeping),
            ("stopped", round.stopped),
            ("defunct", round.defunct),
        ] {
            out.put(m::PROCESS_COUNT, &[Word(state)], count as f64);
        }
        let mut threads_left = THREADS_MAX;
        let mut others = Others::default();
        for (pid, process) in &mut self.known {
            let memory_bytes = process.resident_pages as f64 * self.page_bytes;
            if process.is_listed {
                put_listed(*pid, process, memory_bytes, folder, &mut threads_left, out);
            } else {
                others.memory_bytes += memory_bytes;
                others.virtual_bytes += process.virtual_bytes as f64;
                others.threads += process.threads as f64;
            }
        }
        if self.has_others {
            let other = [Word(OTHER), Word(""), Word("")];
            put_flows(&other, &self.other, out);
            out.put(m::PROCESS_MEMORY, &other, others.memory_bytes);
            out.put(m::PROCESS_VIRTUAL, &other, others.virtual_bytes);
            out.put(m::PROCESS_THREADS, &other, others.threads);
        }
        for (mode, ticks) in ["user", "system"].into_iter().zip(self.ended.sums) {
            let labels = [Word(ENDED), Word(""), Word(""), Word(mode)];
            out.put(m::PROCESS_CPU_TIME, &labels, ticks as f64 / TICKS_PER_SECOND);
        }
    }
}

/// What the processes that are not listed have together.
#[derive(Debug, Default)]
struct Others {
    memory_bytes: f64,
    virtual_bytes: f64,
    threads: f64,
}

fn put_flows(who: &[super::emit::Value<'_>; 3], flows: &Flows, out: &mut Out<'_>) {
    let [user, system, minor, major] = *flows;
    let [pid, started, name] = *who;
    for (mode, ticks) in [("user", user), ("system", system)] {
        out.put(m::PROCESS_CPU_TIME, &[pid, started, name, Word(mode)], ticks as f64 / TICKS_PER_SECOND);
    }
    for (kind, count) in [("minor", minor), ("major", major)] {
        out.put(m::PROCESS_FAULTS, &[pid, started, name, Word(kind)], count as f64);
    }
}

fn put_listed(
    pid: u32,
    process: &mut Process,
    memory_bytes: f64,
    folder: &mut Folder,
    threads_left: &mut u64,
    out: &mut Out<'_>,
) {
    let is_new = process.is_new;
    let detail = process.detail.get_or_insert_with(|| {
        Box::new(Detail {
            pid: pid.to_string().into(),
            started: format!("{:.2}", process.started_ticks as f64 / TICKS_PER_SECOND).into(),
            disk: None,
            disk_before: [0; 2],
            switches: None,
        })
    });
    read_detail(pid, is_new, process.threads, detail, folder, threads_left, out);
    let who = [Name(&detail.pid), Name(&detail.started), Name(&process.name)];
    put_flows(&who, &process.own, out);
    out.put(m::PROCESS_MEMORY, &who, memory_bytes);
    out.put(m::PROCESS_VIRTUAL, &who, process.virtual_bytes as f64);
    out.put(m::PROCESS_THREADS, &who, process.threads as f64);
    out.put(m::PROCESS_UPTIME, &who, seconds_since(process.started_ticks, out.now_ns()));
    let [pid_label, started, name] = who;
    if let Some(disk) = &detail.disk {
        for ((direction, sum), before) in ["read", "write"].into_iter().zip(disk).zip(detail.disk_before) {
            let bytes = sum.sum().saturating_sub(before);
            out.put(m::PROCESS_DISK_IO, &[pid_label, started, name, Word(direction)], bytes as f64);
        }
    }
    if let Some(switches) = &detail.switches {
        for (kind, count) in ["voluntary", "involuntary"].into_iter().zip(switches.sums) {
            out.put(m::PROCESS_SWITCHES, &[pid_label, started, name, Word(kind)], count as f64);
        }
    }
    match folder.open_files(pid) {
        Ok(count) => out.put(m::PROCESS_FILES, &who, count as f64),
        Err(error) => not_readable(m::PROCESS_FILES, "proc/PID/fd", &error, out),
    }
}

/// Reads the sums that need files of their own.
fn read_detail(
    pid: u32,
    is_new: bool,
    threads: u64,
    detail: &mut Detail,
    folder: &mut Folder,
    threads_left: &mut u64,
    out: &mut Out<'_>,
) {
    match folder.disk_bytes(pid) {
        Ok(values) => {
            let is_first = detail.disk.is_none();
            let sums = detail.disk.get_or_insert_default();
            for (sum, value) in sums.iter_mut().zip(values) {
                sum.read_steady(value);
            }
            if is_first && !is_new {
                detail.disk_before = values;
            }
        }
        Err(error) => not_readable(m::PROCESS_DISK_IO, "proc/PID/io", &error, out),
    }
    if threads > THREADS_PER_PROCESS_MAX {
        let reason = format!("of processes with more than {THREADS_PER_PROCESS_MAX} threads they are not counted");
        return out.absent(&[m::PROCESS_SWITCHES], reason);
    }
    if threads > *threads_left {
        let reason = format!("beyond {THREADS_MAX} threads in one reading they are not counted");
        return out.absent(&[m::PROCESS_SWITCHES], reason);
    }
    *threads_left -= threads;
    let limit = usize::try_from(THREADS_PER_PROCESS_MAX).unwrap_or(usize::MAX);
    let tids = if threads == 1 { Ok((vec![pid], false)) } else { folder.numbers(format_args!("{pid}/task"), limit) };
    let (mut tids, _) = match tids {
        Ok(tids) => tids,
        Err(error) => return not_readable(m::PROCESS_SWITCHES, "proc/PID/task", &error, out),
    };
    tids.sort_unstable();
    let mut now = Vec::with_capacity(tids.len());
    for tid in tids {
        match folder.switches(pid, tid) {
            Ok(values) => now.push((tid, values)),
            Err(error) => not_readable(m::PROCESS_SWITCHES, "proc/PID/task/TID/status", &error, out),
        }
    }
    // Of a process that is known from its beginning, and of threads that came since, everything counts.
    let counts_new = is_new || detail.switches.is_some();
    detail.switches.get_or_insert_default().read(now, counts_new);
}

/// That a process or thread has ended since is no error.
fn not_readable(metric: &'static m::ResourceMetric, what: &'static str, error: &io::Error, out: &mut Out<'_>) {
    let has_ended =
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if has_ended {
        return;
    }
    // Some processes are nobody's business, not even root's.
    if error.kind() == io::ErrorKind::PermissionDenied {
        return out.absent(&[metric], format!("of some processes obs has not the right to read {what}"));
    }
    out.failed(what);
    out.absent(&[metric], format!("{what} of a process cannot be read: {error}"));
}

#[cfg(test)]
mod tests;

//! What this process costs: CPU time and memory.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this process has used, in user mode and in the kernel.
#[must_use]
pub fn cpu_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of those threads of this process whose names begin alike.
///
/// Threads come and go: what one used between the last look and its end is missing.
#[derive(Debug)]
pub struct ThreadsMeter {
    prefix: &'static str,
    /// What each had used at the last look, by its id.
    seen: HashMap<u32, Duration>,
    total: Duration,
}

impl ThreadsMeter {
    /// Of threads whose names begin so.
    #[must_use]
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, seen: HashMap::new(), total: Duration::ZERO }
    }

    /// What they have used so far, to a hundredth of a second for each of them.
    pub fn look(&mut self) -> Duration {
        let now: HashMap<u32, Duration> = threads(self.prefix).collect();
        for (id, time) in &now {
            let before = self.seen.get(id).copied().unwrap_or_default();
            // The id may be another thread's by now.
            self.total += time.checked_sub(before).unwrap_or(*time);
        }
        self.seen = now;
        self.total
    }
}

fn threads(prefix: &str) -> impl Iterator<Item = (u32, Duration)> {
    let ticks_a_second = rustix::param::clock_ticks_per_second();
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        // It may have ended.
        let ticks = thread_ticks(&fs::read_to_string(entry.path().join("stat")).ok()?, prefix)?;
        Some((id, Duration::from_nanos(ticks.checked_mul(1_000_000_000)? / ticks_a_second.max(1))))
    })
}

/// By the text of `/proc/PID/task/TID/stat`, what a thread used in user mode and in the kernel, if its name begins so.
fn thread_ticks(stat: &str, prefix: &str) -> Option<u64> {
    // Names may hold anything, parentheses too.
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map_while(|field| field.parse::<u64>().ok());
    name.starts_with(prefix).then_some(times.next()?.checked_add(times.next()?)?)
}

/// Most memory that this process has had resident, in bytes; 0 if the system does not say.
#[must_use]
pub fn rss_peak_bytes() -> u64 {
    status_bytes("VmHWM:").unwrap_or(0)
}

/// Memory that this process has resident now, in bytes, if the system says; without BPF maps, which count with the kernel's memory
/// though the pages that a process maps of them are resident in it too.
#[must_use]
pub fn rss_bytes() -> Option<u64> {
    let mapped_bytes = mapped_map_bytes(&fs::read_to_string("/proc/self/maps").ok()?);
    Some(status_bytes("VmRSS:")?.saturating_sub(mapped_bytes))
}

/// How much of BPF maps is mapped, by the text of `/proc/PID/maps`: all of it is resident from the start.
fn mapped_map_bytes(maps: &str) -> u64 {
    let mapped = maps.lines().filter(|line| line.ends_with(" anon_inode:bpf-map"));
    let bytes = mapped.filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        address(end)?.checked_sub(address(start)?)
    });
    bytes.sum()
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB"));
    kilobytes?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// Turns sums of CPU time into shares of the host's CPU time since the last look.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    at: Instant,
    user: Duration,
    bpf: Option<Duration>,
}

/// Shares of all CPUs' time, 1 being all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuShares {
    /// Of this process: user mode, and system calls.
    pub user: f64,
    /// Of BPF programs, if it is known.
    pub bpf: Option<f64>,
}

impl CpuMeter {
    /// Begins at these sums: CPU time of this process ([`cpu_time`]), and run time of its BPF programs, if it is known.
    #[must_use]
    pub fn new(now: Instant, user: Duration, bpf: Option<Duration>) -> Self {
        Self { at: now, user, bpf }
    }

    /// What was used since the last look, of so many CPUs; `None` if no time has passed. A sum that is smaller than before
    /// (a program was loaded anew) begins afresh.
    pub fn look(&mut self, now: Instant, user: Duration, bpf: Option<Duration>, cpus: usize) -> Option<CpuShares> {
        let before = std::mem::replace(self, Self::new(now, user, bpf));
        let all = now.saturating_duration_since(before.at).as_secs_f64() * cpus.max(1) as f64;
        let share = |sum: Duration, before: Duration| sum.checked_sub(before).unwrap_or(sum).as_secs_f64() / all;
        (all > 0.0).then(|| CpuShares {
            user: share(user, before.user),
            bpf: bpf.zip(before.bpf).map(|(sum, before)| share(sum, before)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time_and_memory() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time() > before);
        assert!(rss_peak_bytes() > 100_000);
        assert!(rss_bytes().is_some_and(|bytes| bytes > 100_000 && bytes <= rss_peak_bytes()));
    }

    #[test]
    fn the_time_of_threads_is_told_by_their_names() {
        let stat = "7 (obs-web) x) S 1 7 7 0 -1 4194368 105 0 0 0 12 30 0 0 20 0 3 0 5 0 0";
        assert_eq!(thread_ticks(stat, "obs-web"), Some(42));
        assert_eq!(thread_ticks(stat, "obs-keeper"), None);
        assert_eq!(thread_ticks("7 (obs-web) S 1", "obs-web"), None);
        assert_eq!(thread_ticks("", ""), None);
        let mut meter = ThreadsMeter::new("burns-here");
        assert_eq!(meter.look(), Duration::ZERO);
        let (burnt, end) = (Duration::from_millis(100), std::sync::mpsc::channel::<()>());
        let (done, is_done) = std::sync::mpsc::channel();
        let burn = move || {
            while time_of(ClockId::ThreadCPUTime) < 2 * burnt {}
            done.send(()).unwrap();
            end.1.recv().unwrap_err();
        };
        let thread = std::thread::Builder::new().name("burns-here-1".to_owned()).spawn(burn).unwrap();
        is_done.recv().unwrap();
        let looked = meter.look();
        assert!(looked >= burnt && looked < Duration::from_secs(10), "{looked:?}");
        drop(end.0);
        thread.join().unwrap();
        // What it used stays when it is gone.
        assert!(meter.look() >= looked);
        assert!(ThreadsMeter::new("nobody-is-called-so").look().is_zero());
    }

    #[test]
    fn what_is_mapped_of_maps_is_told() {
        let maps = "7f00-8f00 rw-s 00000000 00:0e 10 anon_inode:bpf-map\n1000-2000 r--p 00000000 fe:01 7 /usr/bin/obs\n\
                    a000-b000 r--s 00000000 00:0e 10                         anon_inode:bpf-map\nnonsense anon_inode:bpf-map\n";
        assert_eq!(mapped_map_bytes(maps), 0x2000);
    }

    #[test]
    fn shares_are_of_all_cpus_since_the_last_look() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let mut meter = CpuMeter::new(start, seconds(10), Some(seconds(4)));
        let shares = meter.look(start + seconds(5), seconds(11), Some(seconds(6)), 4);
        assert_eq!(shares, Some(CpuShares { user: 0.05, bpf: Some(0.1) }));
        assert_eq!(meter.look(start + seconds(5), seconds(11), Some(seconds(6)), 4), None);
        // The programs were loaded anew, and then their run time is not known any more.
        let shares = meter.look(start + seconds(6), seconds(11), Some(seconds(1)), 1);
        assert_eq!(shares, Some(CpuShares { user: 0.0, bpf: Some(1.0) }));
        let shares = meter.look(start + seconds(8), seconds(12), None, 0);
        assert_eq!(shares, Some(CpuShares { user: 0.5, bpf: None }));
    }
}

//! What this process costs: CPU time and memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this process has used, in user mode and in the kernel.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
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

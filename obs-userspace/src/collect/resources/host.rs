//! The host as a whole: CPU, load, memory, swap, open files.

use std::path::Path;

use super::{
    budget::Growing,
    emit::{Out, Value::Word},
    metrics as m,
    text::{Buffer, Source, decimal, fields, lines, number, numbers, values_of},
};

/// Ticks per second of CPU times in `/proc`: `USER_HZ`, part of the kernel's interface, 100 on x86-64 and aarch64.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// How long ago something started, in seconds: to the tick, because the start is known no better, and what is finer would be noise
/// that the history had to keep.
pub(super) fn seconds_since(started_ticks: u64, now_ns: u64) -> f64 {
    let now_ticks = now_ns / (1_000_000_000 / TICKS_PER_SECOND as u64);
    now_ticks.saturating_sub(started_ticks) as f64 / TICKS_PER_SECOND
}

/// Bytes in what `/proc/meminfo` calls kB.
const KIB: f64 = 1024.0;

/// The modes of `system.cpu.time`, in the order of [`CpuTicks`].
const CPU_MODES: [&str; 7] = ["user", "nice", "system", "idle", "iowait", "interrupt", "steal"];

/// CPU time of all CPUs by mode, in ticks.
type CpuTicks = [u64; 7];

/// What `/proc/stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) cpu: Option<CpuTicks>,
    /// CPUs that are online.
    pub(super) cpus: u64,
    pub(super) context_switches: Option<u64>,
    pub(super) processes: Option<u64>,
}

impl Stat {
    /// CPU time of threads in user mode and in the kernel, in ticks.
    pub(super) fn of_threads(&self) -> Option<[u64; 2]> {
        let [user, nice, system, ..] = self.cpu?;
        Some([user.saturating_add(nice), system])
    }
}

/// Reads `/proc/stat`. Time in virtual machines (`guest`) is part of `user` there, and stays so.
pub(super) fn parse_stat(text: &[u8]) -> Stat {
    let mut stat = Stat::default();
    for line in lines(text) {
        let mut fields = fields(line);
        match fields.next() {
            Some(b"cpu") => {
                // Old kernels have fewer fields; without steal there was none.
                let mut values = [0; 8];
                let mut count = 0;
                for (value, field) in values.iter_mut().zip(fields) {
                    let Some(parsed) = number(field) else { break };
                    *value = parsed;
                    count += 1;
                }
                let [user, nice, system, idle, iowait, hard, soft, steal] = values;
                stat.cpu = (count >= 4).then_some([user, nice, system, idle, iowait, hard.saturating_add(soft), steal]);
            }
            Some(b"ctxt") => stat.context_switches = fields.next().and_then(number),
            Some(b"processes") => stat.processes = fields.next().and_then(number),
            Some(name) if name.strip_prefix(b"cpu").and_then(number).is_some() => stat.cpus += 1,
            _ => {}
        }
    }
    stat
}

/// Reads the host as a whole.
#[derive(Debug)]
pub(super) struct Host {
    stat: Source,
    load: Source,
    memory: Source,
    paging: Source,
    uptime: Source,
    files: Source,
    cpu: [Growing; 7],
    oom_kills: Option<u64>,
}

impl Host {
    pub(super) fn new(proc: &Path) -> Self {
        Self {
            stat: Source::new(proc.join("stat")),
            load: Source::new(proc.join("loadavg")),
            memory: Source::new(proc.join("meminfo")),
            paging: Source::new(proc.join("vmstat")),
            uptime: Source::new(proc.join("uptime")),
            files: Source::new(proc.join("sys/fs/file-nr")),
            cpu: [Growing::default(); 7],
            oom_kills: None,
        }
    }

    /// Reads everything; returns by how much the host's count of processes killed for lack of memory grew.
    pub(super) fn read(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) -> u64 {
        self.read_cpu(buffer, out);
        self.read_load(buffer, out);
        self.read_memory(buffer, out);
        self.read_uptime(buffer, out);
        self.read_files(buffer, out);
        self.read_paging(buffer, out)
    }

    fn read_cpu(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] = &[m::CPU_TIME, m::CPU_COUNT, m::CONTEXT_SWITCHES, m::PROCESSES_CREATED];
        let stat = match self.stat.read(buffer) {
            Ok(text) => parse_stat(text),
            Err(error) => return out.unreadable(ALL, "stat", self.stat.path(), &error),
        };
        match stat.cpu {
            Some(ticks) => {
                for ((sum, value), mode) in self.cpu.iter_mut().zip(ticks).zip(CPU_MODES) {
                    // The kernel's idle and iowait may step back by a tick or two.
                    sum.read_steady(value);
                    out.put(m::CPU_TIME, &[Word(mode)], sum.sum() as f64 / TICKS_PER_SECOND);
                }
            }
            None => out.misread(&[m::CPU_TIME], "stat", self.stat.path()),
        }
        let cpus = Some(stat.cpus).filter(|cpus| *cpus > 0);
        for (metric, value) in
            [(m::CPU_COUNT, cpus), (m::CONTEXT_SWITCHES, stat.context_switches), (m::PROCESSES_CREATED, stat.processes)]
        {
            match value {
                Some(value) => out.put(metric, &[], value as f64),
                None => out.misread(&[metric], "stat", self.stat.path()),
            }
        }
    }

    fn read_load(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: [&m::ResourceMetric; 3] = [m::LOAD_1M, m::LOAD_5M, m::LOAD_15M];
        let text = match self.load.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(&ALL, "loadavg", self.load.path(), &error),
        };
        let mut fields = fields(text);
        for metric in ALL {
            match fields.next().and_then(decimal) {
                Some(value) => out.put(metric, &[], value),
                None => out.misread(&[metric], "loadavg", self.load.path()),
            }
        }
    }

    fn read_memory(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] =
            &[m::MEMORY_USAGE, m::MEMORY_LIMIT, m::MEMORY_AVAILABLE, m::MEMORY_SHARED, m::MEMORY_SLAB, m::PAGING_USAGE];
        let text = match self.memory.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(ALL, "meminfo", self.memory.path(), &error),
        };
        let [total, free, buffers, cached, reclaimable, unreclaimable] =
            values_of(text, ["MemTotal", "MemFree", "Buffers", "Cached", "SReclaimable", "SUnreclaim"]);
        let [available, shared, swap_total, swap_free] =
            values_of(text, ["MemAvailable", "Shmem", "SwapTotal", "SwapFree"]);
        let bytes = |kib: u64| kib as f64 * KIB;
        if let (Some(total), Some(free), Some(buffers), Some(cached)) = (total, free, buffers, cached) {
            // Read one after the other, they may together exceed the whole for a moment; then nothing is used.
            let cached = cached.saturating_add(reclaimable.unwrap_or(0));
            let used = total.saturating_sub(free).saturating_sub(buffers).saturating_sub(cached);
            for (state, value) in [("used", used), ("free", free), ("buffers", buffers), ("cached", cached)] {
                out.put(m::MEMORY_USAGE, &[Word(state)], bytes(value));
            }
        } else {
            out.misread(&[m::MEMORY_USAGE], "meminfo", self.memory.path());
        }
        for (metric, value) in [(m::MEMORY_LIMIT, total), (m::MEMORY_AVAILABLE, available), (m::MEMORY_SHARED, shared)]
        {
            match value {
                Some(value) => out.put(metric, &[], bytes(value)),
                None => out.absent(&[metric], format!("{} has no such line", self.memory.path().display())),
            }
        }
        for (state, value) in [("reclaimable", reclaimable), ("unreclaimable", unreclaimable)] {
            match value {
                Some(value) => out.put(m::MEMORY_SLAB, &[Word(state)], bytes(value)),
                None => out.absent(&[m::MEMORY_SLAB], format!("{} has no such line", self.memory.path().display())),
            }
        }
        match (swap_total, swap_free) {
            (Some(0), _) => out.absent(&[m::PAGING_USAGE], "this host has no swap"),
            (Some(total), Some(free)) => {
                out.put(m::PAGING_USAGE, &[Word("used")], bytes(total.saturating_sub(free)));
                out.put(m::PAGING_USAGE, &[Word("free")], bytes(free));
            }
            _ => out.absent(&[m::PAGING_USAGE], "this kernel is built without swap"),
        }
    }

    fn read_paging(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) -> u64 {
        const ALL: &[&m::ResourceMetric] = &[m::PAGING_FAULTS, m::PAGING_OPERATIONS, m::OOM_KILLS];
        let text = match self.paging.read(buffer) {
            Ok(text) => text,
            Err(error) => {
                out.unreadable(ALL, "vmstat", self.paging.path(), &error);
                return 0;
            }
        };
        let [faults, major, swapped_in, swapped_out, oom_kills] =
            values_of(text, ["pgfault", "pgmajfault", "pswpin", "pswpout", "oom_kill"]);
        if let (Some(faults), Some(major)) = (faults, major) {
            out.put(m::PAGING_FAULTS, &[Word("minor")], faults.saturating_sub(major) as f64);
            out.put(m::PAGING_FAULTS, &[Word("major")], major as f64);
        } else {
            out.absent(&[m::PAGING_FAULTS], "this kernel is built without counts of events in memory management");
        }
        if let (Some(swapped_in), Some(swapped_out)) = (swapped_in, swapped_out) {
            out.put(m::PAGING_OPERATIONS, &[Word("in")], swapped_in as f64);
            out.put(m::PAGING_OPERATIONS, &[Word("out")], swapped_out as f64);
        } else {
            out.absent(&[m::PAGING_OPERATIONS], "this kernel is built without swap");
        }
        let Some(oom_kills) = oom_kills else {
            out.absent(&[m::OOM_KILLS], "this kernel does not count them (since Linux 4.13)");
            return 0;
        };
        out.put(m::OOM_KILLS, &[], oom_kills as f64);
        // Kills before the start are history, not news.
        self.oom_kills.replace(oom_kills).map_or(0, |before| oom_kills.saturating_sub(before))
    }

    fn read_uptime(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        match self.uptime.read(buffer) {
            Ok(text) => match fields(text).next().and_then(decimal) {
                Some(seconds) => out.put(m::UPTIME, &[], seconds),
                None => out.misread(&[m::UPTIME], "uptime", self.uptime.path()),
            },
            Err(error) => out.unreadable(&[m::UPTIME], "uptime", self.uptime.path(), &error),
        }
    }

    fn read_files(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] = &[m::FILE_DESCRIPTORS, m::FILE_DESCRIPTOR_LIMIT];
        let text = match self.files.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(ALL, "file-nr", self.files.path(), &error),
        };
        // Allocated, allocated but unused (always 0 since Linux 2.6), most.
        let Some([allocated, unused, limit]) = numbers(fields(text)) else {
            return out.misread(ALL, "file-nr", self.files.path());
        };
        out.put(m::FILE_DESCRIPTORS, &[], allocated.saturating_sub(unused) as f64);
        out.put(m::FILE_DESCRIPTOR_LIMIT, &[], limit as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_whole_ticks() {
        assert_eq!(seconds_since(10, 38_150_771_668_941).to_string(), "38150.67");
        assert_eq!(seconds_since(11, 100_000_000).to_string(), "0");
    }

    #[test]
    fn fields_of_old_and_new_kernels() {
        let stat =
            parse_stat(b"cpu  10 20 30 40 50 6 7 8 9 10\ncpu0 1 2\ncpu17 1 2\nintr 9 9 9\nctxt 77\nprocesses 88\n");
        assert_eq!(stat.cpu, Some([10, 20, 30, 40, 50, 13, 8]));
        assert_eq!((stat.cpus, stat.context_switches, stat.processes), (2, Some(77), Some(88)));
        assert_eq!(stat.of_threads(), Some([30, 30]));
        assert_eq!(parse_stat(b"cpu 1 2 3 4\n").cpu, Some([1, 2, 3, 4, 0, 0, 0]));
    }

    #[test]
    fn four_thousand_cpus() {
        let mut text = String::from("cpu  409600 0 0 0 0 0 0 0 0 0\n");
        for cpu in 0..4096 {
            text.push_str(&format!("cpu{cpu} 100 0 0 0 0 0 0 0 0 0\n"));
        }
        text.push_str("intr ");
        text.push_str(&"0 ".repeat(200_000));
        text.push_str("\nctxt 5\nprocesses 6");
        let stat = parse_stat(text.as_bytes());
        assert_eq!((stat.cpu.map(|cpu| cpu[0]), stat.cpus, stat.processes), (Some(409_600), 4096, Some(6)));
    }

    #[test]
    fn garbage_is_no_value() {
        for text in [&b""[..], b"cpu", b"cpu 1 2 3", b"cpu x y z 1 2", b"ctxt -1", b"\xff\xff", b"cpu\0 1 2 3 4"] {
            let stat = parse_stat(text);
            assert_eq!((stat.cpu, stat.context_switches, stat.processes), (None, None, None), "{text:?}");
        }
        let huge = format!("cpu {0} {0} {0} {0} {0} {0} {0} {0}", u64::MAX);
        assert_eq!(parse_stat(huge.as_bytes()).of_threads(), Some([u64::MAX, u64::MAX]));
    }
}

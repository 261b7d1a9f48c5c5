//! The one list of what the resource monitor hands on. The records, the documentation's table and the tests follow it.

use std::fmt;

/// What a metric's values mean to whoever adds them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Something that happened.
    Event,
}

impl fmt::Display for MetricKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Event => "event",
        })
    }
}

/// One metric, as it is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceMetric {
    /// By OpenTelemetry's semantic conventions, or `obs.…` where they have none.
    pub name: &'static str,
    /// By the same conventions (UCUM): `s`, `By`, `1`, `{process}`, ….
    pub unit: &'static str,
    /// What its values are.
    pub kind: MetricKind,
    /// The names of its labels, in the order in which records carry them.
    pub labels: &'static [&'static str],
    /// Where it is read: files and fields.
    pub source: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
}

/// Declares metrics as constants, and the slice of all of them in the same order.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $unit:literal [$($label:literal)*] from $source:literal: $summary:literal;)*) => {
        $(
            pub(super) const $constant: &ResourceMetric = &ResourceMetric {
                name: $name,
                unit: $unit,
                kind: MetricKind::$kind,
                labels: &[$($label),*],
                source: $source,
                summary: $summary,
            };
        )*

        /// Everything that the resource monitor hands on.
        pub static RESOURCE_METRICS: &[&ResourceMetric] = &[$($constant),*];
    };
}

metrics! {
    // The host.
    UPTIME: Gauge "system.uptime" "s" []
        from "/proc/uptime": "how long the host has been up";
    CPU_TIME: Counter "system.cpu.time" "s" ["cpu.mode"]
        from "/proc/stat, line `cpu`": "CPU time of all CPUs since boot, by mode; the modes add up to CPUs × uptime";
    CPU_COUNT: Gauge "system.cpu.logical.count" "{cpu}" []
        from "/proc/stat, lines `cpuN`": "CPUs that are online";
    LOAD_1M: Gauge "system.cpu.load_average.1m" "{thread}" []
        from "/proc/loadavg": "threads that run or wait for a CPU or a disk, averaged over 1 minute";
    LOAD_5M: Gauge "system.cpu.load_average.5m" "{thread}" []
        from "/proc/loadavg": "the same over 5 minutes";
    LOAD_15M: Gauge "system.cpu.load_average.15m" "{thread}" []
        from "/proc/loadavg": "the same over 15 minutes";
    CONTEXT_SWITCHES: Counter "obs.system.context_switches" "{context_switch}" []
        from "/proc/stat, `ctxt`": "context switches since boot";
    MEMORY_USAGE: Gauge "system.memory.usage" "By" ["system.memory.state"]
        from "/proc/meminfo: MemTotal, MemFree, Buffers, Cached + SReclaimable": "memory by state (`used`, `free`, `buffers`, `cached`); the states add up to `system.memory.limit`";
    MEMORY_LIMIT: Gauge "system.memory.limit" "By" []
        from "/proc/meminfo: MemTotal": "memory that the kernel manages";
    MEMORY_AVAILABLE: Gauge "system.memory.linux.available" "By" []
        from "/proc/meminfo: MemAvailable": "memory that new programs can get without swapping, as the kernel estimates it";
    MEMORY_SHARED: Gauge "system.memory.linux.shared" "By" []
        from "/proc/meminfo: Shmem": "shared memory and tmpfs; also part of `cached`";
    MEMORY_SLAB: Gauge "system.memory.linux.slab.usage" "By" ["system.memory.linux.slab.state"]
        from "/proc/meminfo: SReclaimable, SUnreclaim": "the kernel's own objects";
    PAGING_USAGE: Gauge "system.paging.usage" "By" ["system.paging.state"]
        from "/proc/meminfo: SwapTotal, SwapFree": "swap, `used` and `free`";
    PAGING_FAULTS: Counter "system.paging.faults" "{fault}" ["system.paging.fault.type"]
        from "/proc/vmstat: pgfault, pgmajfault": "page faults since boot; `major` ones waited for a disk";
    PAGING_OPERATIONS: Counter "system.paging.operations" "{operation}" ["system.paging.direction"]
        from "/proc/vmstat: pswpin, pswpout": "pages swapped in and out since boot";
    OOM_KILLS: Counter "obs.system.oom_kills" "{process}" []
        from "/proc/vmstat: oom_kill": "processes killed for lack of memory since boot";
    FILE_DESCRIPTORS: Gauge "obs.system.file_descriptor.count" "{file_descriptor}" []
        from "/proc/sys/fs/file-nr": "open files of the whole host";
    FILE_DESCRIPTOR_LIMIT: Gauge "obs.system.file_descriptor.limit" "{file_descriptor}" []
        from "/proc/sys/fs/file-nr": "most open files that the kernel allows";
    PRESSURE: Counter "obs.pressure.time" "s" ["obs.pressure.resource" "obs.pressure.kind"]
        from "/proc/pressure/{cpu,memory,io,irq}": "time since boot in which threads waited for the resource: `some` of them, or all (`full`)";

    // Devices.
    DISK_IO: Counter "system.disk.io" "By" ["system.device" "disk.io.direction"]
        from "/proc/diskstats, sectors × 512": "bytes read and written, by disk";
    DISK_OPERATIONS: Counter "system.disk.operations" "{operation}" ["system.device" "disk.io.direction"]
        from "/proc/diskstats": "completed requests, by disk";
    DISK_OPERATION_TIME: Counter "system.disk.operation_time" "s" ["system.device" "disk.io.direction"]
        from "/proc/diskstats": "summed time of the requests; those side by side count each";
    DISK_IO_TIME: Counter "system.disk.io_time" "s" ["system.device"]
        from "/proc/diskstats": "time in which the disk had a request to do (busy)";
    DISK_MERGED: Counter "system.disk.merged" "{operation}" ["system.device" "disk.io.direction"]
        from "/proc/diskstats": "requests that were merged into others";
    NETWORK_IO: Counter "system.network.io" "By" ["network.interface.name" "network.io.direction"]
        from "/proc/1/net/dev": "bytes received and sent, by interface";
    NETWORK_PACKETS: Counter "system.network.packet.count" "{packet}" ["network.interface.name" "network.io.direction"]
        from "/proc/1/net/dev": "packets received and sent";
    NETWORK_ERRORS: Counter "system.network.errors" "{error}" ["network.interface.name" "network.io.direction"]
        from "/proc/1/net/dev, `errs`": "packets that were damaged or could not be sent";
    NETWORK_DROPPED: Counter "system.network.packet.dropped" "{packet}" ["network.interface.name" "network.io.direction"]
        from "/proc/1/net/dev, `drop`": "packets that were dropped without being damaged";
    FILESYSTEM_USAGE: Gauge "system.filesystem.usage" "By"
        ["system.device" "system.filesystem.mountpoint" "system.filesystem.type" "system.filesystem.mode" "system.filesystem.state"]
        from "/proc/self/mountinfo, statvfs(2)": "space by state (`used`, `free`, `reserved` for root); the states add up to the size";

    // Processes.
    PROCESS_COUNT: Gauge "system.process.count" "{process}" ["process.state"]
        from "/proc/PID/stat": "processes by state (`running`, `sleeping`, `stopped`, `defunct`); waiting for a disk is `sleeping`";
    PROCESSES_CREATED: Counter "system.process.created" "{process}" []
        from "/proc/stat: processes": "processes and threads made since boot";
    PROCESS_CPU_TIME: Counter "process.cpu.time" "s" ["process.pid" "obs.process.start_time" "process.executable.name" "cpu.mode"]
        from "/proc/PID/stat, `utime`, `stime`": "CPU time, `user` and `system`";
    PROCESS_MEMORY: Gauge "process.memory.usage" "By" ["process.pid" "obs.process.start_time" "process.executable.name"]
        from "/proc/PID/stat, `rss`": "resident memory; what processes share counts in each";
    PROCESS_VIRTUAL: Gauge "process.memory.virtual" "By" ["process.pid" "obs.process.start_time" "process.executable.name"]
        from "/proc/PID/stat, `vsize`": "size of the address space";
    PROCESS_FAULTS: Counter "process.paging.faults" "{fault}"
        ["process.pid" "obs.process.start_time" "process.executable.name" "system.paging.fault.type"]
        from "/proc/PID/stat, `minflt`, `majflt`": "page faults";
    PROCESS_THREADS: Gauge "process.thread.count" "{thread}" ["process.pid" "obs.process.start_time" "process.executable.name"]
        from "/proc/PID/stat, `num_threads`": "threads";
    PROCESS_UPTIME: Gauge "process.uptime" "s" ["process.pid" "obs.process.start_time" "process.executable.name"]
        from "/proc/PID/stat, `starttime`": "time since the process started";
    PROCESS_FILES: Gauge "process.unix.file_descriptor.count" "{file_descriptor}"
        ["process.pid" "obs.process.start_time" "process.executable.name"]
        from "/proc/PID/fd": "open file descriptors";
    PROCESS_DISK_IO: Counter "process.disk.io" "By"
        ["process.pid" "obs.process.start_time" "process.executable.name" "disk.io.direction"]
        from "/proc/PID/io: read_bytes, write_bytes": "bytes that it made the disks read, and that it changed in pages to be written";
    PROCESS_SWITCHES: Counter "process.context_switches" "{context_switch}"
        ["process.pid" "obs.process.start_time" "process.executable.name" "process.context_switch.type"]
        from "/proc/PID/task/*/status": "context switches of all its threads: `voluntary` ones waited, `involuntary` ones had to give way";

    // Containers and units.
    CONTAINER_CPU_TIME: Counter "container.cpu.time" "s" ["container.id" "cpu.mode"]
        from "v2 cpu.stat; v1 cpuacct.stat": "CPU time, `user` and `system`";
    CONTAINER_THROTTLED: Counter "obs.container.cpu.throttled_time" "s" ["container.id"]
        from "v2 cpu.stat: throttled_usec; v1 cpu.stat: throttled_time": "time for which its threads had used up the CPU quota and had to wait";
    CONTAINER_MEMORY: Gauge "container.memory.usage" "By" ["container.id"]
        from "v2 memory.current; v1 memory.usage_in_bytes": "memory, page cache included";
    CONTAINER_WORKING_SET: Gauge "container.memory.working_set" "By" ["container.id"]
        from "the same less inactive_file of memory.stat": "memory without the page cache that nobody used lately";
    CONTAINER_RSS: Gauge "container.memory.rss" "By" ["container.id"]
        from "memory.stat: v2 anon, v1 total_rss": "anonymous memory";
    CONTAINER_DISK_IO: Counter "container.disk.io" "By" ["container.id" "system.device" "disk.io.direction"]
        from "v2 io.stat; v1 blkio.throttle.io_service_bytes_recursive": "bytes read and written, by disk";
    CONTAINER_NETWORK_IO: Counter "container.network.io" "By" ["container.id" "network.interface.name" "network.io.direction"]
        from "/proc/PID/net/dev of its first process": "bytes received and sent, where it has a network of its own";
    CONTAINER_UPTIME: Gauge "container.uptime" "s" ["container.id"]
        from "cgroup.procs, /proc/PID/stat": "time since its oldest process started";
    CONTAINER_PRESSURE: Counter "obs.container.pressure.time" "s" ["container.id" "obs.pressure.resource" "obs.pressure.kind"]
        from "v2 {cpu,memory,io}.pressure": "time in which its threads waited for the resource";
    CONTAINER_OOM_KILLS: Counter "obs.container.oom_kills" "{process}" ["container.id"]
        from "v2 memory.events: oom_kill; v1 memory.oom_control: oom_kill": "its processes killed for lack of memory";
    RESTARTS: Counter "obs.process.restarts" "{restart}" ["obs.restarts.of" "obs.restarts.name" "obs.restarts.user_id"]
        from "cgroup.procs of services and containers": "how often all processes of a service or container were replaced by newer ones";
    OOM_KILL: Event "obs.oom_kill" "{process}" ["container.id" "obs.oom_kill.count"]
        from "growth of the two oom_kill sums": "processes were killed for lack of memory; without a container's id, outside of containers";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_units_are_base_units() {
        let names: BTreeSet<_> = RESOURCE_METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), RESOURCE_METRICS.len());
        for metric in RESOURCE_METRICS {
            let is_annotation = metric.unit.starts_with('{') && metric.unit.ends_with('}');
            assert!(matches!(metric.unit, "s" | "By") || is_annotation, "{}: {}", metric.name, metric.unit);
            assert!(!metric.summary.is_empty() && !metric.source.is_empty());
        }
    }

    /// The table in the documentation is this list.
    #[test]
    fn the_page_has_the_same_table() {
        let page = include_str!("../../../../docs/collectors/resources.md");
        let rows: Vec<String> = RESOURCE_METRICS
            .iter()
            .map(|metric| {
                let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                format!(
                    "| `{}` | {} | `{}` | {} | {} | {} |",
                    metric.name,
                    metric.kind,
                    metric.unit,
                    labels.join(", "),
                    metric.summary,
                    metric.source
                )
            })
            .collect();
        let found: Vec<&str> = page
            .lines()
            .filter(|line| RESOURCE_METRICS.iter().any(|m| line.starts_with(&format!("| `{}` |", m.name))))
            .collect();
        assert_eq!(found, rows, "the table should be:\n{}\n", rows.join("\n"));
    }
}

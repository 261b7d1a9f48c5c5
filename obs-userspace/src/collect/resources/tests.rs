//! The monitor as a whole: over texts of other kernels, over garbage, and against what this host knows of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proptest::prelude::*;

use super::*;
use crate::model::record::Label;

/// A folder with these files, and the roots that lead there.
pub(super) fn fixture(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Roots) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("proc")).unwrap();
    let roots = Roots { proc: at("proc"), sys: at("sys"), cgroup: at("cgroup"), root: at("root") };
    (folder, roots)
}

pub(super) fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Everything with a value, as `name{label,label}`.
pub(super) fn values(records: &[Record]) -> BTreeMap<String, f64> {
    let key = |name: &str, labels: &[Label]| {
        let labels: Vec<&str> = labels.iter().map(|(_, value)| &**value).collect();
        format!("{name}{{{}}}", labels.join(","))
    };
    let mut values = BTreeMap::new();
    for record in records {
        let (key, value) = match record {
            Record::Counter(counter) => (key(counter.name, &counter.labels), counter.value),
            Record::Gauge(gauge) => (key(gauge.name, &gauge.labels), gauge.value),
            Record::Event(event) => (key(event.name, &event.labels), f64::NAN),
            Record::StackSample(_) | Record::Histogram(_) => panic!("not of the resource monitor: {record:?}"),
        };
        assert!(values.insert(key.clone(), value).is_none(), "twice: {key}");
    }
    values
}

pub(super) fn read(resources: &mut Resources) -> (BTreeMap<String, f64>, Report) {
    let mut records = Vec::new();
    let report = resources.read_all(&mut records);
    check(&records);
    (values(&records), report)
}

/// Every record is as the table says, and no number.
fn check(records: &[Record]) {
    for record in records {
        let (name, kind, labels, value) = match record {
            Record::Counter(counter) => (counter.name, MetricKind::Counter, &counter.labels, counter.value),
            Record::Gauge(gauge) => (gauge.name, MetricKind::Gauge, &gauge.labels, gauge.value),
            Record::Event(event) => (event.name, MetricKind::Event, &event.labels, 0.0),
            Record::StackSample(_) | Record::Histogram(_) => panic!("{record:?}"),
        };
        let metric = RESOURCE_METRICS.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(metric.kind, kind, "{name}");
        assert!(labels.iter().all(|(label, _)| metric.labels.contains(label)), "{name}: {labels:?}");
        assert!(value.is_finite() && value >= 0.0, "{name}: {value}");
    }
}

fn resources(roots: &Roots) -> Resources {
    Resources::new(roots, ResourceOptions::default())
}

const MEMINFO: &[u8] = b"MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 600 kB\nBuffers: 50 kB\nCached: 200 kB\n\
    Shmem: 20 kB\nSReclaimable: 30 kB\nSUnreclaim: 10 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n";

#[test]
fn an_old_kernel_lacks_what_it_lacks_and_says_so() {
    let (_folder, roots) = fixture(&[
        ("proc/stat", b"cpu 10 20 30 40 50 6 7 8\ncpu0 1 2 3 4\nctxt 9\nprocesses 4\n"),
        ("proc/loadavg", b"0.25 1.50 2.00 1/100 4242\n"),
        ("proc/meminfo", MEMINFO),
        ("proc/uptime", b"1234.56 2000.00\n"),
        ("proc/vmstat", b"pgfault 100\npgmajfault 7\npswpin 3\npswpout 4\n"),
        ("proc/net/dev", b"head|\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"),
    ]);
    let (values, report) = read(&mut resources(&roots));
    for (key, expected) in [
        ("system.cpu.time{user}", 0.10),
        ("system.cpu.time{interrupt}", 0.13),
        ("system.cpu.logical.count{}", 1.0),
        ("system.cpu.load_average.5m{}", 1.5),
        ("system.uptime{}", 1234.56),
        ("system.memory.usage{used}", 420.0 * 1024.0),
        ("system.memory.usage{cached}", 230.0 * 1024.0),
        ("system.memory.limit{}", 1000.0 * 1024.0),
        ("system.paging.faults{minor}", 93.0),
        ("system.paging.operations{out}", 4.0),
        ("system.network.io{eth0,receive}", 1.0),
        ("system.network.packet.dropped{eth0,transmit}", 8.0),
        ("system.process.created{}", 4.0),
    ] {
        assert_eq!(values.get(key), Some(&expected), "{key} of {values:#?}");
    }
    let states = values.iter().filter(|(key, _)| key.starts_with("system.memory.usage"));
    assert_eq!(states.map(|(_, value)| value).sum::<f64>(), 1000.0 * 1024.0);
    for (name, reason) in [
        ("obs.pressure.time", "this kernel has no "),
        ("system.paging.usage", "this host has no swap"),
        ("obs.system.oom_kills", "this kernel does not count them"),
        ("system.disk.io", "this kernel has no "),
        ("system.filesystem.usage", "this kernel has no "),
        ("container.cpu.time", "no cgroup hierarchy is mounted"),
    ] {
        let found = report.absent.get(name).unwrap_or_else(|| panic!("{name} is not absent: {:#?}", report.absent));
        assert!(found.contains(reason), "{name}: {found}");
        assert!(!values.keys().any(|key| key.starts_with(&format!("{name}{{"))), "{name} has a value");
    }
    // Absence is no failure.
    assert_eq!(report.read_errors, BTreeMap::new());
}

#[test]
fn without_anything_everything_is_absent_with_a_reason() {
    let (_folder, roots) = fixture(&[]);
    let (values, report) = read(&mut resources(&roots));
    let with_values: BTreeSet<&str> = values.keys().filter_map(|key| key.split('{').next()).collect();
    for metric in RESOURCE_METRICS {
        let is_told = report.absent.contains_key(metric.name);
        // An event that did not happen is not absent.
        assert!(is_told || with_values.contains(metric.name) || metric.kind == MetricKind::Event, "{}", metric.name);
    }
}

#[test]
fn pressure_that_is_switched_off_is_absent_not_zero() {
    let (_folder, roots) = fixture(&[
        ("proc/pressure/cpu", b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=0\n"),
        ("proc/pressure/memory", b"garbage"),
        ("proc/pressure/io", b"some avg10=0 total=2\nfull avg10=0 total=1\n"),
    ]);
    let (values, report) = read(&mut resources(&roots));
    assert_eq!(values.get("obs.pressure.time{cpu,some}"), Some(&1.5));
    assert_eq!(values.get("obs.pressure.time{cpu,full}"), None);
    assert_eq!(values.get("obs.pressure.time{io,full}"), Some(&1e-6));
    assert!(!values.keys().any(|key| key.contains("{memory,")));
    assert!(report.absent["obs.pressure.time"].contains("memory has no such value"));
    assert_eq!(report.read_errors, BTreeMap::from([("pressure", 1)]));
}

#[test]
fn disks_and_not_their_partitions() {
    let line = |name: &str, first: u64| format!("8 0 {name} {first} 1 200 30 40 2 600 70 0 80 90\n");
    let text = line("sda", 10) + &line("sda1", 10) + &line("loop0", 0).replace(" 40 ", " 0 ") + "garbage\n";
    let (folder, roots) =
        fixture(&[("proc/diskstats", text.as_bytes()), ("sys/block/sda/size", b"1"), ("sys/block/loop0/size", b"1")]);
    let mut resources = resources(&roots);
    let (values, report) = read(&mut resources);
    assert_eq!(values.get("system.disk.io{sda,read}"), Some(&102_400.0));
    assert_eq!(values.get("system.disk.operations{sda,write}"), Some(&40.0));
    assert_eq!(values.get("system.disk.operation_time{sda,read}"), Some(&0.03));
    assert_eq!(values.get("system.disk.io_time{sda}"), Some(&0.08));
    assert!(!values.keys().any(|key| key.contains("sda1") || key.contains("loop0")));
    assert_eq!(report.read_errors.get("diskstats"), Some(&1));
    // Pulled out and put in again: the kernel begins at 0, the sum does not.
    write(folder.path(), &[("proc/diskstats", line("sda", 1).as_bytes())]);
    let (values, _) = read(&mut resources);
    assert_eq!(values.get("system.disk.operations{sda,read}"), Some(&11.0));
}

#[test]
fn what_is_due() {
    let mut due = Due::new(Duration::from_nanos(10));
    let times: Vec<u64> = (0..60).filter(|now| due.is_now(*now)).collect();
    assert_eq!(times, [0, 10, 20, 30, 40, 50]);
    // Late by a little: the times do not drift. Late by much: once.
    assert!(due.is_now(63) && !due.is_now(69) && due.is_now(70));
    assert!(due.is_now(500) && !due.is_now(509) && due.is_now(510));
    let (_folder, roots) = fixture(&[]);
    let hour = Duration::from_secs(3600);
    let mut resources =
        Resources::new(&roots, ResourceOptions { host_interval: hour, process_interval: hour * 2, processes_max: 1 });
    let mut records = Vec::new();
    let first = resources.read(&mut records);
    let second = resources.read(&mut records);
    assert!(first.host_read && first.processes_read && !second.host_read && !second.processes_read);
    assert!(resources.due_in() > hour / 2);
    assert_eq!(first.absent, second.absent);
}

/// The files that the monitor reads, each with something in it.
const FILES: [&str; 26] = [
    "proc/stat",
    "proc/loadavg",
    "proc/meminfo",
    "proc/vmstat",
    "proc/uptime",
    "proc/sys/fs/file-nr",
    "proc/pressure/cpu",
    "proc/pressure/io",
    "proc/diskstats",
    "proc/net/dev",
    "proc/self/mountinfo",
    "proc/7/stat",
    "proc/7/io",
    "proc/7/task/7/status",
    "proc/7/net/dev",
    "cgroup/cgroup.controllers",
    "cgroup/lxc.payload.web/cgroup.procs",
    "cgroup/lxc.payload.web/cpu.stat",
    "cgroup/lxc.payload.web/memory.current",
    "cgroup/lxc.payload.web/memory.stat",
    "cgroup/lxc.payload.web/memory.events",
    "cgroup/lxc.payload.web/io.stat",
    "cgroup/lxc.payload.web/cpu.pressure",
    "cgroup/system.slice/a.service/cgroup.procs",
    "cgroup/system.slice/b\\xff.service/cgroup.procs",
    "sys/block/sda/size",
];

/// Bytes that look like what belongs there, but are not.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"cpu".to_vec()),
        Just(b"cpu0".to_vec()),
        Just(b"MemTotal:".to_vec()),
        Just(b"some".to_vec()),
        Just(b"total=18446744073709551615".to_vec()),
        Just(b"8:0".to_vec()),
        Just(b"rbytes=18446744073709551615".to_vec()),
        Just(b"7".to_vec()),
        Just(b"(a) R".to_vec()),
        Just(b"oom_kill".to_vec()),
        Just(b"usage_usec".to_vec()),
        Just(b"18446744073709551615".to_vec()),
        Just(b"-1".to_vec()),
        Just(b"eth0:".to_vec()),
        Just(b"\n".to_vec()),
        any::<u64>().prop_map(|number| number.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.join(&b' '))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn garbage_never_panics_and_never_makes_a_number_that_is_none(
        first in proptest::collection::vec(garbage(), FILES.len()),
        second in proptest::collection::vec(garbage(), FILES.len()),
    ) {
        let files = |texts: &[Vec<u8>]| -> Vec<(&'static str, Vec<u8>)> { FILES.into_iter().zip(texts.iter().cloned()).collect() };
        let (folder, roots) = fixture(&[]);
        let mut resources = resources(&roots);
        for texts in [files(&first), files(&second)] {
            let texts: Vec<(&str, &[u8])> = texts.iter().map(|(path, text)| (*path, text.as_slice())).collect();
            write(folder.path(), &texts);
            let mut records = Vec::new();
            resources.read_all(&mut records);
            check(&records);
        }
    }
}

/// Against this host itself.
#[test]
fn this_host() {
    let mut resources = resources(&Roots::default());
    let (first, report) = read(&mut resources);
    assert_eq!(report.read_errors, BTreeMap::new(), "{:#?}", report.absent);
    let modes = |values: &BTreeMap<String, f64>| -> f64 {
        values.iter().filter(|(key, _)| key.starts_with("system.cpu.time{")).map(|(_, value)| value).sum()
    };
    let space = rustix::fs::statvfs("/").unwrap();
    let size = (space.f_blocks * space.f_frsize) as f64;
    let of_root: f64 = first
        .iter()
        .filter(|(key, _)| key.starts_with("system.filesystem.usage{") && key.contains(",/,"))
        .map(|(_, v)| v)
        .sum();
    assert!(of_root == 0.0 || of_root == size, "{of_root} of {size}");
    let page_bytes = rustix::param::page_size() as f64;
    let total = rustix::system::sysinfo().totalram as f64 * f64::from(rustix::system::sysinfo().mem_unit);
    assert!((first["system.memory.limit{}"] - total).abs() <= page_bytes, "{total}");
    std::thread::sleep(Duration::from_millis(500));
    let (second, _) = read(&mut resources);
    // Every CPU is in exactly one mode at any time.
    let elapsed = second["system.uptime{}"] - first["system.uptime{}"];
    let (spent, cpus) = (modes(&second) - modes(&first), first["system.cpu.logical.count{}"]);
    assert!((spent - cpus * elapsed).abs() < 0.25 * cpus * elapsed, "{spent} s on {cpus} CPUs in {elapsed} s");
}

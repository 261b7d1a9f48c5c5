//! Processes of a made-up `/proc`, and this test's own process against what it knows of itself.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::super::{
    ResourceOptions, Resources, Roots,
    tests::{fixture, read, write},
};

/// A line of `/proc/PID/stat`.
fn stat(pid: u32, name: &str, user: u64, started: u64, pages: u64) -> String {
    format!("{pid} ({name}) S 1 1 1 0 -1 0 {user} 0 1 0 {user} 2 0 0 20 0 1 0 {started} 4096 {pages} 0")
}

fn with_processes_max(roots: &Roots, processes_max: usize) -> Resources {
    Resources::new(roots, ResourceOptions { processes_max, ..ResourceOptions::default() })
}

fn sum(values: &BTreeMap<String, f64>, of: &str) -> f64 {
    values.iter().filter(|(key, _)| key.starts_with(of)).map(|(_, value)| value).sum()
}

#[test]
fn the_rest_has_what_the_listed_have_not() {
    let put = |folder: &std::path::Path, round: u64| {
        for pid in 1..=20_u32 {
            // Process 3 burns most, process 9 has most memory.
            let user = if pid == 3 { 1000 * round } else { u64::from(pid) * round };
            let pages = if pid == 9 { 5000 } else { u64::from(pid) };
            write(folder, &[(&format!("proc/{pid}/stat"), stat(pid, "x", user, 5, pages).as_bytes())]);
        }
    };
    let (folder, roots) = fixture(&[]);
    put(folder.path(), 1);
    let mut resources = with_processes_max(&roots, 2);
    let (values, _) = read(&mut resources);
    // What they did before is nobody's news.
    assert_eq!(sum(&values, "process.cpu.time{"), 0.0);
    put(folder.path(), 2);
    let (values, report) = read(&mut resources);
    assert_eq!(report.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [3, 9]);
    assert_eq!(values["process.cpu.time{3,0.05,x,user}"], 10.0);
    assert_eq!(values["process.cpu.time{9,0.05,x,user}"], 0.09);
    let others: u32 = (1..=20).filter(|pid| ![3, 9].contains(pid)).sum();
    let other = values["process.cpu.time{~other,,,user}"];
    assert!((other - f64::from(others) / 100.0).abs() < 1e-9, "{other}");
    assert_eq!(values["process.paging.faults{~other,,,minor}"], f64::from(others));
    assert_eq!(values["process.thread.count{~other,,}"], 18.0);
    let page_bytes = rustix::param::page_size() as f64;
    assert_eq!(sum(&values, "process.memory.usage{"), (5000.0 + f64::from(others) + 3.0) * page_bytes);
    assert_eq!(values["system.process.count{sleeping}"], 20.0);
    // A third round: all sums grow by the same again, whoever is listed.
    let before = sum(&values, "process.cpu.time{");
    put(folder.path(), 3);
    let (values, _) = read(&mut resources);
    assert!((sum(&values, "process.cpu.time{") - 2.0 * before).abs() < 1e-9);
}

#[test]
fn a_pid_that_was_given_away_again_is_another_process() {
    let (folder, roots) = fixture(&[("proc/7/stat", stat(7, "old", 100, 5, 1).as_bytes())]);
    let mut resources = with_processes_max(&roots, 10);
    read(&mut resources);
    write(folder.path(), &[("proc/7/stat", stat(7, "new", 30, 900, 1).as_bytes())]);
    let (values, _) = read(&mut resources);
    // It did all that since the last reading.
    assert_eq!(values["process.cpu.time{7,9.00,new,user}"], 0.30);
    assert!(!values.keys().any(|key| key.contains("old")));
    fs::remove_dir_all(folder.path().join("proc/7")).unwrap();
    let (values, report) = read(&mut resources);
    assert!(report.processes.is_empty() && !values.keys().any(|key| key.contains("new")));
}

#[test]
fn what_ended_between_two_readings_is_in_the_whole() {
    let cpu = |user: u64, system: u64| format!("cpu {user} 0 {system} 0\ncpu0 1 1 1 1\n");
    let (folder, roots) =
        fixture(&[("proc/stat", cpu(1000, 500).as_bytes()), ("proc/7/stat", stat(7, "x", 100, 5, 1).as_bytes())]);
    let mut resources = with_processes_max(&roots, 10);
    read(&mut resources);
    write(
        folder.path(),
        &[("proc/stat", cpu(1100, 550).as_bytes()), ("proc/7/stat", stat(7, "x", 160, 5, 1).as_bytes())],
    );
    let (values, _) = read(&mut resources);
    assert_eq!(values["process.cpu.time{7,0.05,x,user}"], 0.60);
    assert_eq!(values["process.cpu.time{~ended,,,user}"], 0.40);
    assert_eq!(values["process.cpu.time{~ended,,,system}"], 0.50);
    // The two accounts differ by a little: the remainder waits, and never shrinks.
    write(
        folder.path(),
        &[("proc/stat", cpu(1110, 550).as_bytes()), ("proc/7/stat", stat(7, "x", 180, 5, 1).as_bytes())],
    );
    let (values, _) = read(&mut resources);
    assert_eq!(values["process.cpu.time{~ended,,,user}"], 0.40);
    write(folder.path(), &[("proc/stat", cpu(1130, 560).as_bytes())]);
    let (values, _) = read(&mut resources);
    assert!((sum(&values, "process.cpu.time{") - 1.9).abs() < 1e-9, "{values:#?}");
}

/// Where interrupts are part of processes' exact time, they have more than the host's ticks of threads.
#[test]
fn processes_with_more_than_the_whole_do_not_hide_for_ever_what_ended() {
    let (folder, roots) = fixture(&[]);
    let mut resources = with_processes_max(&roots, 10);
    let mut step = |of_host: u64, of_process: u64| {
        write(
            folder.path(),
            &[
                ("proc/stat", format!("cpu {of_host} 0 0 0\ncpu0 1 1 1 1\n").as_bytes()),
                ("proc/7/stat", stat(7, "x", of_process, 5, 1).as_bytes()),
            ],
        );
        let (values, _) = read(&mut resources);
        values["process.cpu.time{~ended,,,user}"]
    };
    // In each reading the process has 0.6 s more than the host.
    for round in 0..100 {
        assert_eq!(step(1000 * round, 1060 * round), 0.0);
    }
    // Others burned 30 s and ended: at most ten of it are not seen, and nothing of what comes next.
    let first = step(1000 * 99 + 3000, 1060 * 99);
    assert!((20.0..=30.0).contains(&first), "{first} s");
    let second = step(1000 * 99 + 6000, 1060 * 99);
    assert!((second - first - 30.0).abs() < 1e-9, "{first} s, then {second} s");
}

#[test]
fn details_of_a_process() {
    let status =
        |voluntary: u64| format!("Name:\tx\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t1\n");
    let io = |read: u64| format!("rchar: 1\nread_bytes: {read}\nwrite_bytes: 8\n");
    let (folder, roots) = fixture(&[
        ("proc/7/stat", stat(7, "x", 1, 5, 1).as_bytes()),
        ("proc/7/io", io(100).as_bytes()),
        ("proc/7/task/7/status", status(10).as_bytes()),
    ]);
    let mut resources = with_processes_max(&roots, 10);
    read(&mut resources);
    write(folder.path(), &[("proc/7/io", io(150).as_bytes()), ("proc/7/task/7/status", status(17).as_bytes())]);
    let (values, report) = read(&mut resources);
    assert_eq!(values["process.disk.io{7,0.05,x,read}"], 50.0);
    assert_eq!(values["process.disk.io{7,0.05,x,write}"], 0.0);
    assert_eq!(values["process.context_switches{7,0.05,x,voluntary}"], 7.0);
    assert_eq!(report.read_errors, BTreeMap::new());
    // A kernel without accounting of disks.
    fs::write(folder.path().join("proc/7/io"), "rchar: 1\n").unwrap();
    let (_, report) = read(&mut resources);
    assert!(report.absent["process.disk.io"].contains("proc/PID/io"), "{:?}", report.absent);
}

#[test]
fn a_process_of_too_many_threads_has_no_context_switches_and_it_is_said() {
    let many = stat(7, "x", 1, 5, 1).replace(" 20 0 1 0 ", " 20 0 5000 0 ");
    let (_folder, roots) = fixture(&[("proc/7/stat", many.as_bytes())]);
    let (values, report) = read(&mut with_processes_max(&roots, 10));
    assert_eq!(values["process.thread.count{7,0.05,x}"], 5000.0);
    assert!(report.absent["process.context_switches"].contains("more than 128 threads"));
}

fn our_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What this process did, known from elsewhere: the CPU clock of the process, the memory and files that it just took.
#[test]
fn our_own_process() {
    const MEMORY_BYTES: usize = 48 << 20;
    const FILE_BYTES: usize = 12 << 20;
    let ours = format!("{{{},", std::process::id());
    let of = |values: &BTreeMap<String, f64>, metric: &str, last: &str| -> f64 {
        let found = values
            .iter()
            .find(|(key, _)| key.starts_with(&format!("{metric}{ours}")) && key.trim_end_matches('}').ends_with(last));
        *found.unwrap_or_else(|| panic!("no {metric} of ours: {values:#?}")).1
    };
    let mut resources = with_processes_max(&Roots::default(), 10_000);
    let cpu_before = our_cpu_seconds();
    let (first, _) = read(&mut resources);
    let cpu_before_at_most = our_cpu_seconds();

    let target = std::env::current_exe().unwrap();
    let mut file = tempfile::tempfile_in(target.parent().unwrap()).unwrap();
    file.write_all(&vec![7; FILE_BYTES]).unwrap();
    let memory: Vec<u8> = (0..MEMORY_BYTES).map(|index| index as u8).collect();
    let files: Vec<File> = (0..64).map(|_| File::open("/dev/null").unwrap()).collect();
    let sleeper = std::thread::spawn(|| (0..100).for_each(|_| std::thread::sleep(Duration::from_micros(100))));
    sleeper.join().unwrap();
    while our_cpu_seconds() - cpu_before < 0.5 {
        std::hint::black_box(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
    // While we sleep and it is read, other tests run on: a range.
    let cpu_after = our_cpu_seconds();
    let (second, _) = read(&mut resources);
    let cpu_after_at_most = our_cpu_seconds();

    let cpu = |values: &BTreeMap<String, f64>| {
        of(values, "process.cpu.time", "user") + of(values, "process.cpu.time", "system")
    };
    let grown = cpu(&second) - cpu(&first);
    // Each of two numbers is rounded down to a tick, twice.
    let (least, most) = (cpu_after - cpu_before_at_most - 0.04, cpu_after_at_most - cpu_before + 0.04);
    assert!((least..=most).contains(&grown), "{grown} s, by the CPU clock {least} to {most}");

    let memory_grown = of(&second, "process.memory.usage", "") - of(&first, "process.memory.usage", "");
    assert!(memory_grown > 0.75 * MEMORY_BYTES as f64, "{memory_grown} of {}", memory.len());
    let faults = of(&second, "process.paging.faults", "minor") - of(&first, "process.paging.faults", "minor");
    // In huge pages of 2 MiB they are least.
    assert!(faults >= (MEMORY_BYTES >> 21) as f64, "{faults} faults");
    let opened =
        of(&second, "process.unix.file_descriptor.count", "") - of(&first, "process.unix.file_descriptor.count", "");
    assert!(opened > files.len() as f64 / 2.0, "{opened} opened");
    let is_in_memory = rustix::fs::fstatfs(&file).unwrap().f_type as u64 == 0x0102_1994;
    let written = of(&second, "process.disk.io", "write") - of(&first, "process.disk.io", "write");
    assert!(is_in_memory || written >= FILE_BYTES as f64, "{written} of {FILE_BYTES} bytes written");
    assert!(of(&second, "process.uptime", "") > of(&first, "process.uptime", ""));
}

/// A child that burned a known time, started and measured between two readings; its own account is the shell's `times`.
#[test]
fn a_child_that_is_new() {
    let mut resources = with_processes_max(&Roots::default(), 10_000);
    read(&mut resources);
    let mut child = Command::new("sh")
        .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let (values, _) = read(&mut resources);
    drop(child.stdin.take());
    child.wait().unwrap();
    // `0m0.250000s 0m0.010000s`
    let told: f64 = line
        .split_whitespace()
        .map(|time| {
            let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
            60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
        })
        .sum();
    let found = sum(&values, &format!("process.cpu.time{{{},", child.id()));
    // What it does from `times` to `read` is little; each number is rounded down to a tick.
    assert!(found >= told - 0.03 && found <= told + 0.1, "{found} s, the shell says {told} s");
    assert!(told > 0.0, "{line}");
}

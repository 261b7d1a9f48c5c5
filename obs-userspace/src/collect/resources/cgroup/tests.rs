//! Containers and services in made-up hierarchies of version 1, version 2 and both.

use std::{fs, os::unix::fs::symlink};

use super::super::{
    ResourceOptions, Resources, Roots,
    tests::{fixture, read, write},
};

const ID: &str = "3f4c8e1b7a2d5f60918273645a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b";
/// Of a container in the other one.
const INNER_ID: &str = "5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b";

fn stat(pid: u32, started: u64) -> String {
    format!("{pid} (x) S 1 1 1 0 -1 0 0 0 1 0 0 2 0 0 20 0 1 0 {started} 4096 7 0")
}

fn resources(roots: &Roots) -> Resources {
    Resources::new(roots, ResourceOptions::default())
}

/// A container in version 2, with processes in a folder below its own.
fn version_2() -> (tempfile::TempDir, Roots) {
    let scope = format!("cgroup/system.slice/docker-{ID}.scope");
    let path = |name: &str| format!("{scope}/{name}");
    let net = b"x|\n lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n";
    let (folder, roots) = fixture(&[
        ("proc/7/stat", stat(7, 5).as_bytes()),
        ("proc/8/stat", stat(8, 9).as_bytes()),
        ("proc/7/net/dev", net),
        ("cgroup/cgroup.controllers", b"cpu io memory\n"),
        (&path("cgroup.procs"), b""),
        (&path("init.scope/cgroup.procs"), b"8\n7\n99\n"),
        (&path("cpu.stat"), b"usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nthrottled_usec 500000\n"),
        (&path("init.scope/cpu.stat"), b"usage_usec 1\nuser_usec 1\nsystem_usec 0\n"),
        (&path("memory.current"), b"1000\n"),
        (&path("memory.stat"), b"anon 300\nfile 700\ninactive_file 250\n"),
        (&path("memory.events"), b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\n"),
        (&path("io.stat"), b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:7 rbytes=1 wbytes=0\n"),
        (&path("memory.pressure"), b"some avg10=0 total=3000000\nfull avg10=0 total=1000000\n"),
    ]);
    for (pid, network) in [("1", "net:[1]"), ("7", "net:[2]")] {
        let folder = folder.path().join("proc").join(pid).join("ns");
        fs::create_dir_all(&folder).unwrap();
        symlink(network, folder.join("net")).unwrap();
    }
    let devices = folder.path().join("sys/dev/block");
    fs::create_dir_all(&devices).unwrap();
    symlink("../../devices/pci/block/sda", devices.join("8:0")).unwrap();
    (folder, roots)
}

#[test]
fn a_container_of_version_2() {
    let (_folder, roots) = version_2();
    let (values, report) = read(&mut resources(&roots));
    for (key, expected) in [
        ("container.cpu.time{ID,user}", 2.0),
        ("container.cpu.time{ID,system}", 1.0),
        ("obs.container.cpu.throttled_time{ID}", 0.5),
        ("container.memory.usage{ID}", 1000.0),
        ("container.memory.working_set{ID}", 750.0),
        ("container.memory.rss{ID}", 300.0),
        ("container.disk.io{ID,sda,write}", 20.0),
        ("container.disk.io{ID,253:7,read}", 1.0),
        ("container.network.io{ID,eth0,receive}", 100.0),
        ("container.network.io{ID,eth0,transmit}", 500.0),
        ("obs.container.pressure.time{ID,memory,full}", 1.0),
        ("obs.container.oom_kills{ID}", 2.0),
        ("obs.process.restarts{container,ID}", 0.0),
    ] {
        assert_eq!(values.get(&key.replace("ID", ID)), Some(&expected), "{key} of {values:#?}");
    }
    assert!(!values.keys().any(|key| key.contains("{lo") || key.contains(",lo,") || key.starts_with("obs.oom_kill")));
    // Its oldest process started 0.05 s after boot.
    let uptime = values[&format!("container.uptime{{{ID}}}")];
    let boot_seconds = super::super::now_ns() as f64 / 1e9;
    assert!(uptime <= boot_seconds - 0.05 && uptime > boot_seconds - 60.0, "{uptime} of {boot_seconds}");
    assert_eq!(report.absent.get("container.cpu.time"), None);
}

/// Version 1: controllers in folders of their own, some together, and links to them.
fn version_1() -> (tempfile::TempDir, Roots) {
    let (folder, roots) = fixture(&[
        ("proc/7/stat", stat(7, 5).as_bytes()),
        (&format!("cgroup/cpu,cpuacct/docker/{ID}/cgroup.procs"), b"7\n"),
        (&format!("cgroup/cpu,cpuacct/docker/{ID}/cpuacct.stat"), b"user 150\nsystem 25\n"),
        (
            &format!("cgroup/cpu,cpuacct/docker/{ID}/cpu.stat"),
            b"nr_periods 0\nnr_throttled 0\nthrottled_time 2000000000\n",
        ),
        (&format!("cgroup/memory/docker/{ID}/memory.usage_in_bytes"), b"5000\n"),
        (
            &format!("cgroup/memory/docker/{ID}/memory.stat"),
            b"rss 1\ntotal_rss 40\ninactive_file 1\ntotal_inactive_file 1000\n",
        ),
        (&format!("cgroup/memory/docker/{ID}/memory.oom_control"), b"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        (
            &format!("cgroup/blkio/docker/{ID}/blkio.throttle.io_service_bytes_recursive"),
            b"8:0 Read 11\n8:0 Write 22\n8:0 Sync 0\n8:0 Total 33\nTotal 33\n",
        ),
        ("cgroup/systemd/system.slice/cron.service/cgroup.procs", b"7\n"),
    ]);
    symlink("cpu,cpuacct", folder.path().join("cgroup/cpu")).unwrap();
    (folder, roots)
}

#[test]
fn a_container_of_version_1() {
    let (_folder, roots) = version_1();
    let (values, report) = read(&mut resources(&roots));
    for (key, expected) in [
        ("container.cpu.time{ID,user}", 1.5),
        ("obs.container.cpu.throttled_time{ID}", 2.0),
        ("container.memory.usage{ID}", 5000.0),
        ("container.memory.working_set{ID}", 4000.0),
        ("container.memory.rss{ID}", 40.0),
        ("container.disk.io{ID,8:0,read}", 11.0),
        ("container.disk.io{ID,8:0,write}", 22.0),
        ("obs.container.oom_kills{ID}", 1.0),
        ("obs.process.restarts{service,cron.service}", 0.0),
    ] {
        assert_eq!(values.get(&key.replace("ID", ID)), Some(&expected), "{key} of {values:#?}");
    }
    assert!(report.absent["obs.container.pressure.time"].contains("version 2"));
    assert!(report.absent["container.network.io"].contains("cannot be told"));
}

#[test]
fn both_versions_at_once() {
    let (folder, roots) = version_1();
    let scope = format!("cgroup/unified/docker/{ID}");
    write(
        folder.path(),
        &[
            ("cgroup/unified/cgroup.controllers", b""),
            (&format!("{scope}/cgroup.procs"), b"7\n"),
            // Without controllers, version 2 has CPU time and pressure.
            (&format!("{scope}/cpu.stat"), b"usage_usec 9\nuser_usec 9\nsystem_usec 9\n"),
            (&format!("{scope}/cpu.pressure"), b"some avg10=0 total=4000000\n"),
        ],
    );
    let (values, _) = read(&mut resources(&roots));
    // The controller's own number, which is that of version 1 here, and what only version 2 has.
    assert_eq!(values[&format!("container.cpu.time{{{ID},user}}")], 1.5);
    assert_eq!(values[&format!("obs.container.pressure.time{{{ID},cpu,some}}")], 4.0);
    assert_eq!(values[&format!("container.memory.usage{{{ID}}}")], 5000.0);
}

#[test]
fn restarts_are_counted_and_what_only_looks_like_one_is_not() {
    let (folder, roots) = fixture(&[("cgroup/cgroup.controllers", b"")]);
    let mut resources = resources(&roots);
    let mut step = |processes: &[(u32, u64)]| {
        for entry in fs::read_dir(folder.path().join("proc")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let mut pids = String::new();
        for (pid, started) in processes {
            write(folder.path(), &[(&format!("proc/{pid}/stat"), stat(*pid, *started).as_bytes())]);
            pids.push_str(&format!("{pid}\n"));
        }
        write(folder.path(), &[("cgroup/system.slice/web.service/cgroup.procs", pids.as_bytes())]);
        // Sessions are not started again.
        write(folder.path(), &[("cgroup/user.slice/user-0.slice/session-1.scope/cgroup.procs", pids.as_bytes())]);
        let (values, _) = read(&mut resources);
        assert!(!values.keys().any(|key| key.contains("session-1")));
        values.get("obs.process.restarts{service,web.service}").copied()
    };
    assert_eq!(step(&[(10, 100), (11, 105)]), Some(0.0));
    assert_eq!(step(&[(10, 100), (12, 200)]), Some(0.0), "a worker was replaced");
    assert_eq!(step(&[(12, 200)]), Some(0.0), "the first process went, a worker stays");
    assert_eq!(step(&[(13, 300), (14, 301)]), Some(1.0), "all are new");
    assert_eq!(step(&[]), Some(1.0), "stopped");
    assert_eq!(step(&[(13, 400)]), Some(2.0), "started again, under an old pid");
    assert_eq!(step(&[(13, 400)]), Some(2.0));
}

#[test]
fn kills_for_lack_of_memory_are_told_once_and_with_their_container() {
    let (folder, roots) = version_2();
    let events = format!("cgroup/system.slice/docker-{ID}.scope/memory.events");
    let mut resources = resources(&roots);
    let mut step = |of_host: u64, of_container: u64| {
        write(
            folder.path(),
            &[
                ("proc/vmstat", format!("oom_kill {of_host}\n").as_bytes()),
                (&events, format!("oom_kill {of_container}\n").as_bytes()),
            ],
        );
        let (values, _) = read(&mut resources);
        values.into_keys().filter(|key| key.starts_with("obs.oom_kill{")).collect::<Vec<_>>()
    };
    assert_eq!(step(10, 2), [""; 0], "history");
    assert_eq!(step(10, 2), [""; 0]);
    assert_eq!(step(11, 3), [format!("obs.oom_kill{{{ID},1}}")]);
    assert_eq!(step(14, 4), ["obs.oom_kill{2}".to_owned(), format!("obs.oom_kill{{{ID},1}}")]);
    // Killed between the reading of the host and that of the container: told once all the same.
    assert_eq!(step(14, 5), [format!("obs.oom_kill{{{ID},1}}")]);
    assert_eq!(step(15, 5), [""; 0]);
    assert_eq!(step(16, 5), ["obs.oom_kill{1}".to_owned()]);
    // One that the host never counts explains none that comes later.
    assert_eq!(step(16, 6), [format!("obs.oom_kill{{{ID},1}}")]);
    assert_eq!(step(16, 6), [""; 0]);
    assert_eq!(step(17, 6), ["obs.oom_kill{1}".to_owned()]);
}

/// Version 2 counts a kill in every group above it as well, version 1 where the process was only.
#[test]
fn a_kill_in_a_container_in_a_container_is_one_kill() {
    let scope = format!("cgroup/system.slice/docker-{ID}.scope");
    let parent = format!("cgroup/memory/docker/{ID}");
    for ((folder, roots), outer, current, events, counts_below) in [
        (version_2(), scope, "memory.current", "memory.events", true),
        (version_1(), parent, "memory.usage_in_bytes", "memory.oom_control", false),
    ] {
        let inner = format!("{outer}/docker/{INNER_ID}");
        let mut resources = resources(&roots);
        let mut step = |of_host: u64, of_outer: u64, of_inner: u64| {
            write(
                folder.path(),
                &[
                    ("proc/vmstat", format!("oom_kill {of_host}\n").as_bytes()),
                    (&format!("{outer}/{events}"), format!("oom_kill {of_outer}\n").as_bytes()),
                    (&format!("{inner}/{current}"), b"500\n"),
                    (&format!("{inner}/{events}"), format!("oom_kill {of_inner}\n").as_bytes()),
                ],
            );
            let (values, _) = read(&mut resources);
            values.into_keys().filter(|key| key.starts_with("obs.oom_kill{")).collect::<Vec<_>>()
        };
        let in_inner = format!("obs.oom_kill{{{INNER_ID},1}}");
        let in_outer = format!("obs.oom_kill{{{ID},1}}");
        assert_eq!(step(10, 2, 1), [""; 0], "history");
        let kills = if counts_below { 1 } else { 2 };
        assert_eq!(step(10 + kills, 3, 2), [in_outer, in_inner]);
        assert_eq!(step(11 + kills, 3, 2), ["obs.oom_kill{1}"], "outside of both");
    }
}

#[test]
fn more_containers_than_the_budget_are_in_the_rest() {
    let (folder, roots) = fixture(&[("cgroup/cgroup.controllers", b"")]);
    for number in 0..300 {
        let scope = format!("cgroup/lxc.payload.c{number}");
        write(
            folder.path(),
            &[
                (&format!("{scope}/cgroup.procs"), b""),
                (&format!("{scope}/cpu.stat"), b"usage_usec 2000000\nuser_usec 1000000\nsystem_usec 1000000\n"),
                (&format!("{scope}/memory.current"), b"100\n"),
            ],
        );
    }
    let (values, _) = read(&mut resources(&roots));
    let sum = |of: &str| values.iter().filter(|(key, _)| key.starts_with(of)).map(|(_, value)| value).sum::<f64>();
    assert_eq!(sum("container.cpu.time{"), 600.0);
    assert_eq!(sum("container.memory.usage{"), 30_000.0);
    assert_eq!(values["container.cpu.time{~other,user}"], 44.0);
    assert_eq!(values["container.memory.usage{~other}"], 4_400.0);
}

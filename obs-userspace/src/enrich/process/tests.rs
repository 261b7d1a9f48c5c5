//! What the ledger makes of events, in order and out of it, and of `/proc`.

use super::*;
use crate::model::process::FileId;

const PID: u32 = 4_000_000_000; // No process has this id, so `/proc` stays silent.

fn ledger() -> Ledger {
    Ledger::new(Procfs::new())
}

fn key(exec_id: u32) -> ProcessKey {
    ProcessKey { pid: PID, started_ns: 1_000, exec_id }
}

fn seen(exec_id: u32, time_ns: u64) -> ProcessEvent {
    ProcessEvent::Seen { key: key(exec_id), time_ns, name: "seen".into() }
}

fn exec(name: &str, time_ns: u64) -> ProcessEvent {
    ProcessEvent::Exec { pid: PID, name: name.into(), time_ns }
}

fn mapped(pid: u32, time_ns: u64, start: u64, path: &str) -> ProcessEvent {
    let region = MappedRegion {
        start,
        end: start + 0x1000,
        file_offset: 0,
        path: path.into(),
        file: Some(FileId { device_major: 1, device_minor: 2, inode: 3 }),
        build_id: None,
    };
    ProcessEvent::Mapped { pid, time_ns, region }
}

fn path_at(ledger: &mut Ledger, key: ProcessKey, address: u64) -> String {
    match ledger.resolve(key, address).map(|mapping| mapping.code.clone()) {
        Ok(Code::File(file)) => file.path.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn exec_starts_anew() {
    let mut ledger = ledger();
    for event in [
        exec("first", 2_000),
        mapped(PID, 2_100, 0x1000, "/bin/first"),
        seen(1, 2_500),
        exec("second", 3_000),
        mapped(PID, 3_100, 0x1000, "/bin/second"),
        seen(2, 3_500),
        ProcessEvent::ThreadExited { pid: PID, is_leader: true, time_ns: 4_000 },
    ] {
        ledger.apply(event);
    }
    assert_eq!(path_at(&mut ledger, key(1), 0x1000), "/bin/first");
    assert_eq!(path_at(&mut ledger, key(2), 0x1000), "/bin/second");
    let info = ledger.info(key(2)).unwrap();
    assert_eq!((&*info.name, info.executable.as_deref()), ("seen", Some("/bin/second")));
    assert_eq!(ledger.counts(), LedgerCounts::default());
    assert_eq!(ledger.take_changed(), HashSet::from([key(1), key(2)]));
    assert!(ledger.take_changed().is_empty());
    ledger.forget_exited(5_000);
    assert!(ledger.is_empty());
}

#[test]
fn events_in_any_order_end_alike() {
    // Six events of one process that execs twice, and is measured as both programs; every order must give the same.
    let events = [
        exec("first", 2_000),
        mapped(PID, 2_100, 0x1000, "/bin/first"),
        seen(1, 2_500),
        exec("second", 3_000),
        mapped(PID, 3_100, 0x8000, "/bin/second"),
        seen(2, 3_500),
    ];
    // Orders in which each event is at most one place from where it belongs: what buffers of several CPUs can do.
    let mut orders = vec![vec![]];
    for _ in 0..events.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                let place = order.len();
                (0..events.len())
                    .filter(move |index| index.abs_diff(place) <= 1)
                    .filter(|index| !order.contains(index))
                    .map(|index| order.iter().copied().chain([index]).collect())
                    .collect::<Vec<Vec<usize>>>()
            })
            .collect();
    }
    assert!(orders.len() > 10);
    for order in orders {
        let mut ledger = ledger();
        let mut told: HashMap<ProcessKey, Arc<MappingTable>> = HashMap::new();
        for index in &order {
            ledger.apply(events[*index].clone());
            // Whoever asks for what changed knows all mappings.
            for key in ledger.take_changed() {
                told.insert(key, Arc::clone(ledger.mappings(key).unwrap()));
            }
            for key in [key(1), key(2)] {
                let [ours, theirs] = [told.get(&key), ledger.mappings(key)].map(|table| table.map(Arc::as_ptr));
                assert_eq!(ours, theirs, "{order:?}");
            }
        }
        assert!(ledger.take_changed().is_empty(), "{order:?}");
        assert_eq!(path_at(&mut ledger, key(1), 0x1000), "/bin/first", "{order:?}");
        assert_eq!(path_at(&mut ledger, key(2), 0x8000), "/bin/second", "{order:?}");
        assert_eq!(path_at(&mut ledger, key(1), 0x8000), "Err(NoMapping)", "{order:?}");
        assert_eq!(path_at(&mut ledger, key(2), 0x1000), "Err(NoMapping)", "{order:?}");
    }
}

#[test]
fn fork_gives_the_child_its_parents_mappings() {
    let mut ledger = ledger();
    let child = PID + 1;
    let child_key = ProcessKey { pid: child, started_ns: 2_900, exec_id: 1 };
    ledger.apply(exec("parent", 2_000));
    ledger.apply(mapped(PID, 2_100, 0x1000, "/bin/parent"));
    ledger.apply(ProcessEvent::Fork { pid: child, parent_pid: PID, time_ns: 3_000 });
    ledger.apply(mapped(PID, 3_100, 0x8000, "/lib/parent-only.so"));
    ledger.apply(mapped(child, 3_100, 0x9000, "/lib/child-only.so"));
    ledger.apply(ProcessEvent::Seen { key: child_key, time_ns: 3_200, name: "child".into() });
    ledger.apply(seen(1, 3_200));
    assert_eq!(path_at(&mut ledger, child_key, 0x1000), "/bin/parent");
    assert_eq!(path_at(&mut ledger, child_key, 0x9000), "/lib/child-only.so");
    assert_eq!(path_at(&mut ledger, child_key, 0x8000), "Err(NoMapping)");
    assert_eq!(path_at(&mut ledger, key(1), 0x9000), "Err(NoMapping)");
    assert_eq!(path_at(&mut ledger, key(1), 0x8000), "/lib/parent-only.so");
}

#[test]
fn a_fork_that_comes_after_its_childs_first_mapping() {
    let mut ledger = ledger();
    let child = PID + 1;
    let child_key = ProcessKey { pid: child, started_ns: 2_900, exec_id: 1 };
    ledger.apply(exec("parent", 2_000));
    ledger.apply(mapped(PID, 2_100, 0x1000, "/bin/parent"));
    ledger.apply(mapped(child, 3_100, 0x9000, "/lib/child-only.so"));
    ledger.apply(ProcessEvent::Fork { pid: child, parent_pid: PID, time_ns: 3_000 });
    ledger.apply(ProcessEvent::Seen { key: child_key, time_ns: 3_200, name: "child".into() });
    assert_eq!(path_at(&mut ledger, child_key, 0x1000), "/bin/parent");
    assert_eq!(path_at(&mut ledger, child_key, 0x9000), "/lib/child-only.so");
}

#[test]
fn a_reused_process_id_is_another_process() {
    let mut ledger = ledger();
    ledger.apply(exec("old", 2_000));
    ledger.apply(mapped(PID, 2_100, 0x1000, "/bin/old"));
    // The old process's exit was lost; a new one started much later.
    let started_ns = 5_000_000_000;
    let new = ProcessKey { pid: PID, started_ns, exec_id: 1 };
    ledger.apply(ProcessEvent::Seen { key: new, time_ns: started_ns + 5, name: "new".into() });
    assert_eq!(path_at(&mut ledger, new, 0x1000), "Err(UnknownProcess)");
    assert_eq!(ledger.counts().processes_missed, 1);
}

#[test]
fn an_image_measured_after_its_end_was_told_keeps_its_mappings() {
    let mut ledger = ledger();
    ledger.apply(exec("short", 2_000));
    ledger.apply(mapped(PID, 2_100, 0x1000, "/bin/short"));
    ledger.apply(ProcessEvent::ThreadExited { pid: PID, is_leader: true, time_ns: 3_000 });
    ledger.apply(seen(1, 2_900));
    assert_eq!(path_at(&mut ledger, key(1), 0x1000), "/bin/short");
}

#[test]
fn names_follow_the_first_thread_only() {
    let mut ledger = ledger();
    ledger.apply(exec("program", 2_000));
    ledger.apply(seen(1, 2_500));
    ledger.apply(ProcessEvent::Rename { pid: PID, tid: PID + 7, name: "worker".into(), time_ns: 3_000 });
    assert_eq!(&*ledger.info(key(1)).unwrap().name, "seen");
    ledger.apply(ProcessEvent::Rename { pid: PID, tid: PID, name: "renamed".into(), time_ns: 3_000 });
    assert_eq!(&*ledger.info(key(1)).unwrap().name, "renamed");
}

#[test]
fn images_are_bounded_and_forgotten() {
    let mut ledger = ledger();
    ledger.images_max = 64;
    for index in 0..1_000 {
        let process = ProcessKey { pid: index, started_ns: u64::from(index) * 1_000_000_000 + 1, exec_id: 1 };
        let time_ns = process.started_ns + 1;
        ledger.apply(ProcessEvent::Exec { pid: PID - index, name: "x".into(), time_ns });
    }
    assert!(ledger.len() <= 64);
    assert_eq!(ledger.counts().images_evicted, 0, "none was ever measured");
    ledger.apply(exec("x", 1_000_000_000_000));
    ledger.apply(ProcessEvent::ThreadExited { pid: PID, is_leader: true, time_ns: 1_000_000_000_001 });
    let before = ledger.len();
    ledger.forget_exited(1_000_000_000_002);
    assert_eq!(ledger.len(), before - 1);
}

#[test]
fn many_programs_of_one_process_are_bounded() {
    let mut ledger = ledger();
    for time_ns in 0..2_000 {
        ledger.apply(exec("x", 2_000 + time_ns * 10));
    }
    assert_eq!(ledger.len(), IMAGES_PER_PID_MAX);
}

#[test]
fn a_live_process_is_read_from_proc() {
    let pid = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let ourselves = ProcessKey { pid, started_ns: ticks * 10_000_000 + 123, exec_id: 1 };
    let mut ledger = ledger();
    ledger.apply(ProcessEvent::Seen { key: ourselves, time_ns: now_ns(), name: "test".into() });
    let here = a_live_process_is_read_from_proc as *const () as u64;
    let executable = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    assert_eq!(path_at(&mut ledger, ourselves, here), executable);
    assert_eq!(ledger.info(ourselves).unwrap().executable.as_deref(), Some(&*executable));
    assert!(ledger.files.held() > 0);
    // A key of the same id that started at another time is another process, of which nothing can be learnt.
    let other = ProcessKey { started_ns: 5, ..ourselves };
    assert_eq!(path_at(&mut ledger, other, here), "Err(UnknownProcess)");
}

#[test]
fn mappings_made_later_are_found_by_reading_again() {
    let pid = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let ourselves = ProcessKey { pid, started_ns: ticks * 10_000_000, exec_id: 1 };
    let mut ledger = ledger();
    // Known from an event that tells of one file only; the rest must come from `/proc`.
    ledger.apply(ProcessEvent::Exec { pid, name: "test".into(), time_ns: ourselves.started_ns });
    ledger.apply(mapped(pid, ourselves.started_ns, 0x1000, "/bin/test"));
    ledger.apply(ProcessEvent::Seen { key: ourselves, time_ns: ourselves.started_ns + 1, name: "test".into() });
    assert_eq!(ledger.counts().maps_read, 0);
    let here = a_live_process_is_read_from_proc as *const () as u64;
    assert!(ledger.resolve(ourselves, here).is_ok());
    assert_eq!(ledger.counts().maps_read, 1);
    assert!(ledger.resolve(ourselves, 0x10).is_err());
    assert!(ledger.resolve(ourselves, 0x10).is_err());
    assert_eq!(ledger.counts().maps_read, 1, "a miss right after reading does not read again");
}

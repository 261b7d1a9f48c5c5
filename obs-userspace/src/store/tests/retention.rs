//! What goes, when, and what stays.

use super::*;

const BLOCK_WINDOWS: u64 = 720;

/// Fills whole blocks with sparse windows.
fn fill(store: &mut Store, blocks: std::ops::Range<u64>) {
    for block in blocks {
        for number in [0, 300, 600, 601, 719] {
            store.append(&numbered(block * BLOCK_WINDOWS + number)).unwrap();
        }
    }
}

#[test]
fn blocks_begin_at_multiples_of_their_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in [700, 719, 720, 1439, 1440] {
        store.append(&numbered(number)).unwrap();
    }
    assert_eq!(file_names(dir.path()), ["0000000001.block", "0000000002.block", "0000000003.journal"]);
    assert_eq!(store.stats().blocks_sealed, 2);
    assert_eq!(store.stats().bytes, files(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
}

#[test]
fn old_blocks_go_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let retention_seconds = 3 * 7200;
    let mut store = Store::open(dir.path(), StoreOptions { retention_seconds, ..options() }).unwrap();
    fill(&mut store, 0..7);
    // Ages count from the beginning of the newest finished block, the sixth: the first one ended more than 6 hours before,
    // the second one just 6 hours.
    assert_eq!(numbers(&store.reader())[0], BLOCK_WINDOWS);
    assert_eq!(store.stats().blocks_expired, 1);
}

#[test]
fn the_oldest_blocks_go_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    fill(&mut store, 0..4);
    let bytes = store.stats().bytes;
    drop(store);
    let options = StoreOptions { retention_bytes: bytes - 1, ..options() };
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.stats().blocks_evicted, 1);
    assert!(store.stats().bytes < bytes);
    assert_eq!(numbers(&store.reader())[0], BLOCK_WINDOWS);
}

#[test]
fn a_clock_that_jumped_ahead_for_a_moment_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    fill(&mut store, 0..3);
    let year = 365 * 24 * 360;
    store.append(&numbered(10 * year)).unwrap();
    fill(&mut store, 3..5);
    assert_eq!(store.stats().blocks_expired, 0);
    let found = numbers(&store.reader());
    assert_eq!(found.len(), 5 * 5 + 1);
    // It goes with the blocks around it.
    fill(&mut store, 100..102);
    assert!(numbers(&store.reader()).iter().all(|number| *number < 10 * year));
}

#[test]
fn a_clock_that_was_back_for_a_moment_costs_that_moment_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    fill(&mut store, 0..3);
    // The machine starts in 1970, and learns the time a window later.
    store.append(&Window { started_unix_ns: SECOND_NS, ..numbered(7) }).unwrap();
    fill(&mut store, 3..5);
    assert_eq!(store.stats().blocks_expired, 1);
    let kept: Vec<u64> =
        (0..5).flat_map(|block| [0, 300, 600, 601, 719].map(|at| block * BLOCK_WINDOWS + at)).collect();
    assert_eq!(numbers(&store.reader()), kept);
}

#[test]
fn a_clock_that_was_back_for_hours_costs_those_hours_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    fill(&mut store, 0..3);
    for number in 0..BLOCK_WINDOWS {
        store.append(&Window { started_unix_ns: number * WINDOW_NS, ..numbered(7) }).unwrap();
    }
    store.rotate().unwrap();
    assert_eq!(store.stats().blocks_expired, 0);
    fill(&mut store, 3..5);
    assert_eq!(store.stats().blocks_expired, 1);
    assert_eq!(numbers(&store.reader()).len(), 5 * 5);
}

#[test]
fn what_was_written_while_the_clock_was_ahead_goes_with_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let retention_seconds = 6 * 7200;
    let mut store = Store::open(dir.path(), StoreOptions { retention_seconds, ..options() }).unwrap();
    fill(&mut store, 0..2);
    // Ahead by less than what is kept, for two blocks: ages count by it as long as it lasts.
    fill(&mut store, 6..8);
    fill(&mut store, 2..5);
    assert_eq!(store.stats().blocks_expired, 0);
    let block = |number: u64| number / BLOCK_WINDOWS;
    let kept = |store: &Store| {
        let mut blocks: Vec<u64> = numbers(&store.reader()).into_iter().map(block).collect();
        blocks.dedup();
        blocks
    };
    assert_eq!(kept(&store), [0, 1, 2, 3, 4, 6, 7]);
    // As soon as now is beyond it, its own time counts again.
    fill(&mut store, 9..16);
    assert_eq!(kept(&store), [7, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_clock_that_was_set_back_begins_another_block_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in [400, 401, 402, 42, 43] {
        store.append(&numbered(number)).unwrap();
    }
    assert_eq!(file_names(dir.path()).len(), 2);
    let merged = store.reader().profile(&query(Range::ALL)).unwrap();
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 401 + 402 + 403 + 43 + 44);
    let before = Range { from_unix_ns: 0, to_unix_ns: START_NS + 100 * WINDOW_NS };
    let merged = store.reader().profile(&query(before)).unwrap();
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 43 + 44);
}

#[test]
fn an_hour_that_comes_twice_is_kept_twice_and_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let retention_seconds = 2 * 7200;
    let mut store = Store::open(dir.path(), StoreOptions { retention_seconds, ..options() }).unwrap();
    // An hour and a half, then the clock is set back by an hour and goes on for two.
    let clock: Vec<u64> = (0..540).chain(180..900).collect();
    for (reading, number) in clock.iter().enumerate() {
        let counters = vec![Counter { name: "c", labels: Vec::new(), value: reading as f64 }];
        store.append(&Window { counters, ..numbered(*number) }).unwrap();
    }
    let names = ["0000000001.block", "0000000002.block", "0000000003.journal"];
    assert_eq!(file_names(dir.path()), names);
    assert_eq!((store.stats().windows, store.stats().windows_failed, store.stats().blocks_expired), (1260, 0, 0));

    let at = |number: u64| START_NS + number * WINDOW_NS;
    let samples_of = |range| {
        let merged = store.reader().profile(&query(range)).unwrap();
        (merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), merged.covered_ns / WINDOW_NS)
    };
    let sum = |numbers: std::ops::Range<u64>| numbers.map(|number| number + 1).sum::<u64>();
    // Both passes are in what is asked of the hour: so much was measured while the clock showed it.
    assert_eq!(samples_of(Range { from_unix_ns: at(180), to_unix_ns: at(540) }), (2 * sum(180..540), 720));
    assert_eq!(samples_of(Range { from_unix_ns: at(190), to_unix_ns: at(200) }), (2 * sum(190..200), 20));
    assert_eq!(samples_of(Range::ALL), (sum(0..540) + sum(180..900), 1260));

    for step_ns in [0, 60 * SECOND_NS, 600 * SECOND_NS] {
        let (name, matchers, limits) = ("c".to_owned(), Vec::new(), Limits::default());
        let found = store.reader().series(&SeriesQuery { name, matchers, range: Range::ALL, step_ns, limits }).unwrap();
        let points = &found.series[0].points;
        assert!(points.is_sorted_by(|left, right| left.started_unix_ns < right.started_unix_ns), "step {step_ns}");
        assert_eq!(points.iter().map(|point| point.windows).sum::<u64>(), 1260, "step {step_ns}");
        let grown: f64 = points
            .iter()
            .map(|point| match point.value {
                SeriesValue::Counter { increase, .. } => increase,
                _ => panic!("a counter"),
            })
            .sum();
        // The counter knows nothing of the clock: it did not begin again.
        assert!((grown - 1259.0).abs() < 1e-9, "step {step_ns}: {grown}");
    }

    // Retention goes by the order of writing: what was written first goes first, and not before its time.
    fill(&mut store, 2..3);
    assert_eq!(store.stats().blocks_expired, 0);
    fill(&mut store, 3..6);
    assert_eq!(store.stats().blocks_expired, 3);
    assert_eq!(numbers(&store.reader())[0], 2 * BLOCK_WINDOWS);
    drop(store);
    assert!(check(dir.path()).unwrap().is_clean());
}

#[test]
fn old_windows_go_and_their_roll_up_stays() {
    let dir = tempfile::tempdir().unwrap();
    let windows_seconds = 7200;
    let mut store = Store::open(dir.path(), StoreOptions { windows_seconds, ..options() }).unwrap();
    fill(&mut store, 0..6);
    assert_eq!(store.stats().blocks_thinned, 2);
    drop(store);
    let report = check(dir.path()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let coarse: Vec<bool> = report.files.iter().map(|file| file.contents.is_coarse).collect();
    assert_eq!(coarse, [true, true, false, false, false, false]);

    let reader = Reader::open(dir.path()).unwrap();
    let first = Range { from_unix_ns: START_NS, to_unix_ns: START_NS + BLOCK_WINDOWS * WINDOW_NS };
    let merged = reader.profile(&query(first)).unwrap();
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 1 + 301 + 601 + 602 + 720);
    assert!(merged.notes.is_complete());
    let range = |to| Range { to_unix_ns: START_NS + to * WINDOW_NS, ..first };
    assert!(!reader.profile(&query(range(610))).unwrap().notes.is_rounded, "no window is cut off by it");
    assert!(!reader.profile(&query(range(600))).unwrap().notes.is_rounded, "it cuts between two buckets");
    // Windows 600 and 601 are of one bucket: a range that ends between them gets both, and says so.
    let merged = reader.profile(&query(range(601))).unwrap();
    assert!(merged.notes.is_rounded);
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 1 + 301 + 601 + 602);
}

#[test]
fn a_full_table_begins_another_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..3 {
        let mut window = numbered(number);
        let value = |index: u64| format!("{number}-{index}-{}", "x".repeat(80));
        let gauge = |index| Gauge { name: "g", labels: vec![("v", value(index).into())], value: 0.0 };
        window.gauges.extend((0..26_000).map(gauge));
        store.append(&window).unwrap();
    }
    assert_eq!(file_names(dir.path()), ["0000000001.block", "0000000002.block", "0000000003.journal"]);
    assert_eq!(numbers(&store.reader()), [0, 1, 2]);
}

#[test]
fn a_window_that_no_block_can_hold_is_refused_and_the_next_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&numbered(0)).unwrap();
    let mut window = numbered(1);
    let gauge = |index: u32| Gauge { name: "g", labels: vec![("v", index.to_string().into())], value: 0.0 };
    window.gauges.extend((0..70_000).map(gauge));
    let error = store.append(&window).unwrap_err().to_string();
    assert!(error.contains("more series than the 65536"), "{error}");
    let mut wrong = numbered(1);
    wrong.profiles[0].samples[0].process = 9;
    let error = store.append(&wrong).unwrap_err().to_string();
    assert!(error.contains("profile cpu contradicts itself: a sample's process is not there"), "{error}");
    store.append(&numbered(2)).unwrap();
    assert_eq!(numbers(&store.reader()), [0, 2]);
    assert_eq!((store.stats().windows, store.stats().windows_failed), (2, 2));
    drop(store);
    assert!(check(dir.path()).unwrap().is_clean());
}

//! Whatever byte the end comes at: nothing that was appended before is lost, and nothing panics.

use super::*;

/// A folder with a journal of so many windows; its path.
fn journal_of(dir: &Path, windows: u64) -> PathBuf {
    let mut store = Store::open(dir, options()).unwrap();
    for number in 0..windows {
        store.append(&numbered(number)).unwrap();
    }
    store.flush().unwrap();
    files(dir).pop().unwrap()
}

/// Where each window of a journal ends.
fn ends(dir: &Path, windows: u64) -> Vec<usize> {
    let mut store = Store::open(dir, options()).unwrap();
    let mut end = 48;
    (0..windows)
        .map(|number| {
            end += store.append(&numbered(number)).unwrap().bytes as usize;
            end
        })
        .collect()
}

#[test]
fn a_journal_cut_at_any_byte_keeps_every_whole_window() {
    const WINDOWS: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(journal_of(dir.path(), WINDOWS)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let ends = ends(scratch.path(), WINDOWS);
    assert_eq!(*ends.last().unwrap(), whole.len());

    for length in 48..=whole.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = journal_of(dir.path(), 1);
        fs::write(&path, &whole[..length]).unwrap();
        let kept = ends.iter().filter(|end| **end <= length).count() as u64;
        let expected: Vec<u64> = (0..kept).collect();
        assert_eq!(numbers(&Reader::open(dir.path()).unwrap()), expected, "read-only, {length} bytes");

        let mut store = Store::open(dir.path(), options()).unwrap();
        let last_end = ends.iter().filter(|end| **end <= length).max().copied().unwrap_or(48);
        assert_eq!(store.recovery().torn_bytes, (length - last_end) as u64);
        assert_eq!(numbers(&store.reader()), expected, "after recovery, {length} bytes");
        store.append(&numbered(100)).unwrap();
        assert_eq!(numbers(&store.reader()).last(), Some(&100));
        drop(store);
        assert!(check(dir.path()).unwrap().is_clean());
        let after = numbers(&Reader::open(dir.path()).unwrap());
        assert_eq!(after.len() as u64, kept + 1);
    }
}

#[test]
fn a_flipped_bit_costs_no_window_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(journal_of(dir.path(), 4)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let ends = ends(scratch.path(), 4);
    for at in 48..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let dir = tempfile::tempdir().unwrap();
        let path = journal_of(dir.path(), 1);
        fs::write(&path, &bytes).unwrap();
        let kept: Vec<u64> = (0..4).filter(|number| ends[*number as usize] <= at).collect();
        assert!(numbers(&Reader::open(dir.path()).unwrap()).starts_with(&kept), "byte {at}");
        let mut store = Store::open(dir.path(), options()).unwrap();
        assert!(numbers(&store.reader()).starts_with(&kept), "byte {at}");
        store.append(&numbered(100)).unwrap();
        // Compressing takes most of the time.
        if at % 7 == 0 {
            store.rotate().unwrap();
        }
        assert_eq!(numbers(&store.reader()).last(), Some(&100), "byte {at}");
    }
}

#[test]
fn a_journal_that_is_damaged_before_its_end_stays_and_every_answer_of_that_time_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let ends = ends(scratch.path(), 4);
    // In the contents of the second window; and in its length, so that the frame seems to reach beyond the file's end.
    for at in [ends[0] + 40, ends[0] + 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = journal_of(dir.path(), 4);
        let mut damaged = fs::read(&path).unwrap();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert!(!check(dir.path()).unwrap().is_clean());
        let is_complete = |reader: &Reader, windows: std::ops::Range<u64>| {
            let [from_unix_ns, to_unix_ns] = [windows.start, windows.end].map(|number| START_NS + number * WINDOW_NS);
            reader.profile(&query(Range { from_unix_ns, to_unix_ns })).unwrap().notes.is_complete()
        };

        let mut store = Store::open(dir.path(), options()).unwrap();
        let recovery = store.recovery();
        assert_eq!((recovery.unreadable.len(), recovery.torn_files, recovery.sealed), (1, 0, 0), "{recovery:?}");
        store.append(&numbered(100)).unwrap();
        store.rotate().unwrap();
        assert_eq!(store.stats().seals_failed, 0, "it is not tried again");
        for reader in [store.reader(), Reader::open(dir.path()).unwrap()] {
            assert_eq!(numbers(&reader), [0, 100]);
            for _ in 0..2 {
                assert!(is_complete(&reader, 0..1) && is_complete(&reader, 50..200));
                assert!(!is_complete(&reader, 0..4) && !is_complete(&reader, 2..3));
            }
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "it is left as it is");
    }
}

#[test]
fn a_journal_that_is_damaged_while_it_is_written_is_no_block_without_its_rest() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let at = ends(scratch.path(), 4)[0] + 40;
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..4 {
        store.append(&numbered(number)).unwrap();
    }
    let path = files(dir.path()).pop().unwrap();
    let mut damaged = fs::read(&path).unwrap();
    damaged[at] ^= 0x10;
    fs::write(&path, &damaged).unwrap();
    store.rotate().unwrap();
    assert_eq!((store.stats().seals_failed, store.stats().blocks_sealed), (1, 0));
    assert_eq!(file_names(dir.path()), ["0000000001.journal"]);
    assert!(!store.reader().profile(&query(Range::ALL)).unwrap().notes.is_complete());
}

#[test]
fn every_flipped_byte_of_a_block_is_found_and_none_panics() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..70 {
        let mut window = numbered(number);
        window.events = vec![Event { name: "exec", time_ns: 5, process: None, labels: vec![label("a", "b")] }];
        window.counters = vec![Counter { name: "c", labels: Vec::new(), value: (number * number) as f64 }];
        store.append(&window).unwrap();
    }
    store.rotate().unwrap();
    drop(store);
    assert!(check(dir.path()).unwrap().is_clean());
    let path = files(dir.path()).pop().unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(check_block_bytes(&bytes).is_err(), "byte {at}");
        assert!(check_block_bytes(&good[..at]).is_err(), "cut at {at}");
        if at % 7 == 0 {
            fs::write(&path, &bytes).unwrap();
            let reader = Reader::open(dir.path()).unwrap();
            let merged = reader.profile(&query(Range::ALL)).unwrap();
            let events = reader
                .events(&EventQuery {
                    range: Range::ALL,
                    names: Vec::new(),
                    matchers: Vec::new(),
                    limits: Limits::default(),
                })
                .unwrap();
            let _ = (merged, events, numbers(&reader), reader.catalog(Range::ALL, &Limits::default()).unwrap());
            assert!(!check(dir.path()).unwrap().is_clean());
        }
    }
}

#[test]
fn a_journal_cut_within_its_header_is_named_and_another_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let path = journal_of(dir.path(), 2);
    let whole = fs::read(&path).unwrap();
    for length in 0..48 {
        let dir = tempfile::tempdir().unwrap();
        let path = journal_of(dir.path(), 1);
        fs::write(&path, &whole[..length]).unwrap();
        assert!(numbers(&Reader::open(dir.path()).unwrap()).is_empty(), "{length} bytes");
        let mut store = Store::open(dir.path(), options()).unwrap();
        assert_eq!(store.recovery().unreadable.len(), 1, "{length} bytes");
        store.append(&numbered(100)).unwrap();
        assert_eq!(numbers(&store.reader()), [100], "{length} bytes");
        store.rotate().unwrap();
        assert_eq!(numbers(&store.reader()), [100], "{length} bytes");
        assert_eq!(fs::read(&path).unwrap(), whole[..length], "it is left as it is");
    }
}

#[test]
fn a_block_cut_at_any_byte_is_named_and_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..2 {
        store.append(&numbered(number)).unwrap();
        store.rotate().unwrap();
    }
    drop(store);
    let path = files(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let mut store = Store::open(dir.path(), options()).unwrap();
        assert_eq!(store.recovery().unreadable.len(), 1, "{length} bytes");
        let merged = store.reader().profile(&query(Range::ALL)).unwrap();
        assert_eq!(merged.notes.damaged.len(), 1, "{length} bytes");
        assert_eq!(numbers(&store.reader()), [0], "{length} bytes");
        store.append(&numbered(3)).unwrap();
        assert_eq!(numbers(&store.reader()), [0, 3], "{length} bytes");
        drop(store);
        assert_eq!(fs::read(&path).unwrap(), whole[..length], "it is left as it is");
        fs::remove_file(files(dir.path()).pop().unwrap()).unwrap();
    }
}

/// A window that adds a string and a gauge to the tables, with these processes and points.
fn raw_window(processes: &[u8], points: &[u8]) -> Vec<u8> {
    // 1 string "n"; no modules, frames, nodes, processes, kinds, keys; 1 series: a gauge, name 0, no labels.
    let added = [1, 1, b'n', 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0];
    let mut raw = vec![1, 1];
    for part in [&added[..], &[0], processes, points, &[0]] {
        raw.push(part.len() as u8);
        raw.extend_from_slice(part);
    }
    raw
}

#[test]
fn a_window_that_contradicts_itself_behind_a_right_checksum_costs_itself_only() {
    let good = raw_window(&[0], &[1, 0, 2]);
    // Found by the fuzzer: it was counted by half, and its block contradicted itself. And a series with two values, which a
    // block has no place for.
    for bad in [raw_window(&[1, 5], &[1, 0, 2]), raw_window(&[0], &[2, 0, 2, 0, 2])] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blocks")).unwrap();
        let path = dir.path().join("blocks/0000000001.journal");
        fs::write(&path, fuzz::journal([&good[..], &bad[..]])).unwrap();
        assert!(!check(dir.path()).unwrap().is_clean());
        let mut store = Store::open(dir.path(), options()).unwrap();
        assert_eq!(store.recovery().torn_files, 1);
        store.append(&numbered(0)).unwrap();
        store.rotate().unwrap();
        drop(store);
        let report = check(dir.path()).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.files.iter().map(|file| file.contents.windows).sum::<u64>(), 2);
    }
}

#[test]
fn a_damaged_block_is_named_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..3 {
        store.append(&numbered(number)).unwrap();
        store.rotate().unwrap();
    }
    let path = files(dir.path()).remove(1);
    let mut bytes = fs::read(&path).unwrap();
    // In the strings, which every query needs.
    bytes[70] ^= 0xff;
    fs::write(&path, &bytes).unwrap();
    let merged = store.reader().profile(&query(Range::ALL)).unwrap();
    assert_eq!(merged.notes.damaged.len(), 1);
    assert_eq!(merged.notes.damaged[0].0, "0000000002.block");
    assert!(merged.notes.damaged[0].1.contains("damaged at byte"), "{:?}", merged.notes.damaged);
    assert!(!merged.notes.is_complete());
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 1 + 3);
}

#[test]
fn what_a_crash_left_is_cleaned_up_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&numbered(0)).unwrap();
    store.flush().unwrap();
    let journal = files(dir.path()).pop().unwrap();
    let saved = fs::read(&journal).unwrap();
    store.rotate().unwrap();
    drop(store);
    // Killed between the block's renaming and the journal's removal, and while another file was written.
    fs::write(&journal, &saved).unwrap();
    fs::write(dir.path().join("blocks/0000000009.block.tmp"), b"half").unwrap();
    fs::write(dir.path().join("blocks/notes.txt"), b"somebody's").unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.is_clean());
    assert_eq!((report.superseded.len(), report.temporary.len(), report.foreign.len()), (1, 1, 1));
    assert_eq!(numbers(&Reader::open(dir.path()).unwrap()), [0], "not twice");

    let store = Store::open(dir.path(), options()).unwrap();
    let recovery = store.recovery();
    assert_eq!((recovery.temporary_removed, recovery.superseded_removed), (1, 1));
    assert_eq!(file_names(dir.path()), ["0000000001.block", "notes.txt"]);
}

#[test]
fn a_block_that_was_damaged_before_its_journal_went_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&numbered(0)).unwrap();
    let journal = files(dir.path()).pop().unwrap();
    let saved = fs::read(&journal).unwrap();
    store.rotate().unwrap();
    drop(store);
    fs::write(&journal, &saved).unwrap();
    fs::write(dir.path().join("blocks/0000000001.block"), &saved[..60]).unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(numbers(&store.reader()), [0]);
    assert!(check(dir.path()).unwrap().is_clean());
}

#[test]
fn a_run_goes_on_with_the_journal_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..5 {
        let mut store = Store::open(dir.path(), options()).unwrap();
        store.append(&numbered(number)).unwrap();
    }
    assert_eq!(file_names(dir.path()), ["0000000001.journal"]);
    assert_eq!(numbers(&Reader::open(dir.path()).unwrap()), [0, 1, 2, 3, 4]);
}

#[test]
fn another_start_of_the_machine_begins_another_block() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path(), options()).unwrap().append(&numbered(0)).unwrap();
    let other = StoreOptions { boot_id: [2; 16], ..options() };
    let mut store = Store::open(dir.path(), other).unwrap();
    assert_eq!(store.recovery().sealed, 1);
    store.append(&numbered(1)).unwrap();
    assert_eq!(file_names(dir.path()), ["0000000001.block", "0000000002.journal"]);
    // The same process key in both is two processes.
    let merged = store.reader().profile(&query(Range::ALL)).unwrap();
    assert_eq!(merged.profile.processes.len(), 2);
    let query = ProcessQuery {
        range: Range::ALL,
        matchers: Vec::new(),
        collector: Some("cpu".to_owned()),
        limits: Limits::default(),
    };
    let processes = store.reader().processes(&query).unwrap().processes;
    let values: Vec<_> = processes.iter().map(|process| (process.boot_id[0], process.values[0])).collect();
    assert_eq!(values, [(2, 2), (1, 1)]);
}

#[test]
fn a_second_writer_is_refused_with_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let Err(error) = Store::open(dir.path(), options()) else { panic!("it was opened twice") };
    let text = error.to_string();
    assert!(text.contains(&format!("process {} uses it", std::process::id())), "{text}");
    drop(store);
    Store::open(dir.path(), options()).unwrap();
}

#[test]
fn a_file_of_a_newer_version_is_left_untouched_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = journal_of(dir.path(), 2);
    let mut newer = fs::read(&path).unwrap();
    newer[8] = 2;
    fs::write(&path, &newer).unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    assert!(store.recovery().unreadable[0].1.contains("format version 2"), "{:?}", store.recovery());
    store.append(&numbered(5)).unwrap();
    store.rotate().unwrap();
    assert_eq!(file_names(dir.path()), ["0000000001.journal", "0000000002.block"]);
    assert_eq!(fs::read(&path).unwrap(), newer);
    assert_eq!(numbers(&store.reader()), [5]);
    let report = check(dir.path()).unwrap();
    assert!(!report.is_clean());
    assert!(matches!(report.files[0].state, FileState::Newer { .. }));
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let Err(error) = Store::open(&file, options()) else { panic!("it was opened") };
    assert!(error.to_string().contains("cannot create the folder"), "{error}");
}

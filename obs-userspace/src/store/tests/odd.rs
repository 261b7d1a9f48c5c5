//! Odd things in the state folder: none keeps the store from starting, or from its other files.

use std::{os::unix::fs::symlink, process::Command};

use super::*;

#[test]
fn what_has_a_name_of_ours_and_is_no_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&numbered(0)).unwrap();
    store.rotate().unwrap();
    drop(store);
    let odd = |name: &str| dir.path().join("blocks").join(name);
    assert!(Command::new("mkfifo").arg(odd("0000000002.block")).status().unwrap().success());
    fs::create_dir(odd("0000000003.block.tmp")).unwrap();
    fs::create_dir(odd("0000000004.journal")).unwrap();
    symlink(odd("0000000001.block"), odd("0000000005.block")).unwrap();

    let mut store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.recovery().unreadable.len(), 4, "{:?}", store.recovery());
    store.append(&numbered(1)).unwrap();
    store.rotate().unwrap();
    let merged = store.reader().profile(&query(Range::ALL)).unwrap();
    assert!(merged.notes.is_complete());
    assert_eq!(numbers(&store.reader()), [0, 1]);
    drop(store);
    assert_eq!(
        file_names(dir.path()),
        [
            "0000000001.block",
            "0000000002.block",
            "0000000003.block.tmp",
            "0000000004.journal",
            "0000000005.block",
            "0000000006.block"
        ]
    );
    let report = check(dir.path()).unwrap();
    assert!(report.is_clean());
    assert_eq!((report.files.len(), report.foreign.len()), (2, 4));
}

#[test]
fn nothing_is_counted_on_from_a_sequence_that_nobody_gets_to() {
    for sequence in [u64::MAX, u64::MAX / 2, u64::MAX / 4 + 1] {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), options()).unwrap());
        fs::write(dir.path().join("blocks").join(format!("{sequence}.block")), b"").unwrap();
        for number in 0..2 {
            let mut store = Store::open(dir.path(), options()).unwrap();
            store.append(&numbered(number)).unwrap();
            assert_eq!(file_names(dir.path())[0], "0000000001.journal", "{sequence}");
        }
        assert_eq!(numbers(&Store::open(dir.path(), options()).unwrap().reader()), [0, 1], "{sequence}");
    }
}

//! No room on the disk, and no right to write: what is lost, and what goes on.

use std::{fs::File, os::fd::AsRawFd as _, process::Command};

use super::*;

/// A small file system in memory, as root. It is nowhere in the tree of folders and goes with this value, however the test ends.
struct Disk {
    _root: File,
    path: PathBuf,
}

impl Disk {
    /// `None`, and a line that says why, where it cannot be made.
    fn new(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                eprintln!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                return None;
            }
            Err(error) => {
                eprintln!("skipped: cannot start mount: {error}");
                return None;
            }
        }
        let root = File::open(folder.path());
        // Gone from the tree at once; it stays while it is open.
        assert!(Command::new("umount").arg("-l").arg(folder.path()).status().unwrap().success());
        let root = root.unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        Some(Self { _root: root, path })
    }

    /// Leaves room for so many bytes. Returns the path of what takes the rest.
    fn fill_up_to(&self, left: usize) -> PathBuf {
        let path = self.path.join("other");
        let mut length = 0;
        while fs::write(&path, vec![1; length + 4096]).is_ok() {
            length += 4096;
        }
        fs::write(&path, vec![1; length.saturating_sub(left)]).unwrap();
        path
    }
}

/// A file that can be read, but not written or removed, as long as this value is there.
struct Pinned {
    path: PathBuf,
}

impl Pinned {
    /// `None`, and a line that says why, where it cannot be done.
    fn new(path: PathBuf) -> Option<Self> {
        let mount = |options: &str| Command::new("mount").args(["-o", options]).args([&path, &path]).output();
        match mount("bind").and_then(|_| mount("remount,bind,ro")) {
            Ok(output) if output.status.success() => Some(Self { path }),
            Ok(output) => {
                eprintln!("skipped: cannot mount a file: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: cannot start mount: {error}");
                None
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A window that does not compress: of so many kilobytes about.
fn bulky(number: u64, kilobytes: u64) -> Window {
    let mut state = number + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ state >> 29)
    };
    let labels = |text: String| vec![("l", Arc::from(text))];
    let mut window = numbered(number);
    let gauge = |_| Gauge { name: "bulk", labels: labels((0..32).map(|_| next()).collect()), value: 0.5 };
    window.gauges.extend((0..4 * kilobytes).map(gauge));
    window
}

fn is_out_of_room(error: &StoreError) -> bool {
    let text = error.to_string();
    text.contains("No space left on device") && text.contains("make room on that file system")
}

#[test]
fn a_full_disk_costs_the_windows_that_did_not_fit_and_no_others() {
    let Some(disk) = Disk::new("size=1m") else { return };
    let mut store = Store::open(&disk.path, options()).unwrap();
    for number in 0..3 {
        store.append(&bulky(number, 16)).unwrap();
    }
    let other = disk.fill_up_to(8192);
    for number in 3..6 {
        let error = store.append(&bulky(number, 16)).unwrap_err();
        assert!(is_out_of_room(&error), "{error}");
        // Not even a part of it stays: readers and checks see whole windows only.
        let report = check(&disk.path).unwrap();
        assert_eq!(report.files[0].state, FileState::Whole);
        assert_eq!(numbers(&store.reader()), [0, 1, 2]);
    }
    fs::remove_file(other).unwrap();
    for number in 6..9 {
        store.append(&bulky(number, 16)).unwrap();
    }
    assert_eq!((store.stats().windows, store.stats().windows_failed), (6, 3));
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 6, 7, 8]);
    store.rotate().unwrap();
    drop(store);
    assert!(check(&disk.path).unwrap().is_clean());
    let merged = Reader::open(&disk.path).unwrap().profile(&query(Range::ALL)).unwrap();
    assert_eq!(merged.profile.samples.iter().map(|sample| sample.values[0]).sum::<u64>(), 1 + 2 + 3 + 7 + 8 + 9);
}

#[test]
fn a_block_that_finds_no_room_is_made_once_there_is_room() {
    let Some(disk) = Disk::new("size=1m") else { return };
    let mut store = Store::open(&disk.path, options()).unwrap();
    for number in 0..3 {
        store.append(&bulky(number, 64)).unwrap();
    }
    let other = disk.fill_up_to(16384);
    // The next block's first window: its journal would have room, the finished block has not.
    store.append(&numbered(720)).unwrap();
    assert_eq!((store.stats().seals_failed, store.stats().blocks_sealed), (1, 0));
    assert_eq!(file_names(&disk.path), ["0000000001.journal", "0000000002.journal"], "and nothing half-written");
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 720]);
    fs::remove_file(other).unwrap();
    store.append(&numbered(1440)).unwrap();
    assert_eq!((store.stats().seals_failed, store.stats().blocks_sealed), (1, 2));
    assert_eq!(file_names(&disk.path), ["0000000001.block", "0000000002.block", "0000000003.journal"]);
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 720, 1440]);
    drop(store);
    assert!(check(&disk.path).unwrap().is_clean());
}

#[test]
fn a_disk_without_any_room_at_the_turn_of_a_block_loses_nothing_older() {
    let Some(disk) = Disk::new("size=512k") else { return };
    let mut store = Store::open(&disk.path, options()).unwrap();
    store.append(&bulky(0, 16)).unwrap();
    let other = disk.fill_up_to(0);
    for number in 720..723 {
        // Not even the new journal can be made.
        assert!(is_out_of_room(&store.append(&numbered(number)).unwrap_err()));
        assert_eq!(file_names(&disk.path), ["0000000001.journal"], "and nothing half-written");
    }
    drop(store);
    // A start on a full disk reads what there is.
    let mut store = Store::open(&disk.path, options()).unwrap();
    assert_eq!(numbers(&store.reader()), [0]);
    assert!(is_out_of_room(&store.append(&numbered(723)).unwrap_err()));
    let Err(error) = Store::open(&disk.path, options()) else { panic!("it was opened twice") };
    assert!(error.to_string().contains(&format!("process {} uses it", std::process::id())), "{error}");
    fs::remove_file(other).unwrap();
    store.append(&numbered(724)).unwrap();
    assert_eq!(numbers(&store.reader()), [0, 724]);
    drop(store);
    assert!(check(&disk.path).unwrap().is_clean());
}

#[test]
fn a_first_start_without_room_holds_its_lock() {
    let Some(disk) = Disk::new("size=64k") else { return };
    let folder = Store::open(&disk.path, options()).map(drop);
    folder.unwrap();
    fs::remove_file(disk.path.join("lock")).unwrap();
    disk.fill_up_to(0);
    let _store = Store::open(&disk.path, options()).unwrap();
    let Err(error) = Store::open(&disk.path, options()) else { panic!("it was opened twice") };
    assert!(error.to_string().contains("process (unknown) uses it"), "{error}");
}

#[test]
fn a_folder_that_is_read_only_is_refused_with_what_to_do() {
    let Some(disk) = Disk::new("size=64k,ro") else { return };
    let Err(error) = Store::open(&disk.path, options()) else { panic!("it was opened") };
    let text = error.to_string();
    assert!(text.contains("cannot create the folder") && text.contains("Read-only file system"), "{text}");
    assert!(text.contains("choose a state folder on a file system that can be written"), "{text}");
}

#[test]
fn a_journal_that_cannot_be_gone_on_with_is_named_and_another_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..3 {
        store.append(&numbered(number)).unwrap();
    }
    drop(store);
    let Some(pinned) = Pinned::new(files(dir.path()).pop().unwrap()) else { return };
    let mut store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.recovery().unreadable.len(), 1, "{:?}", store.recovery());
    store.append(&numbered(3)).unwrap();
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 3]);
    store.rotate().unwrap();
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 3]);
    drop((store, pinned));
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.recovery().superseded_removed, 1);
    assert_eq!(numbers(&store.reader()), [0, 1, 2, 3]);
}

#[test]
fn a_block_that_cannot_be_removed_keeps_no_other_from_going_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = |retention_bytes| Store::open(dir.path(), StoreOptions { retention_bytes, ..options() }).unwrap();
    let mut store = open(u64::MAX);
    for number in 0..5 {
        store.append(&bulky(number, 16)).unwrap();
        store.rotate().unwrap();
    }
    let bytes = store.stats().bytes;
    drop(store);
    let Some(pinned) = Pinned::new(files(dir.path())[0].clone()) else { return };
    let mut store = open(bytes / 2);
    assert_eq!((store.stats().blocks_evicted, store.stats().removals_failed), (3, 1));
    assert_eq!(numbers(&store.reader()), [0, 4]);
    assert_eq!(store.stats().bytes, files(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
    drop(pinned);
    store.append(&bulky(5, 16)).unwrap();
    store.rotate().unwrap();
    assert_eq!(store.stats().blocks_evicted, 4);
    assert_eq!(numbers(&store.reader()), [4, 5]);
}

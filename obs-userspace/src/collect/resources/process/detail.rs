//! What costs a file per process, or per thread: read of the processes that are listed only.

use std::{
    fmt::Write as _,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::stat::{parse_io, parse_switches};

/// Most threads of a process whose context switches are counted: each costs a file.
pub(super) const THREADS_PER_PROCESS_MAX: u64 = 128;

/// Most threads that are read in one reading, of all processes.
pub(super) const THREADS_MAX: u64 = 2_000;

/// Most entries of a process's `fd` that are counted, on kernels where they must be counted.
const FILES_MAX: u64 = 65_536;

/// Bytes of the largest file that is read here: `status`, with a long list of CPUs.
const TEXT_BYTES: usize = 16 << 10;

/// Files below a mounted `/proc`, by their path relative to it: two system calls less than by their whole path.
#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
    path: String,
    text: Vec<u8>,
}

impl Folder {
    pub(super) fn open(root: &std::path::Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        Ok(Self { root, path: String::new(), text: vec![0; TEXT_BYTES] })
    }

    fn set_path(&mut self, path: std::fmt::Arguments<'_>) {
        self.path.clear();
        // Writing to a string does not fail.
        let _ = self.path.write_fmt(path);
    }

    /// Reads a file that the kernel hands out in one piece.
    pub(super) fn read(&mut self, path: std::fmt::Arguments<'_>) -> io::Result<&[u8]> {
        self.set_path(path);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.root, self.path.as_str(), flags, Mode::empty())?;
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *self.text))?;
        Ok(self.text.get(..length).unwrap_or_default())
    }

    /// The numbers that are names in a folder, at most `count_max` of them; and whether there are more.
    pub(super) fn numbers(&mut self, path: std::fmt::Arguments<'_>, count_max: usize) -> io::Result<(Vec<u32>, bool)> {
        self.set_path(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.root, self.path.as_str(), flags, Mode::empty())?;
        numbers_in(&folder, count_max)
    }

    /// How many files a process has open.
    pub(super) fn open_files(&mut self, pid: u32) -> io::Result<u64> {
        self.set_path(format_args!("{pid}/fd"));
        let stat = rustix::fs::statat(&self.root, self.path.as_str(), AtFlags::empty())?;
        // Since Linux 6.2 the folder's size says it; before, it is 0.
        match u64::try_from(stat.st_size) {
            Ok(count) if count > 0 => Ok(count),
            _ => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let folder = rustix::fs::openat(&self.root, self.path.as_str(), flags, Mode::empty())?;
                let (numbers, has_more) = numbers_in(&folder, usize::try_from(FILES_MAX).unwrap_or(usize::MAX))?;
                if has_more {
                    return Err(io::Error::other(format!("more than {FILES_MAX} open files")));
                }
                Ok(numbers.len() as u64)
            }
        }
    }

    /// The bytes that a process made the disks read and write.
    pub(super) fn disk_bytes(&mut self, pid: u32) -> io::Result<[u64; 2]> {
        parse_io(self.read(format_args!("{pid}/io"))?).ok_or_else(unknown_form)
    }

    /// The context switches of one thread.
    pub(super) fn switches(&mut self, pid: u32, tid: u32) -> io::Result<[u64; 2]> {
        parse_switches(self.read(format_args!("{pid}/task/{tid}/status"))?).ok_or_else(unknown_form)
    }
}

fn unknown_form() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not have the form that obs knows")
}

/// The numbers that are names in a folder, at most `count_max` of them; and whether there are more.
pub(super) fn numbers_in(folder: impl AsFd, count_max: usize) -> io::Result<(Vec<u32>, bool)> {
    let mut numbers = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        if numbers.len() >= count_max {
            return Ok((numbers, true));
        }
        numbers.push(number);
    }
    Ok((numbers, false))
}

/// Context switches of a process's threads, so that what a thread did counts also when it has ended since.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// Thread id, voluntary and involuntary ones as last read; sorted.
    threads: Vec<(u32, [u64; 2])>,
    pub(super) sums: [u64; 2],
}

impl Switches {
    /// Takes the threads as they are now, sorted. What a thread had done before it was read for the first time counts if
    /// `counts_new`.
    pub(super) fn read(&mut self, now: Vec<(u32, [u64; 2])>, counts_new: bool) {
        for (tid, values) in &now {
            let before = self.threads.binary_search_by_key(tid, |(tid, _)| *tid).ok();
            let before = before.and_then(|at| self.threads.get(at)).map(|(_, values)| *values);
            let before = before.unwrap_or(if counts_new { [0; 2] } else { *values });
            for ((sum, value), before) in self.sums.iter_mut().zip(values).zip(before) {
                // A thread id that was given away again begins anew.
                *sum += if *value < before { *value } else { value - before };
            }
        }
        self.threads = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process() {
        let mut folder = Folder::open(std::path::Path::new("/proc")).unwrap();
        let pid = std::process::id();
        let before = folder.open_files(pid).unwrap();
        let files: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open files as well.
        let counted = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(folder.open_files(pid).unwrap() >= 10, "{before} before, {counted} counted, {} opened", files.len());
        assert!(folder.disk_bytes(pid).is_ok());
        let (threads, has_more) = folder.numbers(format_args!("{pid}/task"), 100_000).unwrap();
        assert!(threads.contains(&pid) && !has_more);
        assert!(folder.switches(pid, pid).is_ok());
        assert!(folder.numbers(format_args!("{pid}/task"), 0).unwrap().1);
        assert!(folder.read(format_args!("{pid}/none")).is_err());
    }

    #[test]
    fn switches_of_threads_that_come_and_go() {
        let mut switches = Switches::default();
        switches.read(vec![(1, [10, 1]), (2, [20, 2])], false);
        assert_eq!(switches.sums, [0, 0]);
        // 2 has ended, 3 is new.
        switches.read(vec![(1, [15, 1]), (3, [7, 3])], true);
        assert_eq!(switches.sums, [12, 3]);
        // 3's id was given away again.
        switches.read(vec![(1, [15, 1]), (3, [2, 0])], true);
        assert_eq!(switches.sums, [14, 3]);
    }
}

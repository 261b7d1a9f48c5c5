//! A log file that is set aside when it is full: `obs.log` becomes `obs.log.1`, what was that becomes `obs.log.2`, and so
//! on up to the number of files that are kept.
//!
//! Files move from the oldest to the newest, each by one rename: killed at any moment, no file is lost or overwritten by a
//! newer one, and the next turn closes the gap.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Most files that can be kept, and so the highest number that is looked for when fewer are to be kept than before.
const FILES_MAX: u32 = 100;

/// How often it is looked whether the file was taken away (by logrotate, or by hand).
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A file of bounded size, and its elder brothers.
pub(super) struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    files_max: u32,
    file: File,
    bytes: u64,
    looked: Instant,
}

impl RotatingFile {
    /// Opens the file to write on where it ends.
    ///
    /// # Errors
    /// If it cannot be opened, or is no regular file.
    pub(super) fn open(path: PathBuf, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let (file, bytes) = open(&path)?;
        let files_max = files_max.clamp(1, FILES_MAX);
        let this = Self { path, bytes_max, files_max, file, bytes, looked: Instant::now() };
        this.remove_surplus();
        Ok(this)
    }

    /// The name of a file that was set aside.
    fn aside(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Removes what was kept when more files were.
    fn remove_surplus(&self) {
        for number in self.files_max..FILES_MAX {
            // That there is none is the usual case; one that cannot be removed does not keep the log from working.
            let _ = fs::remove_file(self.aside(number));
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.files_max == 1 {
            fs::remove_file(&self.path).or_else(absent_is_fine)?;
        } else {
            // The oldest is replaced by the one before it.
            for number in (1..self.files_max - 1).rev() {
                fs::rename(self.aside(number), self.aside(number + 1)).or_else(absent_is_fine)?;
            }
            fs::rename(&self.path, self.aside(1)).or_else(absent_is_fine)?;
        }
        (self.file, self.bytes) = open(&self.path)?;
        Ok(())
    }

    /// Opens the file anew if another or none has its name now.
    fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked = now;
        let ours = self.file.metadata()?;
        let is_ours = fs::metadata(&self.path).is_ok_and(|it| (it.dev(), it.ino()) == (ours.dev(), ours.ino()));
        if !is_ours {
            (self.file, self.bytes) = open(&self.path)?;
        }
        Ok(())
    }
}

impl Write for RotatingFile {
    /// Takes whole lines only.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.look()?;
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.bytes > 0 && self.bytes.saturating_add(length) > self.bytes_max {
            self.rotate()?;
        }
        let written = self.file.write_all(line);
        if written.is_ok() {
            self.bytes = self.bytes.saturating_add(length);
        } else {
            // On a full disk half a line may stand there: it goes, or else the next would be glued to it.
            let _ = self.file.set_len(self.bytes);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file for appending whole lines; returns it with its size.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Without blocking, or a pipe without a reader would hold up the start.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let say = |error: io::Error| {
        let why = format!("cannot open the log file {}: {error}", path.display());
        io::Error::new(error.kind(), why)
    };
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640).custom_flags(flags);
    let mut file = options.open(path).map_err(say)?;
    let metadata = file.metadata().map_err(say)?;
    if !metadata.is_file() {
        return Err(say(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut bytes = metadata.len();
    if bytes > 0 {
        // A line that was cut by a crash is closed, so that the next begins where lines begin.
        let mut last = [0];
        file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(say)?;
        if last != *b"\n" && file.write_all(b"\n").is_ok() {
            bytes += 1;
        }
    }
    Ok((file, bytes))
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|_| "absent".to_owned())
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("obs.log");
        let mut file = RotatingFile::open(path.clone(), 10, 3).unwrap();
        for number in 1..=7 {
            file.write_all(format!("line{number}\n").as_bytes()).unwrap();
        }
        let files = [path.clone(), file.aside(1), file.aside(2), file.aside(3)].map(|path| read(&path));
        assert_eq!(files, ["line7\n", "line6\n", "line5\n", "absent"]);
        // A line that is too large for any file has one for itself.
        file.write_all(b"a line of more than ten bytes\n").unwrap();
        file.write_all(b"next\n").unwrap();
        assert_eq!([read(&path), read(&file.aside(1))], ["next\n", "a line of more than ten bytes\n"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0);
    }

    #[test]
    fn one_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("obs.log");
        let mut file = RotatingFile::open(path.clone(), 10, 1).unwrap();
        file.write_all(b"first\n").unwrap();
        file.write_all(b"second\n").unwrap();
        assert_eq!(read(&path), "second\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("obs.log");
        fs::write(&path, "whole\nhal").unwrap();
        // Killed between two renames: there is no .1.
        fs::write(folder.path().join("obs.log.2"), "older\n").unwrap();
        fs::write(folder.path().join("obs.log.7"), "of a time with more files\n").unwrap();
        let mut file = RotatingFile::open(path.clone(), 14, 3).unwrap();
        file.write_all(b"new\n").unwrap();
        assert_eq!(read(&path), "whole\nhal\nnew\n");
        file.write_all(b"newer\n").unwrap();
        let files = [path.clone(), file.aside(1), file.aside(2)].map(|path| read(&path));
        assert_eq!(files, ["newer\n", "whole\nhal\nnew\n", "older\n"]);
        assert_eq!(read(&file.aside(7)), "absent");
    }

    #[test]
    fn a_file_that_was_taken_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("obs.log");
        let mut file = RotatingFile::open(path.clone(), 1_000, 3).unwrap();
        file.write_all(b"a\n").unwrap();
        fs::rename(&path, folder.path().join("taken")).unwrap();
        file.looked = file.looked.checked_sub(LOOK_INTERVAL).unwrap();
        file.write_all(b"b\n").unwrap();
        assert_eq!(read(&path), "b\n");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let refused = RotatingFile::open(folder.path().to_owned(), 10, 3).err().unwrap().to_string();
        assert!(refused.contains("cannot open the log file"), "{refused}");
        let absent = RotatingFile::open(folder.path().join("no/such/folder"), 10, 3).err().unwrap();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        let null = RotatingFile::open(PathBuf::from("/dev/null"), 10, 3).err().unwrap().to_string();
        assert!(null.contains("no regular file"), "{null}");
    }
}

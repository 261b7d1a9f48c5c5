//! Where a profile is written: whole, or not at all.
//!
//! **Invariant:** a file is visible under its name only when it is complete, and a process that is killed leaves no file
//! behind: until then the file has no name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, openat},
    io::Errno,
};

use super::stdout::stdout;

/// An opened output. Dropping it without [`Output::write`] changes nothing.
pub(super) struct Output {
    path: PathBuf,
    target: Target,
}

enum Target {
    Stdout,
    /// A device, a pipe: something that exists and cannot be replaced.
    InPlace(File),
    /// A file without a name, in the folder where it will get one.
    Unnamed(File),
    /// The file system has no files without names: a named one is made when all is known.
    Later,
}

impl Output {
    /// Makes sure that `path` can be written; `-` is standard output.
    ///
    /// # Errors
    /// Says why it cannot.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let target = Self::target(path).with_context(|| format!("cannot write the profile to {}", path.display()))?;
        Ok(Self { path: path.to_owned(), target })
    }

    fn target(path: &Path) -> io::Result<Target> {
        if path.as_os_str() == "-" {
            return Ok(Target::Stdout);
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                return OpenOptions::new().write(true).open(path).map(Target::InPlace);
            }
            // An existing file is replaced, which its own permissions would not forbid: ask them.
            Ok(_) => drop(OpenOptions::new().write(true).open(path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(CWD, folder(path), flags, Mode::from_raw_mode(0o666)) {
            Ok(unnamed) => Ok(Target::Unnamed(unnamed.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // Tried now, because a recording that cannot be kept is not worth making.
                let trial = temporary_name(path);
                File::create_new(&trial)?;
                fs::remove_file(&trial)?;
                Ok(Target::Later)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes everything, then makes it visible.
    ///
    /// # Errors
    /// Says what could not be written; the earlier file of that name, if any, is untouched then.
    pub(super) fn write(self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        let Self { path, target } = self;
        Self::write_target(&path, target, fill)
            .with_context(|| format!("cannot write the profile to {}", path.display()))
    }

    fn write_target(
        path: &Path,
        target: Target,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match target {
            Target::Stdout => buffered(stdout(), fill),
            Target::InPlace(file) => buffered(file, fill),
            Target::Unnamed(file) => {
                buffered(&file, fill)?;
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                match linkat(CWD, unnamed.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW) {
                    Err(Errno::EXIST) => {
                        let temporary = temporary_name(path);
                        linkat(CWD, unnamed.as_str(), CWD, &temporary, AtFlags::SYMLINK_FOLLOW)?;
                        rename_or_remove(&temporary, path)
                    }
                    other => other.map_err(Into::into),
                }
            }
            Target::Later => {
                let temporary = temporary_name(path);
                let written = File::create_new(&temporary).and_then(|file| buffered(file, fill));
                if let Err(error) = written {
                    fs::remove_file(&temporary).ok();
                    return Err(error);
                }
                rename_or_remove(&temporary, path)
            }
        }
    }
}

fn buffered(target: impl Write, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 << 10, target);
    fill(&mut writer)?;
    writer.flush()
}

fn rename_or_remove(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path).inspect_err(|_| {
        fs::remove_file(temporary).ok();
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name next to `path` that nobody else uses.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".obs-{}", std::process::id()));
    folder(path).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.svg");
        let output = Output::open(&path).unwrap();
        assert!(names(folder.path()).is_empty(), "opening makes nothing visible");
        drop(output);
        assert!(names(folder.path()).is_empty());

        Output::open(&path).unwrap().write(|w| w.write_all(b"first")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        Output::open(&path).unwrap().write(|_| Err(io::Error::other("no"))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"first", "a failure leaves the earlier file");
        Output::open(&path).unwrap().write(|w| w.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["out.svg"]);
    }

    #[test]
    fn refuses_at_once_what_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let error = Output::open(&folder.path().join("no/such/folder/out.svg")).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("No such file or directory"), "{error:#}");
        assert!(Output::open(folder.path()).is_err());
    }

    #[test]
    fn writes_into_what_is_no_file() {
        Output::open(Path::new("/dev/null")).unwrap().write(|w| w.write_all(b"x")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}

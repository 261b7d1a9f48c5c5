//! Who changed what: one line of JSON per step, in a file that only its owner can read.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use super::tokens::Role;

/// Most bytes of a file before it becomes `FILE.1`, and the former one of that name goes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is about to be made.
    Begun,
    /// It was made.
    Done,
    /// It could not be made.
    Failed,
}

/// A step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When, in RFC 3339 (UTC).
    pub time: String,
    /// The name that the token has in its file, or `(signal)`.
    pub actor: String,
    /// The token's role.
    pub role: Option<Role>,
    /// From which address.
    pub peer: Option<String>,
    /// What: `set-log-level`, `change-tokens` or `change-certificate`.
    pub action: &'static str,
    /// What it was before.
    pub from: String,
    /// What it should become.
    pub to: String,
    /// What became of it.
    pub outcome: Outcome,
    /// If it failed, why.
    pub reason: Option<String>,
}

/// Where changes are written down.
pub trait Audit: Send + Sync {
    /// Writes one entry down, for good.
    ///
    /// # Errors
    /// When it could not be written. A change whose beginning cannot be written is not made.
    fn record(&self, entry: &AuditEntry) -> io::Result<()>;
}

/// Writes entries to a file with mode 0600, each flushed to the disk. The file is made with the first entry.
pub struct AuditFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl AuditFile {
    /// A log at this path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: Mutex::new(None) }
    }

    fn open(&self) -> io::Result<File> {
        // Not through a link, which could lead anywhere.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)
    }

    fn rotate(&self, file: &mut Option<File>) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        *file = Some(self.open()?);
        Ok(())
    }
}

impl Audit for AuditFile {
    fn record(&self, entry: &AuditEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.open()?);
        }
        let length = slot.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        if length.saturating_add(line.len() as u64) > FILE_BYTES_MAX {
            self.rotate(&mut slot)?;
        }
        let Some(file) = slot.as_mut() else { return Err(io::Error::other("the file is not open")) };
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // The next one opens it anew: it may have been a file system that came back.
            *slot = None;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(to: &str) -> AuditEntry {
        AuditEntry {
            time: "2026-01-31T12:00:00.000Z".to_owned(),
            actor: "alice".to_owned(),
            role: Some(Role::Operator),
            peer: Some("192.0.2.1:5".to_owned()),
            action: "set-log-level",
            from: "info".to_owned(),
            to: to.to_owned(),
            outcome: Outcome::Done,
            reason: None,
        }
    }

    #[test]
    fn entries_are_lines_of_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = AuditFile::new(&path);
        audit.record(&entry("debug")).unwrap();
        audit.record(&entry("a\nb")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(
            text.lines().next(),
            Some(
                r#"{"time":"2026-01-31T12:00:00.000Z","actor":"alice","role":"operator","peer":"192.0.2.1:5","action":"set-log-level","from":"info","to":"debug","outcome":"done","reason":null}"#
            )
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A second one goes on where the first one stopped.
        AuditFile::new(&path).record(&entry("info")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_full_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, vec![b'x'; FILE_BYTES_MAX as usize - 10]).unwrap();
        AuditFile::new(&path).record(&entry("debug")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(fs::metadata(dir.path().join("audit.log.1")).unwrap().len(), FILE_BYTES_MAX - 10);
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(AuditFile::new(&dir.path().join("no/such/folder")).record(&entry("debug")).is_err());
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        assert!(AuditFile::new(&dir.path().join("link")).record(&entry("debug")).is_err());
    }
}

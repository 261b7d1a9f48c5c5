//! Indexes of names on disk, so that neither the next batch nor the next run reads symbols and DWARF again.
//!
//! One file per ELF file; `index` knows what is in it. Files are written beside their place and renamed into it, so a
//! reader never sees half of one. A damaged one is made anew.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::index::{self, BuildError, Index, Sources};

/// How full the cache may be after it was cleared, in eighths of its limit.
const CLEARED_EIGHTHS: u64 = 6;

/// How old a file that was not renamed into its place must be to be taken for a dead process's.
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);

/// Files of which is remembered that they cannot be indexed.
const REFUSED_MAX: usize = 4_096;

/// Where names are kept, and how many bytes they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder; it is made if need be, for its owner only.
    pub folder: PathBuf,
    /// Most bytes that all files together may take.
    pub bytes_max: u64,
}

/// Indexes on disk.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    bytes_max: u64,
    /// Keys of files that cannot be indexed: tried once in a run.
    refused: RefCell<BTreeSet<String>>,
}

impl DiskCache {
    /// Opens the cache.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(super) fn open(options: &CacheOptions) -> io::Result<Self> {
        let folder = options.folder.join("names");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, bytes_max: options.bytes_max, refused: RefCell::default() })
    }

    /// The index that is kept under a key, if it is there, whole, and the one of `identity`.
    pub(super) fn load(&self, key: &str, identity: &str) -> Option<Index> {
        let path = self.folder.join(key);
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).ok()?;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
        let index = Index::open(file, identity).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "an index is made anew");
            None
        })?;
        // Used files stay; see `make_room`.
        if let Ok(file) = File::options().write(true).custom_flags(flags).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(index)
    }

    /// Makes an index and keeps it under a key, in place of what is kept there. `None` if there can be none; that is
    /// remembered.
    pub(super) fn make(&self, key: &str, identity: &str, sources: &Sources<'_>) -> Option<Index> {
        if self.refused.borrow().contains(identity) {
            return None;
        }
        let made = self.try_make(key, identity, sources);
        if let Err(error) = &made {
            if let BuildError::Write(error) = error {
                tracing::warn!(path = %self.folder.display(), %error, "cannot keep names on disk");
            } else {
                tracing::debug!(key, %error, "a file's names are not indexed");
            }
            let mut refused = self.refused.borrow_mut();
            if refused.len() >= REFUSED_MAX {
                refused.clear();
            }
            refused.insert(identity.to_owned());
        }
        made.ok()
    }

    fn try_make(&self, key: &str, identity: &str, sources: &Sources<'_>) -> Result<Index, BuildError> {
        let (file, temporary) = self.create(key)?;
        let written = file
            .try_clone()
            .map_err(BuildError::from)
            .and_then(|copy| index::build(sources, identity, copy, &|| self.scratch(key)))
            .and_then(|()| {
                let size = file.metadata()?.len();
                if size > self.bytes_max {
                    return Err(
                        io::Error::new(io::ErrorKind::FileTooLarge, "the index exceeds the cache's limit").into()
                    );
                }
                fs::rename(&temporary, self.folder.join(key))?;
                Ok(())
            });
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        let whole = Index::open(file, identity).ok().flatten();
        whole.ok_or_else(|| io::Error::other("what was written is not what is read").into())
    }

    /// Removes what is kept under a key.
    pub(super) fn remove(&self, key: &str) {
        let _ = fs::remove_file(self.folder.join(key));
    }

    /// A new file that is not yet in its place, and its name.
    fn create(&self, key: &str) -> io::Result<(File, PathBuf)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".{key}.{}.{number}", std::process::id()));
        // What a dead process of the same number left behind goes.
        let _ = fs::remove_file(&path);
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, path))
    }

    /// An empty file without a name.
    fn scratch(&self, key: &str) -> io::Result<File> {
        let (file, path) = self.create(key)?;
        fs::remove_file(path)?;
        Ok(file)
    }

    /// Removes what was used longest ago, until the rest fits into the limit with some room.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn make_room(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(status) = entry.metadata() else { continue };
            let used = status.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_abandoned = entry.file_name().as_encoded_bytes().starts_with(b".")
                && now.duration_since(used).is_ok_and(|age| age > ABANDONED_AFTER);
            if is_abandoned {
                let _ = fs::remove_file(entry.path());
            } else if status.is_file() {
                files.push((used, status.len(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, bytes, _)| *bytes).sum();
        if total <= self.bytes_max {
            return Ok(());
        }
        files.sort();
        for (_, bytes, path) in files {
            if total <= self.bytes_max / 8 * CLEARED_EIGHTHS {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key)
    }
}

/// A key that is safe as a file name: letters, digits and `-` only.
pub(super) fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= 200 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The path of a folder, for messages.
impl AsRef<Path> for DiskCache {
    fn as_ref(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(bytes_max: u64) -> (tempfile::TempDir, DiskCache) {
        let folder = tempfile::tempdir().unwrap();
        let options = CacheOptions { folder: folder.path().join("state"), bytes_max };
        let cache = DiskCache::open(&options).unwrap();
        (folder, cache)
    }

    #[test]
    fn only_its_owner_may_look() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, cache) = cache(1 << 20);
        assert_eq!(fs::metadata(&cache.folder).unwrap().permissions().mode() & 0o777, 0o700);
        let (file, path) = cache.create("key").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(path.exists());
        cache.scratch("key").unwrap();
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1);
    }

    #[test]
    fn keeps_within_its_limit_what_was_used_last() {
        let (_folder, cache) = cache(4_096);
        for index in 0..64_u64 {
            let path = cache.path(&format!("key{index}"));
            fs::write(&path, [0; 128]).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index)).unwrap();
        }
        cache.make_room().unwrap();
        let total: u64 =
            fs::read_dir(&cache.folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 4_096 && total > 2_048, "{total}");
        assert!(cache.path("key63").exists() && !cache.path("key0").exists());
    }

    #[test]
    fn what_a_dead_process_left_goes() {
        let (_folder, cache) = cache(4_096);
        for name in [".key.1.1", ".key.1.2"] {
            fs::write(cache.path(name), [0; 128]).unwrap();
        }
        let file = File::options().write(true).open(cache.path(".key.1.1")).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED_AFTER).unwrap();
        cache.make_room().unwrap();
        assert!(!cache.path(".key.1.1").exists() && cache.path(".key.1.2").exists());
    }

    #[test]
    fn keys_are_file_names() {
        assert!(is_key("0a1b-2c"));
        for key in ["", "../x", "a/b", ".", "a.b", &"x".repeat(300)] {
            assert!(!is_key(key), "{key}");
        }
    }
}

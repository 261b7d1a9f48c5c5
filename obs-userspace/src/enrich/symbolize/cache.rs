//! Names on disk, so that the next run need not read symbols and DWARF again.
//!
//! One file per ELF file. Each record carries its own checksum: what is damaged is left out, and read from the ELF file
//! again. Files are written beside their place and renamed into it, so a reader never sees half of one.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    NamedFrame,
    bytes::{u32_at, u64_at},
};

/// Changes whenever the file's form, or how names are made, does. Files of other versions are ignored and overwritten.
const MAGIC: &[u8; 8] = b"obsnam01";

/// Most bytes of one file; names beyond are not kept.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of a record.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// How full the cache may be after it was cleared, in eighths of its limit.
const CLEARED_EIGHTHS: u64 = 6;

/// How old a file that was not renamed into its place must be to be taken for a dead process's.
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);

/// Names by address in the ELF file. No frames: known to have no name.
pub(super) type Names = HashMap<u64, Arc<[NamedFrame]>>;

/// Where names are kept, and how many bytes they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder; it is made if need be, for its owner only.
    pub folder: PathBuf,
    /// Most bytes that all files together may take.
    pub bytes_max: u64,
}

/// Names on disk.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    bytes_max: u64,
}

impl DiskCache {
    /// Opens the cache.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(super) fn open(options: &CacheOptions) -> io::Result<Self> {
        let folder = options.folder.join("names");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, bytes_max: options.bytes_max })
    }

    /// The names that are kept under a key, if they were made from the same sources. Damaged ones are left out.
    pub(super) fn load(&self, key: &str, sources: &str) -> Names {
        self.try_load(key, sources).unwrap_or_default()
    }

    fn try_load(&self, key: &str, sources: &str) -> Option<Names> {
        let path = self.folder.join(key);
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).ok()?;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let mut records = Records { rest: bytes.strip_prefix(MAGIC)? };
        if records.next()?? != header(key, sources) {
            return None;
        }
        // Used files stay; see `make_room`.
        if let Ok(file) = File::options().write(true).custom_flags(flags).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(records.flatten().filter_map(decode).collect())
    }

    /// Keeps names under a key, in place of those that are kept there.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn store(&self, key: &str, sources: &str, names: &Names) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        append(&mut bytes, &header(key, sources));
        let mut addresses: Vec<&u64> = names.keys().collect();
        addresses.sort_unstable();
        for address in addresses {
            let Some(frames) = names.get(address) else { continue };
            let record = encode(*address, frames);
            if record.len() > RECORD_BYTES_MAX {
                continue;
            }
            if (bytes.len() + record.len() + 8) as u64 > FILE_BYTES_MAX.min(self.bytes_max) {
                break;
            }
            append(&mut bytes, &record);
        }
        let temporary = self.folder.join(format!(".{key}.{}", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, self.folder.join(key)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
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

/// What the first record says: for which file, from which sources.
fn header(key: &str, sources: &str) -> Vec<u8> {
    format!("{key}\n{sources}").into_bytes()
}

/// `LENGTH CHECKSUM PAYLOAD`.
fn append(bytes: &mut Vec<u8>, payload: &[u8]) {
    let Ok(length) = u32::try_from(payload.len()) else { return };
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(payload).to_le_bytes());
    bytes.extend(payload);
}

fn checksum(payload: &[u8]) -> u32 {
    let mut checksum = flate2::Crc::new();
    checksum.update(payload);
    checksum.sum()
}

/// Payloads in order; `None` for one whose checksum is wrong. Ends where a length cannot be right.
struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_at_checked(8)?;
        let (payload, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
        self.rest = rest;
        Some((u32_at(head, 4) == checksum(payload)).then_some(payload))
    }
}

/// `ADDRESS`, then for each frame its flags (1 inlined, 2 has a source), function, and source file and line.
fn encode(address: u64, frames: &[NamedFrame]) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    for NamedFrame { function, source, is_inlined } in frames {
        bytes.push(u8::from(*is_inlined) | u8::from(source.is_some()) << 1);
        text(&mut bytes, function);
        if let Some((file, line)) = source {
            text(&mut bytes, file);
            bytes.extend(line.to_le_bytes());
        }
    }
    bytes
}

fn decode(record: &[u8]) -> Option<(u64, Arc<[NamedFrame]>)> {
    let (head, mut rest) = record.split_at_checked(8)?;
    fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
        let (length, behind) = rest.split_at_checked(4)?;
        let (text, behind) = behind.split_at_checked(u32_at(length, 0) as usize)?;
        *rest = behind;
        str::from_utf8(text).ok()
    }
    let mut frames = Vec::new();
    while let Some((flags, behind)) = rest.split_first() {
        rest = behind;
        let function = text(&mut rest)?.into();
        let source = if flags & 2 == 0 {
            None
        } else {
            let file = text(&mut rest)?.into();
            let (line, behind) = rest.split_at_checked(4)?;
            rest = behind;
            Some((file, u32_at(line, 0)))
        };
        frames.push(NamedFrame { function, source, is_inlined: flags & 1 != 0 });
    }
    Some((u64_at(head, 0), frames.into()))
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

    fn frame(function: &str, source: Option<(&str, u32)>, is_inlined: bool) -> NamedFrame {
        NamedFrame { function: function.into(), source: source.map(|(file, line)| (file.into(), line)), is_inlined }
    }

    fn names() -> Names {
        Names::from([
            (0x10, [frame("inner", Some(("/src/a.rs", 7)), true), frame("outer", None, false)].as_slice().into()),
            (0x20, [].as_slice().into()),
            (u64::MAX, [frame("ünïcode", Some(("", 0)), false)].as_slice().into()),
        ])
    }

    fn cache(bytes_max: u64) -> (tempfile::TempDir, DiskCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(&CacheOptions { folder: folder.path().join("a/b"), bytes_max }).unwrap();
        (folder, cache)
    }

    #[test]
    fn gives_back_what_was_stored() {
        let (_folder, cache) = cache(1 << 20);
        assert_eq!(cache.load("key", "symbols"), Names::new());
        cache.store("key", "symbols", &names()).unwrap();
        assert_eq!(cache.load("key", "symbols"), names());
        assert_eq!(cache.load("key", "dwarf"), Names::new(), "other sources may know more");
        assert_eq!(cache.load("other", "symbols"), Names::new());
    }

    #[test]
    fn every_damaged_byte_costs_at_most_what_it_belongs_to() {
        let (_folder, cache) = cache(1 << 20);
        cache.store("key", "symbols", &names()).unwrap();
        let good = fs::read(cache.path("key")).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x40;
            fs::write(cache.path("key"), &bad).unwrap();
            let loaded = cache.load("key", "symbols");
            assert!(loaded.len() < names().len(), "the damage at {place} went unnoticed");
            assert!(loaded.iter().all(|(address, frames)| names().get(address) == Some(frames)), "{place}");
        }
        for length in 0..good.len() {
            fs::write(cache.path("key"), &good[..length]).unwrap();
            let loaded = cache.load("key", "symbols");
            assert!(loaded.iter().all(|(address, frames)| names().get(address) == Some(frames)), "{length}");
        }
        fs::write(cache.path("key"), &good).unwrap();
        assert_eq!(cache.load("key", "symbols"), names());
    }

    #[test]
    fn a_file_in_anothers_place_is_not_taken() {
        let (_folder, cache) = cache(1 << 20);
        cache.store("key", "symbols", &names()).unwrap();
        fs::rename(cache.path("key"), cache.path("other")).unwrap();
        assert_eq!(cache.load("other", "symbols"), Names::new());
        std::os::unix::fs::symlink(cache.path("other"), cache.path("key")).unwrap();
        assert_eq!(cache.load("key", "symbols"), Names::new(), "links are not followed");
    }

    #[test]
    fn keeps_within_its_limit_what_was_used_last() {
        let (_folder, cache) = cache(4_096);
        for index in 0..64_u64 {
            let key = format!("key{index}");
            cache.store(&key, "symbols", &names()).unwrap();
            let file = File::options().write(true).open(cache.path(&key)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index)).unwrap();
        }
        assert_eq!(cache.load("key0", "symbols"), names(), "and so it counts as used just now");
        cache.make_room().unwrap();
        let total: u64 =
            fs::read_dir(&cache.folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 4_096 && total > 2_048, "{total}");
        assert_eq!(cache.load("key0", "symbols"), names());
        assert_eq!(cache.load("key63", "symbols"), names());
        assert_eq!(cache.load("key1", "symbols"), Names::new());
    }

    #[test]
    fn one_file_is_bounded_too() {
        let (_folder, cache) = cache(2_000);
        let many: Names = (0..1_000).map(|address| (address, [frame("name", None, false)].as_slice().into())).collect();
        cache.store("key", "symbols", &many).unwrap();
        assert!(fs::metadata(cache.path("key")).unwrap().len() <= 2_000);
        assert!(!cache.load("key", "symbols").is_empty());
    }

    #[test]
    fn keys_are_file_names() {
        assert!(is_key("0a1b-2c"));
        for key in ["", "../x", "a/b", ".", "a.b", &"x".repeat(300)] {
            assert!(!is_key(key), "{key}");
        }
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn hostile_records(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
                let _ = decode(&bytes);
                let records = Records { rest: &bytes };
                prop_assert!(records.count() <= bytes.len() / 8);
            }
        }
    }
}

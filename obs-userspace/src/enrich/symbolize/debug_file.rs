//! Finding the file of separate debug information that belongs to a file.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::{bytes::Source, elf::ElfHeaders};

/// Most bytes of a file whose checksum is computed, to see whether it is the one that is referred to.
const CHECKSUM_BYTES_MAX: u64 = 1 << 30;

/// A file of separate debug information.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub(super) file: File,
    pub(super) headers: ElfHeaders,
}

/// Finds the debug information of a file: by its build id in `folders`, then by its link, where the debugger would look.
/// What is found is used only if it carries the same build id, or the checksum that the link names.
pub(super) fn find(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    path: &Path,
    folders: &[PathBuf],
) -> Option<DebugFile> {
    if let Some(build_id) = &headers.build_id {
        let digits = build_id.to_string();
        let (first, rest) = digits.split_at_checked(2)?;
        let candidates = folders.iter().map(|folder| folder.join(format!(".build-id/{first}/{rest}.debug")));
        let found = candidates.filter_map(|path| open(&path)).find(|found| found.headers.build_id == headers.build_id);
        if found.is_some() {
            return found;
        }
    }
    let (name, checksum) = headers.debug_link(source)?;
    if name.contains('/') || name == ".." || name == "." {
        return None;
    }
    let folder = path.parent()?;
    let beside = [folder.join(&name), folder.join(".debug").join(&name)];
    let below = folder.strip_prefix("/").ok();
    let global = folders.iter().filter_map(|debug| Some(debug.join(below?).join(&name)));
    // The link may name the file itself.
    let candidates = beside.into_iter().chain(global).filter(|candidate| candidate != path);
    candidates.filter_map(|path| open(&path)).find(|found| match (&found.headers.build_id, &headers.build_id) {
        (Some(found), Some(wanted)) => found == wanted,
        _ => checksum_of(&found.file) == Some(checksum),
    })
}

fn open(path: &Path) -> Option<DebugFile> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file = File::open(path).ok()?;
    let headers = ElfHeaders::read(&file).ok()?;
    Some(DebugFile { file, headers })
}

fn checksum_of(file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > CHECKSUM_BYTES_MAX {
        return None;
    }
    let mut checksum = flate2::Crc::new();
    let mut reader = BufReader::new(file.take(CHECKSUM_BYTES_MAX));
    let mut chunk = [0; 32 << 10];
    loop {
        match reader.read(&mut chunk).ok()? {
            0 => return Some(checksum.sum()),
            count => checksum.update(&chunk[..count]),
        }
    }
}

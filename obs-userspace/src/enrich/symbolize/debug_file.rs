//! Finding the file of separate debug information that belongs to a file.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    bytes::{Source, read_exact, text_until_nul},
    elf::{ElfHeaders, Machine},
    index::Elf,
};
use crate::model::process::BuildId;

/// Most bytes of a file whose checksum is computed, to see whether it is the one that is referred to.
const CHECKSUM_BYTES_MAX: u64 = 1 << 30;

/// Most bytes of `.gnu_debugaltlink`: a file name and a build id.
const SUPPLEMENTARY_LINK_BYTES_MAX: u64 = 4_096;

/// A file of separate debug information.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub(super) file: File,
    pub(super) headers: ElfHeaders,
}

impl DebugFile {
    pub(super) fn elf(&self) -> Elf<'_> {
        Elf { file: &self.file, headers: &self.headers }
    }
}

/// Finds the file that debug information refers to for what it shares with others (`dwz` makes such files), by the build
/// id that the reference names. Its path is not followed: it is for whoever made the file to choose.
pub(super) fn supplementary(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    folders: &[PathBuf],
) -> Option<DebugFile> {
    let (offset, length) = headers.section(".gnu_debugaltlink")?.content();
    let content = read_exact(source, ".gnu_debugaltlink", offset, length, SUPPLEMENTARY_LINK_BYTES_MAX).ok()?;
    let name = text_until_nul(&content);
    let build_id = BuildId::new(content.get(name.len() + 1..)?)?;
    let by_id = by_build_id(&build_id, folders);
    // Distributions collect these files in one folder.
    let file_name = Path::new(&name).file_name()?.to_owned();
    let machine = match headers.machine {
        Machine::X86_64 => "x86_64-linux-gnu",
        Machine::X86 => "i386-linux-gnu",
        Machine::Aarch64 => "aarch64-linux-gnu",
        Machine::Arm => "arm-linux-gnueabihf",
    };
    let collected = folders.iter().flat_map(|folder| {
        let folder = folder.join(".dwz");
        [folder.join(machine).join(&file_name), folder.join(&file_name)]
    });
    let candidates = by_id.into_iter().chain(collected);
    candidates.filter_map(|path| open(&path)).find(|found| found.headers.build_id.as_ref() == Some(&build_id))
}

/// Where the debug information of a build id is, if it is there.
fn by_build_id(build_id: &BuildId, folders: &[PathBuf]) -> Vec<PathBuf> {
    let digits = build_id.to_string();
    let Some((first, rest)) = digits.split_at_checked(2) else { return Vec::new() };
    folders.iter().map(|folder| folder.join(format!(".build-id/{first}/{rest}.debug"))).collect()
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
        let candidates = by_build_id(build_id, folders);
        let found = candidates
            .into_iter()
            .filter_map(|path| open(&path))
            .find(|found| found.headers.build_id == headers.build_id);
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

//! For the fuzz targets in `obs-userspace/fuzz`: files around any contents, with the right lengths, checksums and index.
//!
//! Random bytes hardly get past a checksum. What is behind it is reached by giving the contents of each frame.

use super::{
    block::{Chunk, Index, put_trailer},
    error::FileError,
    frame::{FileHeader, FileKind, FrameReader, FrameWriter, Section},
    journal::FIRST_FRAME,
};

/// Compression is not what is tested.
const LEVEL: i32 = 1;

fn header(kind: FileKind, is_coarse: bool) -> Vec<u8> {
    FileHeader { kind, is_coarse, sequence: 1, boot_id: [0; 16] }.encode().to_vec()
}

/// A journal whose windows have these contents.
#[must_use]
pub fn journal<'a>(windows: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = header(FileKind::Journal, false);
    let Ok(mut frames) = FrameWriter::new(LEVEL) else { return out };
    for raw in windows {
        // A frame that is too long is left out.
        let _ = frames.put(&mut out, Section::Window, raw);
    }
    out
}

/// A block whose sections have these contents, each by its code. One section of the code of the index is taken for the
/// numbers in the index: eight bytes each for its beginning, length and counts.
#[must_use]
pub fn block<'a>(is_coarse: bool, sections: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut out = header(FileKind::Block, is_coarse);
    let Ok(mut frames) = FrameWriter::new(LEVEL) else { return out };
    let mut index = Index { ended_unix_ns: u64::MAX, ..Index::default() };
    for (code, raw) in sections {
        let Ok(section) = Section::from_code(code) else { continue };
        if section == Section::Index {
            let mut numbers = raw.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes));
            let mut next = || numbers.next().unwrap_or_default();
            let (started_unix_ns, length) = (next(), next());
            let (windows, samples, points, events) = (next(), next(), next(), next());
            let ended_unix_ns = started_unix_ns.saturating_add(length);
            index = Index { started_unix_ns, ended_unix_ns, windows, samples, points, events, chunks: index.chunks };
            continue;
        }
        let offset = out.len() as u64;
        if let Ok(bytes) = frames.put(&mut out, section, raw) {
            index.chunks.push(Chunk { section, offset, bytes: bytes as u64, first: 0, end: u32::MAX });
        }
    }
    let offset = out.len() as u64;
    let _ = frames.put(&mut out, Section::Index, &index.encode());
    put_trailer(&mut out, offset);
    out
}

/// The contents of a file's frames, by the codes of their sections: what seeds are made from. The index is given as
/// [`block`] takes it.
///
/// # Errors
///
/// When the file is not whole.
pub fn contents(file: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, FileError> {
    let mut frames = FrameReader::default();
    let mut found = Vec::new();
    let index = match FileHeader::read(file)?.kind {
        FileKind::Journal => None,
        FileKind::Block => Some(super::block::Block::open(file)?.index),
    };
    let mut offset = FIRST_FRAME;
    while offset < file.len() as u64 {
        let (header, raw) = frames.read(file, offset, file.len() as u64)?;
        if header.section == Section::Index {
            break;
        }
        found.push((header.section.code(), raw.to_vec()));
        offset += header.frame_bytes();
    }
    if let Some(Index { started_unix_ns, ended_unix_ns, windows, samples, points, events, chunks: _ }) = index {
        let numbers = [started_unix_ns, ended_unix_ns - started_unix_ns, windows, samples, points, events];
        found.push((Section::Index.code(), numbers.into_iter().flat_map(u64::to_le_bytes).collect()));
    }
    Ok(found)
}

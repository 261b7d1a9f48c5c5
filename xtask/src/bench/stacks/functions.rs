//! Which function an address belongs to, by the files' call frame information: the same answer for every tool, also where
//! symbols are stripped or a function has many names.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use obs_unwind::{ElfImage, ExecutableSegment};

use crate::host;
use crate::unwind_check::readelf::readelf;

/// A function: the number of its file, and where it begins there. 0 stands for all of a file that no function is known of.
pub(super) type Function = (usize, u64);

/// The functions of files.
#[derive(Default)]
pub(super) struct Functions {
    files: HashMap<String, (usize, Option<FileFunctions>)>,
}

/// The functions of one file.
struct FileFunctions {
    segments: Vec<ExecutableSegment>,
    /// Beginning and end, ascending.
    ranges: Vec<(u64, u64)>,
}

impl Functions {
    /// The function at an address of a file's own.
    pub(super) fn at_address(&mut self, file: &str, address: u64) -> Result<Function> {
        let (number, functions) = self.file(file)?;
        Ok((*number, functions.as_ref().map_or(0, |functions| functions.start(address))))
    }

    /// The function at a place in a file.
    pub(super) fn at_offset(&mut self, file: &str, offset: u64) -> Result<Function> {
        let (number, functions) = self.file(file)?;
        Ok((*number, functions.as_ref().map_or(0, |functions| functions.start(functions.address(offset)))))
    }

    fn file(&mut self, file: &str) -> Result<&(usize, Option<FileFunctions>)> {
        if !self.files.contains_key(file) {
            let number = self.files.len();
            let functions = Path::new(file).is_file().then(|| FileFunctions::read(Path::new(file))).transpose()?;
            self.files.insert(file.to_owned(), (number, functions));
        }
        self.files.get(file).context("it was just put there")
    }
}

impl FileFunctions {
    fn read(path: &Path) -> Result<Self> {
        let bytes = host::read(path)?;
        let image = ElfImage::parse(&bytes).with_context(|| format!("in {}", path.display()))?;
        let mut ranges = Vec::new();
        readelf(path, "frames", |line| {
            let range = line.split_once(" FDE cie=").and_then(|(_, rest)| rest.split_once(" pc="));
            let range = range.and_then(|(_, addresses)| addresses.trim().split_once(".."));
            let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
            ranges.extend(range.and_then(|(start, end)| Some((hexadecimal(start)?, hexadecimal(end)?))));
        })
        .with_context(|| format!("cannot run readelf on {}", path.display()))?;
        ranges.sort_unstable();
        Ok(Self { segments: image.executable_segments().to_vec(), ranges })
    }

    fn address(&self, offset: u64) -> u64 {
        let within = |segment: &&ExecutableSegment| offset.wrapping_sub(segment.file_offset) < segment.bytes;
        let segment = self.segments.iter().find(within);
        segment.map_or(offset, |segment| segment.address + (offset - segment.file_offset))
    }

    fn start(&self, address: u64) -> u64 {
        let behind = self.ranges.partition_point(|(start, _)| *start <= address);
        let range = self.ranges[..behind].last().filter(|(_, end)| address < *end);
        range.map_or(0, |(start, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_places_lead_to_functions() {
        let segments = vec![ExecutableSegment { file_offset: 0x1000, address: 0x40_1000, bytes: 0x100 }];
        let functions = FileFunctions { segments, ranges: vec![(0x40_1000, 0x40_1010), (0x40_1020, 0x40_1030)] };
        assert_eq!(
            [0x40_1000, 0x40_100f, 0x40_1010, 0x40_102f].map(|it| functions.start(it)),
            [0x40_1000, 0x40_1000, 0, 0x40_1020]
        );
        assert_eq!(functions.address(0x1024), 0x40_1024);
    }
}

//! Names of code that a just-in-time compiler made, from the map that it writes: `/tmp/perf-PID.map`.
//!
//! The ledger opens it while its process lives. It is written by the process that is watched, so it is read with bounds.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
};

use super::demangle::presentable;
use crate::enrich::process::PerfMapFile;

/// Most bytes of a perf map that are read.
pub const PERF_MAP_BYTES_MAX: u64 = 128 << 20;

/// Most lines of a perf map that are read.
pub const PERF_MAP_LINES_MAX: u64 = 2_000_000;

/// Most bytes of a line that are kept; names beyond are cut.
const LINE_BYTES_MAX: usize = 1_200;

/// Most pairs of a line and an address that it covers.
const MATCHES_MAX: u64 = 50_000_000;

/// Names for some addresses, which must ascend. The answers are in the same order.
///
/// # Errors
/// If the map cannot be read.
pub(super) fn find(map: &PerfMapFile, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let mut file: &File = &map.file;
    file.rewind()?;
    find_in(BufReader::with_capacity(64 << 10, file.take(PERF_MAP_BYTES_MAX)), addresses)
}

fn find_in(mut reader: impl BufRead, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    debug_assert!(addresses.is_sorted());
    let mut names = vec![None; addresses.len()];
    let mut line = Vec::new();
    let mut is_cut = false;
    let mut lines = 0;
    let mut matches = 0;
    // Lines are gathered by hand: one without end must not be kept. What is behind the last line break is still being
    // written. Ends: the reader is bounded.
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(names);
        }
        let line_end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..line_end.unwrap_or(buffer.len())];
        let room = LINE_BYTES_MAX - line.len();
        line.extend(&part[..part.len().min(room)]);
        is_cut |= part.len() > room;
        let consumed = part.len() + usize::from(line_end.is_some());
        reader.consume(consumed);
        if line_end.is_none() {
            continue;
        }
        matches += note_line(&line, is_cut, addresses, &mut names);
        line.clear();
        is_cut = false;
        lines += 1;
        if lines >= PERF_MAP_LINES_MAX || matches >= MATCHES_MAX {
            return Ok(names);
        }
    }
}

/// `START SIZE NAME`, numbers in hexadecimal, with or without `0x`. A later line overrides earlier ones: the compiler has
/// reused the memory.
fn note_line(line: &[u8], is_cut: bool, addresses: &[u64], names: &mut [Option<String>]) -> u64 {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.splitn(3, ' ');
    let number = |field: &str| u64::from_str_radix(field.strip_prefix("0x").unwrap_or(field), 16).ok();
    let Some(start) = fields.next().and_then(number) else { return 0 };
    let Some(end) = fields.next().and_then(number).and_then(|size| start.checked_add(size)) else { return 0 };
    let Some(name) = fields.next().map(str::trim).filter(|name| !name.is_empty()) else { return 0 };
    let first = addresses.partition_point(|address| *address < start);
    let behind = addresses.partition_point(|address| *address < end);
    let Some(covered) = names.get_mut(first..behind) else { return 0 };
    if !covered.is_empty() {
        let mut name = presentable(name);
        if is_cut && !name.ends_with('…') {
            name.push('…');
        }
        covered.fill(Some(name));
    }
    covered.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &[u8], addresses: &[u64]) -> Vec<Option<String>> {
        find_in(text, addresses).unwrap()
    }

    #[test]
    fn known_lines() {
        let map = b"1000 10 first\n0x2000 0x20 LazyCompile:~second a b.js:3\n1008 4 newer\n";
        let found = names(map, &[0xfff, 0x1000, 0x1008, 0x100b, 0x100c, 0x1010, 0x201f, 0x2020]);
        let second = Some("LazyCompile:~second a b.js:3");
        assert_eq!(
            found.iter().map(Option::as_deref).collect::<Vec<_>>(),
            [None, Some("first"), Some("newer"), Some("newer"), Some("first"), None, second, None]
        );
    }

    #[test]
    fn hostile_lines() {
        for text in [
            "",
            "\n\n",
            "zz 10 x\n",
            "1000 x\n",
            "1000 10\n",
            "1000 10 \n",
            "-1 10 x\n",
            "2000 0 empty\n",
            "1000 ffffffffffffffff overflow\n",
            "1000 10000 unfinished",
            "10000000000000000 1 large\n",
        ] {
            assert_eq!(names(text.as_bytes(), &[0x1000, 0x2000]), [None, None], "{text:?}");
        }
        assert_eq!(names(b"0 ffffffffffffffff a\x01b\xff\n", &[1]), [Some("a?b\u{fffd}".to_owned())]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut map = b"1000 10 ".to_vec();
        map.resize(4 << 20, b'x');
        map.extend(b"\n2000 10 short\n");
        let found = names(&map, &[0x1000, 0x2000]);
        assert!(found[0].as_ref().unwrap().len() < 1_100 && found[0].as_ref().unwrap().ends_with('…'));
        assert_eq!(found[1].as_deref(), Some("short"));
    }

    #[test]
    fn a_map_that_grew_is_read_again_from_its_beginning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let map = PerfMapFile { path: "/tmp/perf-1.map".to_owned(), file: file.reopen().unwrap() };
        std::fs::write(file.path(), "1000 10 first\n").unwrap();
        assert_eq!(find(&map, &[0x1001]).unwrap(), [Some("first".to_owned())]);
        std::fs::write(file.path(), "1000 10 first\n2000 1 more\n").unwrap();
        assert_eq!(find(&map, &[0x1001, 0x2000]).unwrap(), [Some("first".to_owned()), Some("more".to_owned())]);
    }

    #[test]
    fn lines_are_bounded() {
        let mut map = b"1 1 x\n".repeat(usize::try_from(PERF_MAP_LINES_MAX).unwrap());
        map.extend(b"2000 10 too late\n");
        assert_eq!(names(&map, &[1, 0x2000]), [Some("x".to_owned()), None]);
    }
}

//! Disks: bytes, operations, time.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    budget::{Budget, OTHER},
    emit::{
        Out,
        Value::{Name, Word},
    },
    metrics as m,
    text::{Buffer, Source, fields, lines, numbers},
};

/// Most disks with series of their own.
const DISKS_MAX: usize = 128;

/// Bytes of what `/proc/diskstats` calls a sector, whatever the disk's own sectors are.
const SECTOR_BYTES: f64 = 512.0;

/// The numbers of a line behind the name, as far as they are used: reads, reads merged, sectors read, ms reading, writes,
/// writes merged, sectors written, ms writing, requests in flight, ms busy.
type Line = [u64; 10];

/// One line of `/proc/diskstats`: `8 0 sda NUMBERS…`. Partitions of very old kernels have four numbers, and are not read.
fn parse_line(line: &[u8]) -> Option<(&str, Line)> {
    let mut fields = fields(line);
    numbers::<2>(fields.by_ref().take(2))?;
    let name = str::from_utf8(fields.next()?).ok()?;
    Some((name, numbers(fields)?))
}

/// Reads the disks.
#[derive(Debug)]
pub(super) struct Disks {
    file: Source,
    blocks: PathBuf,
    /// Whether a device is a disk, rather than a part of one.
    is_disk: HashMap<Box<str>, bool>,
    budget: Budget<9>,
}

impl Disks {
    pub(super) fn new(proc: &Path, sys: &Path) -> Self {
        Self {
            file: Source::new(proc.join("diskstats")),
            blocks: sys.join("block"),
            is_disk: HashMap::new(),
            budget: Budget::new(DISKS_MAX),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] =
            &[m::DISK_IO, m::DISK_OPERATIONS, m::DISK_OPERATION_TIME, m::DISK_IO_TIME, m::DISK_MERGED];
        let text = match self.file.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(ALL, "diskstats", self.file.path(), &error),
        };
        // Devices come and go; what is known of them is learnt anew rather than kept for ever.
        if self.is_disk.len() > DISKS_MAX * 16 {
            self.is_disk.clear();
        }
        let mut damaged = false;
        for line in lines(text) {
            let Some((name, values)) = parse_line(line) else {
                damaged = true;
                continue;
            };
            let is_disk = match self.is_disk.get(name) {
                Some(is_disk) => *is_disk,
                None => {
                    let is_disk = is_disk(&self.blocks, name);
                    self.is_disk.insert(name.into(), is_disk);
                    is_disk
                }
            };
            let [
                reads,
                reads_merged,
                sectors_read,
                ms_reading,
                writes,
                writes_merged,
                sectors_written,
                ms_writing,
                _,
                ms_busy,
            ] = values;
            // Loop and RAM devices that were never used are no disks of this host, only names.
            if is_disk && (reads, writes) != (0, 0) {
                let sums = [
                    sectors_read,
                    sectors_written,
                    reads,
                    writes,
                    ms_reading,
                    ms_writing,
                    reads_merged,
                    writes_merged,
                    ms_busy,
                ];
                if !self.budget.read(name, sums) {
                    out.failed("diskstats: more disks than are counted");
                }
            }
        }
        if damaged {
            out.failed("diskstats");
        }
        self.budget.end_round();
        let mut any = false;
        for (device, sums) in self.budget.listed() {
            any = true;
            put(out, device, sums);
        }
        if let Some(sums) = self.budget.other() {
            put(out, &OTHER.into(), sums);
        }
        if !any {
            out.absent(ALL, "no disk of this host was ever used");
        }
    }
}

fn put(out: &mut Out<'_>, device: &Arc<str>, sums: [u64; 9]) {
    let [sectors_read, sectors_written, reads, writes, ms_reading, ms_writing, reads_merged, writes_merged, ms_busy] =
        sums;
    // Divided, not multiplied by 0.001: only so is it the number that its decimals say, which the history keeps in fewer bytes.
    let seconds = |ms: u64| ms as f64 / 1e3;
    for (metric, values) in [
        (m::DISK_IO, [sectors_read, sectors_written].map(|sectors| sectors as f64 * SECTOR_BYTES)),
        (m::DISK_OPERATIONS, [reads, writes].map(|requests| requests as f64)),
        (m::DISK_OPERATION_TIME, [ms_reading, ms_writing].map(seconds)),
        (m::DISK_MERGED, [reads_merged, writes_merged].map(|requests| requests as f64)),
    ] {
        for (direction, value) in ["read", "write"].into_iter().zip(values) {
            out.put(metric, &[Name(device), Word(direction)], value);
        }
    }
    out.put(m::DISK_IO_TIME, &[Name(device)], seconds(ms_busy));
}

/// Whole devices have a folder of their own in `/sys/block`, where `/` in their names is written `!`. Without that folder
/// everything counts, rather than nothing.
fn is_disk(blocks: &Path, name: &str) -> bool {
    let entry = name.replace('/', "!");
    if entry.starts_with('.') {
        return false;
    }
    match std::fs::symlink_metadata(blocks.join(entry)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound || !blocks.exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_ages() {
        let modern = b" 254       0 vda 225993 42539 33693914 168029 378614 348064 156601672 1128067 0 177020 1364324 265764 36 110200680 62898 49192 5328";
        let (name, values) = parse_line(modern).unwrap();
        assert_eq!(name, "vda");
        assert_eq!(
            values,
            [225_993, 42_539, 33_693_914, 168_029, 378_614, 348_064, 156_601_672, 1_128_067, 0, 177_020]
        );
        assert_eq!(parse_line(b"104 0 cciss/c0d0 1 2 3 4 5 6 7 8 9 10 11").unwrap().0, "cciss/c0d0");
        for line in [
            &b"8 1 sda1 1 2 3 4"[..],
            b"",
            b"8 0",
            b"8 0 sda",
            b"a b sda 1 2 3 4 5 6 7 8 9 10",
            b"8 0 \xff 1 2 3 4 5 6 7 8 9 10",
        ] {
            assert_eq!(parse_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn partitions_are_not_disks() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = folder.path().join("block");
        assert!(is_disk(&blocks, "sda1"), "without /sys/block everything counts");
        std::fs::create_dir_all(blocks.join("cciss!c0d0")).unwrap();
        assert!(is_disk(&blocks, "cciss/c0d0"));
        assert!(!is_disk(&blocks, "sda1") && !is_disk(&blocks, "../block"));
    }
}

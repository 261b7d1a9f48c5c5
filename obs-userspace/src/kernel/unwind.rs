//! Puts unwind tables and the mappings of processes where the kernel side finds them.
//!
//! **Invariant:** what the kernel side can still reach is never overwritten. A place is written, then published by one
//! update of a small map; it is taken back there, and reused only when every program that was running has ended.

use std::collections::{HashMap, HashSet};

use aya::{
    Pod,
    maps::{Array, HashMap as KernelHashMap, MapData},
};
use obs_common::{
    stack::ImageKey,
    unwind_map::{
        FILE_NONE, FileTable, MAPPINGS_PER_PROCESS_MAX, Mapping, PAGES_NEVER, PROCESSES_MAX, ProcessMappings,
    },
    unwind_row::{RULE_BYTES, Rule},
};

use super::{
    load::{KernelError, Object},
    mapped_array::MappedArray,
    read::{Shared, wait_for_running_programs},
    space::Space,
};

/// Words of 32 bits that one rule takes.
const RULE_WORDS: u32 = (RULE_BYTES / 4) as u32;

/// The arrays of one file's table; see [`obs_common::unwind_row`].
#[derive(Clone, Copy, Debug)]
pub struct TableArrays<'a> {
    /// Number of the first page.
    pub first_page: u32,
    /// Index of each page's first row, and the number of rows as the last entry.
    pub pages: &'a [u32],
    /// The rows.
    pub rows: &'a [u32],
    /// The rules.
    pub rules: &'a [Rule],
}

impl TableArrays<'_> {
    fn words(&self) -> usize {
        self.pages.len() + self.rows.len() + self.rules.len() * RULE_WORDS as usize
    }
}

/// There is no room: something has to be evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What the kernel side finds for an address of a process image.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Nothing was told of the image.
    NoProcess,
    /// It lies in no mapping that was told.
    NoMapping,
    /// It lies in memory that no file stands behind.
    NoFile,
    /// It lies in this file, whose table is not loaded.
    NotLoaded(u32),
    /// It lies in a file that gets no table.
    Never,
    /// It lies in a file with a table.
    Table {
        /// The table.
        table: TableArrays<'a>,
        /// The file's own address.
        address: u64,
    },
}

/// How a file's table was used lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUse {
    /// Index of the file.
    pub file: u32,
    /// The epoch in which the kernel side last looked for its table.
    pub epoch: u32,
    /// Whether there is a table.
    pub is_loaded: bool,
}

/// Where a file's table lies.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    entry: FileTable,
    /// How many words of the arena it has, from `entry.rules_at` on.
    words: u32,
}

/// The unwinder's maps.
pub struct UnwindMaps {
    arena: MappedArray<u32>,
    arena_space: Space,
    mappings: MappedArray<Mapping>,
    mappings_space: Space,
    files: Array<MapData, Shared<FileTable>>,
    loaded: HashMap<u32, Loaded>,
    /// Files that get no table.
    never: HashSet<u32>,
    processes: KernelHashMap<MapData, Shared<ImageKey>, Shared<ProcessMappings>>,
    images: HashMap<ImageKey, ProcessMappings>,
    epoch_map: Array<MapData, u32>,
    epoch: u32,
    /// The latest [`FileTable::generation`].
    generation: u32,
    snapshots_left: Array<MapData, u64>,
    /// Runs of the arena and of the mappings that programs in flight may still read.
    retired_arena: Vec<(u32, u32)>,
    retired_mappings: Vec<ProcessMappings>,
}

impl UnwindMaps {
    /// Takes the maps out of an object.
    ///
    /// # Errors
    /// If the object has none, or they cannot be mapped.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        let arena = MappedArray::take(object, "UNWIND_ARENA")?;
        let mappings = MappedArray::take(object, "UNWIND_MAPPINGS")?;
        Ok(Self {
            arena_space: Space::new(arena.length()),
            arena,
            mappings_space: Space::new(mappings.length()),
            mappings,
            files: object.take_map("UNWIND_FILES")?,
            loaded: HashMap::new(),
            never: HashSet::new(),
            processes: object.take_map("UNWIND_PROCESSES")?,
            images: HashMap::new(),
            epoch_map: object.take_map("UNWIND_EPOCH")?,
            epoch: 0,
            generation: 0,
            snapshots_left: object.take_map("SNAPSHOTS_LEFT")?,
            retired_arena: Vec::new(),
            retired_mappings: Vec::new(),
        })
    }

    /// Loads a file's table.
    ///
    /// # Errors
    /// The inner error says that the arena is full.
    pub fn set_table(&mut self, file: u32, table: &TableArrays<'_>) -> Result<Result<(), Full>, KernelError> {
        self.clear_table(file)?;
        let Ok(length) = u32::try_from(table.words()) else { return Ok(Err(Full)) };
        let Some(start) = self.take_arena(length) else { return Ok(Err(Full)) };
        let rules_at = start;
        let pages_at = rules_at + table.rules.len() as u32 * RULE_WORDS;
        let rows_at = pages_at + table.pages.len() as u32;
        for (rule, at) in table.rules.iter().zip((rules_at..).step_by(RULE_WORDS as usize)) {
            self.arena.write(at, &rule_words(rule))?;
        }
        self.arena.write(pages_at, table.pages)?;
        self.arena.write(rows_at, table.rows)?;
        // Never 0: the kernel side has that where it remembers nothing.
        self.generation = self.generation.wrapping_add(1).max(1);
        let entry = FileTable {
            first_page: table.first_page,
            pages_count: (table.pages.len() as u32).saturating_sub(1),
            pages_at,
            rows_at,
            rules_at,
            used_epoch: self.epoch,
            generation: self.generation,
            reserved: 0,
        };
        // First where it lies, then that it is there: the kernel copies an element word by word.
        self.set_file(file, FileTable { pages_count: 0, ..entry })?;
        self.set_file(file, entry)?;
        self.loaded.insert(file, Loaded { entry, words: length });
        Ok(Ok(()))
    }

    /// Says that a file gets no table.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_never(&mut self, file: u32) -> Result<(), KernelError> {
        self.clear_table(file)?;
        self.never.insert(file);
        self.set_file(file, FileTable { pages_count: PAGES_NEVER, ..FileTable::default() })
    }

    /// Takes back that a file gets no table.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn clear_never(&mut self, file: u32) -> Result<(), KernelError> {
        if self.never.remove(&file) {
            self.set_file(file, FileTable { used_epoch: self.epoch.wrapping_sub(1), ..FileTable::default() })?;
        }
        Ok(())
    }

    /// Whether a file's table is loaded, or will never be.
    #[must_use]
    pub fn is_decided(&self, file: u32) -> bool {
        self.loaded.contains_key(&file) || self.never.contains(&file)
    }

    /// Looks an address up just as the kernel side does.
    #[must_use]
    pub fn find(&self, image: &ImageKey, address: u64) -> Found<'_> {
        let Some(place) = self.images.get(image) else { return Found::NoProcess };
        let mappings = self.mappings.read(place.first, place.count);
        let behind = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = mappings[..behind].last().filter(|mapping| address < mapping.end);
        let Some(Mapping { file, bias, .. }) = mapping else { return Found::NoMapping };
        if *file == FILE_NONE {
            return Found::NoFile;
        }
        if self.never.contains(file) {
            return Found::Never;
        }
        let Some(Loaded { entry, words }) = self.loaded.get(file) else { return Found::NotLoaded(*file) };
        let FileTable {
            first_page,
            pages_count,
            pages_at,
            rows_at,
            rules_at,
            used_epoch: _,
            generation: _,
            reserved: _,
        } = *entry;
        let table = TableArrays {
            first_page,
            pages: self.arena.read(pages_at, pages_count + 1),
            rows: self.arena.read(rows_at, rules_at + words - rows_at),
            rules: rules_of(self.arena.read(rules_at, pages_at - rules_at)),
        };
        Found::Table { table, address: address.wrapping_sub(*bias) }
    }

    /// Lets the kernel side send so many more snapshots of stacks.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn allow_snapshots(&mut self, count: u64) -> Result<(), KernelError> {
        let set = self.snapshots_left.set(0, count, 0);
        set.map_err(|error| KernelError::Map { map: "SNAPSHOTS_LEFT", why: error.to_string() })
    }

    /// Takes a file's table away, if it has one.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn clear_table(&mut self, file: u32) -> Result<(), KernelError> {
        if let Some(Loaded { entry, words }) = self.loaded.remove(&file) {
            // The other fields stay: a program that is just reading them must not mix two tables. Nor was it used just now.
            self.set_file(file, FileTable { pages_count: 0, used_epoch: self.epoch.wrapping_sub(1), ..entry })?;
            self.retired_arena.push((entry.rules_at, words));
        }
        Ok(())
    }

    /// Tells the mappings of a process image, ascending by address. More than can be searched are cut off.
    ///
    /// # Errors
    /// The inner error says that there is no room.
    pub fn set_process(&mut self, image: ImageKey, mappings: &[Mapping]) -> Result<Result<(), Full>, KernelError> {
        let mappings = &mappings[..mappings.len().min(MAPPINGS_PER_PROCESS_MAX as usize)];
        if !self.images.contains_key(&image) && self.images.len() >= PROCESSES_MAX as usize {
            return Ok(Err(Full));
        }
        let count = mappings.len() as u32;
        let Some(first) = self.take_mappings(count) else { return Ok(Err(Full)) };
        self.mappings.write(first, mappings)?;
        let place = ProcessMappings { first, count, ..ProcessMappings::default() };
        self.set_place(image, place)?;
        self.retired_mappings.extend(self.images.insert(image, place));
        Ok(Ok(()))
    }

    /// Says that the mappings of a process image are all that there is, until they are told anew: an address in none of
    /// them is not worth a snapshot.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn settle_process(&mut self, image: ImageKey) -> Result<(), KernelError> {
        if !self.images.contains_key(&image) && self.images.len() >= PROCESSES_MAX as usize {
            return Ok(());
        }
        let place = self.images.entry(image).or_default();
        place.is_settled = 1;
        let place = *place;
        self.set_place(image, place)
    }

    fn set_place(&mut self, image: ImageKey, place: ProcessMappings) -> Result<(), KernelError> {
        let inserted = self.processes.insert(Shared(image), Shared(place), 0);
        inserted.map_err(|error| KernelError::Map { map: "UNWIND_PROCESSES", why: error.to_string() })
    }

    /// Forgets a process image.
    pub fn remove_process(&mut self, image: &ImageKey) {
        if let Some(place) = self.images.remove(image) {
            // It was inserted, so that it is gone already can only mean that this map is no longer ours.
            drop(self.processes.remove(&Shared(*image)));
            self.retired_mappings.push(place);
        }
    }

    /// Tells of each of these files when the kernel side last wanted its table.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn uses(&self, files: impl Iterator<Item = u32>) -> Result<Vec<FileUse>, KernelError> {
        let mut uses = Vec::new();
        for file in files {
            let entry = self.files.get(&file, 0);
            let Shared(entry) =
                entry.map_err(|error| KernelError::Map { map: "UNWIND_FILES", why: error.to_string() })?;
            uses.push(FileUse { file, epoch: entry.used_epoch, is_loaded: self.loaded.contains_key(&file) });
        }
        Ok(uses)
    }

    /// Begins a new epoch.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn begin_epoch(&mut self) -> Result<(), KernelError> {
        self.epoch = self.epoch.wrapping_add(1);
        let set = self.epoch_map.set(0, self.epoch, 0);
        set.map_err(|error| KernelError::Map { map: "UNWIND_EPOCH", why: error.to_string() })
    }

    /// The epoch that is running.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    fn set_file(&mut self, file: u32, entry: FileTable) -> Result<(), KernelError> {
        let set = self.files.set(file, Shared(entry), 0);
        set.map_err(|error| KernelError::Map { map: "UNWIND_FILES", why: error.to_string() })
    }

    fn take_arena(&mut self, length: u32) -> Option<u32> {
        if let Some(start) = self.arena_space.take(length) {
            return Some(start);
        }
        self.reclaim();
        self.arena_space.take(length)
    }

    fn take_mappings(&mut self, count: u32) -> Option<u32> {
        if let Some(first) = self.mappings_space.take(count) {
            return Some(first);
        }
        self.reclaim();
        self.mappings_space.take(count)
    }

    /// Makes what was taken back free again.
    fn reclaim(&mut self) {
        if self.retired_arena.is_empty() && self.retired_mappings.is_empty() {
            return;
        }
        wait_for_running_programs();
        for (start, length) in self.retired_arena.drain(..) {
            self.arena_space.give(start, length);
        }
        for place in self.retired_mappings.drain(..) {
            self.mappings_space.give(place.first, place.count);
        }
    }
}

/// A rule as the kernel side reads it.
fn rule_words(rule: &Rule) -> [u32; RULE_WORDS as usize] {
    let Rule { cfa_offset, fp_offset, ra_offset, cfa_kind, fp_kind, ra_kind, arg } = *rule;
    let offsets = u32::from(fp_offset.cast_unsigned()) | u32::from(ra_offset.cast_unsigned()) << 16;
    [cfa_offset.cast_unsigned(), offsets, u32::from_le_bytes([cfa_kind, fp_kind, ra_kind, arg])]
}

/// The rules that the kernel side reads as these words.
fn rules_of(words: &[u32]) -> &[Rule] {
    const { assert!(size_of::<Rule>() == RULE_WORDS as usize * 4 && align_of::<Rule>() == align_of::<u32>()) }
    // SAFETY: a rule is `repr(C)`, integers only, as large and as aligned as so many words, and `rule_words` laid its fields
    // out in the same order (on the little-endian machines that obs runs on).
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() / RULE_WORDS as usize) }
}

// SAFETY: `repr(C)`, integers only, without padding, valid for every bit pattern.
unsafe impl Pod for Shared<FileTable> {}
// SAFETY: as above.
unsafe impl Pod for Shared<ImageKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<ProcessMappings> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_becomes_the_words_that_the_kernel_side_takes_apart() {
        let rule = Rule { cfa_offset: -8, fp_offset: -2, ra_offset: -1, cfa_kind: 1, fp_kind: 2, ra_kind: 3, arg: 255 };
        assert_eq!(rule_words(&rule), [0xffff_fff8, 0xffff_fffe, 0xff03_0201]);
        assert_eq!(rules_of(&rule_words(&rule)), [rule]);
    }
}

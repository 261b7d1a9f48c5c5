//! The tables of the journal that is being written: finds an entry's position, or adds it.

use std::{collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

use super::{
    error::WindowError,
    limits::{
        FRAMES_MAX, KEYS_MAX, KINDS_MAX, LABELS_TOTAL_MAX, MODULES_MAX, NODES_MAX, PROCESSES_MAX, SERIES_MAX,
        STRING_BYTES_MAX, STRINGS_BYTES_MAX, STRINGS_MAX, TABLE_FILL, TABLES_MEMORY_BYTES_MAX,
    },
    tables::{
        FrameEntry, KeyEntry, KindEntry, ModuleEntry, NodeEntry, ProcessEntry, SeriesEntry, Tables, put_code,
        put_series, put_stacks, put_strings, put_who,
    },
};
use crate::model::process::ProcessKey;

/// Hashes are looked up millions of times a day; this one is seeded too, so that names cannot be chosen to collide.
type IndexSet<T> = indexmap::IndexSet<T, RandomState>;

/// How many entries each table had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    strings: usize,
    string_bytes: usize,
    modules: usize,
    frames: usize,
    nodes: usize,
    processes: usize,
    kinds: usize,
    keys: usize,
    series: usize,
    pairs: usize,
}

/// The tables, each with an index. An entry's position never changes.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: IndexSet<Box<str>>,
    string_bytes: usize,
    modules: IndexSet<ModuleEntry>,
    frames: IndexSet<FrameEntry>,
    nodes: IndexSet<NodeEntry>,
    processes: IndexSet<ProcessEntry>,
    /// Which of them was told last of an image.
    process_of: HashMap<ProcessKey, u32>,
    kinds: IndexSet<KindEntry>,
    keys: IndexSet<KeyEntry>,
    series: IndexSet<SeriesEntry>,
    /// Labels, attributes and value types.
    pairs: usize,
}

fn add<T: Hash + Eq>(table: &mut IndexSet<T>, entry: T) -> u32 {
    table.insert_full(entry).0 as u32
}

impl Interner {
    /// Positions are 32 bits wide: tables are checked after each window, and a window's frame has a bound far below.
    pub(super) fn string(&mut self, text: &str) -> u32 {
        let mut cut = text.len().min(STRING_BYTES_MAX);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let text = &text[..cut];
        if let Some(index) = self.strings.get_index_of(text) {
            return index as u32;
        }
        self.string_bytes += text.len();
        add(&mut self.strings, text.into())
    }

    pub(super) fn module(&mut self, entry: ModuleEntry) -> u32 {
        add(&mut self.modules, entry)
    }

    pub(super) fn frame(&mut self, entry: FrameEntry) -> u32 {
        add(&mut self.frames, entry)
    }

    pub(super) fn node(&mut self, entry: NodeEntry) -> u32 {
        add(&mut self.nodes, entry)
    }

    pub(super) fn process(&mut self, entry: ProcessEntry) -> u32 {
        let (pairs, key) = (entry.attributes.len(), entry.key);
        let before = self.processes.len();
        let index = add(&mut self.processes, entry);
        self.process_of.insert(key, index);
        self.pairs += if self.processes.len() > before { pairs } else { 0 };
        index
    }

    /// What was told last of that image; the bare key if nothing was.
    pub(super) fn process_of(&mut self, key: ProcessKey) -> u32 {
        match self.process_of.get(&key) {
            Some(index) => *index,
            None => self.process(ProcessEntry { key, attributes: Box::default() }),
        }
    }

    pub(super) fn kind(&mut self, entry: KindEntry) -> u32 {
        let pairs = entry.value_types.len();
        let before = self.kinds.len();
        let index = add(&mut self.kinds, entry);
        self.pairs += if self.kinds.len() > before { pairs } else { 0 };
        index
    }

    /// How many value types a kind of profile has.
    pub(super) fn types_of_kind(&self, kind: u32) -> usize {
        self.kinds.get_index(kind as usize).map_or(0, |kind| kind.value_types.len())
    }

    pub(super) fn key(&mut self, entry: KeyEntry) -> u32 {
        add(&mut self.keys, entry)
    }

    pub(super) fn series(&mut self, entry: SeriesEntry) -> u32 {
        let pairs = entry.labels.len();
        let before = self.series.len();
        let index = add(&mut self.series, entry);
        self.pairs += if self.series.len() > before { pairs } else { 0 };
        index
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            strings: self.strings.len(),
            string_bytes: self.string_bytes,
            modules: self.modules.len(),
            frames: self.frames.len(),
            nodes: self.nodes.len(),
            processes: self.processes.len(),
            kinds: self.kinds.len(),
            keys: self.keys.len(),
            series: self.series.len(),
            pairs: self.pairs,
        }
    }

    /// Forgets everything that was added since.
    pub(super) fn roll_back(&mut self, mark: &Mark) {
        self.strings.truncate(mark.strings);
        self.string_bytes = mark.string_bytes;
        self.modules.truncate(mark.modules);
        self.frames.truncate(mark.frames);
        self.nodes.truncate(mark.nodes);
        self.processes.truncate(mark.processes);
        // What was told last of an image may have been told by the entries that went.
        self.process_of = (0..).zip(&self.processes).map(|(index, entry)| (entry.key, index)).collect();
        self.kinds.truncate(mark.kinds);
        self.keys.truncate(mark.keys);
        self.series.truncate(mark.series);
        self.pairs = mark.pairs;
    }

    fn fills(&self) -> [(&'static str, usize, usize); 10] {
        [
            ("strings", self.strings.len(), STRINGS_MAX),
            ("bytes of strings", self.string_bytes, STRINGS_BYTES_MAX),
            ("modules", self.modules.len(), MODULES_MAX),
            ("frames", self.frames.len(), FRAMES_MAX),
            ("nodes of stacks", self.nodes.len(), NODES_MAX),
            ("processes", self.processes.len(), PROCESSES_MAX),
            ("kinds of profiles", self.kinds.len(), KINDS_MAX),
            ("samples", self.keys.len(), KEYS_MAX),
            ("series", self.series.len(), SERIES_MAX),
            ("labels", self.pairs, LABELS_TOTAL_MAX),
        ]
    }

    /// Whether every table is within its bound.
    pub(super) fn check(&self) -> Result<(), WindowError> {
        match self.fills().into_iter().find(|(_, length, max)| length > max) {
            Some((what, _, max)) => Err(WindowError::TooLarge { what, max }),
            None => Ok(()),
        }
    }

    /// Whether a table is so full that another block should begin.
    pub(super) fn is_full(&self) -> bool {
        let (share, whole) = TABLE_FILL;
        self.fills().into_iter().any(|(_, length, max)| length > max / whole * share)
            || self.memory_bytes() > TABLES_MEMORY_BYTES_MAX
    }

    /// Memory that the tables take, roughly.
    fn memory_bytes(&self) -> usize {
        /// Of an entry: its hash, its place in the index, and room to grow.
        const INDEX_BYTES: usize = 32;
        /// Of an entry that lies by itself: what the allocator adds.
        const APART_BYTES: usize = 16;
        fn table<T>(entries: &IndexSet<T>) -> usize {
            entries.len() * (size_of::<T>() + INDEX_BYTES)
        }
        let apart = self.strings.len() + self.processes.len() + self.series.len();
        self.string_bytes
            + apart * APART_BYTES
            + self.pairs * size_of::<(u32, u32)>()
            + self.process_of.len() * (size_of::<(ProcessKey, u32)>() + INDEX_BYTES)
            + table(&self.strings)
            + table(&self.modules)
            + table(&self.frames)
            + table(&self.nodes)
            + table(&self.processes)
            + table(&self.keys)
            + table(&self.series)
    }

    /// Writes the entries that were added since.
    pub(super) fn put_added(&self, out: &mut Vec<u8>, mark: &Mark) {
        fn since<T>(table: &IndexSet<T>, before: usize) -> impl ExactSizeIterator<Item = &T> + Clone {
            table.as_slice()[before.min(table.len())..].iter()
        }
        put_strings(out, since(&self.strings, mark.strings).map(|text| &**text));
        put_code(out, since(&self.modules, mark.modules), since(&self.frames, mark.frames));
        put_stacks(out, mark.nodes, since(&self.nodes, mark.nodes));
        put_who(
            out,
            since(&self.processes, mark.processes),
            since(&self.kinds, mark.kinds),
            since(&self.keys, mark.keys),
        );
        put_series(out, since(&self.series, mark.series));
    }

    /// Takes up what a journal's tables hold, to go on writing it. `false` if an entry stands there twice, which we never
    /// write: positions would differ.
    pub(super) fn of_tables(tables: &Tables) -> Option<Self> {
        let mut interner = Self::default();
        let Tables { strings, modules, frames, nodes, processes, kinds, keys, series, .. } = tables;
        interner.string_bytes = strings.iter().map(str::len).sum();
        interner.strings.extend(strings.iter().map(Box::<str>::from));
        interner.modules.extend(modules.iter().copied());
        interner.frames.extend(frames.iter().copied());
        interner.nodes.extend(nodes.iter().copied());
        interner.processes.extend(processes.iter().cloned());
        interner.process_of.extend((0..).zip(processes).map(|(index, entry)| (entry.key, index)));
        interner.kinds.extend(kinds.iter().cloned());
        interner.keys.extend(keys.iter().copied());
        interner.series.extend(series.iter().cloned());
        interner.pairs = processes.iter().map(|entry| entry.attributes.len()).sum::<usize>()
            + kinds.iter().map(|entry| entry.value_types.len()).sum::<usize>()
            + series.iter().map(|entry| entry.labels.len()).sum::<usize>();
        let is_whole = interner.strings.len() == strings.len()
            && interner.modules.len() == modules.len()
            && interner.frames.len() == frames.len()
            && interner.nodes.len() == nodes.len()
            && interner.processes.len() == processes.len()
            && interner.kinds.len() == kinds.len()
            && interner.keys.len() == keys.len()
            && interner.series.len() == series.len();
        is_whole.then_some(interner)
    }
}

//! Adds the samples of several blocks up: their tables are merged as far as samples need them.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use indexmap::map::Entry;

use super::{
    super::{
        attributes,
        bytes::Parsed,
        codes,
        tables::{FrameEntry, KeyEntry, Maybe, ModuleEntry, NodeEntry, Tables, at},
    },
    Grouping,
};
use crate::model::{
    process::{ProcessInfo, ProcessKey},
    profile::{Frame, Module, ProfileSample},
};

type IndexSet<T> = indexmap::IndexSet<T, RandomState>;
type IndexMap<K, V> = indexmap::IndexMap<K, V, RandomState>;

/// What a row of the merged profile belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    process: u32,
    thread: u32,
    stack: Maybe,
    cut: u8,
}

/// What makes one process of the merged profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Image([u8; 16], ProcessKey),
    Name(Arc<str>),
}

/// One profile out of many, while it grows.
pub(super) struct Merger {
    grouping: Grouping,
    types: usize,
    rows_max: usize,
    texts: IndexSet<Arc<str>>,
    // By positions in the merged tables: comparing and hashing texts each time would cost more than all the rest.
    modules: IndexSet<ModuleEntry>,
    frames: IndexSet<FrameEntry>,
    nodes: IndexSet<NodeEntry>,
    processes: IndexMap<Who, ProcessInfo>,
    rows: IndexMap<RowKey, Box<[u64]>>,
    /// Rows that were left out, and their values.
    pub(super) omitted: u64,
    pub(super) omitted_values: Vec<u64>,
}

/// What a block's positions are in the merged tables, as far as it was needed.
struct Translation {
    texts: Vec<Maybe>,
    frames: Vec<Maybe>,
    nodes: Vec<Maybe>,
    modules: Vec<Maybe>,
    processes: Vec<Maybe>,
}

/// The tables of a finished merge.
pub(super) struct Merged {
    pub(super) modules: Vec<Module>,
    pub(super) frames: Vec<Frame>,
    pub(super) processes: Vec<ProcessInfo>,
    pub(super) samples: Vec<ProfileSample>,
}

impl Merger {
    pub(super) fn new(grouping: Grouping, types: usize, rows_max: usize) -> Self {
        Self {
            grouping,
            types,
            rows_max: rows_max.max(1),
            texts: IndexSet::default(),
            modules: IndexSet::default(),
            frames: IndexSet::default(),
            nodes: IndexSet::default(),
            processes: IndexMap::default(),
            rows: IndexMap::default(),
            omitted: 0,
            omitted_values: vec![0; types],
        }
    }

    /// Adds the totals of a block's keys: one run of values per key, in their order.
    pub(super) fn add(&mut self, boot_id: [u8; 16], tables: &Tables, totals: &[u64]) -> Parsed<()> {
        let mut known = Translation {
            texts: vec![Maybe::NONE; tables.strings.len()],
            frames: vec![Maybe::NONE; tables.frames.len()],
            nodes: vec![Maybe::NONE; tables.nodes.len()],
            modules: vec![Maybe::NONE; tables.modules.len()],
            processes: vec![Maybe::NONE; tables.processes.len()],
        };
        for (key, values) in tables.keys.iter().zip(totals.chunks_exact(self.types)) {
            if values.iter().any(|value| *value > 0) {
                self.add_row(boot_id, tables, &mut known, key, values)?;
            }
        }
        Ok(())
    }

    fn add_row(
        &mut self,
        boot_id: [u8; 16],
        tables: &Tables,
        known: &mut Translation,
        key: &KeyEntry,
        values: &[u64],
    ) -> Parsed<()> {
        let thread = self.thread(tables, known, key.thread)?;
        let process = self.process(boot_id, tables, known, key.process)?;
        let stack = match key.stack.get() {
            Some(node) => self.node(tables, known, node)?,
            None => Maybe::NONE,
        };
        match self.rows.entry(RowKey { process, thread, stack, cut: key.cut }) {
            Entry::Occupied(mut row) => {
                row.get_mut().iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
            }
            Entry::Vacant(row) => {
                row.insert(values.into());
            }
        }
        // Seldom, and then down to the limit at once.
        if self.rows.len() > self.rows_max.saturating_mul(2) {
            self.leave_out();
        }
        Ok(())
    }

    /// Leaves the smallest rows out, by the value that is shown by default: the last one.
    fn leave_out(&mut self) {
        if self.rows.len() <= self.rows_max {
            return;
        }
        self.rows.sort_by(|_, left, _, right| right.last().cmp(&left.last()));
        for (_, values) in self.rows.drain(self.rows_max..) {
            self.omitted += 1;
            self.omitted_values.iter_mut().zip(&values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        }
    }

    /// The merged tables' position of a text.
    fn text(&mut self, tables: &Tables, known: &mut Translation, index: u32) -> Parsed<u32> {
        if let Some(found) = at(&known.texts, index)?.get() {
            return Ok(found);
        }
        let merged = self.intern(tables.strings.get(index)?);
        known.texts[index as usize] = Maybe::some(merged);
        Ok(merged)
    }

    fn maybe_text(&mut self, tables: &Tables, known: &mut Translation, index: Maybe) -> Parsed<Maybe> {
        index.get().map_or(Ok(Maybe::NONE), |index| self.text(tables, known, index).map(Maybe::some))
    }

    fn intern(&mut self, text: &str) -> u32 {
        match self.texts.get_index_of(text) {
            Some(found) => found as u32,
            None => self.texts.insert_full(text.into()).0 as u32,
        }
    }

    fn text_at(&self, index: u32) -> Arc<str> {
        self.texts.get_index(index as usize).map_or_else(|| "".into(), Arc::clone)
    }

    fn thread(&mut self, tables: &Tables, known: &mut Translation, name: u32) -> Parsed<u32> {
        match self.grouping {
            Grouping::Threads => self.text(tables, known, name),
            Grouping::Processes | Grouping::Names => Ok(self.intern("")),
        }
    }

    fn process(&mut self, boot_id: [u8; 16], tables: &Tables, known: &mut Translation, index: u32) -> Parsed<u32> {
        let entry = at(&tables.processes, index)?;
        if let Some(found) = known.processes[index as usize].get() {
            return Ok(found);
        }
        let mut pairs = Vec::with_capacity(entry.attributes.len());
        for (name, value) in &entry.attributes {
            let (name, value) = (self.text(tables, known, *name)?, self.text(tables, known, *value)?);
            pairs.push((self.text_at(name), self.text_at(value)));
        }
        let info = attributes::info(entry.key, pairs.into_iter());
        let who = match self.grouping {
            Grouping::Threads | Grouping::Processes => Who::Image(boot_id, entry.key),
            Grouping::Names => Who::Name(Arc::clone(&info.name)),
        };
        // Blocks come newest first: what is known already stays, unless it is bare.
        let merged = match self.processes.get_full_mut(&who) {
            Some((position, _, before)) => {
                if before.name.is_empty() {
                    *before = info;
                }
                position
            }
            None => self.processes.insert_full(who, info).0,
        };
        known.processes[index as usize] = Maybe::some(merged as u32);
        Ok(merged as u32)
    }

    /// The node of the merged tables. Callers stand before the called, so each one's caller is known when it is its turn.
    fn node(&mut self, tables: &Tables, known: &mut Translation, node: u32) -> Parsed<Maybe> {
        let mut missing = Vec::new();
        let mut next = Maybe::some(node);
        let mut merged = Maybe::NONE;
        while let Some(index) = next.get() {
            let entry = at(&tables.nodes, index)?;
            match known.nodes[index as usize] {
                Maybe::NONE => missing.push((index, entry.frame)),
                found => {
                    merged = found;
                    break;
                }
            }
            next = entry.parent;
        }
        for (index, frame) in missing.into_iter().rev() {
            let frame = self.frame(tables, known, frame)?;
            merged = Maybe::some(self.nodes.insert_full(NodeEntry { parent: merged, frame }).0 as u32);
            known.nodes[index as usize] = merged;
        }
        Ok(merged)
    }

    fn frame(&mut self, tables: &Tables, known: &mut Translation, index: u32) -> Parsed<u32> {
        let entry = at(&tables.frames, index)?;
        if let Some(found) = known.frames[index as usize].get() {
            return Ok(found);
        }
        let module = match entry.module.get() {
            Some(module) => Maybe::some(self.module(tables, known, module)?),
            None => Maybe::NONE,
        };
        let function = self.maybe_text(tables, known, entry.function)?;
        let file = self.maybe_text(tables, known, entry.file)?;
        let frame = FrameEntry { function, module, file, ..*entry };
        let merged = self.frames.insert_full(frame).0 as u32;
        known.frames[index as usize] = Maybe::some(merged);
        Ok(merged)
    }

    fn module(&mut self, tables: &Tables, known: &mut Translation, index: u32) -> Parsed<u32> {
        let entry = at(&tables.modules, index)?;
        if let Some(found) = known.modules[index as usize].get() {
            return Ok(found);
        }
        let path = self.text(tables, known, entry.path)?;
        let build_id = self.maybe_text(tables, known, entry.build_id)?;
        let merged = self.modules.insert_full(ModuleEntry { path, build_id }).0 as u32;
        known.modules[index as usize] = Maybe::some(merged);
        Ok(merged)
    }

    /// The samples, and of the tables what they need.
    pub(super) fn finish(mut self) -> Parsed<(Merged, u64, Vec<u64>)> {
        self.leave_out();
        let (mut modules, mut frames) = (Renumbered::new(self.modules.len()), Renumbered::new(self.frames.len()));
        let mut processes = Renumbered::new(self.processes.len());
        let mut stacks: HashMap<Maybe, Arc<[u32]>> = HashMap::new();
        let mut samples = Vec::with_capacity(self.rows.len());
        for (RowKey { process, thread, stack, cut }, values) in std::mem::take(&mut self.rows) {
            let frames_of = || {
                let mut found = Vec::new();
                let mut next = stack;
                while let Some(node) = next.get().and_then(|node| self.nodes.get_index(node as usize)) {
                    found.push(frames.of(node.frame));
                    next = node.parent;
                }
                found.into()
            };
            samples.push(ProfileSample {
                process: processes.of(process),
                thread_name: self.text_at(thread),
                stack: Arc::clone(stacks.entry(stack).or_insert_with(frames_of)),
                cut: codes::cut(cut)?,
                values: values.into_vec(),
            });
        }
        let mut kept_frames = Vec::with_capacity(frames.order.len());
        for index in &frames.order {
            let Some(FrameEntry { function, kind, module, address, file, line }) =
                self.frames.get_index(*index as usize)
            else {
                continue;
            };
            kept_frames.push(Frame {
                function: function.get().map(|text| self.text_at(text)),
                kind: *kind,
                module: module.get().map(|module| modules.of(module)),
                address: *address,
                source: file.get().map(|file| (self.text_at(file), *line)),
            });
        }
        let pick_module = |index: &u32| {
            let ModuleEntry { path, build_id } = self.modules.get_index(*index as usize)?;
            Some(Module { path: self.text_at(*path), build_id: build_id.get().map(|text| self.text_at(text)) })
        };
        let pick_process = |index: &u32| self.processes.get_index(*index as usize).map(|(_, info)| info.clone());
        let merged = Merged {
            modules: modules.order.iter().filter_map(pick_module).collect(),
            frames: kept_frames,
            processes: processes.order.iter().filter_map(pick_process).collect(),
            samples,
        };
        Ok((merged, self.omitted, self.omitted_values))
    }
}

/// New positions for the entries that are used, in the order in which they are.
struct Renumbered {
    of: Vec<Maybe>,
    order: Vec<u32>,
}

impl Renumbered {
    fn new(length: usize) -> Self {
        Self { of: vec![Maybe::NONE; length], order: Vec::new() }
    }

    fn of(&mut self, index: u32) -> u32 {
        let place = &mut self.of[index as usize];
        match place.get() {
            Some(found) => found,
            None => {
                let next = self.order.len() as u32;
                *place = Maybe::some(next);
                self.order.push(index);
                next
            }
        }
    }
}

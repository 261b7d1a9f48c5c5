//! Adds the samples of several blocks up: their tables are merged as far as samples need them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use indexmap::{IndexMap, IndexSet, map::Entry};

use super::super::{
    attributes,
    bytes::Parsed,
    codes,
    tables::{KeyEntry, Maybe, Tables, at},
};
use crate::model::{
    process::{ProcessInfo, ProcessKey},
    profile::{Frame, Module, ProfileSample},
};

/// What a row of the merged profile belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    process: u32,
    thread: u32,
    stack: Maybe,
    cut: u8,
}

/// One profile out of many, while it grows.
pub(super) struct Merger {
    types: usize,
    rows_max: usize,
    texts: HashSet<Arc<str>>,
    modules: IndexSet<Module>,
    frames: IndexSet<Frame>,
    nodes: IndexSet<(Maybe, u32)>,
    threads: IndexSet<Arc<str>>,
    processes: IndexMap<([u8; 16], ProcessKey), ProcessInfo>,
    rows: IndexMap<RowKey, Box<[u64]>>,
    /// Rows that were left out, and their values.
    pub(super) omitted: u64,
    pub(super) omitted_values: Vec<u64>,
}

/// What a block's positions are in the merged tables, as far as it was needed.
struct Translation {
    frames: Vec<Maybe>,
    nodes: Vec<Maybe>,
    modules: Vec<Maybe>,
}

/// The tables of a finished merge.
pub(super) struct Merged {
    pub(super) modules: Vec<Module>,
    pub(super) frames: Vec<Frame>,
    pub(super) processes: Vec<ProcessInfo>,
    pub(super) samples: Vec<ProfileSample>,
}

impl Merger {
    pub(super) fn new(types: usize, rows_max: usize) -> Self {
        Self {
            types,
            rows_max: rows_max.max(1),
            texts: HashSet::new(),
            modules: IndexSet::new(),
            frames: IndexSet::new(),
            nodes: IndexSet::new(),
            threads: IndexSet::new(),
            processes: IndexMap::new(),
            rows: IndexMap::new(),
            omitted: 0,
            omitted_values: vec![0; types],
        }
    }

    /// Adds the totals of a block's keys: one run of values per key, in their order.
    pub(super) fn add(&mut self, boot_id: [u8; 16], tables: &Tables, totals: &[u64]) -> Parsed<()> {
        let mut known = Translation {
            frames: vec![Maybe::NONE; tables.frames.len()],
            nodes: vec![Maybe::NONE; tables.nodes.len()],
            modules: vec![Maybe::NONE; tables.modules.len()],
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
        let thread = self.text(tables.strings.get(key.thread)?);
        let thread = self.threads.insert_full(thread).0 as u32;
        let process = self.process(boot_id, tables, key.process)?;
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

    fn text(&mut self, text: &str) -> Arc<str> {
        match self.texts.get(text) {
            Some(known) => Arc::clone(known),
            None => {
                let text: Arc<str> = text.into();
                self.texts.insert(Arc::clone(&text));
                text
            }
        }
    }

    fn process(&mut self, boot_id: [u8; 16], tables: &Tables, index: u32) -> Parsed<u32> {
        let entry = at(&tables.processes, index)?;
        // Blocks come newest first, and within one the last entry knows most: what is known already stays, unless it is bare.
        if let Some((index, _, info)) = self.processes.get_full(&(boot_id, entry.key))
            && (!info.name.is_empty() || entry.attributes.is_empty())
        {
            return Ok(index as u32);
        }
        let mut attributes = Vec::with_capacity(entry.attributes.len());
        for (name, value) in &entry.attributes {
            attributes.push((self.text(tables.strings.get(*name)?), self.text(tables.strings.get(*value)?)));
        }
        let info = attributes::info(entry.key, attributes.into_iter());
        Ok(self.processes.insert_full((boot_id, entry.key), info).0 as u32)
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
            merged = Maybe::some(self.nodes.insert_full((merged, frame)).0 as u32);
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
            Some(module) => Some(self.module(tables, known, module)?),
            None => None,
        };
        let function = match entry.function.get() {
            Some(text) => Some(self.text(tables.strings.get(text)?)),
            None => None,
        };
        let source = match entry.file.get() {
            Some(text) => Some((self.text(tables.strings.get(text)?), entry.line)),
            None => None,
        };
        let frame = Frame { function, kind: entry.kind, module, address: entry.address, source };
        let merged = self.frames.insert_full(frame).0 as u32;
        known.frames[index as usize] = Maybe::some(merged);
        Ok(merged)
    }

    fn module(&mut self, tables: &Tables, known: &mut Translation, index: u32) -> Parsed<u32> {
        let entry = at(&tables.modules, index)?;
        if let Some(found) = known.modules[index as usize].get() {
            return Ok(found);
        }
        let path = self.text(tables.strings.get(entry.path)?);
        let build_id = match entry.build_id.get() {
            Some(text) => Some(self.text(tables.strings.get(text)?)),
            None => None,
        };
        let merged = self.modules.insert_full(Module { path, build_id }).0 as u32;
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
                while let Some((parent, frame)) = next.get().and_then(|node| self.nodes.get_index(node as usize)) {
                    found.push(frames.of(*frame));
                    next = *parent;
                }
                found.into()
            };
            samples.push(ProfileSample {
                process: processes.of(process),
                thread_name: self.threads.get_index(thread as usize).map_or_else(|| "".into(), Arc::clone),
                stack: Arc::clone(stacks.entry(stack).or_insert_with(frames_of)),
                cut: codes::cut(cut)?,
                values: values.into_vec(),
            });
        }
        let mut kept_frames = Vec::with_capacity(frames.order.len());
        for index in &frames.order {
            if let Some(frame) = self.frames.get_index(*index as usize) {
                kept_frames.push(Frame { module: frame.module.map(|module| modules.of(module)), ..frame.clone() });
            }
        }
        let pick_module = |index: &u32| self.modules.get_index(*index as usize).cloned();
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

//! Puts a journal's tables into the order in which they compress best, once their block is finished.
//!
//! Entries of a journal stand as they came. In a block, callers are followed by what they called, frames and names stand in
//! the order in which stacks need them, samples' keys by process, series by name: neighbours are alike, and differences
//! between neighbours are small.

use super::{
    bytes::Parsed,
    codes::SeriesKind,
    tables::{
        FrameEntry, KeyEntry, KindEntry, Maybe, ModuleEntry, NodeEntry, ProcessEntry, SeriesEntry, Strings, Tables, at,
    },
    window::Kinds,
};

/// Reordered tables, and where what the journal refers to stands in them.
#[derive(Default)]
pub(super) struct Reordered {
    pub(super) tables: Tables,
    pub(super) string_rank: Vec<u32>,
    pub(super) key_rank: Vec<u32>,
    pub(super) series_rank: Vec<u32>,
}

/// The journal's windows are read by its own positions.
impl Kinds for Reordered {
    fn types_of_kind(&self, kind: u32) -> Parsed<usize> {
        self.tables.types_of_kind(kind)
    }

    fn kind_of_key(&self, key: u32) -> Parsed<u32> {
        self.tables.kind_of_key(*at(&self.key_rank, key)?)
    }

    fn kind_of_series(&self, series: u32) -> Parsed<SeriesKind> {
        self.tables.kind_of_series(*at(&self.series_rank, series)?)
    }
}

/// Positions by the old ones, given in the order in which they are asked for.
struct Ranks {
    rank: Vec<Maybe>,
    order: Vec<u32>,
}

impl Ranks {
    fn new(length: usize) -> Self {
        Self { rank: vec![Maybe::NONE; length], order: Vec::with_capacity(length) }
    }

    fn of(&mut self, index: u32) -> Parsed<u32> {
        if let Some(found) = at(&self.rank, index)?.get() {
            return Ok(found);
        }
        let next = self.order.len() as u32;
        self.rank[index as usize] = Maybe::some(next);
        self.order.push(index);
        Ok(next)
    }

    fn maybe(&mut self, index: Maybe) -> Parsed<Maybe> {
        index.get().map_or(Ok(Maybe::NONE), |index| self.of(index).map(Maybe::some))
    }

    /// What nobody asked for comes last.
    fn complete(&mut self) -> Parsed<()> {
        (0..self.rank.len() as u32).try_for_each(|index| self.of(index).map(drop))
    }
}

/// Reorders all tables.
///
/// # Errors
///
/// When a reference leads nowhere, which no table of ours has.
pub(super) fn reorder(old: &Tables) -> Parsed<Reordered> {
    let (node_order, node_rank) = depth_first(&old.nodes);
    let mut frames = Ranks::new(old.frames.len());
    let mut nodes = Vec::with_capacity(old.nodes.len());
    for index in &node_order {
        let NodeEntry { parent, frame } = *at(&old.nodes, *index)?;
        let parent = match parent.get() {
            Some(parent) => Maybe::some(*at(&node_rank, parent)?),
            None => Maybe::NONE,
        };
        nodes.push(NodeEntry { parent, frame: frames.of(frame)? });
    }
    frames.complete()?;

    let mut strings = Ranks::new(old.strings.len());
    let mut modules = Ranks::new(old.modules.len());
    let mut new_frames = Vec::with_capacity(old.frames.len());
    for index in &frames.order {
        let FrameEntry { function, kind, module, address, file, line } = *at(&old.frames, *index)?;
        let (function, module, file) = (strings.maybe(function)?, modules.maybe(module)?, strings.maybe(file)?);
        new_frames.push(FrameEntry { function, kind, module, address, file, line });
    }
    modules.complete()?;
    let mut new_modules = Vec::with_capacity(old.modules.len());
    for index in &modules.order {
        let ModuleEntry { path, build_id } = *at(&old.modules, *index)?;
        new_modules.push(ModuleEntry { path: strings.of(path)?, build_id: strings.maybe(build_id)? });
    }
    let pairs = |pairs: &[(u32, u32)], strings: &mut Ranks| -> Parsed<Box<[(u32, u32)]>> {
        pairs.iter().map(|(name, value)| Ok((strings.of(*name)?, strings.of(*value)?))).collect()
    };
    let mut processes = Vec::with_capacity(old.processes.len());
    for ProcessEntry { key, attributes } in &old.processes {
        processes.push(ProcessEntry { key: *key, attributes: pairs(attributes, &mut strings)? });
    }
    let mut kinds = Vec::with_capacity(old.kinds.len());
    for KindEntry { collector, value_types, period } in &old.kinds {
        let period = match period {
            Some(((name, unit), value)) => Some(((strings.of(*name)?, strings.of(*unit)?), *value)),
            None => None,
        };
        let value_types = pairs(value_types, &mut strings)?;
        kinds.push(KindEntry { collector: strings.of(*collector)?, value_types, period });
    }

    let (keys, key_rank) = sorted_keys(&old.keys, &node_rank, &mut strings)?;
    let series_order = series_order(old)?;
    let mut series = Vec::with_capacity(old.series.len());
    for index in &series_order {
        let SeriesEntry { kind, name, labels } = at(&old.series, *index)?;
        series.push(SeriesEntry { kind: *kind, name: strings.of(*name)?, labels: pairs(labels, &mut strings)? });
    }
    strings.complete()?;
    let mut texts = Strings::default();
    for index in &strings.order {
        texts.add(old.strings.get(*index)?.as_bytes())?;
    }
    let tables = Tables::of(texts, new_modules, new_frames, nodes, processes, kinds, keys, series);
    let (string_rank, series_rank) = (inverse(&strings.order), inverse(&series_order));
    Ok(Reordered { tables, string_rank, key_rank, series_rank })
}

/// The nodes with each one's called ones right behind it; and the rank of each.
fn depth_first(nodes: &[NodeEntry]) -> (Vec<u32>, Vec<u32>) {
    // Lists of siblings, the newest first; the roots' are those of a caller that is not there.
    let mut first_called = vec![Maybe::NONE; nodes.len() + 1];
    let mut next_sibling = vec![Maybe::NONE; nodes.len()];
    for (index, node) in (0..).zip(nodes) {
        if let Some(first) = first_called.get_mut(node.parent.0 as usize) {
            next_sibling[index as usize] = *first;
            *first = Maybe::some(index);
        }
    }
    let mut order = Vec::with_capacity(nodes.len());
    let mut open: Vec<u32> = Vec::new();
    let mut next = first_called[0];
    loop {
        match next.get() {
            Some(index) => {
                order.push(index);
                open.push(index);
                next = first_called[index as usize + 1];
            }
            None => match open.pop() {
                Some(index) => next = next_sibling[index as usize],
                None => break,
            },
        }
    }
    let rank = inverse(&order);
    (order, rank)
}

fn inverse(order: &[u32]) -> Vec<u32> {
    let mut rank = vec![0; order.len()];
    for (position, index) in (0..).zip(order) {
        rank[*index as usize] = position;
    }
    rank
}

/// Keys by kind, process, thread and stack; and the rank of each.
fn sorted_keys(old: &[KeyEntry], node_rank: &[u32], strings: &mut Ranks) -> Parsed<(Vec<KeyEntry>, Vec<u32>)> {
    let mut keys = Vec::with_capacity(old.len());
    for (index, KeyEntry { kind, process, thread, stack, cut }) in (0_u32..).zip(old) {
        let stack = match stack.get() {
            Some(node) => Maybe::some(*at(node_rank, node)?),
            None => Maybe::NONE,
        };
        let key = KeyEntry { kind: *kind, process: *process, thread: strings.of(*thread)?, stack, cut: *cut };
        keys.push((key, index));
    }
    keys.sort_by_key(|(key, _)| (key.kind, key.process, key.thread, key.stack, key.cut));
    let order: Vec<u32> = keys.iter().map(|(_, index)| *index).collect();
    Ok((keys.into_iter().map(|(key, _)| key).collect(), inverse(&order)))
}

/// Series of one name stand together, so that a query reads few chunks.
fn series_order(tables: &Tables) -> Parsed<Vec<u32>> {
    let mut named = Vec::with_capacity(tables.series.len());
    for (index, SeriesEntry { kind, name, labels }) in (0_u32..).zip(&tables.series) {
        let mut texts = Vec::with_capacity(labels.len());
        for (name, value) in labels {
            texts.push((tables.strings.get(*name)?, tables.strings.get(*value)?));
        }
        named.push((tables.strings.get(*name)?, *kind, texts, index));
    }
    named.sort();
    Ok(named.into_iter().map(|(.., index)| index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_stands_behind_its_caller() {
        let node = |parent: u32, frame| NodeEntry { parent: Maybe(parent), frame };
        // 0 and 3 are roots; 0 calls 1 and 4, 1 calls 2, 3 calls 5.
        let nodes = [node(0, 10), node(1, 11), node(2, 12), node(0, 13), node(1, 14), node(4, 15)];
        let (order, rank) = depth_first(&nodes);
        assert_eq!(order, [3, 5, 0, 4, 1, 2]);
        assert_eq!(rank, [2, 4, 5, 0, 3, 1]);
    }
}

//! The tables of a pprof file: strings, mappings, locations and functions, each entry once, numbered as it is met.

use std::{borrow::Cow, collections::HashMap, mem, num::NonZeroU64};

use super::{
    super::{
        names::{clean, cut_text, frame_text},
        order::Order,
    },
    proto::{Function, Line, Location, Mapping},
};
use crate::model::{
    profile::{Frame, Profile},
    stack::StackEnd,
};

/// What pprof's readers call the kernel's image.
const KERNEL: &str = "[kernel.kallsyms]";

pub(super) struct Tables<'a> {
    profile: &'a Profile,
    strings: HashMap<Cow<'a, str>, i64>,
    /// The mapping's number of each module.
    mapping_of: Vec<u64>,
    next_location: NonZeroU64,
    /// By the index of the only frame at an address: nearly all locations, each met very often.
    single_locations: Vec<Option<NonZeroU64>>,
    /// By the indices of the frames at one address, innermost first.
    locations: HashMap<&'a [u32], NonZeroU64>,
    cut_locations: HashMap<StackEnd, NonZeroU64>,
    /// By name and file name.
    functions: HashMap<(i64, i64), u64>,
    new_locations: Vec<Location>,
    new_functions: Vec<Function>,
}

impl<'a> Tables<'a> {
    /// Numbers the modules in order, `main` first.
    pub(super) fn new(profile: &'a Profile, order: &Order, main: Option<u32>) -> Self {
        let mut mapping_of: Vec<u64> = vec![0; profile.modules.len()];
        let others = order.modules.indices.iter().copied().filter(|module| Some(*module) != main);
        for (id, module) in (1..).zip(main.into_iter().chain(others)) {
            mapping_of[module as usize] = id;
        }
        Self {
            profile,
            strings: HashMap::from([(Cow::Borrowed(""), 0)]),
            mapping_of,
            next_location: NonZeroU64::MIN,
            single_locations: vec![None; profile.frames.len()],
            locations: HashMap::new(),
            cut_locations: HashMap::new(),
            functions: HashMap::new(),
            new_locations: Vec::new(),
            new_functions: Vec::new(),
        }
    }

    /// The place of `text` in the string table.
    pub(super) fn string(&mut self, text: Cow<'a, str>) -> i64 {
        let next = self.strings.len() as i64;
        *self.strings.entry(text).or_insert(next)
    }

    /// The string table, which begins with the empty string.
    pub(super) fn into_strings(self) -> Vec<Cow<'a, str>> {
        let mut rows: Vec<_> = self.strings.into_iter().collect();
        rows.sort_unstable_by_key(|(_, place)| *place);
        rows.into_iter().map(|(text, _)| text).collect()
    }

    /// Every module as a mapping, by number.
    ///
    /// Addresses are already the module's own, as `readelf` shows them. A mapping of all addresses at offset 0 is how
    /// pprof's readers are told so.
    pub(super) fn mappings(&mut self, order: &Order) -> Vec<Mapping> {
        let mut modules = order.modules.indices.clone();
        modules.sort_by_key(|module| self.mapping_of[*module as usize]);
        let mut mappings: Vec<Mapping> = Vec::with_capacity(modules.len());
        for index in modules {
            let module = &self.profile.modules[index as usize];
            let path = if &*module.path == "[kernel]" { KERNEL } else { &module.path };
            mappings.push(Mapping {
                id: self.mapping_of[index as usize],
                memory_start: 0,
                memory_limit: u64::MAX,
                file_offset: 0,
                filename: self.string(clean(Cow::Borrowed(path))),
                build_id: module.build_id.as_deref().map_or(0, |id| self.string(clean(Cow::Borrowed(id)))),
                ..Mapping::default()
            });
        }
        for frame in &self.profile.frames {
            let Some(module) = frame.module else { continue };
            let mapping = &mut mappings[self.mapping_of[module as usize] as usize - 1];
            mapping.has_functions |= frame.function.is_some();
            mapping.has_filenames |= frame.source.is_some();
            mapping.has_line_numbers |= frame.source.is_some();
            mapping.has_inline_frames |= frame.kind.is_inlined();
        }
        mappings
    }

    /// How many of the innermost frames of `stack` lie at one address: those that were inlined, and the frame that they
    /// were inlined into.
    pub(super) fn location_length(&self, stack: &[u32]) -> usize {
        let kind = |index: &u32| self.profile.frames[*index as usize].kind;
        let Some(innermost) = stack.first().map(kind) else { return 0 };
        let mut length = 0;
        for kind in stack.iter().map(kind).take_while(|kind| kind.is_kernel() == innermost.is_kernel()) {
            length += 1;
            if !kind.is_inlined() {
                break;
            }
        }
        length
    }

    /// The number of the location of `frames`, which [`location_length`](Self::location_length) told.
    pub(super) fn location(&mut self, frames: &'a [u32]) -> u64 {
        let known = match frames {
            [frame] => self.single_locations[*frame as usize],
            several => self.locations.get(several).copied(),
        };
        if let Some(id) = known {
            return id.get();
        }
        let profile = self.profile;
        let line = frames.iter().map(|index| self.line(&profile.frames[*index as usize])).collect();
        // The outermost one is the function whose code this really is: it tells module and address.
        let outermost = frames.last().map(|index| &profile.frames[*index as usize]);
        let id = self.add_location(
            outermost.and_then(|frame| frame.module).map_or(0, |module| self.mapping_of[module as usize]),
            outermost.map_or(0, |frame| frame.address),
            line,
        );
        match frames {
            [frame] => self.single_locations[*frame as usize] = Some(id),
            several => _ = self.locations.insert(several, id),
        }
        id.get()
    }

    /// The number of the location that stands for the missing outer part of a stack.
    pub(super) fn cut_location(&mut self, end: StackEnd) -> u64 {
        if let Some(id) = self.cut_locations.get(&end) {
            return id.get();
        }
        let name = self.string(Cow::Owned(cut_text(end)));
        let function_id = self.function(name, 0);
        let id = self.add_location(0, 0, vec![Line { function_id, ..Line::default() }]);
        self.cut_locations.insert(end, id);
        id.get()
    }

    /// The locations and functions that were met since the last call.
    pub(super) fn take_new(&mut self) -> (Vec<Location>, Vec<Function>) {
        (mem::take(&mut self.new_locations), mem::take(&mut self.new_functions))
    }

    fn add_location(&mut self, mapping_id: u64, address: u64, line: Vec<Line>) -> NonZeroU64 {
        let id = self.next_location;
        self.next_location = id.saturating_add(1);
        self.new_locations.push(Location { id: id.get(), mapping_id, address, line, is_folded: false });
        id
    }

    fn line(&mut self, frame: &'a Frame) -> Line {
        let name = self.string(clean(frame_text(self.profile, frame)));
        let (file, line) = match &frame.source {
            Some((file, line)) => (self.string(clean(Cow::Borrowed(file))), i64::from(*line)),
            None => (0, 0),
        };
        Line { function_id: self.function(name, file), line, column: 0 }
    }

    fn function(&mut self, name: i64, filename: i64) -> u64 {
        let next = self.functions.len() as u64 + 1;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            // Without a system name readers leave the name alone: with an equal one, `go tool pprof` would strip the
            // parameters from demangled C++ names.
            self.new_functions.push(Function { id: next, name, system_name: 0, filename, start_line: 0 });
            next
        })
    }
}

//! The functions of a unit, and what was inlined into them.

use gimli::{Dwarf, EntriesRaw};

use super::{
    BuildError,
    builder::Builder,
    debug::{Debug, Unit, Value},
    files::Files,
    format::{put, put_difference},
    paint::{Node, Span, flatten},
    pieces::Reader,
};
use crate::enrich::symbolize::reason::FileError;

/// Most inlined calls of a function.
const INLINED_MAX: usize = 1 << 18;

/// Most ranges of a function's inlined calls.
const SPANS_MAX: usize = 1 << 18;

/// Most functions that lie within each other.
const NESTED_MAX: usize = 64;

/// A function whose entries are being read.
struct Function<'a> {
    depth: isize,
    spans: Vec<Span>,
    name: Name<'a>,
    nodes: Vec<Node>,
    inlined: Vec<Span>,
    /// Inlined functions around the next entry: how deep their entries lie, and which nodes they are.
    open: Vec<(isize, u32)>,
}

/// Where a function's name is to be found, if need be.
#[derive(Default)]
struct Name<'a> {
    linkage: Option<Value<'a>>,
    own: Option<Value<'a>>,
    reference: Option<Value<'a>>,
}

/// Attributes of a function, or of an inlined call.
#[derive(Default)]
struct Attributes<'a> {
    name: Name<'a>,
    low: Option<u64>,
    high: Option<u64>,
    size: Option<u64>,
    ranges: Option<Value<'a>>,
    file: Option<u64>,
    line: u64,
}

/// Writes the functions of a unit.
pub(super) fn write<'a>(
    builder: &mut Builder,
    debug: &mut Debug<'a>,
    unit: &Unit<'a>,
    files: &mut Files,
) -> Result<(), BuildError> {
    let mut entries = unit.entries_raw(None)?;
    let mut open: Vec<Function<'a>> = Vec::new();
    // Ends: each turn reads at least one byte.
    while !entries.is_empty() {
        let depth = entries.next_depth();
        while let Some(done) = open.pop_if(|function| depth <= function.depth) {
            finish(builder, debug, unit, files, done)?;
        }
        if let Some(function) = open.last_mut() {
            while function.open.pop_if(|(open, _)| depth <= *open).is_some() {}
        }
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        debug.spend(1 + abbreviation.attributes().len() as u64)?;
        match abbreviation.tag() {
            gimli::DW_TAG_subprogram => {
                let attributes = read(&mut entries, abbreviation.attributes(), debug.dwarf(), unit)?;
                let mut spans = Vec::new();
                attributes.spans(builder, debug, unit, 0, &mut spans)?;
                if open.len() >= NESTED_MAX {
                    return Err(gimli::Error::UnsupportedOffset.into());
                }
                let Attributes { name, .. } = attributes;
                // One without addresses is opened too: what was inlined into it belongs to nobody.
                let (nodes, inlined) = (Vec::new(), Vec::new());
                open.push(Function { depth, spans, name, nodes, inlined, open: Vec::new() });
            }
            gimli::DW_TAG_inlined_subroutine => {
                let attributes = read(&mut entries, abbreviation.attributes(), debug.dwarf(), unit)?;
                if let Some(function) = open.last_mut()
                    && !function.spans.is_empty()
                {
                    inline(builder, debug, unit, files, function, depth, &attributes)?;
                }
            }
            _ => entries.skip_attributes(abbreviation.attributes())?,
        }
    }
    while let Some(done) = open.pop() {
        finish(builder, debug, unit, files, done)?;
    }
    Ok(())
}

fn read<'a>(
    entries: &mut EntriesRaw<'_, Reader<'a>>,
    specifications: &[gimli::AttributeSpecification],
    dwarf: &Dwarf<Reader<'a>>,
    unit: &Unit<'a>,
) -> gimli::Result<Attributes<'a>> {
    let mut found = Attributes::default();
    for specification in specifications {
        let attribute = entries.read_attribute(*specification)?;
        match attribute.name() {
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => found.name.linkage = Some(attribute.value()),
            gimli::DW_AT_name => found.name.own = Some(attribute.value()),
            gimli::DW_AT_abstract_origin => found.name.reference = Some(attribute.value()),
            gimli::DW_AT_specification if found.name.reference.is_none() => {
                found.name.reference = Some(attribute.value());
            }
            gimli::DW_AT_low_pc => found.low = dwarf.attr_address(unit, attribute.value())?,
            gimli::DW_AT_high_pc => match dwarf.attr_address(unit, attribute.value())? {
                Some(high) => found.high = Some(high),
                None => found.size = attribute.udata_value(),
            },
            gimli::DW_AT_ranges => found.ranges = Some(attribute.value()),
            gimli::DW_AT_call_file => {
                // Before DWARF 5, there is no file 0.
                if let Value::FileIndex(file) = attribute.value() {
                    found.file = Some(file).filter(|file| *file > 0 || unit.header.version() >= 5);
                }
            }
            gimli::DW_AT_call_line => found.line = attribute.udata_value().unwrap_or(0),
            _ => {}
        }
    }
    Ok(found)
}

impl<'a> Attributes<'a> {
    /// The addresses that are code, as spans of a node.
    fn spans(
        &self,
        builder: &Builder,
        debug: &Debug<'a>,
        unit: &Unit<'a>,
        node: u32,
        spans: &mut Vec<Span>,
    ) -> Result<(), BuildError> {
        let mut add = |start: u64, end: u64| {
            if spans.len() >= SPANS_MAX {
                let (size, max) = (spans.len() as u64, SPANS_MAX as u64);
                return Err(FileError::TooLarge { what: "number of ranges of a function", size, max });
            }
            if let Some(code_end) = builder.code_end(start).filter(|_| start < end) {
                spans.push(Span { start, end: end.min(code_end), node });
            }
            Ok(())
        };
        if let Some(value) = &self.ranges
            && let Some(mut ranges) = debug.dwarf().attr_ranges(unit, value.clone())?
        {
            while let Some(range) = ranges.next()? {
                debug.spend(1)?;
                add(range.begin, range.end)?;
            }
        } else if let Some(low) = self.low
            && let Some(high) = self.high.or_else(|| low.checked_add(self.size?))
        {
            add(low, high)?;
        }
        Ok(())
    }
}

impl<'a> Name<'a> {
    fn write(&self, builder: &mut Builder, debug: &mut Debug<'a>, unit: &Unit<'a>) -> Result<u32, BuildError> {
        let own = [&self.linkage, &self.own].into_iter().flatten().find_map(|value| debug.place(unit, value));
        let place = own.or_else(|| debug.name_behind(unit, self.reference.as_ref()?));
        builder.name(debug, place)
    }
}

fn inline<'a>(
    builder: &mut Builder,
    debug: &mut Debug<'a>,
    unit: &Unit<'a>,
    files: &mut Files,
    function: &mut Function<'a>,
    depth: isize,
    attributes: &Attributes<'a>,
) -> Result<(), BuildError> {
    if function.nodes.len() >= INLINED_MAX {
        let (size, max) = (function.nodes.len() as u64, INLINED_MAX as u64);
        return Err(FileError::TooLarge { what: "number of inlined calls in a function", size, max }.into());
    }
    let name = attributes.name.write(builder, debug, unit)?;
    let file = attributes.file.map_or(Ok(0), |file| files.number(builder, debug, unit, file))?;
    let line = u32::try_from(attributes.line).unwrap_or(0);
    let parent = function.open.last().map_or(0, |(_, node)| *node);
    let level = u32::try_from(function.open.len()).unwrap_or(u32::MAX);
    function.nodes.push(Node { parent, depth: level, name, file, line });
    let node = u32::try_from(function.nodes.len()).unwrap_or(u32::MAX);
    attributes.spans(builder, debug, unit, node, &mut function.inlined)?;
    function.open.push((depth, node));
    Ok(())
}

/// Writes a function that was read to its end.
fn finish<'a>(
    builder: &mut Builder,
    debug: &mut Debug<'a>,
    unit: &Unit<'a>,
    files: &Files,
    function: Function<'a>,
) -> Result<(), BuildError> {
    let Function { depth: _, spans, name, nodes, inlined, open: _ } = function;
    if spans.is_empty() {
        return Ok(());
    }
    let is_named = spans.iter().all(|span| builder.is_named(span.start, span.end));
    let name = if is_named { 0 } else { name.write(builder, debug, unit)? };
    let painted = flatten(&spans, &nodes, inlined);
    let block = if painted.is_empty() && name == 0 {
        0
    } else {
        let mut bytes = Vec::with_capacity(32 + nodes.len() * 8 + painted.len() * 5);
        put(&mut bytes, name.into());
        put(&mut bytes, files.unit_number());
        put(&mut bytes, nodes.len() as u64);
        let (mut previous_name, mut previous_line) = (0, 0);
        for (index, node) in nodes.iter().enumerate() {
            put(&mut bytes, index as u64 - u64::from(node.parent));
            put_difference(&mut bytes, previous_name, node.name.into());
            put(&mut bytes, node.file.into());
            put_difference(&mut bytes, previous_line, node.line.into());
            (previous_name, previous_line) = (node.name.into(), node.line.into());
        }
        put(&mut bytes, painted.len() as u64);
        let mut position = 0;
        for span in painted {
            put(&mut bytes, span.start - position);
            put(&mut bytes, span.end - span.start);
            put(&mut bytes, span.node.into());
            position = span.end;
        }
        builder.append(&bytes)?
    };
    for span in spans {
        builder.function(span.start, span.end, block)?;
    }
    Ok(())
}

//! Looking addresses up in an index.

use std::{collections::HashMap, fs::File, sync::Arc};

use super::{
    STUB_MARK,
    format::{Contents, Cursor, GAP_FILE, find, unfold},
    pages::{Damaged, PageReader},
    paint::{Node, Span},
};
use crate::enrich::symbolize::{
    NamedFrame,
    bytes::u32_at,
    demangle::demangle,
    file::{START_BYTES_MAX, START_NAME},
};

/// Texts that are kept while addresses are looked up.
const TEXTS_KEPT: usize = 16_384;

/// Most entries of a block that is read.
const ENTRIES_MAX: u32 = 1 << 20;

/// How deep inlined functions may lie.
const DEPTH_MAX: usize = 1_024;

/// A source file and line.
type Source = Option<(Arc<str>, u32)>;

/// An index that is open.
#[derive(Debug)]
pub(in super::super) struct Index {
    pages: PageReader,
    contents: Contents,
    /// Demangled names and paths, by offset.
    texts: HashMap<u32, Arc<str>>,
    /// The function that was looked at last: addresses come sorted.
    function: Option<(u32, Arc<Function>)>,
}

/// A function of the debug information.
#[derive(Debug)]
struct Function {
    /// Its name's offset; 0 if a symbol names it.
    name: u32,
    unit: u64,
    nodes: Vec<Node>,
    spans: Vec<Span>,
}

impl Index {
    /// Opens an index, if it is the one of `identity`. `None` if it is of something else or of another version.
    ///
    /// # Errors
    /// If it is damaged.
    pub(in super::super) fn open(file: File, identity: &str) -> Result<Option<Self>, Damaged> {
        let Some((pages, fields)) = PageReader::open(file, identity)? else { return Ok(None) };
        let contents = Contents::from_fields(&fields);
        Ok(Some(Self { pages, contents, texts: HashMap::new(), function: None }))
    }

    /// The functions at an address, innermost first; none if it has no name.
    ///
    /// # Errors
    /// If the index is damaged.
    pub(in super::super) fn frames(&mut self, address: u64) -> Result<Arc<[NamedFrame]>, Damaged> {
        let symbol = self.symbol(address)?;
        let function = self.function(address)?;
        let name = match (symbol, &function) {
            (0, Some(function)) => function.name,
            (symbol, _) => symbol,
        };
        let entry = self.contents.entry;
        let name = if name != 0 {
            self.name(name)?
        } else if entry != 0 && address.wrapping_sub(entry) < START_BYTES_MAX {
            START_NAME.into()
        } else {
            return Ok(Arc::from([]));
        };
        let outermost = |source| NamedFrame { function: Arc::clone(&name), source, is_inlined: false };
        let Some(line) = self.line(address)? else { return Ok([outermost(None)].as_slice().into()) };
        let chain = function.as_ref().map_or_else(Vec::new, |function| function.chain(address));
        let mut frames = Vec::with_capacity(chain.len() + 1);
        // Each function is where its callee was called; the innermost one is at the address.
        let mut source = line;
        for node in chain {
            let call = match &function {
                Some(function) if node.file != 0 => Some((self.path(function.unit, node.file)?, node.line)),
                _ => None,
            };
            let source = std::mem::replace(&mut source, call);
            if node.name != 0 {
                frames.push(NamedFrame { function: self.name(node.name)?, source, is_inlined: true });
            }
        }
        frames.push(outermost(source));
        Ok(frames.into())
    }

    /// Where the name of the symbol is that covers an address; 0 if there is none.
    fn symbol(&mut self, address: u64) -> Result<u32, Damaged> {
        let found = find(&mut self.pages, self.contents.symbols, address, |pages, range| {
            let mut cursor = Cursor::new(pages, range.block.into())?;
            let (mut position, mut name) = (range.start, 0);
            for _ in 0..cursor.small_number()?.min(ENTRIES_MAX) {
                position = position.wrapping_add(cursor.number()?);
                let end = position.wrapping_add(cursor.number()?);
                name = cursor.difference(name)?;
                if address < position {
                    break;
                }
                if address < end {
                    return Ok(Some(u32::try_from(name).map_err(|_| Damaged("name"))?));
                }
                position = end;
            }
            Ok(None)
        })?;
        Ok(found.unwrap_or(0))
    }

    /// The function of the debug information, if there is something to say of it.
    fn function(&mut self, address: u64) -> Result<Option<Arc<Function>>, Damaged> {
        let Some(block) = find(&mut self.pages, self.contents.functions, address, |_, range| Ok(Some(range.block)))?
        else {
            return Ok(None);
        };
        if block == 0 {
            return Ok(None);
        }
        if let Some((known, function)) = &self.function
            && *known == block
        {
            return Ok(Some(Arc::clone(function)));
        }
        let function = Arc::new(Function::read(Cursor::new(&mut self.pages, block.into())?)?);
        self.function = Some((block, Arc::clone(&function)));
        Ok(Some(function))
    }

    /// The row of lines in which an address lies, if any: its file and line, if it has them.
    fn line(&mut self, address: u64) -> Result<Option<Source>, Damaged> {
        let found = find(&mut self.pages, self.contents.lines, address, |pages, range| {
            let mut cursor = Cursor::new(pages, range.block.into())?;
            let unit = cursor.number()?;
            let (mut position, mut line, mut file) = (range.start, 0_i64, 0);
            let mut found = None;
            for _ in 0..cursor.small_number()?.min(ENTRIES_MAX) {
                position = position.wrapping_add(cursor.number()?);
                if address < position {
                    break;
                }
                let difference = cursor.number()?;
                line = line.wrapping_add(unfold(difference >> 1));
                if difference & 1 != 0 {
                    file = cursor.small_number()?;
                }
                found = Some((unit, file, line));
            }
            Ok(found.filter(|(_, file, _)| *file != GAP_FILE))
        })?;
        let Some((unit, file, line)) = found else { return Ok(None) };
        let line = u32::try_from(line).map_err(|_| Damaged("line"))?;
        if file == 0 || line == 0 {
            return Ok(Some(None));
        }
        Ok(Some(Some((self.path(unit, file)?, line))))
    }

    fn path(&mut self, unit: u64, file: u32) -> Result<Arc<str>, Damaged> {
        if unit >= self.contents.units.count {
            return Err(Damaged("unit"));
        }
        let mut bytes = [0; 4];
        self.pages.read(self.contents.units.offset.saturating_add(unit.saturating_mul(4)), &mut bytes)?;
        self.pages.read(u64::from(u32_at(&bytes, 0)) + (u64::from(file) - 1) * 4, &mut bytes)?;
        self.text(u32_at(&bytes, 0), |path| path)
    }

    fn name(&mut self, offset: u32) -> Result<Arc<str>, Damaged> {
        self.text(offset, |name| match name.strip_suffix(STUB_MARK) {
            Some(target) => format!("{}{STUB_MARK}", demangle(target)),
            None => demangle(&name),
        })
    }

    fn text(&mut self, offset: u32, shown: impl Fn(String) -> String) -> Result<Arc<str>, Damaged> {
        if let Some(known) = self.texts.get(&offset) {
            return Ok(Arc::clone(known));
        }
        let text: Arc<str> = shown(Cursor::new(&mut self.pages, offset.into())?.text()?).into();
        if self.texts.len() >= TEXTS_KEPT {
            self.texts.clear();
        }
        self.texts.insert(offset, Arc::clone(&text));
        Ok(text)
    }
}

impl Function {
    fn read(mut cursor: Cursor<'_>) -> Result<Self, Damaged> {
        let name = cursor.small_number()?;
        let unit = cursor.number()?;
        let count = cursor.small_number()?.min(ENTRIES_MAX);
        let mut nodes: Vec<Node> = Vec::new();
        let (mut name_before, mut line_before) = (0, 0);
        for index in 0..count {
            let parent = u64::from(index).checked_sub(cursor.number()?).ok_or(Damaged("caller"))?;
            name_before = cursor.difference(name_before)?;
            let file = cursor.small_number()?;
            line_before = cursor.difference(line_before)?;
            let (Ok(name), Ok(line)) = (u32::try_from(name_before), u32::try_from(line_before)) else {
                return Err(Damaged("inlined function"));
            };
            // At most `index`, which fits.
            nodes.push(Node { parent: u32::try_from(parent).unwrap_or(0), depth: 0, name, file, line });
        }
        let count = cursor.small_number()?.min(ENTRIES_MAX);
        let mut spans: Vec<Span> = Vec::new();
        let mut position = 0_u64;
        for _ in 0..count {
            let start = position.wrapping_add(cursor.number()?);
            position = start.wrapping_add(cursor.number()?);
            spans.push(Span { start, end: position, node: cursor.small_number()? });
        }
        Ok(Self { name, unit, nodes, spans })
    }

    /// The inlined functions at an address, innermost first.
    fn chain(&self, address: u64) -> Vec<Node> {
        let index = self.spans.partition_point(|span| span.end <= address);
        let mut next = self.spans.get(index).filter(|span| span.start <= address).map_or(0, |span| span.node);
        let mut chain = Vec::new();
        while let Some(node) = (next as usize).checked_sub(1).and_then(|index| self.nodes.get(index))
            && chain.len() < DEPTH_MAX
        {
            chain.push(*node);
            next = node.parent;
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::enrich::symbolize::index::{format::Table, pages::PageWriter};

    fn table() -> impl Strategy<Value = Table> {
        (prop_oneof![4_000_u64..6_000, any::<u64>()], prop_oneof![0_u64..100, any::<u64>()])
            .prop_map(|(offset, count)| Table { offset, count })
    }

    proptest! {
        /// Whatever stands in an index, even with the right checksums: names or an error, soon.
        #[test]
        fn hostile_contents(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x10)], 0..3_000),
            tables in (table(), table(), table(), table()),
            addresses in proptest::collection::vec(prop_oneof![any::<u64>(), 0_u64..1_000], 1..20),
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut writer = PageWriter::new(file.try_clone().unwrap());
            writer.append(&bytes).unwrap();
            let (symbols, functions, lines, units) = tables;
            let contents = Contents { symbols, functions, lines, units, entry: 1 };
            writer.finish("x", &contents.to_fields()).unwrap();
            prop_assert!(Index::open(file.try_clone().unwrap(), "y").unwrap().is_none());
            let mut index = Index::open(file, "x").unwrap().unwrap();
            prop_assert_eq!(index.contents, contents);
            for address in addresses {
                let _ = index.frames(address);
            }
        }
    }
}

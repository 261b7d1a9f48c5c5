//! DWARF of a file and of its supplementary file (which `dwz` makes), and the names in it.
//!
//! A name stays where it is until its text is needed: what is passed around is its place.

use std::{cell::Cell, collections::HashMap, fs::File, io, rc::Rc};

use gimli::{AttributeValue, DebugInfoOffset, Dwarf, Reader as _, SectionId, UnitOffset};

use super::pieces::{Content, Reader};
use crate::enrich::symbolize::{elf::ElfHeaders, reason::FileError, symbols::SYMBOL_NAME_BYTES_MAX};

/// Most units of a file that is indexed.
const UNITS_MAX: usize = 1 << 18;

/// How many references are followed from an entry to its name.
const REFERENCES_MAX: usize = 16;

/// Units that others refer to, which are kept.
const UNITS_KEPT: usize = 16;

/// Entries of which is remembered where their name is.
const PLACES_KEPT: usize = 1 << 15;

/// Most bytes of the list of abbreviations: it is understood at once, and takes much more memory then.
const ABBREVIATION_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the head of a unit's lines, for the same reason.
const LINES_HEAD_BYTES_MAX: u64 = 512 << 10;

/// Most entries, attributes, ranges and rows that are looked at, in all: some ten seconds. True files of the size that is
/// read have fewer by far; small ones can be made to have as many as one likes, for units may share what they consist of.
const WORK_MAX: u64 = 1_000_000_000;

/// After how much work it is seen whether it is too much. A unit counts for as much, so that it is seen at each.
pub(super) const WORK_BETWEEN_LOOKS: u64 = 1_024;

/// What a piece of a section that is read from its front to its back counts for.
const WORK_PER_PIECE: u64 = 4_096;

/// Most pieces of sections that are looked at, in all.
const VISITS_MAX: u64 = 20_000_000;

/// Sections that are read.
const SECTIONS: [SectionId; 9] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
];

/// A unit.
pub(super) type Unit<'a> = gimli::Unit<Reader<'a>>;

/// A value of an attribute.
pub(super) type Value<'a> = AttributeValue<Reader<'a>>;

/// The debug sections of a file.
#[derive(Debug)]
pub(super) struct Sections {
    contents: [Content; SECTIONS.len()],
    empty: Content,
}

impl Sections {
    /// # Errors
    /// If a section is compressed and cannot be unpacked.
    pub(super) fn open(
        file: &Rc<File>,
        headers: &ElfHeaders,
        scratch: &dyn Fn() -> io::Result<File>,
    ) -> Result<Self, FileError> {
        let mut contents = [const { None }; SECTIONS.len()];
        for (content, id) in contents.iter_mut().zip(SECTIONS) {
            let section = headers.section(id.name());
            *content = section.map(|section| Content::of_section(file, headers, section, scratch)).transpose()?;
        }
        Ok(Self { contents: contents.map(|content| content.unwrap_or_else(Content::empty)), empty: Content::empty() })
    }

    /// Whether a section could not be read, so that what it seems to say is not to be trusted.
    pub(super) fn have_failed(&self) -> bool {
        self.contents.iter().any(Content::has_failed)
    }

    fn content(&self, id: SectionId) -> &Content {
        let index = SECTIONS.iter().position(|known| *known == id);
        index.map_or(&self.empty, |index| &self.contents[index])
    }

    fn reader(&self, id: SectionId) -> Reader<'_> {
        Reader::new(self.content(id))
    }
}

/// Where a name is: file (0 or, for the supplementary one, 1), section and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: u8,
    section: SectionId,
    offset: usize,
}

impl Place {
    /// The same in one number: there are many of them.
    pub(super) fn key(&self) -> u64 {
        let Self { file, section, offset } = *self;
        let section = SECTIONS.iter().position(|known| *known == section).unwrap_or(SECTIONS.len());
        (offset as u64) << 8 | (section as u64) << 1 | u64::from(file)
    }
}

/// A file's DWARF.
struct DebugFile<'a> {
    sections: &'a Sections,
    dwarf: Dwarf<Reader<'a>>,
    /// Where its units begin, ascending.
    units: Vec<usize>,
    kept: Vec<(usize, Rc<Unit<'a>>)>,
}

impl<'a> DebugFile<'a> {
    /// The unit that begins somewhere.
    fn unit(&self, offset: usize) -> gimli::Result<Unit<'a>> {
        let header = self.dwarf.unit_header(DebugInfoOffset(offset))?;
        let abbreviations = self.dwarf.abbreviations(&header)?;
        let mut entries = header.entries_raw(&abbreviations, None)?;
        let root = entries.read_abbreviation()?.ok_or(gimli::Error::MissingUnitDie)?;
        for specification in root.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            // gimli makes room for as many files as the head may hold.
            if attribute.name() == gimli::DW_AT_stmt_list
                && let AttributeValue::DebugLineRef(offset) = attribute.value()
            {
                let mut lines = self.sections.reader(SectionId::DebugLine).at(offset.0)?;
                let (_, format) = lines.read_initial_length()?;
                let version = lines.read_u16()?;
                lines.skip(if version >= 5 { 2 } else { 0 })?;
                if lines.read_length(format)? as u64 > LINES_HEAD_BYTES_MAX {
                    return Err(gimli::Error::UnsupportedOffset);
                }
            }
        }
        Unit::new_with_abbreviations(&self.dwarf, header, abbreviations)
    }
}

/// DWARF of a file, and of its supplementary one.
pub(super) struct Debug<'a> {
    files: Vec<DebugFile<'a>>,
    places: HashMap<(usize, usize), Option<Place>>,
    work: Cell<u64>,
}

impl<'a> Debug<'a> {
    /// # Errors
    /// If there are too many units, or the list of them is damaged.
    pub(super) fn new(sections: &'a Sections, supplementary: Option<&'a Sections>) -> Result<Self, FileError> {
        let mut files = Vec::new();
        for sections in [Some(sections), supplementary].into_iter().flatten() {
            let (what, size) = ("list of abbreviations", sections.reader(SectionId::DebugAbbrev).len());
            if size > ABBREVIATION_BYTES_MAX {
                return Err(FileError::TooLarge { what, size: size as u64, max: ABBREVIATION_BYTES_MAX as u64 });
            }
            let load = |id| Ok::<_, FileError>(sections.reader(id));
            let dwarf = Dwarf::load(load)?;
            let mut units = Vec::new();
            let mut headers = dwarf.units();
            // What is behind a damaged header is unknown; what is before it may be true.
            while let Ok(Some(header)) = headers.next() {
                if units.len() >= UNITS_MAX {
                    let (size, max) = (units.len() as u64, UNITS_MAX as u64);
                    return Err(FileError::TooLarge { what: "number of units in its debug information", size, max });
                }
                units.push(header.offset().0);
            }
            files.push(DebugFile { sections, dwarf, units, kept: Vec::new() });
        }
        Ok(Self { files, places: HashMap::new(), work: Cell::new(0) })
    }

    /// How many units the file has.
    pub(super) fn unit_count(&self) -> usize {
        self.files[0].units.len()
    }

    /// A unit of the file.
    pub(super) fn unit(&self, index: usize) -> gimli::Result<Unit<'a>> {
        let file = &self.files[0];
        file.unit(file.units.get(index).copied().unwrap_or(usize::MAX))
    }

    /// Counts entries, attributes and ranges that are looked at.
    ///
    /// # Errors
    /// If that gets too much.
    pub(super) fn spend(&self, work: u64) -> Result<(), FileError> {
        let before = self.work.get();
        let now = before + work;
        self.work.set(now);
        if before / WORK_BETWEEN_LOOKS == now / WORK_BETWEEN_LOOKS {
            return Ok(());
        }
        let (mut visits, mut in_turn) = (0, 0);
        for file in &self.files {
            visits += file.sections.contents.iter().map(Content::visits).sum::<u64>();
            let of = |id| file.sections.content(id).visits();
            in_turn += of(SectionId::DebugAbbrev) + of(SectionId::DebugLine);
        }
        for (size, max) in [(now + in_turn * WORK_PER_PIECE, WORK_MAX), (visits, VISITS_MAX)] {
            if size > max {
                return Err(FileError::TooLarge { what: "what there is to read in its debug information", size, max });
            }
        }
        Ok(())
    }

    /// The file's own DWARF.
    pub(super) fn dwarf(&self) -> &Dwarf<Reader<'a>> {
        &self.files[0].dwarf
    }

    /// A text that a unit of the file refers to.
    pub(super) fn text(&self, unit: &Unit<'a>, value: &Value<'a>) -> Option<Vec<u8>> {
        let place = self.place_of(0, unit, value)?;
        self.read(place)
    }

    /// The text of a name.
    pub(super) fn read(&self, place: Place) -> Option<Vec<u8>> {
        let Place { file, section, offset } = place;
        let reader = self.files.get(usize::from(file))?.sections.reader(section);
        reader.at(offset).ok()?.until_nul(SYMBOL_NAME_BYTES_MAX).ok()
    }

    /// Where the name is of an entry of the file to which an attribute refers.
    pub(super) fn name_behind(&mut self, unit: &Unit<'a>, value: &Value<'a>) -> Option<Place> {
        self.follow(0, unit, value, REFERENCES_MAX)
    }

    /// Where a text is that an attribute of the file has or refers to.
    pub(super) fn place(&self, unit: &Unit<'a>, value: &Value<'a>) -> Option<Place> {
        self.place_of(0, unit, value)
    }

    fn place_of(&self, file: usize, unit: &Unit<'a>, value: &Value<'a>) -> Option<Place> {
        let (file, section, offset) = match value {
            AttributeValue::String(text) => (file, SectionId::DebugInfo, text.position()),
            AttributeValue::DebugStrRef(offset) => (file, SectionId::DebugStr, offset.0),
            AttributeValue::DebugLineStrRef(offset) => (file, SectionId::DebugLineStr, offset.0),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let offset = self.files[file].dwarf.string_offset(unit, *index).ok()?;
                (file, SectionId::DebugStr, offset.0)
            }
            // Without the supplementary file, there is no name.
            AttributeValue::DebugStrRefSup(offset) if self.files.len() > 1 => (1, SectionId::DebugStr, offset.0),
            _ => return None,
        };
        Some(Place { file: u8::try_from(file).ok()?, section, offset })
    }

    fn follow(&mut self, file: usize, unit: &Unit<'a>, value: &Value<'a>, left: usize) -> Option<Place> {
        let left = left.checked_sub(1)?;
        match value {
            AttributeValue::UnitRef(offset) => self.name_at(file, unit, *offset, left),
            AttributeValue::DebugInfoRef(offset) => self.name_in_unit_of(file, Some(unit), *offset, left),
            AttributeValue::DebugInfoRefSup(offset) if file == 0 => self.name_in_unit_of(1, None, *offset, left),
            _ => None,
        }
    }

    fn name_in_unit_of(
        &mut self,
        file: usize,
        unit: Option<&Unit<'a>>,
        offset: DebugInfoOffset<usize>,
        left: usize,
    ) -> Option<Place> {
        if let Some(known) = self.places.get(&(file, offset.0)) {
            return *known;
        }
        if let Some(unit) = unit
            && let Some(within) = offset.to_unit_offset(&unit.header)
        {
            return self.name_at(file, unit, within, left);
        }
        let of = self.files.get_mut(file)?;
        let begin = *of.units[..of.units.partition_point(|begin| *begin < offset.0)].last()?;
        let unit = match of.kept.iter().position(|(known, _)| *known == begin) {
            Some(index) => {
                let kept = of.kept.remove(index);
                of.kept.push(kept.clone());
                kept.1
            }
            None => {
                let unit = Rc::new(of.unit(begin).ok()?);
                if of.kept.len() >= UNITS_KEPT {
                    of.kept.remove(0);
                }
                of.kept.push((begin, Rc::clone(&unit)));
                unit
            }
        };
        let within = offset.to_unit_offset(&unit.header)?;
        self.name_at(file, &unit, within, left)
    }

    /// The name of an entry: the linker's one, or its own, or that of the entry that it refers to.
    fn name_at(&mut self, file: usize, unit: &Unit<'a>, offset: UnitOffset<usize>, left: usize) -> Option<Place> {
        let key = (file, offset.to_debug_info_offset(&unit.header)?.0);
        if let Some(known) = self.places.get(&key) {
            return *known;
        }
        let found = self.read_name_at(file, unit, offset, left);
        if self.places.len() >= PLACES_KEPT {
            self.places.clear();
        }
        self.places.insert(key, found);
        found
    }

    fn read_name_at(&mut self, file: usize, unit: &Unit<'a>, offset: UnitOffset<usize>, left: usize) -> Option<Place> {
        let mut entries = unit.entries_raw(Some(offset)).ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        // Who asked notices when that gets too much.
        self.spend(abbreviation.attributes().len() as u64).ok()?;
        let (mut name, mut next) = (None, None);
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification).ok()?;
            match attribute.name() {
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                    if let Some(place) = self.place_of(file, unit, &attribute.value()) {
                        return Some(place);
                    }
                }
                gimli::DW_AT_name => name = self.place_of(file, unit, &attribute.value()).or(name),
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => next = Some(attribute.value()),
                _ => {}
            }
        }
        name.or_else(|| self.follow(file, unit, &next?, left))
    }
}

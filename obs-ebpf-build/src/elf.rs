//! Reads the ELF objects that bpf-linker writes, and takes the DWARF out of them.
//!
//! Only what such objects are: 64-bit, little-endian, relocatable, for BPF. Every offset is checked before it is used.

/// Objects with more sections than this are not ours: bpf-linker writes one per program, map kind and debug table.
const SECTIONS_MAX: usize = 4096;
const HEADER_LEN: usize = 64;
const SECTION_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const REL_LEN: usize = 16;

const EM_BPF: u16 = 247;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_REL: u32 = 9;
const SHF_EXECINSTR: u64 = 4;
const STT_SECTION: u8 = 3;
const STT_FILE: u8 = 4;
const STB_LOCAL: u8 = 0;
/// Section indexes from here on have special meanings and name no section.
const SHN_LORESERVE: u16 = 0xff00;

/// Why bytes are not an object that this crate reads.
pub(crate) type Reason = &'static str;

/// One section header, with its contents.
#[derive(Debug, Clone)]
pub(crate) struct Section<'a> {
    pub(crate) name: &'a str,
    name_offset: u32,
    kind: u32,
    flags: u64,
    size: u64,
    link: u32,
    info: u32,
    align: u64,
    entry_size: u64,
    /// Empty for sections that take no room in the file.
    pub(crate) bytes: &'a [u8],
}

impl Section<'_> {
    /// Whether this section holds BPF instructions.
    pub(crate) fn is_code(&self) -> bool {
        self.kind == SHT_PROGBITS && self.flags & SHF_EXECINSTR != 0
    }

    fn is_dwarf(&self) -> bool {
        self.kind != SHT_REL && self.name.starts_with(".debug_")
    }
}

/// One symbol of the symbol table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Symbol<'a> {
    pub(crate) name: &'a str,
    info: u8,
    /// The index of its section; 0 when it is defined elsewhere.
    pub(crate) section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

impl Symbol<'_> {
    /// Whether the symbol is used here and defined elsewhere: in the kernel, if anywhere.
    pub(crate) fn is_undefined(&self) -> bool {
        self.section == 0 && !self.name.is_empty() && self.info & 0xf != STT_FILE
    }
}

/// A relocation: the instruction or datum at `offset` refers to the symbol with index `symbol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub(crate) offset: u64,
    pub(crate) symbol: u32,
    kind: u32,
}

/// A parsed object.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    header: &'a [u8],
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
    symbol_table: usize,
    name_table: u16,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, Reason> {
        let header = data.get(..HEADER_LEN).ok_or("it is shorter than an ELF header")?;
        if header.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err("it is not a 64-bit little-endian ELF file");
        }
        if u16_at(header, 18)? != EM_BPF {
            return Err("it is for another machine than BPF");
        }
        let table = usize::try_from(u64_at(header, 40)?).map_err(|_| "its section table is out of range")?;
        let count = usize::from(u16_at(header, 60)?);
        let name_table = u16_at(header, 62)?;
        if usize::from(u16_at(header, 58)?) != SECTION_LEN || count == 0 || count > SECTIONS_MAX {
            return Err("its section table has an unusual shape");
        }
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            sections.push(section(data, table.saturating_add(index * SECTION_LEN))?);
        }
        let names = sections.get(usize::from(name_table)).ok_or("it has no section names")?.bytes;
        for section in &mut sections {
            section.name = text_at(names, section.name_offset)?;
        }
        let symbol_table =
            sections.iter().position(|section| section.kind == SHT_SYMTAB).ok_or("it has no symbol table")?;
        let symbols = symbols(&sections, symbol_table)?;
        Ok(Elf { header, sections, symbols, symbol_table, name_table })
    }

    /// The relocations of the section with this index.
    pub(crate) fn relocations(&self, section: usize) -> Result<Vec<Relocation>, Reason> {
        let mut all = Vec::new();
        for table in self.sections.iter().filter(|s| s.kind == SHT_REL && s.info as usize == section) {
            for entry in table.bytes.chunks_exact(REL_LEN) {
                let (offset, info) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
                all.push(Relocation { offset, symbol: (info >> 32) as u32, kind: info as u32 });
            }
        }
        Ok(all)
    }

    /// The same object without DWARF. BTF and its line information stay: the kernel uses those.
    pub(crate) fn without_dwarf(&self) -> Result<Vec<u8>, Reason> {
        let dropped = |index: usize| -> bool {
            self.sections.get(index).is_some_and(|section| {
                section.is_dwarf()
                    || section.kind == SHT_REL
                        && self.sections.get(section.info as usize).is_some_and(Section::is_dwarf)
            })
        };
        let section_map = renumber(self.sections.len(), |index| !dropped(index));
        let symbol_map = renumber(self.symbols.len(), |index| {
            self.symbols.get(index).is_none_or(|symbol| {
                symbol.info & 0xf != STT_SECTION || symbol.section >= SHN_LORESERVE || !dropped(symbol.section.into())
            })
        });
        let new_section =
            |old: usize| section_map.get(old).copied().flatten().ok_or("something refers to a debug section");

        let mut out = self.header.to_vec();
        let mut headers = Vec::with_capacity(self.sections.len() * SECTION_LEN);
        for (index, section) in self.sections.iter().enumerate().filter(|(index, _)| !dropped(*index)) {
            let (bytes, info) = if index == self.symbol_table {
                let (bytes, locals) = self.kept_symbols(&symbol_map, &new_section)?;
                (bytes, locals)
            } else if section.kind == SHT_REL {
                (self.kept_relocations(index, section, &symbol_map)?, new_section(section.info as usize)?)
            } else {
                (section.bytes.to_vec(), section.info)
            };
            while !(out.len() as u64).is_multiple_of(section.align.clamp(1, 4096)) {
                out.push(0);
            }
            let offset = if index == 0 { 0 } else { out.len() as u64 };
            let size = if section.kind == SHT_NOBITS { section.size } else { bytes.len() as u64 };
            out.extend_from_slice(&bytes);
            headers.extend_from_slice(&section.name_offset.to_le_bytes());
            headers.extend_from_slice(&section.kind.to_le_bytes());
            headers.extend_from_slice(&section.flags.to_le_bytes());
            headers.extend_from_slice(&0_u64.to_le_bytes());
            headers.extend_from_slice(&offset.to_le_bytes());
            headers.extend_from_slice(&size.to_le_bytes());
            headers.extend_from_slice(&new_section(section.link as usize)?.to_le_bytes());
            headers.extend_from_slice(&info.to_le_bytes());
            headers.extend_from_slice(&section.align.to_le_bytes());
            headers.extend_from_slice(&section.entry_size.to_le_bytes());
        }
        while !out.len().is_multiple_of(8) {
            out.push(0);
        }
        let table = out.len() as u64;
        let count = u16::try_from(headers.len() / SECTION_LEN).map_err(|_| "it has too many sections")?;
        let names = u16::try_from(new_section(self.name_table.into())?).map_err(|_| "it has too many sections")?;
        out.extend_from_slice(&headers);
        write_at(&mut out, 40, &table.to_le_bytes());
        write_at(&mut out, 60, &count.to_le_bytes());
        write_at(&mut out, 62, &names.to_le_bytes());
        Ok(out)
    }

    /// The symbol table without the dropped symbols, and the number of local symbols in it.
    fn kept_symbols(
        &self,
        symbol_map: &[Option<u32>],
        new_section: &dyn Fn(usize) -> Result<u32, Reason>,
    ) -> Result<(Vec<u8>, u32), Reason> {
        let table = self.sections.get(self.symbol_table).ok_or("it has no symbol table")?;
        let mut bytes = Vec::with_capacity(table.bytes.len());
        let mut locals = 0;
        let entries = table.bytes.chunks_exact(SYMBOL_LEN).zip(&self.symbols).zip(symbol_map);
        for ((entry, symbol), _) in entries.filter(|(_, new)| new.is_some()) {
            let start = bytes.len();
            bytes.extend_from_slice(entry);
            if symbol.section < SHN_LORESERVE {
                let section = u16::try_from(new_section(symbol.section.into())?).map_err(|_| "too many sections")?;
                write_at(&mut bytes, start + 6, &section.to_le_bytes());
            }
            locals += u32::from(symbol.info >> 4 == STB_LOCAL);
        }
        Ok((bytes, locals))
    }

    fn kept_relocations(
        &self,
        index: usize,
        section: &Section<'_>,
        symbol_map: &[Option<u32>],
    ) -> Result<Vec<u8>, Reason> {
        debug_assert!(self.sections.get(index).is_some_and(|s| s.kind == SHT_REL));
        let mut bytes = Vec::with_capacity(section.bytes.len());
        for relocation in self.relocations(section.info as usize)? {
            let symbol = symbol_map.get(relocation.symbol as usize).copied().flatten();
            let symbol = symbol.ok_or("code or BTF refers to a debug section")?;
            bytes.extend_from_slice(&relocation.offset.to_le_bytes());
            bytes.extend_from_slice(&(u64::from(symbol) << 32 | u64::from(relocation.kind)).to_le_bytes());
        }
        Ok(bytes)
    }
}

/// For each old index its new one, or `None` for what is not kept.
fn renumber(count: usize, keep: impl Fn(usize) -> bool) -> Vec<Option<u32>> {
    let mut next = 0;
    let number = |index| {
        keep(index).then(|| {
            next += 1;
            next - 1
        })
    };
    (0..count).map(number).collect()
}

fn section(data: &[u8], at: usize) -> Result<Section<'_>, Reason> {
    let header = data.get(at..at.saturating_add(SECTION_LEN)).ok_or("its section table is cut short")?;
    let (kind, size) = (u32_at(header, 4)?, u64_at(header, 32)?);
    let bytes: &[u8] = if kind == SHT_NOBITS || kind == 0 {
        &[]
    } else {
        let start = usize::try_from(u64_at(header, 24)?).map_err(|_| "a section is out of range")?;
        let length = usize::try_from(size).map_err(|_| "a section is out of range")?;
        let end = start.checked_add(length).ok_or("a section is out of range")?;
        data.get(start..end).ok_or("a section is cut short")?
    };
    Ok(Section {
        name: "",
        name_offset: u32_at(header, 0)?,
        kind,
        flags: u64_at(header, 8)?,
        size,
        link: u32_at(header, 40)?,
        info: u32_at(header, 44)?,
        align: u64_at(header, 48)?,
        entry_size: u64_at(header, 56)?,
        bytes,
    })
}

fn symbols<'a>(sections: &[Section<'a>], table: usize) -> Result<Vec<Symbol<'a>>, Reason> {
    let table = sections.get(table).ok_or("it has no symbol table")?;
    let names = sections.get(table.link as usize).ok_or("its symbol table has no names")?.bytes;
    let parse = |entry: &'a [u8]| -> Result<Symbol<'a>, Reason> {
        Ok(Symbol {
            name: text_at(names, u32_at(entry, 0)?)?,
            info: *entry.get(4).ok_or("a symbol is cut short")?,
            section: u16_at(entry, 6)?,
            value: u64_at(entry, 8)?,
            size: u64_at(entry, 16)?,
        })
    };
    table.bytes.chunks_exact(SYMBOL_LEN).map(parse).collect()
}

fn text_at(names: &[u8], offset: u32) -> Result<&str, Reason> {
    let rest = names.get(offset as usize..).ok_or("a name is out of range")?;
    let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| "a name is not text")
}

fn array_at<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], Reason> {
    data.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or("it is cut short")
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, Reason> {
    array_at(data, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Result<u32, Reason> {
    array_at(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Result<u64, Reason> {
    array_at(data, at).map(u64::from_le_bytes)
}

/// Writes within bytes that are known to be long enough; does nothing otherwise.
fn write_at(data: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = data.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, call, exit};

    fn sample() -> Vec<u8> {
        let mut sample = Sample::new();
        sample.section(".debug_info", 0, b"dwarf, of no use to the kernel");
        let code = sample.section("tp_btf/sched_switch", SHF_EXECINSTR, &[call(1), exit()].concat());
        let btf = sample.section(".BTF", 0, b"types");
        sample.symbol("program", code, 0x12);
        sample.relocate(btf, 3, "program");
        sample.relocate(1, 0, "program");
        sample.finish()
    }

    #[test]
    fn dwarf_goes_and_all_else_stays() {
        let before = sample();
        let after = Elf::parse(&before).unwrap().without_dwarf().unwrap();
        let elf = Elf::parse(&after).unwrap();
        let names: Vec<_> = elf.sections.iter().map(|s| s.name).collect();
        assert_eq!(names, ["", "tp_btf/sched_switch", ".BTF", ".rel.BTF", ".strtab", ".symtab"]);
        assert_eq!(elf.sections[1].bytes, [call(1), exit()].concat());
        assert!(elf.sections[1].is_code() && !elf.sections[2].is_code());
        let program = elf.symbols.iter().find(|s| s.name == "program").unwrap();
        assert_eq!(program.section, 1);
        let relocation = elf.relocations(2).unwrap()[0];
        assert_eq!((relocation.offset, elf.symbols[relocation.symbol as usize].name), (3, "program"));
    }

    #[test]
    fn removing_dwarf_twice_changes_nothing_more() {
        let once = Elf::parse(&sample()).unwrap().without_dwarf().unwrap();
        assert_eq!(once, Elf::parse(&once).unwrap().without_dwarf().unwrap());
    }

    #[test]
    fn cut_and_corrupted_objects_are_errors_and_not_panics() {
        let good = sample();
        for length in 0..good.len() {
            assert!(Elf::parse(&good[..length]).is_err(), "cut to {length} bytes");
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                // Whether the change is noticed depends on the byte; that it is survived does not.
                let _ = Elf::parse(&bad).map(|elf| elf.without_dwarf());
            }
        }
    }

    #[test]
    fn objects_for_the_host_are_refused() {
        let mut bytes = sample();
        bytes[18] = 62;
        assert_eq!(Elf::parse(&bytes).unwrap_err(), "it is for another machine than BPF");
    }
}

//! Names from an ELF file's symbol tables.
//!
//! One pass over a table answers all addresses of a batch: memory goes with the number of addresses, not with that of
//! symbols. (blazesym's own look-up keeps an index of every symbol and maps the tables; it is used where there is DWARF.)

use object::elf;

use super::{
    bytes::{Source, for_each_entry, read_up_to, u16_at, u32_at, u64_at},
    elf::{ElfHeaders, Section},
    reason::FileError,
};

/// Most bytes of a symbol's name as written; longer ones are cut.
pub(super) const SYMBOL_NAME_BYTES_MAX: usize = 4_096;

/// Most names of one address that are compared.
const ALIASES_MAX: usize = 8;

/// Most bytes of a table of symbols: 16 million of them.
const SYMBOL_TABLE_BYTES_MAX: u64 = 400 << 20;

/// Most pairs of a symbol and an address that it covers, in one pass: real symbols hardly overlap.
const MATCHES_MAX: u64 = 50_000_000;

/// A symbol that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundSymbol {
    /// Its name as written in the table.
    pub(super) name: String,
}

/// Symbols for some addresses of a file, which must ascend. The answers are in the same order.
///
/// # Errors
/// If the tables cannot be read, or exceed a limit.
pub(super) fn find(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    addresses: &[u64],
) -> Result<Vec<Option<FoundSymbol>>, FileError> {
    debug_assert!(addresses.is_sorted());
    let mut slots = vec![Slot::default(); addresses.len()];
    let mut names = Vec::new();
    for (kind, what) in [(elf::SHT_SYMTAB, "symbol table"), (elf::SHT_DYNSYM, "dynamic symbol table")] {
        let Some(table) = headers.sections.iter().find(|section| section.kind == kind) else { continue };
        let Some(text) = headers.sections.get(table.link as usize) else { continue };
        if table.size > SYMBOL_TABLE_BYTES_MAX {
            return Err(FileError::TooLarge { what, size: table.size, max: SYMBOL_TABLE_BYTES_MAX });
        }
        let table_index = names.len();
        names.push(text.content());
        let is_full = kind == elf::SHT_SYMTAB;
        let mut matches = 0;
        let entry_bytes = if headers.is_64_bit { 24 } else { 16 };
        for_each_entry(source, what, table.content(), entry_bytes, |entry| {
            let Some(symbol) = decode(entry, headers, table_index) else { return Ok(()) };
            matches += note(&mut slots, addresses, &symbol, is_full);
            if matches > MATCHES_MAX {
                return Err(FileError::Malformed("symbols overlap without end"));
            }
            Ok(())
        })?;
    }
    let mut nearest: Option<Symbol> = None;
    let mut found = Vec::with_capacity(slots.len());
    for (slot, address) in slots.into_iter().zip(addresses) {
        // What lies nearest before the previous address may be nearest before this one too.
        nearest = slot.nearest.into_iter().chain(nearest).max_by_key(|symbol| symbol.start);
        let mut covering = slot.covering;
        if covering.is_empty()
            && let Some(nearest) = nearest.filter(|nearest| nearest.reaches(*address, headers))
        {
            // Hand-written assembly often has no sizes; then a symbol reaches to the next one.
            covering.push(nearest);
        }
        found.push(best_name(source, &names, &covering)?);
    }
    Ok(found)
}

/// A symbol as its table has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) binding: u8,
    /// The number of its section.
    pub(super) section: u16,
    /// Where its name is in the table's names.
    pub(super) name: u32,
    /// Which of the tables that are read.
    pub(super) table: usize,
}

impl Symbol {
    /// Whether a symbol without size may be taken to reach an address: within its section.
    fn reaches(&self, address: u64, headers: &ElfHeaders) -> bool {
        let section = headers.sections.get(usize::from(self.section));
        self.size == 0 && section.is_some_and(|section| section.is_executable() && section.contains(address))
    }
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Symbols that cover the address and start closest before it: one, and its aliases.
    covering: Vec<Symbol>,
    /// The symbol that starts closest before this address, but not before the previous one.
    nearest: Option<Symbol>,
}

/// A symbol that names code, if the entry is one.
pub(super) fn decode(entry: &[u8], headers: &ElfHeaders, table: usize) -> Option<Symbol> {
    let (info, section, start, size) = if headers.is_64_bit {
        (entry.get(4).copied()?, u16_at(entry, 6), u64_at(entry, 8), u64_at(entry, 16))
    } else {
        (entry.get(12).copied()?, u16_at(entry, 14), u64::from(u32_at(entry, 4)), u64::from(u32_at(entry, 8)))
    };
    let name = u32_at(entry, 0);
    if name == 0 || section == elf::SHN_UNDEF || section >= elf::SHN_LORESERVE && section != elf::SHN_XINDEX {
        return None;
    }
    match info & 0xf {
        elf::STT_FUNC | elf::STT_GNU_IFUNC => {}
        // Labels of assembly.
        elf::STT_NOTYPE if headers.sections.get(usize::from(section)).is_some_and(Section::is_executable) => {}
        _ => return None,
    }
    // On 32-bit ARM the lowest bit marks Thumb code.
    let start = if headers.machine == super::elf::Machine::Arm { start & !1 } else { start };
    Some(Symbol { start, size, binding: info >> 4, section, name, table })
}

/// Notes a symbol for the addresses that it concerns; returns for how many.
fn note(slots: &mut [Slot], addresses: &[u64], symbol: &Symbol, is_full_table: bool) -> u64 {
    let first = addresses.partition_point(|address| *address < symbol.start);
    let Some(slot) = slots.get_mut(first) else { return 0 };
    if is_full_table && slot.nearest.is_none_or(|nearest| nearest.start < symbol.start) {
        slot.nearest = Some(*symbol);
    }
    // The table of exported symbols is too sparse for a symbol without size to reach further than its first byte.
    let end = symbol.start.saturating_add(symbol.size.max(1));
    let mut noted = 0;
    for (slot, address) in slots[first..].iter_mut().zip(&addresses[first..]) {
        if *address >= end {
            break;
        }
        noted += 1;
        match slot.covering.first().map(|known| known.start.cmp(&symbol.start)) {
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Equal) => add_alias(&mut slot.covering, symbol),
            Some(std::cmp::Ordering::Less) | None => {
                slot.covering.clear();
                slot.covering.push(*symbol);
            }
        }
    }
    noted
}

/// Adds another symbol for the same code to those that are compared.
pub(super) fn add_alias(aliases: &mut Vec<Symbol>, symbol: &Symbol) {
    if aliases.len() < ALIASES_MAX {
        aliases.push(*symbol);
    } else if let Some(sizeless) = aliases.iter_mut().find(|known| known.size == 0 && symbol.size > 0) {
        // Linkers that fold equal functions give one address dozens of names, all but one without size.
        *sizeless = *symbol;
    }
}

/// The name that people know, of several names of the same code: `malloc` rather than `__libc_malloc`.
fn best_name(
    source: &(impl Source + ?Sized),
    names: &[(u64, u64)],
    symbols: &[Symbol],
) -> Result<Option<FoundSymbol>, FileError> {
    let text = |symbol: &Symbol| {
        let Some((offset, length)) = names.get(symbol.table) else { return Ok(None) };
        if u64::from(symbol.name) >= *length {
            return Ok(None);
        }
        let mut bytes = [0; SYMBOL_NAME_BYTES_MAX];
        let room = (length - u64::from(symbol.name)).min(bytes.len() as u64);
        // Most names are short: read little first.
        let mut name = Vec::new();
        for wanted in [128.min(room), room] {
            let part = &mut bytes[..usize::try_from(wanted).unwrap_or_default()];
            let filled = read_up_to(source, "symbol name", offset.saturating_add(symbol.name.into()), part)?;
            let end = part[..filled].iter().position(|byte| *byte == 0);
            name = part[..end.unwrap_or(filled)].to_vec();
            if end.is_some() {
                break;
            }
        }
        Ok(Some(name))
    };
    Ok(best_of(symbols, text)?.map(|name| FoundSymbol { name }))
}

/// The best name of several symbols, of which `text` reads each one's. `None` if none of them is for people.
pub(super) fn best_of(
    symbols: &[Symbol],
    text: impl Fn(&Symbol) -> Result<Option<Vec<u8>>, FileError>,
) -> Result<Option<String>, FileError> {
    let mut best: Option<(Rank, String)> = None;
    for symbol in symbols {
        let Some(bytes) = text(symbol)? else { continue };
        let mut name = String::from_utf8_lossy(&bytes).into_owned();
        // Separate debug files write the symbol's version behind it: `__libc_start_main@@GLIBC_2.34`.
        if let Some(version) = name.find('@') {
            name.truncate(version);
        }
        // Marks of code and data within a section, and the assembler's own labels.
        if name.is_empty() || name.starts_with('$') || name.starts_with(".L") {
            continue;
        }
        let rank = rank(symbol, &name);
        if best.as_ref().is_none_or(|(best_rank, best_name)| (&rank, &name) < (best_rank, best_name)) {
            best = Some((rank, name));
        }
    }
    Ok(best.map(|(_, name)| name))
}

type Rank = (bool, usize, u8, usize);

/// Smaller is better: with a size, few leading underscores, exported, short.
fn rank(symbol: &Symbol, name: &str) -> Rank {
    let is_mangled = name.starts_with("_Z") || name.starts_with("_R");
    let underscores = if is_mangled { 0 } else { name.bytes().take_while(|byte| *byte == b'_').count() };
    let binding = match symbol.binding {
        elf::STB_GLOBAL => 0,
        elf::STB_WEAK => 1,
        _ => 2,
    };
    (symbol.size == 0, underscores, binding, name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> ElfHeaders {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        ElfHeaders::read(&file).unwrap()
    }

    fn symbol(start: u64, size: u64) -> Symbol {
        Symbol { start, size, binding: elf::STB_GLOBAL, section: 1, name: 1, table: 0 }
    }

    #[test]
    fn the_closest_covering_symbol_wins() {
        let addresses = [0x100, 0x110, 0x11f, 0x120, 0x200];
        let mut slots = vec![Slot::default(); addresses.len()];
        note(&mut slots, &addresses, &symbol(0x110, 0x10), true);
        note(&mut slots, &addresses, &symbol(0x100, 0x80), true);
        note(&mut slots, &addresses, &symbol(0x110, 0x10), true);
        let starts: Vec<Vec<u64>> =
            slots.iter().map(|slot| slot.covering.iter().map(|symbol| symbol.start).collect()).collect();
        assert_eq!(starts, [vec![0x100], vec![0x110, 0x110], vec![0x110, 0x110], vec![0x100], vec![]]);
    }

    #[test]
    fn a_symbol_with_size_is_kept_among_many_without() {
        let mut slots = vec![Slot::default()];
        for size in [0; 3 * ALIASES_MAX] {
            note(&mut slots, &[0x100], &symbol(0x100, size), true);
        }
        note(&mut slots, &[0x100], &symbol(0x100, 16), true);
        assert_eq!(slots[0].covering.len(), ALIASES_MAX);
        assert_eq!(slots[0].covering.iter().filter(|symbol| symbol.size == 16).count(), 1);
    }

    #[test]
    fn a_symbol_that_covers_everything_is_noted_once_per_address() {
        let addresses: Vec<u64> = (0..100).collect();
        let mut slots = vec![Slot::default(); addresses.len()];
        assert_eq!(note(&mut slots, &addresses, &symbol(1, u64::MAX), true), 99);
        assert_eq!(note(&mut slots, &addresses, &symbol(u64::MAX, u64::MAX), true), 0);
    }

    #[test]
    fn the_name_that_people_know() {
        let names = ["__libc_malloc", "malloc", "__write", "write", "_ZN3fooC2Ev", "_ZN3fooC1Ev", "___x"];
        let mut sorted = names;
        sorted.sort_by_key(|name| (rank(&symbol(0, 1), name), *name));
        assert_eq!(sorted, ["write", "malloc", "_ZN3fooC1Ev", "_ZN3fooC2Ev", "__write", "__libc_malloc", "___x"]);
    }

    #[test]
    fn our_own_functions() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let headers = headers();
        let mut addresses = vec![headers.entry, 0x10];
        addresses.sort_unstable();
        let found = find(&file, &headers, &addresses).unwrap();
        let name = |address| {
            let index = addresses.iter().position(|known| *known == address).unwrap();
            found[index].clone().map(|symbol| symbol.name)
        };
        assert_eq!(name(headers.entry).as_deref(), Some("_start"));
        assert_eq!(name(0x10), None);
    }
}

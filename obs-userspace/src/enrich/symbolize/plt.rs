//! Names for the stubs through which a file calls functions of others: `malloc@plt`.
//!
//! A stub jumps to where a slot of the file's table points; the relocation of that slot says by which name.

use std::collections::HashMap;

use object::elf;

use super::{
    bytes::{Source, for_each_entry, read_exact, read_up_to, text_until_nul, u32_at, u64_at},
    elf::{ElfHeaders, Machine, Section},
    reason::FileError,
    symbols,
};

/// Most bytes of a section of stubs.
const PLT_BYTES_MAX: u64 = 8 << 20;

/// Most bytes of a table of relocations.
const RELOCATIONS_BYTES_MAX: u64 = 256 << 20;

/// Most stubs of a file that is indexed (on aarch64: most instructions of stubs).
const STUBS_MAX: u64 = 65_536;

/// The sections that hold stubs.
const PLT_SECTIONS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];

/// Which relocation a stub leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    /// The one of this slot.
    Slot(u64),
    /// The one at this place of `.rela.plt`.
    Index(u32),
}

/// Names for those of some addresses that lie in stubs, by address.
///
/// # Errors
/// If the stubs or relocations cannot be read, or exceed a limit.
pub(super) fn find(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    addresses: &[u64],
) -> Result<HashMap<u64, String>, FileError> {
    // 32-bit stubs address their slots by a register that only their caller knows.
    if !matches!(headers.machine, Machine::X86_64 | Machine::Aarch64) || !headers.is_64_bit {
        return Ok(HashMap::new());
    }
    let mut targets = HashMap::new();
    for section in PLT_SECTIONS.iter().filter_map(|name| headers.section(name)) {
        if !addresses.iter().any(|address| section.contains(*address)) {
            continue;
        }
        let (offset, length) = section.content();
        let code = read_exact(source, "stubs", offset, length, PLT_BYTES_MAX)?;
        for address in addresses.iter().filter(|address| section.contains(**address)) {
            let target = match headers.machine {
                Machine::X86_64 => x86_64_target(section, &code, *address),
                Machine::Aarch64 => aarch64_target(section, &code, *address),
                Machine::X86 | Machine::Arm => None,
            };
            targets.extend(target.map(|target| (*address, target)));
        }
    }
    if targets.is_empty() {
        return Ok(HashMap::new());
    }
    let relocations = relocations(source, headers, &targets)?;
    let mut names = HashMap::new();
    // A stub for code that picks its implementation at start has no symbol, but the address of the code that picks.
    let mut pickers: Vec<u64> =
        relocations.values().filter(|(symbol, _)| *symbol == 0).map(|(_, addend)| *addend).collect();
    pickers.sort_unstable();
    pickers.dedup();
    let picker_names = symbols::find(source, headers, &pickers)?;
    for (address, target) in targets {
        let Some((symbol, addend)) = relocations.get(&target) else { continue };
        let name = if *symbol == 0 {
            pickers
                .binary_search(addend)
                .ok()
                .and_then(|index| picker_names.get(index)?.as_ref())
                .map(|f| f.name.clone())
        } else {
            dynamic_symbol_name(source, headers, *symbol)?
        };
        names.extend(name.map(|name| (address, name)));
    }
    Ok(names)
}

/// Names for all stubs of a file: ranges in ascending order.
///
/// # Errors
/// As [`find`], and if there are more stubs than are read.
pub(super) fn all(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
) -> Result<Vec<(std::ops::Range<u64>, String)>, FileError> {
    let mut parts = Vec::new();
    for section in PLT_SECTIONS.iter().filter_map(|name| headers.section(name)) {
        let step = match headers.machine {
            Machine::Aarch64 => 4,
            Machine::X86_64 | Machine::X86 | Machine::Arm => {
                if section.entry_bytes == 8 {
                    8
                } else {
                    16
                }
            }
        };
        let count = section.content().1.div_ceil(step);
        if count > STUBS_MAX {
            return Err(FileError::TooLarge { what: "number of stubs", size: count, max: STUBS_MAX });
        }
        let end = section.address.saturating_add(section.size);
        parts.extend((0..count).map(|index| {
            let start = section.address.saturating_add(index * step);
            start..start.saturating_add(step).min(end)
        }));
    }
    parts.sort_by_key(|part| part.start);
    let starts: Vec<u64> = parts.iter().map(|part| part.start).collect();
    let mut names = find(source, headers, &starts)?;
    let mut stubs: Vec<(std::ops::Range<u64>, String)> = Vec::new();
    for part in parts {
        let Some(name) = names.remove(&part.start) else { continue };
        match stubs.last_mut() {
            Some((last, known)) if last.end == part.start && *known == name => last.end = part.end,
            Some((last, _)) if last.end > part.start => {}
            _ => stubs.push((part, name)),
        }
    }
    Ok(stubs)
}

/// The symbol and addend of each relocation that is wanted.
fn relocations(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    targets: &HashMap<u64, Target>,
) -> Result<HashMap<Target, (u32, u64)>, FileError> {
    let wanted: std::collections::HashSet<Target> = targets.values().copied().collect();
    let mut found = HashMap::new();
    for section in headers.sections.iter().filter(|section| section.kind == elf::SHT_RELA) {
        if section.size > RELOCATIONS_BYTES_MAX {
            return Err(FileError::TooLarge { what: "relocations", size: section.size, max: RELOCATIONS_BYTES_MAX });
        }
        let is_plt = section.name == ".rela.plt";
        let mut index = 0;
        for_each_entry(source, "relocations", section.content(), 24, |entry| {
            let info = u64_at(entry, 8);
            #[allow(clippy::cast_possible_truncation, reason = "the two halves of the field")]
            let (symbol, kind) = ((info >> 32) as u32, info as u32);
            let is_usable = match headers.machine {
                Machine::X86_64 => {
                    matches!(kind, elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_IRELATIVE)
                }
                Machine::Aarch64 => {
                    matches!(kind, elf::R_AARCH64_JUMP_SLOT | elf::R_AARCH64_GLOB_DAT | elf::R_AARCH64_IRELATIVE)
                }
                Machine::X86 | Machine::Arm => false,
            };
            for target in [Some(Target::Slot(u64_at(entry, 0))), is_plt.then_some(Target::Index(index))] {
                if let Some(target) = target.filter(|target| is_usable && wanted.contains(target)) {
                    found.insert(target, (symbol, u64_at(entry, 16)));
                }
            }
            index += 1;
            Ok(())
        })?;
    }
    Ok(found)
}

fn dynamic_symbol_name(
    source: &(impl Source + ?Sized),
    headers: &ElfHeaders,
    symbol: u32,
) -> Result<Option<String>, FileError> {
    let Some(table) = headers.sections.iter().find(|section| section.kind == elf::SHT_DYNSYM) else { return Ok(None) };
    let Some(names) = headers.sections.get(table.link as usize) else { return Ok(None) };
    let place = u64::from(symbol) * 24;
    if place >= table.content().1 {
        return Ok(None);
    }
    let entry = read_exact(source, "dynamic symbol", table.offset.saturating_add(place), 24, 24)?;
    let name = u64::from(u32_at(&entry, 0));
    if name >= names.content().1 {
        return Ok(None);
    }
    let mut bytes = [0; symbols::SYMBOL_NAME_BYTES_MAX];
    let filled = read_up_to(source, "symbol name", names.offset.saturating_add(name), &mut bytes)?;
    let name = text_until_nul(&bytes[..filled]);
    Ok((!name.is_empty()).then_some(name))
}

/// x86-64: a stub is `jmp *slot(%rip)`, `endbr64; jmp *slot(%rip)`, or the lazy half of one, `endbr64; push INDEX; jmp`.
fn x86_64_target(section: &Section, code: &[u8], address: u64) -> Option<Target> {
    let entry_bytes = match section.entry_bytes {
        bytes @ (8 | 16) => bytes,
        _ => 16,
    };
    let start = (address - section.address) / entry_bytes * entry_bytes;
    let stub = code.get(usize::try_from(start).ok()?..)?;
    let stub = &stub[..stub.len().min(usize::try_from(entry_bytes).ok()?)];
    let (prefix, rest) = match stub {
        [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, rest @ ..] => (5, rest),
        [0xf3, 0x0f, 0x1e, 0xfa, rest @ ..] => (4, rest),
        [0xf2, rest @ ..] => (1, rest),
        rest => (0, rest),
    };
    match rest {
        [0xff, 0x25, distance @ ..] if distance.len() >= 4 => {
            let behind = section.address.wrapping_add(start).wrapping_add(prefix + 6);
            #[allow(clippy::cast_possible_wrap, reason = "the distance is signed")]
            let distance = i64::from(u32_at(distance, 0) as i32);
            Some(Target::Slot(behind.wrapping_add_signed(distance)))
        }
        [0x68, index @ ..] if index.len() >= 4 => Some(Target::Index(u32_at(index, 0))),
        _ => None,
    }
}

/// aarch64: a stub is `[bti c;] adrp x16, PAGE; ldr x17, [x16, #OFFSET]; add …; br x17`.
fn aarch64_target(section: &Section, code: &[u8], address: u64) -> Option<Target> {
    const BTI_C: u32 = 0xd503_245f;
    const BR_X17: u32 = 0xd61f_0220;
    const WORDS_PER_STUB_MAX: u64 = 6;
    let word = |index: u64| usize::try_from(index * 4).ok().and_then(|at| code.get(at..at + 4)).map(|at| u32_at(at, 0));
    let here = (address - section.address) / 4;
    // The stub that holds the address begins at the closest `adrp x16` at or before it, or just behind a `bti c`.
    let first = if word(here)? == BTI_C { here + 1 } else { here };
    let mut index = first;
    for _ in 0..WORDS_PER_STUB_MAX {
        let adrp = word(index)?;
        if adrp & 0x9f00_001f == 0x9000_0010 {
            let load = word(index + 1)?;
            if load & 0xffc0_03ff != 0xf940_0211 {
                return None;
            }
            let pages = (i64::from((adrp >> 5) & 0x7_ffff) << 2) | i64::from((adrp >> 29) & 3);
            let pages = (pages << 43) >> 43;
            let page = section.address.wrapping_add(index * 4) & !0xfff;
            let slot = page.wrapping_add_signed(pages << 12).wrapping_add(u64::from((load >> 10) & 0xfff) * 8);
            return Some(Target::Slot(slot));
        }
        // Padding behind one stub's jump belongs to no stub.
        if index < first && adrp == BR_X17 {
            return None;
        }
        index = index.checked_sub(1)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(address: u64, entry_bytes: u64, size: u64) -> Section {
        Section {
            name: ".plt".to_owned(),
            kind: elf::SHT_PROGBITS,
            flags: 0,
            address,
            offset: 0,
            size,
            link: 0,
            entry_bytes,
        }
    }

    #[test]
    fn x86_64_stubs() {
        // 0x1020: jmp *0x2fe2(%rip) # 0x4008; push 1; jmp
        let lazy = [0xff, 0x25, 0xe2, 0x2f, 0, 0, 0x68, 1, 0, 0, 0, 0xe9, 0, 0, 0, 0];
        for address in [0x1020, 0x1026, 0x102f] {
            assert_eq!(x86_64_target(&section(0x1020, 16, 16), &lazy, address), Some(Target::Slot(0x4008)));
        }
        // endbr64; jmp *0x2f75(%rip) # 0x3fd0 ; from 0x1050
        let second = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0x76, 0x2f, 0, 0, 0x66, 0x0f, 0x1f, 0x44, 0, 0];
        assert_eq!(x86_64_target(&section(0x1050, 16, 16), &second, 0x1054), Some(Target::Slot(0x3fd0)));
        // endbr64; push 3; bnd jmp
        let half = [0xf3, 0x0f, 0x1e, 0xfa, 0x68, 3, 0, 0, 0, 0xf2, 0xe9, 0, 0, 0, 0, 0x90];
        assert_eq!(x86_64_target(&section(0x1030, 16, 16), &half, 0x1034), Some(Target::Index(3)));
        // .plt.got: jmp *-0x12(%rip) ; xchg %ax,%ax
        let got = [0xff, 0x25, 0xee, 0xff, 0xff, 0xff, 0x66, 0x90];
        assert_eq!(x86_64_target(&section(0x2000, 8, 8), &got, 0x2000), Some(Target::Slot(0x1ff4)));
        // The first stub, which all lazy ones end in: push *; jmp *
        let first = [0xff, 0x35, 0xe2, 0x2f, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
        assert_eq!(x86_64_target(&section(0x1020, 16, 16), &first, 0x1020), None);
        assert_eq!(x86_64_target(&section(0x1020, 16, 99), &[], 0x1050), None);
    }

    #[test]
    fn aarch64_stubs() {
        // adrp x16, +0x10 pages; ldr x17, [x16, #0xfa8]; add x16, x16, #0xfa8; br x17
        let stub: Vec<u8> = [0x9000_0090_u32, 0xf947_d611, 0x913e_a210, 0xd61f_0220]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        for address in [0x610, 0x614, 0x61c] {
            assert_eq!(aarch64_target(&section(0x610, 16, 16), &stub, address), Some(Target::Slot(0x10fa8)));
        }
        // The same behind a `bti c`, with a `nop` behind it.
        let mut bti = 0xd503_245f_u32.to_le_bytes().to_vec();
        bti.extend(&stub);
        bti.extend(0xd503_201f_u32.to_le_bytes());
        assert_eq!(aarch64_target(&section(0x60c, 24, 24), &bti, 0x60c), Some(Target::Slot(0x10fa8)));
        assert_eq!(aarch64_target(&section(0x60c, 24, 24), &bti, 0x610), Some(Target::Slot(0x10fa8)));
        assert_eq!(aarch64_target(&section(0x60c, 24, 24), &bti, 0x620), None, "padding");
        assert_eq!(aarch64_target(&section(0x610, 16, 16), &[0; 16], 0x614), None);
    }
}

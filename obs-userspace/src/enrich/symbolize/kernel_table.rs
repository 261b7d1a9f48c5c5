//! All functions of the kernel and its modules in little memory, for those who look names up again and again.
//!
//! Names are compressed in blocks of [`BLOCK_NAMES`], of which a look-up unpacks one: 1.1 MB for a kernel of 120,000 symbols, whose
//! list is 5.4 MB of text that the kernel takes 30 ms to write.

use std::{collections::BTreeMap, io::BufRead};

use super::kernel::{Found, KERNEL_SYMBOL_BYTES_MAX, KernelSymbol, Line, is_made, lines};

/// Names that are compressed together.
const BLOCK_NAMES: usize = 256;

/// Most bytes of a block's names.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Most symbols; kernels have 120,000 to 300,000.
const SYMBOLS_MAX: usize = 1 << 20;

/// How hard names are compressed. More saves little.
const COMPRESSION_LEVEL: i32 = 3;

/// The functions.
#[derive(Debug)]
pub(super) struct KernelTable {
    /// The lowest address.
    base: u64,
    /// Where each symbol begins, from there. Ascending.
    starts: Vec<u32>,
    /// Names of [`BLOCK_NAMES`] symbols each: one a line, with a blank and the module; empty for what is no function, and for
    /// code that the kernel makes and lets go.
    blocks: Vec<Box<[u8]>>,
}

/// The name that is chosen for an address so far.
struct Chosen {
    /// Whether it is no code, and how many underscores it begins with: less is better.
    rank: (bool, usize),
    /// As it stands in a block.
    text: Box<str>,
}

impl KernelTable {
    /// Reads all symbols. `None` if that cannot be done, addresses are hidden, or there are too many or too far apart: then
    /// each batch has to read the list.
    pub(super) fn read(text: impl BufRead) -> Option<Self> {
        let mut symbols: BTreeMap<u64, Chosen> = BTreeMap::new();
        let mut is_whole = true;
        let read = lines(text, |Line { start, is_code, name, module }| {
            let rank = (!is_code, name.bytes().take_while(|byte| *byte == b'_').count());
            if symbols.len() >= SYMBOLS_MAX {
                is_whole = false;
                return;
            }
            if symbols.get(&start).is_some_and(|chosen| chosen.rank <= rank) {
                return;
            }
            let text = match module {
                _ if !is_code => "".into(),
                Some(module) if is_made(module) => "".into(),
                Some(module) => format!("{name} {module}").into(),
                None => name.into(),
            };
            symbols.insert(start, Chosen { rank, text });
        });
        // Symbols of per-CPU data have small numbers in place of addresses, where they do not begin at a high one.
        let symbols = symbols.split_off(&(1 << 63));
        let (base, last) = (*symbols.first_key_value()?.0, *symbols.last_key_value()?.0);
        if read.is_err() || !is_whole || last - base > u64::from(u32::MAX) {
            return None;
        }
        let starts = symbols.keys().map(|start| u32::try_from(start - base)).collect::<Result<Vec<u32>, _>>().ok()?;
        let mut blocks = Vec::with_capacity(starts.len().div_ceil(BLOCK_NAMES));
        let mut names = symbols.into_values().peekable();
        while names.peek().is_some() {
            let mut block = String::new();
            for Chosen { text, .. } in names.by_ref().take(BLOCK_NAMES) {
                block.push_str(&text);
                block.push('\n');
            }
            if block.len() > BLOCK_BYTES_MAX {
                return None;
            }
            blocks.push(zstd::bulk::compress(block.as_bytes(), COMPRESSION_LEVEL).ok()?.into());
        }
        Some(Self { base, starts, blocks })
    }

    /// The function at an address.
    pub(super) fn find(&self, address: u64) -> Option<Found> {
        let offset = address.checked_sub(self.base)?;
        let index = self.starts.partition_point(|start| u64::from(*start) <= offset).checked_sub(1)?;
        let start = self.base + u64::from(*self.starts.get(index)?);
        let next = self.starts.get(index + 1).map_or(u64::MAX, |next| self.base + u64::from(*next));
        let end = next.min(start.saturating_add(KERNEL_SYMBOL_BYTES_MAX));
        if address >= end {
            return None;
        }
        let names = zstd::bulk::decompress(self.blocks.get(index / BLOCK_NAMES)?, BLOCK_BYTES_MAX).ok()?;
        let line = str::from_utf8(&names).ok()?.lines().nth(index % BLOCK_NAMES).filter(|line| !line.is_empty())?;
        let (name, module) =
            line.split_once(' ').map_or((line, None), |(name, module)| (name, Some(module.to_owned())));
        Some(Found { symbol: KernelSymbol { name: name.to_owned(), module }, range: Some(start..end) })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kernel::tests::KALLSYMS, *};

    fn name(table: &KernelTable, address: u64) -> Option<String> {
        let KernelSymbol { name, module } = table.find(address)?.symbol;
        Some(module.map_or(name.clone(), |module| format!("{name} [{module}]")))
    }

    #[test]
    fn names_are_those_of_the_list() {
        let table = KernelTable::read(KALLSYMS.as_bytes()).unwrap();
        for (address, expected) in [
            (0xffff_ffff_80ff_ffff, None),
            (0xffff_ffff_8100_0000, Some("_stext")),
            (0xffff_ffff_8100_0010, Some("entry")),
            (0xffff_ffff_8100_0019, Some("late")),
            // Data.
            (0xffff_ffff_8100_0021, None),
            (0xffff_ffff_8100_0034, Some("schedule")),
            // Too far from it.
            (0xffff_ffff_8130_0000, None),
            (0xffff_ffff_c000_1fff, Some("nft_do_chain [nf_tables]")),
            // A program of BPF, which may be gone.
            (0xffff_ffff_c000_3001, None),
        ] {
            assert_eq!(name(&table, address).as_deref(), expected, "{address:#x}");
        }
        let range = table.find(0xffff_ffff_8100_0010).unwrap().range;
        assert_eq!(range, Some(0xffff_ffff_8100_0010..0xffff_ffff_8100_0018));
    }

    #[test]
    fn what_cannot_be_a_table_is_none() {
        for text in ["", "0000000000000000 T _stext\n", "ffff000000000000 T a\nffffffff00000000 T b\n"] {
            assert!(KernelTable::read(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn many_blocks() {
        let list: String =
            (0..2_000).map(|n| format!("{:016x} t f{n}\n", 0xffff_ffff_8100_0000_u64 + n * 16)).collect();
        let table = KernelTable::read(list.as_bytes()).unwrap();
        for n in [0, 255, 256, 257, 1_999] {
            assert_eq!(name(&table, 0xffff_ffff_8100_0007 + n * 16), Some(format!("f{n}")));
        }
    }
}

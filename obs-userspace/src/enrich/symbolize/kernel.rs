//! Names of kernel addresses, from `/proc/kallsyms`: the kernel's own, its modules', and loaded BPF programs'.
//!
//! One pass over the file answers all addresses of a batch. (Keeping the 120,000 to 300,000 symbols of a kernel would take
//! 8 to 20 MB; blazesym's look-up does.) The functions that were found are remembered, so that most batches need no pass.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    ops::Range,
    path::Path,
};

use super::{
    kernel_code::{KernelCode, Known},
    kernel_table::KernelTable,
    reason::NoSymbol,
};

/// Most bytes that are read of the kernel's symbols.
const KALLSYMS_BYTES_MAX: u64 = 256 << 20;

/// Most bytes from a symbol to an address that it is taken to cover: the file has no sizes.
pub(super) const KERNEL_SYMBOL_BYTES_MAX: u64 = 1 << 20;

/// What the file says instead of a module for code of BPF.
const BPF_MODULE: &str = "bpf";

/// How the names of modules begin that are none: code that the kernel makes and lets go (`__builtin__ftrace`).
const MADE_MODULE_PREFIX: &str = "__builtin__";

/// Most functions that are remembered; a busy host runs through some thousands.
const FUNCTIONS_MAX: usize = 16_384;

/// After how many passes over the list all of it is remembered: a single recording does not need that.
const PASSES_BEFORE_TABLE: u32 = 2;

/// Most bytes that are read of the list of modules.
const MODULES_BYTES_MAX: u64 = 1 << 20;

/// A kernel symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelSymbol {
    pub(super) name: String,
    /// The module that it belongs to (`bpf` for programs); `None` for the kernel itself.
    pub(super) module: Option<String>,
}

/// Functions of the kernel and its modules that were found in earlier batches.
#[derive(Debug, Default)]
pub(super) struct KernelFunctions {
    /// By first address: the first address behind it, and its name.
    functions: BTreeMap<u64, (u64, KernelSymbol)>,
    /// All of them, once the list was read so often that it is worth it.
    table: Option<KernelTable>,
    passes: u32,
    /// The list of modules that they were found with: where a module was, there may be another one now.
    modules: Vec<u8>,
}

impl KernelFunctions {
    /// Names kernel addresses, which must ascend. The answers are in the same order.
    pub(super) fn find(
        &mut self,
        kallsyms: &Path,
        addresses: &[u64],
        code: &KernelCode,
    ) -> Vec<Result<KernelSymbol, NoSymbol>> {
        self.forget_if_changed(&modules());
        let known: Vec<Option<KernelSymbol>> = addresses
            .iter()
            .map(|address| matches!(code.find(*address), Known::Nothing).then(|| self.get(*address).cloned())?)
            .collect();
        let unknown = addresses.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(address, _)| *address);
        let unknown: Vec<u64> = unknown.collect();
        let mut found = self.find_unknown(kallsyms, &unknown, code).into_iter();
        let answers = known.into_iter().map(|known| match known {
            Some(symbol) => Ok(symbol),
            None => {
                let found = found.next().unwrap_or(Err(NoSymbol::KernelUnknown))?;
                self.remember(&found);
                Ok(found.symbol)
            }
        });
        answers.collect()
    }

    fn find_unknown(&mut self, kallsyms: &Path, addresses: &[u64], code: &KernelCode) -> Vec<Result<Found, NoSymbol>> {
        if addresses.is_empty() {
            return Vec::new();
        }
        if self.passes == PASSES_BEFORE_TABLE {
            self.passes += 1;
            self.table = open(kallsyms).ok().and_then(KernelTable::read);
        }
        if let Some(table) = &self.table {
            let is_nothing = |address: &u64| matches!(code.find(*address), Known::Nothing);
            let found: Option<Vec<Found>> =
                addresses.iter().map(|address| table.find(*address).filter(|_| is_nothing(address))).collect();
            if let Some(found) = found {
                return found.into_iter().map(Ok).collect();
            }
        }
        // There is code among it that comes and goes.
        self.passes = self.passes.saturating_add(1);
        find(kallsyms, addresses, code)
    }

    fn forget_if_changed(&mut self, modules: &[u8]) {
        if self.modules != modules {
            *self = Self { modules: modules.to_owned(), ..Self::default() };
        }
    }

    fn get(&self, address: u64) -> Option<&KernelSymbol> {
        let (_, (end, symbol)) = self.functions.range(..=address).next_back()?;
        (address < *end).then_some(symbol)
    }

    fn remember(&mut self, found: &Found) {
        let Some(range) = &found.range else { return };
        if self.functions.len() >= FUNCTIONS_MAX {
            self.functions.clear();
        }
        self.functions.insert(range.start, (range.end, found.symbol.clone()));
    }
}

/// The names of the modules and where each is. Their counts of uses change all the time.
fn modules() -> Vec<u8> {
    let mut text = String::new();
    // Without the list, the kernel has no modules.
    if let Ok(file) = File::open("/proc/modules") {
        let _ = file.take(MODULES_BYTES_MAX).read_to_string(&mut text);
    }
    let mut kept = Vec::new();
    for line in text.lines() {
        // `name size uses users state address`
        let mut fields = line.split_ascii_whitespace();
        for field in [fields.next(), fields.next(), fields.nth(3)].into_iter().flatten() {
            kept.extend_from_slice(field.as_bytes());
            kept.push(b' ');
        }
    }
    kept
}

/// A symbol that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) symbol: KernelSymbol,
    /// Where it is, if it stays there as long as its module does.
    pub(super) range: Option<Range<u64>>,
}

fn open(kallsyms: &Path) -> io::Result<impl BufRead> {
    Ok(BufReader::with_capacity(64 << 10, File::open(kallsyms)?.take(KALLSYMS_BYTES_MAX)))
}

/// Names kernel addresses, which must ascend. The answers are in the same order.
fn find(kallsyms: &Path, addresses: &[u64], code: &KernelCode) -> Vec<Result<Found, NoSymbol>> {
    match open(kallsyms) {
        Ok(list) => find_in(list, addresses, code),
        Err(error) => {
            tracing::warn!(path = %kallsyms.display(), %error, "cannot read the kernel's symbols; its frames stay unnamed");
            vec![Err(NoSymbol::KernelUnreadable); addresses.len()]
        }
    }
}

#[derive(Clone, Debug)]
struct Nearest {
    start: u64,
    is_code: bool,
    symbol: KernelSymbol,
}

impl Nearest {
    fn covers(&self, address: u64, code: &KernelCode) -> bool {
        let KernelSymbol { name, module } = &self.symbol;
        self.is_code
            && address - self.start < KERNEL_SYMBOL_BYTES_MAX
            && (module.as_deref() != Some(BPF_MODULE) || code.covers(self.start, name, address))
    }

    /// `end` is where the next symbol is.
    fn found(&self, end: Option<u64>) -> Found {
        let stays = !self.symbol.module.as_deref().is_some_and(is_made);
        let range = self.start..end.unwrap_or(u64::MAX).min(self.start + KERNEL_SYMBOL_BYTES_MAX);
        Found { symbol: self.symbol.clone(), range: stays.then_some(range) }
    }
}

fn find_in(list: impl BufRead, addresses: &[u64], code: &KernelCode) -> Vec<Result<Found, NoSymbol>> {
    debug_assert!(addresses.is_sorted());
    let mut slots: Vec<Option<Nearest>> = vec![None; addresses.len()];
    // The first symbol behind the address before; the last one is behind all of them.
    let mut firsts: Vec<Option<u64>> = vec![None; addresses.len() + 1];
    let mut is_hidden = true;
    let read = lines(list, |Line { start, is_code, name, module }| {
        // All addresses read as zero for those who may not know them.
        is_hidden &= start == 0;
        let place = addresses.partition_point(|address| *address < start);
        if let Some(first) = firsts.get_mut(place) {
            *first = Some(first.map_or(start, |first| first.min(start)));
        }
        let Some(slot) = slots.get_mut(place) else { return };
        // Of several names of the same code, one of code before others, then that with the fewest underscores; the first
        // one wins.
        let underscores = |name: &str| name.bytes().take_while(|byte| *byte == b'_').count();
        let is_better = slot.as_ref().is_none_or(|known| {
            start > known.start
                || start == known.start
                    && (!is_code, underscores(name)) < (!known.is_code, underscores(&known.symbol.name))
        });
        if is_better {
            let symbol = KernelSymbol { name: name.to_owned(), module: module.map(str::to_owned) };
            *slot = Some(Nearest { start, is_code, symbol });
        }
    });
    if let Err(error) = read {
        tracing::warn!(%error, "cannot read on in the kernel's symbols");
    }
    // Where the next symbol is, seen from each address.
    let mut next = None;
    let mut ends: Vec<Option<u64>> = firsts
        .into_iter()
        .skip(1)
        .rev()
        .map(|first| {
            next = first.or(next);
            next
        })
        .collect();
    ends.reverse();
    let mut nearest: Option<Nearest> = None;
    slots
        .into_iter()
        .zip(addresses)
        .zip(ends)
        .map(|((slot, address), end)| {
            nearest = slot.or_else(|| nearest.take());
            let bpf = |name: &str| KernelSymbol { name: name.to_owned(), module: Some(BPF_MODULE.to_owned()) };
            match (code.find(*address), &nearest) {
                (Known::Name(name), _) => Ok(Found { symbol: bpf(&name), range: None }),
                (Known::Several, _) => Err(NoSymbol::KernelUnknown),
                (Known::Nothing, _) if is_hidden => Err(NoSymbol::KernelHidden),
                (Known::Nothing, Some(found)) if found.covers(*address, code) => Ok(found.found(end)),
                (Known::Nothing, _) => Err(NoSymbol::KernelUnknown),
            }
        })
        .collect()
}

/// A line of the list.
pub(super) struct Line<'a> {
    pub(super) start: u64,
    pub(super) is_code: bool,
    pub(super) name: &'a str,
    pub(super) module: Option<&'a str>,
}

/// Reads the list line by line, to its end: the reader is bounded. Lines of another form are left out.
pub(super) fn lines(mut list: impl BufRead, mut each: impl FnMut(Line<'_>)) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if list.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if let Some(line) = parse_line(&line) {
            each(line);
        }
    }
}

/// Whether a module is none: its code comes and goes.
pub(super) fn is_made(module: &str) -> bool {
    module == BPF_MODULE || module.starts_with(MADE_MODULE_PREFIX)
}

/// `ffffffff81000000 T _stext` or `ffffffffc0201000 t name\t[module]`.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let line = str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let start = u64::from_str_radix(fields.next()?, 16).ok()?;
    let kind = *fields.next()?.as_bytes().first()?;
    let is_code = matches!(kind, b't' | b'T' | b'w' | b'W' | b'i' | b'I');
    let name = fields.next()?;
    let module = fields.next().and_then(|module| module.strip_prefix('[')?.strip_suffix(']'));
    Some(Line { start, is_code, name, module })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const KALLSYMS: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T __pi__text
ffffffff81000000 T _stext
ffffffff81000010 T entry
ffffffff81000020 d some_data
ffffffff81000030 t schedule
ffffffff82000000 T _etext
ffffffff82000001 D data_start
ffffffffc0001000 t nft_do_chain\t[nf_tables]
ffffffffc0003000 t bpf_prog_6deef7357e7b4530_cpu\t[bpf]
ffffffff81000018 t late
";

    fn names(text: &str, addresses: &[u64]) -> Vec<Result<String, NoSymbol>> {
        let show = |symbol: KernelSymbol| match symbol.module {
            Some(module) => format!("{} [{module}]", symbol.name),
            None => symbol.name,
        };
        let mut code = KernelCode::default();
        code.set_loaded(std::iter::once(0xffff_ffff_c000_3000..0xffff_ffff_c000_3020).collect());
        code.add_named(0xffff_ffff_c000_4000, 0x40, "bpf_prog_77_gone", false);
        let found = find_in(text.as_bytes(), addresses, &code).into_iter();
        found.map(|found| found.map(|found| show(found.symbol))).collect()
    }

    #[test]
    fn functions_are_remembered_while_they_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kallsyms");
        let mut functions = KernelFunctions::default();
        let mut names = |text: &str, addresses: &[u64], code: &KernelCode| {
            std::fs::write(&path, text).unwrap();
            let found = functions.find(&path, addresses, code).into_iter();
            found.map(|found| found.map_or_else(|_| "-".to_owned(), |symbol| symbol.name)).collect::<Vec<_>>()
        };
        let mut code = KernelCode::default();
        code.set_loaded(std::iter::once(0xffff_ffff_c000_3000..0xffff_ffff_c000_3020).collect());
        let asked = [0xffff_ffff_8100_0012, 0xffff_ffff_8100_0034, 0xffff_ffff_c000_1fff, 0xffff_ffff_c000_3010];
        let expected = ["entry", "schedule", "nft_do_chain", "bpf_prog_6deef7357e7b4530_cpu"];
        assert_eq!(names(KALLSYMS, &asked, &code), expected);
        // Nothing but what comes and goes is read again, and functions end where the next one begins.
        assert_eq!(names("", &asked, &code), ["entry", "schedule", "nft_do_chain", "-"]);
        let places = [0xffff_ffff_8100_000f, 0xffff_ffff_8100_0017, 0xffff_ffff_8100_0018, 0xffff_ffff_8200_0000];
        assert_eq!(names("", &places, &code), ["-", "entry", "-", "-"]);
        // Code that is known to have come is not what was there before.
        code.add_named(0xffff_ffff_c000_1000, 0x1000, "bpf_prog_1_new", true);
        assert_eq!(names("", &asked, &code), ["entry", "schedule", "bpf_prog_1_new", "-"]);
        functions.forget_if_changed(b"another_module ");
        assert_eq!(functions.get(asked[0]), None);
    }

    #[test]
    fn nearest_before() {
        let addresses = [
            0xffff_ffff_8100_0000,
            0xffff_ffff_8100_000f,
            0xffff_ffff_8100_0010,
            0xffff_ffff_8100_0019,
            0xffff_ffff_8100_0021,
            0xffff_ffff_8100_0034,
            0xffff_ffff_8100_0035,
            0xffff_ffff_8200_0005,
            0xffff_ffff_c000_1fff,
            0xffff_ffff_c000_3010,
            0xffff_ffff_c000_3020,
            0xffff_ffff_c000_4010,
            0xffff_ffff_d000_0000,
        ];
        let expected = [
            Ok("_stext"),
            Ok("_stext"),
            Ok("entry"),
            Ok("late"),
            Err(NoSymbol::KernelUnknown),
            Ok("schedule"),
            Ok("schedule"),
            Err(NoSymbol::KernelUnknown),
            Ok("nft_do_chain [nf_tables]"),
            Ok("bpf_prog_6deef7357e7b4530_cpu [bpf]"),
            Err(NoSymbol::KernelUnknown),
            Ok("bpf_prog_77_gone [bpf]"),
            Err(NoSymbol::KernelUnknown),
        ];
        assert_eq!(names(KALLSYMS, &addresses), expected.map(|name| name.map(str::to_owned)));
        assert_eq!(names(KALLSYMS, &[5]), [Err(NoSymbol::KernelUnknown)]);
    }

    #[test]
    fn hidden_addresses_are_a_reason_of_their_own() {
        let hidden = "0000000000000000 T _stext\n0000000000000000 t schedule\n";
        assert_eq!(names(hidden, &[0xffff_ffff_8100_0000]), [Err(NoSymbol::KernelHidden)]);
        assert_eq!(find(Path::new("/nonexistent"), &[1], &KernelCode::default()), [Err(NoSymbol::KernelUnreadable)]);
    }

    #[test]
    fn hostile_lines() {
        for text in ["", "\n", "x y z\n", "ffffffff81000000\n", "ffffffff81000000 \n", "ffffffff81000000 T\n", "\u{0}"]
        {
            assert_eq!(names(text, &[1]).len(), 1);
        }
    }

    #[test]
    fn the_running_kernels_own() {
        let Ok(text) = std::fs::read_to_string("/proc/kallsyms") else { return };
        let schedule =
            text.lines().find(|line| line.ends_with(" T schedule")).and_then(|line| parse_line(line.as_bytes()));
        let Some(Line { start, .. }) = schedule.filter(|line| line.start != 0) else { return };
        let mut functions = KernelFunctions::default();
        // From the list, from memory, and from the table.
        for passes in [0, 0, PASSES_BEFORE_TABLE] {
            if passes > 0 {
                functions = KernelFunctions { passes, ..KernelFunctions::default() };
            }
            let found = functions.find(Path::new("/proc/kallsyms"), &[start + 4], &KernelCode::default());
            assert_eq!(found[0].as_ref().map(|symbol| &*symbol.name), Ok("schedule"));
        }
        // The table says what the list says.
        let table = functions.table.unwrap();
        let starts = text.lines().filter_map(|line| parse_line(line.as_bytes()));
        let wanted = starts.filter(|line| line.is_code && !line.module.is_some_and(is_made)).map(|line| line.start + 1);
        let mut wanted: Vec<u64> = wanted.step_by(97).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let listed = find(Path::new("/proc/kallsyms"), &wanted, &KernelCode::default());
        for (address, listed) in wanted.iter().zip(listed) {
            assert_eq!(table.find(*address), listed.ok(), "{address:#x}");
        }
        assert!(wanted.len() > 300);
    }
}

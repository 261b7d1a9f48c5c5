//! Compares our unwind tables with binutils' own evaluation, for every ELF file below some folders.
//!
//! `readelf --debug-dump=frames-interp` prints the rules of every row, without `gimli` or any of our code. Each of its
//! rows is compared with what our table finds at the row's first and last address, and our table may begin no row inside
//! of it; what it prints as `exp` is compared with the text of the expression. Between its functions our
//! table may only say what it can justify. All that is not equal is counted by class, with an example.

use obs_common::unwind_row::{CfaKind, FpKind, RA_SIGNED, RBX_LOST, RBX_UNCHANGED, RaKind, Rule};
use obs_unwind::{BuildError, ElfError, ElfImage, Machine, UnwindTable};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that are compared at most; more are refused rather than silently left out.
const FILES_MAX: usize = 1 << 17;

/// What is not equal, by class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// ELF files looked at.
    pub(crate) files: u64,
    /// Files whose table was compared.
    pub(crate) files_compared: u64,
    /// Functions that readelf printed for them.
    pub(crate) functions: u64,
    /// Rows that readelf printed for them.
    pub(crate) rows: u64,
    /// Rows with the same rule on both sides.
    pub(crate) rows_equal: u64,
    /// Classes that are explained: what the format leaves out on purpose, or adds.
    pub(crate) explained: BTreeMap<&'static str, Class>,
    /// Classes that are faults of ours.
    pub(crate) wrong: BTreeMap<&'static str, Class>,
}

/// One class of what is not equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Class {
    /// Rows, functions or files, as the class's name says.
    pub(crate) count: u64,
    /// Files that have any.
    pub(crate) files: u64,
    /// The first one.
    pub(crate) example: String,
}

/// Compares every ELF file below `roots` (files or folders, symbolic links not followed) on `threads` threads.
///
/// # Errors
/// When readelf cannot be started, or a folder cannot be read.
pub(crate) fn unwind_check(roots: &[PathBuf], threads: usize) -> io::Result<Summary> {
    let files = elf_files(roots)?;
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = compare_file(path)?;
                        if let Ok(mut total) = total.lock() {
                            total.add(found);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    Ok(total.into_inner().unwrap_or_default())
}

impl Summary {
    /// The table that is printed.
    #[must_use]
    pub(crate) fn table(&self) -> String {
        let Self { files, files_compared, functions, rows, rows_equal, explained, wrong } = self;
        let mut text = format!(
            "{files} ELF files, {files_compared} with call frame information, {functions} functions, {rows} rows: \
             {rows_equal} equal\n"
        );
        for (title, classes) in [("explained", explained), ("WRONG", wrong)] {
            for (name, Class { count, files, example }) in classes {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{title:9} {count:9} in {files:5} files  {name}\n          e.g. {example}");
            }
        }
        text
    }

    fn add(&mut self, other: Self) {
        let Self { files, files_compared, functions, rows, rows_equal, explained, wrong } = other;
        self.files += files;
        self.files_compared += files_compared;
        self.functions += functions;
        self.rows += rows;
        self.rows_equal += rows_equal;
        for (ours, theirs) in [(&mut self.explained, explained), (&mut self.wrong, wrong)] {
            for (name, class) in theirs {
                let sum = ours.entry(name).or_default();
                sum.count += class.count;
                sum.files += class.files;
                if sum.example.is_empty() {
                    sum.example = class.example;
                }
            }
        }
    }

    fn note(&mut self, verdict: Verdict, example: impl FnOnce() -> String) {
        let (classes, name) = match verdict {
            Verdict::Equal => return,
            Verdict::Explained(name) => (&mut self.explained, name),
            Verdict::Wrong(name) => (&mut self.wrong, name),
        };
        let class = classes.entry(name).or_insert_with(|| Class { count: 0, files: 1, example: example() });
        class.count += 1;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Explained(&'static str),
    Wrong(&'static str),
}

fn elf_files(roots: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left: Vec<PathBuf> = roots.to_vec();
    while let Some(path) = left.pop() {
        let kind = std::fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if kind.is_file() && is_elf(&path) {
            if files.len() == FILES_MAX {
                return Err(io::Error::other(format!("more than {FILES_MAX} ELF files: name fewer folders")));
            }
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

/// A row as readelf prints it.
#[derive(Clone, Debug)]
struct Row {
    start: u64,
    end: u64,
    cfa: String,
    fp: String,
    sp: String,
    ra: String,
    rbx: String,
}

fn compare_file(path: &Path) -> io::Result<Summary> {
    let mut summary = Summary { files: 1, ..Summary::default() };
    let data = std::fs::read(path)?;
    let image = match ElfImage::parse(&data) {
        Ok(image) => image,
        Err(error) => {
            let class = match error {
                ElfError::NoExecutableSegment => "file: never executed (relocatable object, or only debug information)",
                ElfError::UnsupportedMachine(_) => "file: another processor",
                ElfError::Malformed(_) => "file: not a 64-bit little-endian ELF image",
                ElfError::TooManySegments => "file: too many segments",
            };
            summary.note(Verdict::Explained(class), || format!("{}: {error}", path.display()));
            return Ok(summary);
        }
    };
    let machine = image.machine();
    let mut rows = interpreted_rows(path, machine, &mut summary)?;
    match UnwindTable::build(&image) {
        Err(BuildError::NoInformation) if rows.is_empty() => {
            let class = "file: no call frame information on either side";
            summary.note(Verdict::Explained(class), || path.display().to_string());
        }
        Err(error) => {
            summary.note(Verdict::Wrong("file: no table was built"), || format!("{}: {error}", path.display()));
        }
        Ok((table, _)) => {
            summary.files_compared = 1;
            let starts: Vec<(u64, Rule)> = table.iter().collect();
            let compared = Compared { path, machine, image: &image, table: &table, starts: &starts };
            compared.gaps(&mut rows, &mut summary);
            compared.rows(&rows, &mut summary);
            if rows.iter().any(|row| row.cfa == "exp") {
                compared.expressions(&mut summary)?;
            }
        }
    }
    Ok(summary)
}

fn readelf(path: &Path, what: &str, mut line: impl FnMut(&str)) -> io::Result<()> {
    let mut child = Command::new("readelf")
        .arg(format!("--debug-dump={what},no-follow-links"))
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(output) = child.stdout.take() {
        for text in BufReader::with_capacity(1 << 16, output).lines() {
            line(&text?);
        }
    }
    child.wait().map(drop)
}

/// What a list of columns says, as far as we have it.
#[derive(Clone, Debug, Default)]
struct Columns {
    names: Vec<String>,
}

/// Reads readelf's rows; a function without rows of its own has its CIE's.
fn interpreted_rows(path: &Path, machine: Machine, summary: &mut Summary) -> io::Result<Vec<Row>> {
    let mut all: Vec<Row> = Vec::new();
    let mut cies: BTreeMap<String, Row> = BTreeMap::new();
    let mut columns = Columns::default();
    let mut cie_name = None;
    let mut range = None;
    let mut pending: Vec<Row> = Vec::new();
    let (sp, fp, ra) = match machine {
        Machine::X86_64 => ("rsp", "rbp", "ra"),
        Machine::Aarch64 => ("sp", "x29", "ra"),
    };
    let mut functions = 0;
    let mut close = |range: &mut Option<(u64, u64, String)>, pending: &mut Vec<Row>, cies: &BTreeMap<String, Row>| {
        let Some((start, end, cie)) = range.take() else { return };
        functions += 1;
        if pending.is_empty()
            && let Some(row) = cies.get(&cie)
        {
            pending.push(Row { start, ..row.clone() });
        }
        let ends: Vec<u64> = pending.iter().skip(1).map(|row| row.start).chain([end]).collect();
        for (row, row_end) in pending.iter_mut().zip(ends) {
            row.end = row_end.min(end);
        }
        all.extend(pending.drain(..).filter(|row| row.start < row.end));
    };
    readelf(path, "frames-interp", |line| {
        if line.starts_with("Contents of the") {
            close(&mut range, &mut pending, &cies);
            cies.clear();
            cie_name = None;
        } else if let Some((head, _)) = line.split_once(" CIE \"") {
            close(&mut range, &mut pending, &cies);
            cie_name = head.split(' ').next().map(str::to_owned);
        } else if let Some((_, rest)) = line.split_once(" FDE cie=") {
            close(&mut range, &mut pending, &cies);
            cie_name = None;
            let Some((cie, addresses)) = rest.split_once(" pc=") else { return };
            let Some((start, end)) = addresses.trim().split_once("..") else { return };
            if let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) {
                range = Some((start, end, cie.to_owned()));
            }
        } else if let Some(names) = line.strip_prefix("   LOC ") {
            columns.names = names.split_whitespace().skip(1).map(str::to_owned).collect();
        } else if let Some(row) = parse_row(line, &columns, (sp, fp, ra)) {
            match (&cie_name, &range) {
                (Some(name), _) => drop(cies.insert(name.clone(), row)),
                (None, Some(_)) => {
                    // A row of no length is printed too.
                    if pending.last().is_some_and(|last| last.start == row.start) {
                        pending.pop();
                    }
                    pending.push(row);
                }
                (None, None) => {}
            }
        }
    })?;
    close(&mut range, &mut pending, &cies);
    summary.functions += functions;
    Ok(all)
}

fn parse_row(line: &str, columns: &Columns, (sp, fp, ra): (&str, &str, &str)) -> Option<Row> {
    let (address, rest) = line.split_at_checked(16)?;
    let start = u64::from_str_radix(address, 16).ok()?;
    let mut words = rest.split_whitespace();
    let cfa = words.next()?.to_owned();
    // A register is printed as `r5 (rdi)`, by its DWARF number.
    let values: Vec<&str> = words.filter(|word| !word.starts_with('(')).collect();
    let value = |name: &str| {
        let at = columns.names.iter().position(|column| column == name);
        at.and_then(|at| values.get(at)).copied().unwrap_or("-").to_owned()
    };
    Some(Row { start, end: 0, cfa, sp: value(sp), fp: value(fp), ra: value(ra), rbx: value("rbx") })
}

struct Compared<'f> {
    path: &'f Path,
    machine: Machine,
    image: &'f ElfImage<'f>,
    table: &'f UnwindTable,
    starts: &'f [(u64, Rule)],
}

impl Compared<'_> {
    fn example(&self, row: &Row, rule: Option<Rule>) -> String {
        let Row { start, end, cfa, fp, sp, ra, rbx } = row;
        format!(
            "{} {start:#x}..{end:#x}: readelf cfa={cfa} fp={fp} sp={sp} ra={ra} rbx={rbx}; we {rule:?}",
            self.path.display()
        )
    }

    /// Sorts rows and cuts each where a later function begins; then looks at what our table says between them.
    fn gaps(&self, rows: &mut Vec<Row>, summary: &mut Summary) {
        rows.sort_by_key(|row| (row.start, row.end));
        let before = rows.len();
        rows.dedup_by(|later, row| {
            let same = later.start == row.start;
            if same {
                *row = later.clone();
            }
            same
        });
        for _ in rows.len()..before {
            let class = "row: readelf has two functions at the address (the longer one is compared)";
            summary.note(Verdict::Explained(class), || self.path.display().to_string());
        }
        for at in 1..rows.len() {
            let next = rows[at].start;
            if rows[at - 1].end > next {
                rows[at - 1].end = next;
                let class = "row: cut where another function begins, as a search for the nearest start would";
                let example = self.example(&rows[at - 1], None);
                summary.note(Verdict::Explained(class), || example);
            }
        }
        for segment in self.image.executable_segments() {
            let mut reached = segment.address;
            let end = segment.address + segment.bytes;
            for row in rows.iter().filter(|row| row.start >= segment.address && row.start < end) {
                self.gap(reached, row.start, summary);
                reached = reached.max(row.end);
            }
            self.gap(reached, end, summary);
        }
    }

    /// Looks at every rule that our table has in `[start, end)`, which readelf says nothing of.
    fn gap(&self, start: u64, end: u64, summary: &mut Summary) {
        if start >= end {
            return;
        }
        let from = self.starts.partition_point(|(at, _)| *at <= start);
        let to = self.starts.partition_point(|(at, _)| *at < end);
        let first = [(start, self.table.find(start).unwrap_or_default())];
        for (at, rule) in first.iter().chain(self.starts.get(from..to).unwrap_or_default()) {
            let kind = rule.cfa_kind;
            let verdict = if kind == CfaKind::NoInformation as u8 {
                Verdict::Equal
            } else if self.image.is_go() {
                Verdict::Explained("rule: from Go's own function table, where nothing else describes the code")
            } else if *at == start && end - start <= 64 {
                Verdict::Explained("gap: up to 64 bytes of padding, where the function before it is taken to go on")
            } else if kind == CfaKind::Signal as u8 {
                Verdict::Explained("rule: a signal trampoline known by its instructions")
            } else if kind == CfaKind::Plt as u8 || kind == CfaKind::Sp as u8 {
                Verdict::Explained("rule: a linkage stub known by its instructions")
            } else {
                Verdict::Wrong("rule: where nothing describes the code")
            };
            summary.note(verdict, || format!("{} {at:#x} in {start:#x}..{end:#x}: {rule:?}", self.path.display()));
        }
    }

    fn rows(&self, rows: &[Row], summary: &mut Summary) {
        for row in rows.iter().filter(|row| row.start < row.end) {
            summary.rows += 1;
            if !self.executable(row.start) {
                let class = "row: of code that is not in an executable segment";
                summary.note(Verdict::Explained(class), || self.example(row, None));
                continue;
            }
            let rule = self.table.find(row.start).unwrap_or_default();
            let inside = self.starts.partition_point(|(at, _)| *at <= row.start)
                ..self.starts.partition_point(|(at, _)| *at < row.end);
            let last = self.table.find(row.end - 1).unwrap_or_default();
            let verdict = if inside.is_empty() && last == rule {
                match verdict(self.machine, row, &rule) {
                    wrong @ Verdict::Wrong(_) if self.image.is_go() => {
                        go_verdict(self.machine, row, &rule).unwrap_or(wrong)
                    }
                    verdict => verdict,
                }
            } else {
                Verdict::Wrong("row: our table has a boundary inside of it")
            };
            summary.rows_equal += u64::from(verdict == Verdict::Equal);
            summary.note(verdict, || self.example(row, Some(rule)));
        }
    }

    fn executable(&self, address: u64) -> bool {
        self.image.executable_segments().iter().any(|s| address >= s.address && address - s.address < s.bytes)
    }

    /// Compares the text of each expression that defines a CFA with the rule that stands where it begins to hold.
    fn expressions(&self, summary: &mut Summary) -> io::Result<()> {
        let mut at = None;
        let mut found: Vec<(u64, String)> = Vec::new();
        readelf(self.path, "frames", |line| {
            if let Some((_, range)) = line.split_once(" pc=") {
                at = range.split("..").next().and_then(|start| u64::from_str_radix(start, 16).ok());
            } else if line.contains(" CIE") {
                at = None;
            } else if let Some((_, to)) = line.split_once("DW_CFA_advance_loc").and_then(|(_, l)| l.split_once(" to "))
            {
                at = u64::from_str_radix(to.trim(), 16).ok();
            } else if let (Some((_, text)), Some(at)) = (line.split_once("DW_CFA_def_cfa_expression ("), at) {
                found.push((at, text.trim_end().trim_end_matches(')').to_owned()));
            }
        })?;
        for (at, text) in found {
            let rule = self.table.find(at).unwrap_or_default();
            let verdict = expression_verdict(&rule, &text);
            summary.note(verdict, || format!("{} {at:#x}: {text}; we {rule:?}", self.path.display()));
        }
        Ok(())
    }
}

fn expression_verdict(rule: &Rule, text: &str) -> Verdict {
    let Rule { cfa_offset, cfa_kind, arg, .. } = *rule;
    let addend = i32::from(arg as i8) * 8;
    let deref = |base: &str| match addend {
        0 => format!("{base}: {cfa_offset}; DW_OP_deref"),
        _ => format!("{base}: {cfa_offset}; DW_OP_deref; DW_OP_plus_uconst: {addend}"),
    };
    let ours = match cfa_kind {
        k if k == CfaKind::SpDeref as u8 => deref("DW_OP_breg7 (rsp)"),
        k if k == CfaKind::FpDeref as u8 => deref("DW_OP_breg6 (rbp)"),
        k if k == CfaKind::Plt as u8 => format!(
            "DW_OP_breg7 (rsp): {cfa_offset}; DW_OP_breg16 (rip): 0; DW_OP_lit15; DW_OP_and; DW_OP_lit{arg}; \
             DW_OP_ge; DW_OP_lit3; DW_OP_shl; DW_OP_plus"
        ),
        k if k == CfaKind::Signal as u8 => format!("DW_OP_breg7 (rsp): {}; DW_OP_deref", cfa_offset + 160),
        k if k == CfaKind::Unsupported as u8 => {
            return Verdict::Explained("expression: of a form that is left out (its rows are Unsupported)");
        }
        _ => return Verdict::Wrong("expression: taken for something else"),
    };
    if ours == text { Verdict::Equal } else { Verdict::Wrong("expression: not the same") }
}

/// The DWARF number of a register that readelf names.
fn register_number(machine: Machine, name: &str) -> Option<u16> {
    const X86_64: [&str; 17] = [
        "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "rip",
    ];
    match machine {
        Machine::X86_64 => X86_64.iter().position(|known| *known == name).and_then(|at| u16::try_from(at).ok()),
        Machine::Aarch64 if name == "sp" => Some(31),
        Machine::Aarch64 => name.strip_prefix('x').and_then(|number| number.parse().ok()),
    }
}

fn verdict(machine: Machine, row: &Row, rule: &Rule) -> Verdict {
    let kind = |kind: CfaKind| rule.cfa_kind == kind as u8;
    if kind(CfaKind::NoInformation) {
        return Verdict::Wrong("row: no information");
    }
    if row.ra == "u" && machine == Machine::X86_64 {
        let known = kind(CfaKind::End) || kind(CfaKind::Unsupported);
        return if known { Verdict::Equal } else { Verdict::Wrong("row: the return address is undefined") };
    }
    if kind(CfaKind::Unsupported) {
        return Verdict::Explained(if !matches!(row.sp.as_str(), "-" | "u" | "s") {
            "row: the caller's stack pointer is not the CFA: left out (Unsupported)"
        } else if row.cfa == "exp" {
            "row: an expression of a form that is left out (Unsupported)"
        } else if row.ra == "exp" || row.ra == "vexp" {
            "row: the return address is at an expression: left out (Unsupported)"
        } else {
            return Verdict::Wrong("row: unsupported for no known reason");
        });
    }
    if kind(CfaKind::Signal) {
        let ours = row.cfa == "exp" && row.ra == "exp" && row.fp == "exp";
        return if ours { Verdict::Equal } else { Verdict::Wrong("row: not a signal frame") };
    }
    if !cfa_agrees(machine, &row.cfa, rule) {
        return Verdict::Wrong("row: CFA");
    }
    if !ra_agrees(machine, &row.ra, rule) {
        return Verdict::Wrong("row: return address");
    }
    if !rbx_agrees(&row.rbx, rule) {
        return Verdict::Wrong("row: rbx");
    }
    fp_verdict(&row.fp, rule)
}

/// Where Go's own table, which we read, says more than its `.debug_frame`, which readelf prints.
fn go_verdict(machine: Machine, row: &Row, rule: &Rule) -> Option<Verdict> {
    let kind = |kind: CfaKind| rule.cfa_kind == kind as u8;
    Some(Verdict::Explained(if kind(CfaKind::End) {
        "row: a Go function that is the first of its stack"
    } else if kind(CfaKind::FramePointer) {
        "row: a Go function that sets the stack pointer"
    } else if kind(CfaKind::Signal) {
        "row: Go's signal trampoline"
    } else if row.fp == "-"
        && rule.fp_kind == FpKind::AtCfa as u8
        && cfa_agrees(machine, &row.cfa, rule)
        && ra_agrees(machine, &row.ra, rule)
    {
        "row: a Go function's saved frame pointer"
    } else {
        return None;
    }))
}

fn cfa_agrees(machine: Machine, cfa: &str, rule: &Rule) -> bool {
    if cfa == "exp" {
        // Which one it is, the texts say.
        return [CfaKind::SpDeref, CfaKind::FpDeref, CfaKind::Plt].iter().any(|kind| rule.cfa_kind == *kind as u8);
    }
    let Some(at) = cfa.rfind(['+', '-']) else { return false };
    let (name, offset) = cfa.split_at(at);
    let (Some(number), Ok(offset)) = (register_number(machine, name), offset.parse::<i32>()) else { return false };
    let (sp, fp) = match machine {
        Machine::X86_64 => (7, 6),
        Machine::Aarch64 => (31, 29),
    };
    let kind = match number {
        n if n == sp => CfaKind::Sp,
        n if n == fp => CfaKind::Fp,
        _ => CfaKind::Register,
    };
    // What `arg` says otherwise, `rbx_agrees` looks at.
    let register = kind != CfaKind::Register || u16::from(rule.arg) == number;
    rule.cfa_kind == kind as u8 && rule.cfa_offset == offset && register
}

fn ra_agrees(machine: Machine, ra: &str, rule: &Rule) -> bool {
    let kind = rule.ra_kind & !RA_SIGNED;
    match (at_cfa(ra), saved_in(ra)) {
        (Some(bytes), _) => kind == RaKind::AtCfa as u8 && i64::from(rule.ra_offset) * 8 == bytes,
        (None, Some(number)) => kind == RaKind::Register as u8 && rule.ra_offset == number as i16,
        (None, None) => machine == Machine::Aarch64 && matches!(ra, "u" | "s") && kind == RaKind::LinkRegister as u8,
    }
}

/// Where rbx is, only the tables say that need it.
fn rbx_agrees(rbx: &str, rule: &Rule) -> bool {
    let followed = rule.cfa_kind == CfaKind::Sp as u8 || rule.cfa_kind == CfaKind::Fp as u8;
    match (rule.arg, at_cfa(rbx)) {
        _ if !followed => true,
        (RBX_LOST, _) => true,
        (RBX_UNCHANGED, _) => matches!(rbx, "-" | "u" | "s"),
        (words, Some(bytes)) => bytes == -8 * i64::from(words),
        (_, None) => false,
    }
}

fn fp_verdict(fp: &str, rule: &Rule) -> Verdict {
    let kind = |kind: FpKind| rule.fp_kind == kind as u8;
    let agrees = match (at_cfa(fp), saved_in(fp)) {
        (Some(bytes), _) => kind(FpKind::AtCfa) && i64::from(rule.fp_offset) * 8 == bytes,
        (None, Some(number)) => kind(FpKind::Register) && rule.fp_offset == number as i16,
        (None, None) => match fp {
            "-" | "s" => kind(FpKind::Unchanged),
            // Readelf prints `u` for what was not said, too.
            "u" => kind(FpKind::Unchanged) || kind(FpKind::Undefined),
            "exp" if kind(FpKind::Undefined) => {
                return Verdict::Explained("row: the frame pointer is at an expression: taken to be lost");
            }
            "exp" => kind(FpKind::AtFp) || kind(FpKind::AtSp),
            "vexp" => return Verdict::Explained("row: the frame pointer is an expression: taken to be lost"),
            _ if fp.starts_with('v') => {
                return Verdict::Explained("row: the frame pointer is an offset from the CFA: taken to be lost");
            }
            _ => false,
        },
    };
    if agrees { Verdict::Equal } else { Verdict::Wrong("row: frame pointer") }
}

/// The DWARF number of a register that another one is saved in.
fn saved_in(text: &str) -> Option<u16> {
    text.strip_prefix('r').and_then(|number| number.parse().ok())
}

/// The bytes of `c-16`.
fn at_cfa(text: &str) -> Option<i64> {
    text.strip_prefix('c').and_then(|offset| offset.parse().ok())
}

//! `cargo xtask unwind-check`: compares our unwind tables with binutils' own evaluation, for every ELF file below some folders.
//!
//! `readelf --debug-dump=frames-interp` prints the rules of every row, without `gimli` or any of our code. Each of its
//! rows is compared with what our table finds at the row's first and last address, and our table may begin no row inside
//! of it; what it prints as `exp` is compared with the text of the expression. Between its functions our
//! table may only say what it can justify. All that is not equal is counted by class, with an example.

pub(crate) mod readelf;
mod verdict;

use anyhow::{Result, ensure};
use obs_common::unwind_row::{CfaKind, Rule};
use obs_unwind::{BuildError, ElfError, ElfImage, Machine, UnwindTable};
use readelf::{Row, interpreted_rows, readelf};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use verdict::{Verdict, expression_verdict, go_verdict, verdict};

/// Files that are compared at most; more are refused rather than silently left out.
const FILES_MAX: usize = 1 << 17;

/// Which files to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// ELF files, or folders of them; symbolic links are not followed
    #[arg(default_values = ["/usr/bin", "/usr/lib"])]
    roots: Vec<PathBuf>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = unwind_check(&arguments.roots, threads)?;
    print!("{}", summary.table());
    ensure!(summary.files_compared > 0, "there is no ELF file with call frame information to compare");
    Ok(if summary.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

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
fn unwind_check(roots: &[PathBuf], threads: usize) -> io::Result<Summary> {
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
    let (mut rows, functions) = interpreted_rows(path, machine)?;
    summary.functions = functions;
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
            } else if kind == CfaKind::End as u8 && self.image.entry() == Some(*at) {
                Verdict::Explained("rule: the stack ends at the file's entry point")
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

//! Runs readelf and reads what it prints.

use obs_unwind::Machine;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A row as readelf prints it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) cfa: String,
    pub(super) fp: String,
    pub(super) sp: String,
    pub(super) ra: String,
    pub(super) rbx: String,
}

/// Calls `line` with each line that `readelf --debug-dump=WHAT` prints.
pub(crate) fn readelf(path: &Path, what: &str, mut line: impl FnMut(&str)) -> io::Result<()> {
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

/// Reads readelf's rows, and counts its functions; a function without rows of its own has its CIE's.
pub(super) fn interpreted_rows(path: &Path, machine: Machine) -> io::Result<(Vec<Row>, u64)> {
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
    Ok((all, functions))
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

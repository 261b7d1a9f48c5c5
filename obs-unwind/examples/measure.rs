//! Prints what the unwind tables of files cost: `cargo run --release -p obs-unwind --example measure -- FILE…`.
//!
//! One line per file: rows read and kept, bytes, bytes per row read and kept, milliseconds, how much the process's peak
//! memory grew beyond the file itself. The last line sums up.

use obs_unwind::{ElfImage, Notes, UnwindTable};
use std::time::Instant;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn main() {
    let mut totals = [0_u64; 8];
    println!("    read     kept  rules  pages     bytes B/read B/kept      ms +peakKiB file");
    for path in std::env::args().skip(1) {
        let Ok(data) = std::fs::read(&path) else { continue };
        let before = peak_kib();
        let begin = Instant::now();
        let Ok(image) = ElfImage::parse(&data) else { continue };
        let (table, notes) = match UnwindTable::build(&image) {
            Ok(built) => built,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        let (read, kept, bytes) = (notes.rows_read, table.rows().len() as u64, table.bytes() as u64);
        println!(
            "{read:8} {kept:8} {:6} {:6} {bytes:9} {:6.2} {:6.2} {ms:7.1} {:8} {path}",
            table.rules().len(),
            table.pages().len(),
            bytes as f64 / read.max(1) as f64,
            bytes as f64 / kept.max(1) as f64,
            peak_kib() - before,
        );
        let Notes { functions, functions_malformed, functions_too_long, functions_overlapping, .. } = notes;
        let broken = functions_malformed + functions_too_long;
        let add =
            [read, kept, bytes, functions, broken, functions_overlapping, notes.gaps_of_padding, notes.go_functions];
        for (total, add) in totals.iter_mut().zip(add) {
            *total += add;
        }
        if broken + functions_overlapping + notes.stubs_recognised > 0 || notes.go_functions > 0 {
            println!("  {notes:?}");
        }
    }
    let [read, kept, bytes, functions, broken, overlapping, padding, go] = totals;
    println!(
        "total: {functions} functions, {read} rows read, {kept} kept, {bytes} bytes, {:.3} B/read, {:.3} B/kept; \
         {broken} functions broken, {overlapping} overlapping, {padding} gaps of padding, {go} Go functions",
        bytes as f64 / read.max(1) as f64,
        bytes as f64 / kept.max(1) as f64,
    );
}

//! `obs load-all`: loads, attaches and detaches every collector's object; for the kernel matrix and for bug reports.

use std::io::Write;

use serde::Serialize;

use super::Failure;
use crate::{
    collect::{COLLECTORS, Settings},
    config::filter::Filter,
};

#[derive(Serialize)]
struct Line<'a> {
    collector: &'a str,
    program: &'a str,
    verified_instructions: Option<u32>,
}

/// Prints one JSON line per program; exit code 1 if any object fails.
pub(super) fn run(out: &mut dyn Write) -> Result<u8, Failure> {
    let mut failed = false;
    for spec in COLLECTORS {
        // With a filter that follows children, so that every program of the object is loaded.
        let filter = Filter { pids: vec![std::process::id()], follow_children: true, ..Filter::default() };
        match (spec.start)(&Settings { filter, ..Settings::default() }) {
            Ok(collector) => {
                for stats in collector.program_stats() {
                    let line = Line {
                        collector: spec.name,
                        program: &stats.name,
                        verified_instructions: stats.verified_instructions,
                    };
                    writeln!(out, "{}", serde_json::to_string(&line)?)?;
                }
            }
            Err(error) => {
                failed = true;
                eprintln!("obs: {}: {error}", spec.name);
            }
        }
    }
    Ok(u8::from(failed))
}

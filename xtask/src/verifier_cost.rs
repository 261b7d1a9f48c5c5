//! What each program costs the verifier, kernel by kernel: kept in a file, and compared with what `obs load-all` says.
//!
//! A kernel refuses a program of which it had to follow a million instructions, and some kernels follow many more than
//! others. A change that comes closer to that should be seen when it is made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::host;

/// The file, from the workspace's root on. Columns: kernel series, collector, program, instructions followed.
const FILE: &str = "docs/verifier-cost.tsv";

/// How much more than in the file is too much: compilers and kernels differ from one minor version to the next.
const FACTOR_MAX: f64 = 1.5;

/// Instructions that are never too many.
const FREE: u64 = 2_000;

/// A program of a collector.
type Program = (String, String);

/// The instructions that the verifier followed, by kernel series and program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct VerifierCosts(BTreeMap<String, BTreeMap<Program, u64>>);

impl VerifierCosts {
    /// Reads the file.
    pub(crate) fn read() -> Result<Self> {
        let path: PathBuf = host::workspace()?.join(FILE);
        let bytes = host::read(&path)?;
        Self::parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut costs = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [series, collector, program, instructions] = fields[..] else {
                anyhow::bail!("`{line}` has not four fields");
            };
            let instructions = instructions.parse().with_context(|| format!("the count in `{line}`"))?;
            let of_series = costs.0.entry(series.to_owned()).or_default();
            of_series.insert((collector.to_owned(), program.to_owned()), instructions);
        }
        Ok(costs)
    }

    /// Whether there are figures of a kernel series, such as `6.1`.
    pub(crate) fn knows(&self, series: &str) -> bool {
        self.0.contains_key(series)
    }

    /// Compares what `obs load-all` printed. What has become much dearer, or is not in the file, is told, one sentence each.
    pub(crate) fn compare<'a>(&self, series: &str, printed: impl Iterator<Item = &'a str>) -> Vec<String> {
        let known = self.0.get(series);
        let mut complaints = Vec::new();
        for ((collector, program), instructions) in printed.filter_map(program_cost) {
            let line = format!("{series}\t{collector}\t{program}\t{instructions}");
            match known.and_then(|known| known.get(&(collector, program.clone()))) {
                None => complaints.push(format!("{FILE} lacks the line `{line}`")),
                Some(before) if instructions > FREE && instructions as f64 > FACTOR_MAX * *before as f64 => {
                    complaints.push(format!(
                        "the verifier followed {instructions} instructions of {program}, {before} before; if that must be, \
                         write `{line}` into {FILE}"
                    ));
                }
                Some(_) => {}
            }
        }
        complaints
    }
}

/// What a line of `obs load-all` says; `None` for other lines, and where the kernel does not tell (before Linux 5.16).
fn program_cost(line: &str) -> Option<(Program, u64)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    Some(((text("collector")?, text("program")?), value.get("verified_instructions")?.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(program: &str, instructions: u64) -> String {
        format!("{{\"collector\":\"cpu\",\"program\":\"{program}\",\"verified_instructions\":{instructions}}}")
    }

    #[test]
    fn what_grew_too_much_or_is_new_is_told() {
        let costs = VerifierCosts::parse("# comment\n6.1\tcpu\tsmall\t100\n6.1\tcpu\tlarge\t10000\n").unwrap();
        assert!(costs.knows("6.1") && !costs.knows("6.12"));
        let fine = [line("small", 1_999), line("large", 15_000), "noise".to_owned()];
        assert_eq!(costs.compare("6.1", fine.iter().map(String::as_str)), Vec::<String>::new());
        let bad = [line("large", 15_001), line("new", 1)];
        let complaints = costs.compare("6.1", bad.iter().map(String::as_str));
        assert!(complaints[0].contains("15001") && complaints[1].contains("lacks the line"), "{complaints:?}");
        assert_eq!(complaints.len(), 2);
    }

    #[test]
    fn a_broken_file_is_refused() {
        assert!(VerifierCosts::parse("6.1 cpu x 1").is_err());
        assert!(VerifierCosts::parse("6.1\tcpu\tx\tmany").is_err());
    }

    #[test]
    fn the_file_can_be_read() {
        assert!(VerifierCosts::read().unwrap().knows("6.1"));
    }
}

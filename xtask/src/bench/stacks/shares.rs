//! What a recorder saw of a process, in a form that recorders can be compared in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::functions::{Function, Functions};
use crate::host;

/// Functions near a thread's beginning, one of which is in every chain of perf's that is whole; `_start` itself has no name in
/// stripped programs.
const FIRST_FUNCTIONS: [&str; 8] = [
    "_start",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "clone3",
    "__clone3",
];

/// How many samples each function is in.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) samples: u64,
    pub(super) complete: u64,
    /// Of the samples with complete stacks: those that the function is anywhere in.
    inclusive: HashMap<Function, u64>,
    /// The same, apart for each innermost function, with the number of its complete stacks.
    inclusive_by_innermost: HashMap<Function, (u64, HashMap<Function, u64>)>,
    /// Of all samples: those whose innermost user frame it is.
    innermost: HashMap<Function, u64>,
}

impl Shares {
    /// Adds a sample: its user frames, the innermost one first.
    fn add(&mut self, mut frames: Vec<Function>, is_complete: bool, count: u64) {
        self.samples += count;
        if let Some(innermost) = frames.first() {
            *self.innermost.entry(*innermost).or_default() += count;
        }
        if !is_complete {
            return;
        }
        self.complete += count;
        let Some(innermost) = frames.first().copied() else { return };
        let (stacks, inclusive) = self.inclusive_by_innermost.entry(innermost).or_default();
        *stacks += count;
        frames.sort_unstable();
        frames.dedup();
        for function in frames {
            *self.inclusive.entry(function).or_default() += count;
            *inclusive.entry(function).or_default() += count;
        }
    }

    /// Reads obs's JSON. Inlined functions are part of those that they were inlined into.
    pub(super) fn of_obs(file: &Path, process: &str, functions: &mut Functions) -> Result<Self> {
        let profile: Value = serde_json::from_slice(&host::read(file)?).context("obs's JSON cannot be read")?;
        let list = |name: &str| profile.get(name).and_then(Value::as_array).context("obs's JSON lacks a list");
        let (modules, frames) = (list("modules")?, list("frames")?);
        // Of each frame the function that it lies in, if it is a user frame that was not inlined.
        let mut known = Vec::with_capacity(frames.len());
        for frame in frames {
            let address = frame["address"].as_str().and_then(|text| text.strip_prefix("0x"));
            let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let module = frame["module"].as_u64().and_then(|index| modules.get(usize::try_from(index).ok()?));
            let path = module.and_then(|module| module["path"].as_str());
            known.push(match (frame["kind"].as_str(), address, path) {
                (Some("user"), Some(address), Some(path)) => Some(functions.at_address(path, address)?),
                _ => None,
            });
        }
        let names: Vec<_> = list("processes")?.iter().map(|process| process["name"].as_str()).collect();
        let index = |value: &Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
        let mut shares = Self::default();
        for sample in list("samples")? {
            if index(&sample["process"]).and_then(|at| names.get(at).copied().flatten()) != Some(process) {
                continue;
            }
            let stack = sample["stack"].as_array().into_iter().flatten();
            let stack = stack.filter_map(|frame| known.get(index(frame)?).copied().flatten()).collect();
            shares.add(stack, sample["cut"].is_null(), sample["values"][0].as_u64().unwrap_or(0));
        }
        Ok(shares)
    }

    /// Reads what `perf script` prints of perf's data.
    pub(super) fn of_perf(data: &Path, process: &str, functions: &mut Functions) -> Result<Self> {
        let mut script = host::program("perf");
        script.args(["script", "--no-inline", "-F", "comm,ip,sym,dso", "-i"]).arg(data);
        let mut script = script.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start perf")?;
        let output = script.stdout.take().context("perf script has no standard output")?;
        let shares = Self::of_perf_script(BufReader::new(output), process, functions)?;
        let status = script.wait().context("cannot wait for perf script")?;
        ensure!(status.success(), "perf script failed: {status}");
        Ok(shares)
    }

    /// A sample is a line with the name of the thread, then one line per frame, `ADDRESS SYMBOL (FILE)`, then an empty one.
    /// A frame's address is its place in the file, or in the kernel.
    fn of_perf_script(lines: impl BufRead, process: &str, functions: &mut Functions) -> Result<Self> {
        let mut shares = Self::default();
        let mut sample: Option<(Vec<Function>, bool)> = None;
        for line in lines.lines() {
            let line = line.context("perf script's output cannot be read")?;
            if line.trim().is_empty() {
                if let Some((frames, is_complete)) = sample.take() {
                    shares.add(frames, is_complete, 1);
                }
            } else if !line.starts_with(['\t', ' ']) {
                sample = (line.trim() == process).then(|| (Vec::new(), false));
            } else if let Some((frames, is_complete)) = &mut sample {
                let Some((address, rest)) = line.trim().split_once(' ') else { continue };
                let Some((symbol, file)) = rest.rsplit_once(" (") else { continue };
                let (Ok(place), Some(file)) = (u64::from_str_radix(address, 16), file.strip_suffix(')')) else {
                    continue;
                };
                if place >> 63 != 0 {
                    continue;
                }
                // Of all but the innermost frame it is where the callee returns to, maybe the next function already.
                let place = if frames.is_empty() { place } else { place.saturating_sub(1) };
                frames.push(functions.at_offset(file, place)?);
                *is_complete |= FIRST_FUNCTIONS.contains(&symbol.split('@').next().unwrap_or(symbol));
            }
        }
        if let Some((frames, is_complete)) = sample {
            shares.add(frames, is_complete, 1);
        }
        Ok(shares)
    }

    /// How far apart the functions' inclusive shares of complete stacks are.
    pub(super) fn distance(&self, other: &Self) -> f64 {
        distance(&numbers(&self.inclusive), &numbers(&other.inclusive))
    }

    /// The same, as if both had lost the same stacks: each innermost function that both have complete stacks of counts as much
    /// as it does here.
    pub(super) fn weighted_distance(&self, other: &Self) -> f64 {
        let (mut left, mut right) = (HashMap::<_, f64>::new(), HashMap::<_, f64>::new());
        for (innermost, (weight, ours)) in &self.inclusive_by_innermost {
            let Some((stacks, theirs)) = other.inclusive_by_innermost.get(innermost) else { continue };
            ours.iter().for_each(|(function, count)| *left.entry(*function).or_default() += *count as f64);
            let scale = *weight as f64 / *stacks as f64;
            theirs.iter().for_each(|(function, count)| *right.entry(*function).or_default() += *count as f64 * scale);
        }
        distance(&left, &right)
    }

    /// How far apart the innermost functions' shares of all samples are.
    pub(super) fn innermost_distance(&self, other: &Self) -> f64 {
        distance(&numbers(&self.innermost), &numbers(&other.innermost))
    }
}

fn numbers(counts: &HashMap<Function, u64>) -> HashMap<Function, f64> {
    counts.iter().map(|(function, count)| (*function, *count as f64)).collect()
}

/// The total-variation distance, each side's counts taken as shares of its own sum.
fn distance(left: &HashMap<Function, f64>, right: &HashMap<Function, f64>) -> f64 {
    let sum = |counts: &HashMap<Function, f64>| counts.values().sum::<f64>().max(1.0);
    let (left_sum, right_sum) = (sum(left), sum(right));
    let share = |counts: &HashMap<Function, f64>, function: &Function, sum: f64| {
        counts.get(function).copied().unwrap_or(0.0) / sum
    };
    let only_right = right.keys().filter(|function| !left.contains_key(function));
    let functions = left.keys().chain(only_right);
    functions.map(|it| (share(left, it, left_sum) - share(right, it, right_sum)).abs()).sum::<f64>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
x
\tffffffff8158e3e1 next_uptodate_folio ([kernel.kallsyms])
\t          160450 f (/no/such/file)
\t           4a4f0 _start (/no/such/other file)

other
\t           4a4f0 _start (/no/such/other file)

x
\t          160450 [unknown] (/no/such/file)
";

    #[test]
    fn adds_up_what_perf_prints() {
        let shares = Shares::of_perf_script(SCRIPT.as_bytes(), "x", &mut Functions::default()).unwrap();
        assert_eq!((shares.samples, shares.complete), (2, 1));
        assert_eq!(shares.innermost, HashMap::from([((0, 0), 2)]));
        assert_eq!(shares.inclusive, HashMap::from([((0, 0), 1), ((1, 0), 1)]));
    }

    #[test]
    fn reads_what_obs_writes() {
        let file = std::env::temp_dir().join(format!("obs-shares-{}.json", std::process::id()));
        let json = r#"{"modules": [{"path": "/no/such/file"}, {"path": "[kernel]"}],
            "frames": [{"kind": "kernel", "address": "0x1", "module": 1}, {"kind": "user-inlined", "address": "0x5", "module": 0},
                       {"kind": "user", "address": "0x5", "module": 0}],
            "processes": [{"name": "x"}, {"name": "other"}],
            "samples": [{"process": 0, "stack": [0, 1, 2], "cut": null, "values": [3, 30]},
                        {"process": 0, "stack": [2], "cut": "too-deep", "values": [1, 10]},
                        {"process": 1, "stack": [2], "cut": null, "values": [7, 70]}]}"#;
        std::fs::write(&file, json).unwrap();
        let shares = Shares::of_obs(&file, "x", &mut Functions::default());
        std::fs::remove_file(&file).unwrap();
        let shares = shares.unwrap();
        assert_eq!((shares.samples, shares.complete), (4, 3));
        assert_eq!((&shares.innermost[&(0, 0)], &shares.inclusive[&(0, 0)]), (&4, &3));
    }

    #[test]
    fn lost_stacks_can_be_weighed_out() {
        let (a, b, main) = ((0, 1), (0, 2), (0, 3));
        let mut ours = Shares::default();
        ours.add(vec![a, main], true, 30);
        ours.add(vec![b, a, main], true, 10);
        let mut theirs = Shares::default();
        theirs.add(vec![a, main], true, 10);
        theirs.add(vec![a, main], false, 20);
        theirs.add(vec![b, a, main], true, 10);
        assert!(ours.distance(&theirs) > 0.05);
        assert!(ours.weighted_distance(&theirs).abs() < 1e-9);
        theirs.add(vec![b, main], true, 10);
        assert!(ours.weighted_distance(&theirs) > 0.03, "they disagree of whom b is called by");
    }

    #[test]
    fn the_distance_of_equals_is_0_and_of_strangers_1() {
        let counts = |function: u64| HashMap::from([((0, function), 5.0), ((1, function), 5.0)]);
        assert!(distance(&counts(1), &counts(1)).abs() < 1e-9);
        assert!((distance(&counts(1), &counts(2)) - 1.0).abs() < 1e-9);
    }
}

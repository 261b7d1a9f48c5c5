//! `cargo xtask bench stacks`: are the stacks true? Real programs, each recorded by obs and by `perf record --call-graph
//! dwarf` in the same run, twice; then how many stacks are complete, and how far apart the functions' shares are.
//!
//! Two samplers of one run never agree exactly. So the distance between obs and perf stands beside perf's distance from
//! itself, between the two runs.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use inferno::collapse::Collapse as _;
use inferno::collapse::perf::{Folder, Options};

use super::table;
use crate::setup::{self, Group};
use crate::{build, host};

/// How long each program runs, roughly: how much it is given to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only programs whose name contains this
    filter: Option<String>,
}

const HERTZ: &str = "499";

/// Bytes of stack that perf copies for each sample: four times its default, so that few stacks do not fit.
const PERF_STACK: &str = "dwarf,32768";

/// Functions in which perf's chains begin when they are whole.
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

/// A real program with work for about two seconds.
struct Program {
    /// The name of the process, as the kernel keeps it.
    name: &'static str,
    command: Vec<String>,
}

fn programs(folder: &Path) -> Result<Vec<Program>> {
    let source = folder.join("functions.c");
    host::write(&source, c_source(400))?;
    let lines = folder.join("lines.txt");
    host::write(&lines, text_lines(400_000))?;
    let binary = host::obs_binary()?;
    let workspace = host::workspace()?;
    let path = |path: &Path| path.display().to_string();
    let program =
        |name, words: &[&str]| Program { name, command: words.iter().map(|word| (*word).to_owned()).collect() };
    const PYTHON: &str = "import re, json\ndef work(n):\n    for i in range(n):\n        json.loads(json.dumps({str(k): [k] * 9 \
                          for k in range(200)}))\n        sorted(re.findall('[a-z]+[0-9]', 'abc1 def22 x9 ' * 200))\nwork(2500)";
    const PERL: &str = "my %h; for my $i (1..2500000) { $h{$i % 5000} .= 'x' if $i =~ /7/; } print scalar(keys %h)";
    const SQL: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3000000) SELECT count(*), \
                       sum(x * x % 7), max(printf('%d', x)) FROM c";
    Ok(vec![
        program("python3", &["/usr/bin/python3", "-c", PYTHON]),
        program("perl", &["perl", "-e", PERL]),
        program("git", &["git", "-C", &path(&workspace), "--no-pager", "log", "-p", "--stat", "-C", "--all"]),
        program("cc1", &["gcc", "-O2", "-S", "-o", "/dev/null", &path(&source)]),
        program("sqlite3", &["sqlite3", ":memory:", SQL]),
        program("xz", &["sh", "-c", &format!("head -c 8000000 {} | xz -6 -T1 -c", path(&binary))]),
        program("sort", &["sort", "--parallel=1", &path(&lines)]),
        program(
            "mawk",
            &[
                "mawk",
                "{ split($0, a, \"\"); for (i in a) n[a[i]]++ } END { for (c in n) print c, n[c] }",
                &path(&lines),
            ],
        ),
    ])
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("recording needs root: run `sudo -E cargo xtask bench stacks`");
    }
    build::obs()?;
    let folder = host::target_dir()?.join("bench");
    host::make_dir(&folder)?;
    println!(
        "Each program twice at {HERTZ} Hz; perf copies {PERF_STACK}. Distances of the functions' shares in complete stacks: 0 the same, 1 nothing in common."
    );
    let heading = ["", "samples", "obs complete %", "perf complete %", "obs to perf", "perf to perf", "obs to obs"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for Program { name, command } in programs(&folder)? {
        if arguments.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        if host::find_program(&command[0]).is_none() && !Path::new(&command[0]).exists() {
            println!("{name}: there is no {} on this machine", command[0]);
            continue;
        }
        let first = run(&folder, name, &command)?;
        let second = run(&folder, name, &command)?;
        let percent = |shares: &Shares| format!("{:.2}", 100.0 * shares.complete as f64 / shares.samples.max(1) as f64);
        rows.push(vec![
            name.to_owned(),
            (first.obs.samples + second.obs.samples).to_string(),
            percent(&first.obs),
            percent(&first.perf),
            format!("{:.3}", first.obs.distance(&first.perf)),
            format!("{:.3}", first.perf.distance(&second.perf)),
            format!("{:.3}", first.obs.distance(&second.obs)),
        ]);
    }
    print!("{}", table::render(&rows));
    Ok(ExitCode::SUCCESS)
}

/// What both saw of one run.
struct Run {
    obs: Shares,
    perf: Shares,
}

fn run(folder: &Path, name: &str, command: &[String]) -> Result<Run> {
    let (data, folded): (PathBuf, PathBuf) = (folder.join("stacks.data"), folder.join("stacks.folded"));
    let mut perf = host::program("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", HERTZ, "--call-graph", PERF_STACK, "-o"]).arg(&data).arg("--");
    perf.arg(host::obs_binary()?)
        .args(["record", "cpu", "-F", HERTZ, "--summary", "none", "-o"])
        .arg(&folded)
        .arg("--");
    let status = host::status(perf.args(command).stdout(Stdio::null()).stderr(Stdio::null()))?;
    if !status.success() {
        bail!("`{}` failed: {status}", host::line(&perf));
    }
    let mut script = host::program("perf");
    script.args(["script", "--no-inline", "-i"]).arg(&data).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut script = script.spawn().context("cannot start perf script")?;
    let output = script.stdout.take().context("perf script has no standard output")?;
    let mut collapsed = Vec::new();
    Folder::from(Options::default()).collapse(BufReader::new(output), &mut collapsed).context("perf's output")?;
    script.wait().context("cannot wait for perf script")?;
    Ok(Run {
        obs: Shares::read(&String::from_utf8_lossy(&host::read(&folded)?), name),
        perf: Shares::read(&String::from_utf8_lossy(&collapsed), name),
    })
}

/// How many samples of a process each function is in, of those whose stacks are complete.
#[derive(Debug, Default)]
struct Shares {
    samples: u64,
    complete: u64,
    inclusive: HashMap<String, u64>,
}

impl Shares {
    /// Adds up the folded lines of a process. Left out are kernel frames, inlined ones (perf was told to leave them out),
    /// and the functions in which threads begin (perf leaves out `_start`). What has no name counts as one function.
    fn read(folded: &str, process: &str) -> Self {
        let mut shares = Self::default();
        for line in folded.lines() {
            let Some((stack, count)) = line.rsplit_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            let mut frames = stack.split(';');
            if frames.next() != Some(process) {
                continue;
            }
            let frames: Vec<&str> =
                frames.filter(|frame| !frame.ends_with("_[k]") && !frame.ends_with("_[i]")).map(plain).collect();
            shares.samples += count;
            if !frames.first().is_some_and(|root| FIRST_FUNCTIONS.contains(root)) {
                continue;
            }
            shares.complete += count;
            let mut seen: Vec<&str> = frames.into_iter().filter(|name| !FIRST_FUNCTIONS.contains(name)).collect();
            seen.sort_unstable();
            seen.dedup();
            for function in seen {
                *shares.inclusive.entry(function.to_owned()).or_default() += count;
            }
        }
        shares
    }

    /// The total-variation distance of the functions' inclusive counts, each side's taken as shares of its own sum.
    fn distance(&self, other: &Self) -> f64 {
        let sum = |shares: &Self| shares.inclusive.values().sum::<u64>().max(1) as f64;
        let (ours, theirs) = (sum(self), sum(other));
        let share = |shares: &Self, name: &str, sum: f64| shares.inclusive.get(name).copied().unwrap_or(0) as f64 / sum;
        let mut names: Vec<&String> = self.inclusive.keys().chain(other.inclusive.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().map(|name| (share(self, name, ours) - share(other, name, theirs)).abs()).sum::<f64>() / 2.0
    }
}

/// A function's name without what the two tools write differently: symbol versions, parameters, addresses of the nameless.
fn plain(frame: &str) -> &str {
    if frame.starts_with("[cut") {
        return frame;
    }
    if frame.starts_with('[') || frame == "unknown" {
        return "[unknown]";
    }
    let version = frame.find('@').filter(|_| !frame.ends_with("@plt"));
    let end = version.or_else(|| frame.find('(').filter(|at| *at > 0)).unwrap_or(frame.len());
    &frame[..end]
}

/// C code for a compiler to work on.
fn c_source(functions: u32) -> String {
    (0..functions)
        .map(|n| {
            format!(
                "int table{n}[64];\nint work{n}(int a, int b) {{\n  int sum = {n};\n  for (int i = 0; i < a; i++) {{\n    for (int \
                 j = i; j < b; j++) {{\n      switch ((i * j + {n}) % 7) {{ case 0: sum += table{n}[j & 63]; break; case 1: sum \
                 ^= i << (j & 7); break; case 2: sum -= j / (i + 1); break; default: table{n}[i & 63] = sum; }}\n    }}\n  }}\n  \
                 return sum;\n}}\n"
            )
        })
        .collect()
}

/// Lines in no order.
fn text_lines(count: u64) -> String {
    let mut state = 1_u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x} {}\n", state, state >> 40)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "x;_start;main;f;g_[i];h 3\nx;[cut: too deep];f;do_syscall_64_[k] 1\nother;_start 9\n";

    #[test]
    fn adds_up_functions_of_one_process() {
        let shares = Shares::read(OURS, "x");
        assert_eq!((shares.samples, shares.complete), (4, 3));
        let count = |name: &str| shares.inclusive.get(name).copied();
        assert_eq!(
            ["_start", "main", "f", "g_[i]", "h", "do_syscall_64_[k]"].map(count),
            [None, Some(3), Some(3), None, Some(3), None]
        );
    }

    #[test]
    fn the_distance_of_equals_is_0_and_of_strangers_1() {
        let (ours, theirs) = (Shares::read(OURS, "x"), Shares::read("x;_start;a;b 5\n", "x"));
        assert!(ours.distance(&ours).abs() < 1e-9);
        assert!((ours.distance(&theirs) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn names_are_compared_without_versions_and_parameters() {
        assert_eq!(
            ["malloc@@GLIBC_2.2.5", "f(int)", "[libc.so.6+0x3]", "[unknown]", "main"].map(plain),
            ["malloc", "f", "[unknown]", "[unknown]", "main"]
        );
    }
}

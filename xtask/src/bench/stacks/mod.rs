//! `cargo xtask bench stacks`: are the stacks true? Real programs, each recorded by obs and by `perf record --call-graph
//! dwarf` in the same run, twice; then how many stacks are complete, and how far apart the functions' shares are.
//!
//! Two samplers of one run never agree exactly. So the distance between obs and perf stands beside perf's distance from
//! itself, between the two runs.

mod functions;
mod shares;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Result, bail};

use self::functions::Functions;
use self::shares::Shares;
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
    host::write(&lines, text_lines(1_500_000))?;
    let binary = host::obs_binary()?;
    let workspace = host::workspace()?;
    let path = |path: &Path| path.display().to_string();
    let program =
        |name, words: &[&str]| Program { name, command: words.iter().map(|word| (*word).to_owned()).collect() };
    const PYTHON: &str = "import re, json\ndef work(n):\n    for i in range(n):\n        json.loads(json.dumps({str(k): [k] * 9 \
                          for k in range(200)}))\n        sorted(re.findall('[a-z]+[0-9]', 'abc1 def22 x9 ' * 200))\nwork(2500)";
    const PERL: &str = "my %h; for my $i (1..9000000) { $h{$i % 5000} .= 'x' if $i =~ /7/; } print scalar(keys %h)";
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
        "Each program twice at {HERTZ} Hz; perf copies {PERF_STACK}. Distances, 0 the same and 1 nothing in common: of the functions' \
         inclusive shares of complete stacks; the same, weighed as if both had lost the same stacks; and of the innermost \
         functions' shares of all samples. op: obs to perf, same run; pp: perf to perf, two runs; oo: obs to obs."
    );
    let heading = [
        "",
        "samples",
        "obs complete %",
        "perf complete %",
        "op",
        "pp",
        "oo",
        "weighed op",
        "pp",
        "innermost op",
        "pp",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for Program { name, command } in programs(&folder)? {
        if arguments.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        if host::find_program(&command[0]).is_none() && !Path::new(&command[0]).exists() {
            println!("{name}: there is no {} on this machine", command[0]);
            continue;
        }
        let mut functions = Functions::default();
        let first = run(&folder, name, &command, &mut functions)?;
        let second = run(&folder, name, &command, &mut functions)?;
        let percent = |shares: &Shares| format!("{:.2}", 100.0 * shares.complete as f64 / shares.samples.max(1) as f64);
        rows.push(vec![
            name.to_owned(),
            (first.obs.samples + second.obs.samples).to_string(),
            percent(&first.obs),
            percent(&first.perf),
            format!("{:.3}", first.obs.distance(&first.perf)),
            format!("{:.3}", first.perf.distance(&second.perf)),
            format!("{:.3}", first.obs.distance(&second.obs)),
            format!("{:.3}", first.obs.weighted_distance(&first.perf)),
            format!("{:.3}", first.perf.weighted_distance(&second.perf)),
            format!("{:.3}", first.obs.innermost_distance(&first.perf)),
            format!("{:.3}", first.perf.innermost_distance(&second.perf)),
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

fn run(folder: &Path, name: &str, command: &[String], functions: &mut Functions) -> Result<Run> {
    let (data, json): (PathBuf, PathBuf) = (folder.join("stacks.data"), folder.join("stacks.json"));
    let mut perf = host::program("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", HERTZ, "--call-graph", PERF_STACK, "-o"]).arg(&data).arg("--");
    perf.arg(host::obs_binary()?)
        .args(["record", "cpu", "-F", HERTZ, "--summary", "none", "--detail", "addresses", "-o"])
        .arg(&json)
        .arg("--");
    let status = host::status(perf.args(command).stdout(Stdio::null()).stderr(Stdio::null()))?;
    if !status.success() {
        bail!("`{}` failed: {status}", host::line(&perf));
    }
    Ok(Run { obs: Shares::of_obs(&json, name, functions)?, perf: Shares::of_perf(&data, name, functions)? })
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

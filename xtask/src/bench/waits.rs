//! `cargo xtask bench waits`: how much slower programs become that switch often, or call the kernel often, while waits are measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::measure::median;
use super::table;
use crate::setup::{self, Group};
use crate::{build, host, interrupt};

/// How often, and how much.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many rounds; in each of them, every candidate measures both programs once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Operations of the program that switches
    #[arg(long, default_value_t = 100_000)]
    switches: u32,
}

/// What may be lost at most: a program that does nothing but switch, and one that reads a file.
const AIMS: [f64; 2] = [1.15, 1.03];

/// How long a candidate may take to be ready; all are given as long.
const READY: Duration = Duration::from_secs(3);

/// How often the file is read, and how large it is.
const READS: u32 = 6;
const FILE_BYTES: usize = 256 << 20;

/// The off-CPU script that bpftrace's users write: time by stacks, nothing left out.
const BPFTRACE_SCRIPT: &str = "tracepoint:sched:sched_switch { \
     @begin[args->prev_pid] = nsecs; \
     if (@begin[args->next_pid]) { @off[kstack, ustack, args->next_comm] = sum(nsecs - @begin[args->next_pid]); \
     delete(@begin[args->next_pid]); } }";

/// Something that measures waits of the whole host.
struct Candidate {
    name: String,
    command: Command,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test, Group::Bench])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("measuring the whole host needs root: run `sudo -E cargo xtask bench waits`");
    }
    build::obs()?;
    interrupt::listen()?;
    let folder = host::target_dir()?.join("bench");
    host::make_dir(&folder)?;
    let file = folder.join("read");
    host::write(&file, vec![b'x'; FILE_BYTES])?;

    let names: Vec<String> = candidates(&folder)?.into_iter().map(|candidate| candidate.name).collect();
    println!(
        "{} rounds: `perf bench sched pipe` ({} operations), and {READS} times {} MiB read in pieces of 4 KiB.",
        arguments.rounds,
        arguments.switches,
        FILE_BYTES >> 20
    );
    // By candidate, then program: how many times as long as without, of each round.
    let mut ratios = vec![[Vec::new(), Vec::new()]; names.len()];
    let mut alone = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for (candidate, ratios) in candidates(&folder)?.into_iter().zip(&mut ratios) {
            // Beside each: what the machine does meanwhile changes from one minute to the next.
            let before = programs(arguments.switches, &file)?;
            let running = Running::start(candidate)?;
            let with = programs(arguments.switches, &file);
            running.end()?;
            let with = with?;
            for program in 0..2 {
                alone[program].push(before[program]);
                ratios[program].push(with[program] / before[program]);
            }
        }
    }
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;

    let mut rows = vec![["times as long, median (least to most)", "switching", "reading"].map(str::to_owned).to_vec()];
    for (name, [switching, reading]) in names.iter().zip(&ratios) {
        rows.push(vec![name.clone(), spread(switching), spread(reading)]);
    }
    rows.push(vec!["aim for obs".to_owned(), format!("{:.2}", AIMS[0]), format!("{:.2}", AIMS[1])]);
    print!("{}", table::render(&rows));
    let per_operation = 1e6 * median(alone[0].iter().copied()) / f64::from(arguments.switches);
    println!("alone: {per_operation:.2} us per operation, {:.3} s for the reading", median(alone[1].iter().copied()));
    Ok(ExitCode::SUCCESS)
}

fn spread(ratios: &[f64]) -> String {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(ratios.iter().copied()))
}

/// What is compared. obs, and what people use otherwise for the same question.
fn candidates(folder: &Path) -> Result<Vec<Candidate>> {
    let obs = host::obs_binary()?;
    let of_obs = |name: &str, arguments: &[&str], output: Option<PathBuf>| {
        let mut command = host::program(&obs);
        command.args(arguments);
        if let Some(output) = output {
            command.arg("-o").arg(output);
        }
        Candidate { name: name.to_owned(), command }
    };
    let out = || Some(folder.join("waits.folded"));
    let mut perf = host::program("perf");
    perf.args(["record", "-q", "-e", "sched:sched_switch", "-a", "-g", "-o"]).arg(folder.join("waits.data"));
    let mut bpftrace = host::program("bpftrace");
    bpftrace.args(["-e", BPFTRACE_SCRIPT, "-o"]).arg(folder.join("waits.txt"));
    // More stacks than its default holds.
    bpftrace.env("BPFTRACE_MAP_KEYS_MAX", "16384");
    Ok(vec![
        of_obs("obs record cpu", &["record", "cpu", "-a"], out()),
        of_obs("obs record offcpu", &["record", "offcpu", "-a"], out()),
        of_obs("obs record offcpu --wakers", &["record", "offcpu", "-a", "--wakers"], out()),
        of_obs("obs why", &["why", "-a", "--format", "json"], None),
        of_obs("obs latency runqueue", &["latency", "runqueue", "-a"], None),
        of_obs("obs latency offcpu", &["latency", "offcpu", "-a"], None),
        of_obs("obs latency syscall", &["latency", "syscall", "-a"], None),
        of_obs("obs latency block", &["latency", "block", "-a"], None),
        Candidate { name: "bpftrace, off-CPU stacks".to_owned(), command: bpftrace },
        Candidate { name: "perf record -e sched:sched_switch -g".to_owned(), command: perf },
    ])
}

/// A candidate at work.
struct Running {
    name: String,
    child: Child,
}

impl Running {
    fn start(candidate: Candidate) -> Result<Self> {
        let Candidate { name, mut command } = candidate;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start `{}`", host::line(&command)))?;
        let mut running = Self { name, child };
        interrupt::sleep_until(Instant::now() + READY)?;
        running.check()?;
        Ok(running)
    }

    /// It would be a fine result to measure nothing.
    fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended before anything was measured: {status}", self.name);
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.check()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id is positive")?;
        kill_process(pid, Signal::INT).with_context(|| format!("cannot interrupt {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already; there is nothing to do about it if not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long both programs take, in seconds.
fn programs(switches: u32, file: &Path) -> Result<[f64; 2]> {
    interrupt::check()?;
    // On one CPU, always: else the two sides of the pipe are on one in some runs and on two in others, which makes a factor of three.
    let mut pipe = host::program("taskset");
    pipe.args(["-c", "0", "perf", "bench", "-f", "simple", "sched", "pipe", "-l", &switches.to_string()]);
    let text = host::text(&mut pipe)?;
    let switching = text.trim().parse().with_context(|| format!("perf bench printed no time: {text:?}"))?;
    let begin = Instant::now();
    for _ in 0..READS {
        let mut read = host::program("dd");
        read.arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=4k", "status=none"]);
        host::run(&mut read)?;
    }
    Ok([switching, begin.elapsed().as_secs_f64()])
}

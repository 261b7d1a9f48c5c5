//! `cargo xtask bench agent`: what the agent costs while it runs, beside `perf record`, and as processes grow in number.
//!
//! Costs are told for 30 s, however long a measurement is. The kernel side is what the kernel counts of the agent's programs, and
//! what the agent says of them stands beside it; the interrupts that lead to them are in neither.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use super::crowd::Crowd;
use super::load::Load;
use super::measure::{self, Cost};
use super::{table, workloads};
use crate::agent::metrics::Metrics;
use crate::agent::{Agent, CPU_SHARE_MAX, RunTimes, Spent};
use crate::setup::{self, Group};
use crate::{build, host, interrupt};

/// How long, and with how many processes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long each measurement is, in seconds. The agent writes every 10 s: a multiple of that is fair
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How long the agent runs before it counts as settled, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=3600))]
    settle: u32,
    /// Numbers of processes to measure with, growing; `0` leaves this part out
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,5000")]
    processes: Vec<u32>,
    /// Measure without the governor, which sheds work when the agent costs too much
    #[arg(long)]
    ungoverned: bool,
    /// A binary to measure, instead of building this source's
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// How often a process of the crowd wakes, where it does.
const WAKE_MS: u32 = 1_000;

/// The same for both.
const FREQUENCY_HZ: &str = "99";

/// What costs are told for, in seconds.
const TOLD_FOR_SECONDS: f64 = 30.0;

const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::provide(&[Group::Build, Group::Test])? {
        return Ok(ExitCode::FAILURE);
    }
    if !host::is_root() {
        bail!("measuring the whole host needs root: run `sudo -E cargo xtask bench agent`");
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            build::obs()?;
            host::obs_binary()?
        }
    };
    let folder = host::target_dir()?.join("bench");
    host::make_dir(&folder)?;
    let crowd = workloads(&folder)?.join("crowd");
    interrupt::listen()?;
    let _counted = RunTimes::count()?;
    let bench = Bench { arguments, binary, folder, cpus: host::cpus() };
    bench.beside_perf()?;
    let counts: Vec<u32> = arguments.processes.iter().copied().filter(|count| *count > 0).collect();
    if !counts.is_empty() {
        for wake_ms in [0, WAKE_MS] {
            bench.as_processes_grow(&crowd, &counts, wake_ms)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench<'a> {
    arguments: &'a Arguments,
    binary: PathBuf,
    folder: PathBuf,
    cpus: usize,
}

/// What the agent cost in a measurement, and how it was at its end.
struct Measured {
    spent: Spent,
    /// BPF time by the agent's own count.
    bpf_told_seconds: f64,
    rss_bytes: u64,
    map_bytes: f64,
    lost: f64,
    shed: f64,
}

impl Bench<'_> {
    fn seconds(&self) -> Duration {
        Duration::from_secs(self.arguments.seconds.into())
    }

    fn start(&self, state: &Path) -> Result<Agent> {
        let governor = if self.arguments.ungoverned { "false" } else { "true" };
        Agent::start(&self.binary, state, &[("OBS_GOVERNOR_ENABLED", governor)])
    }

    fn state(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("agent-").tempdir_in(&self.folder)?)
    }

    /// Both on a quiet host and on a busy one.
    fn beside_perf(&self) -> Result<()> {
        let (seconds, cpus) = (self.arguments.seconds, self.cpus);
        println!(
            "\nThe whole host at {FREQUENCY_HZ} Hz for {seconds} s at a time, {cpus} CPUs; costs are told for 30 s."
        );
        for load in [0, cpus] {
            let busy =
                if load == 0 { "quiet".to_owned() } else { format!("busy: {load} of {cpus} CPUs kept so by xz") };
            println!("\nThe host is {busy}.");
            let running = Load::start(load, &self.binary)?;
            let state = self.state()?;
            let mut rows = vec![heading("")];
            let mut threads = Vec::new();
            let mut agent = self.start(state.path())?;
            // From its very first instruction.
            let first = self.measure_from(&agent, None)?;
            rows.push(self.row("obs agent, first start", &first));
            threads.push(("first start", first.spent));
            interrupt::sleep(Duration::from_secs(self.arguments.settle.into()))?;
            let settled = self.measure(&agent)?;
            rows.push(self.row("obs agent, settled", &settled));
            threads.push(("settled", settled.spent));
            agent.end()?;
            // Its state is still there: names need not be found again.
            let mut agent = self.start(state.path())?;
            let again = self.measure_from(&agent, None)?;
            rows.push(self.row("obs agent, second start", &again));
            threads.push(("second start", again.spent));
            agent.end()?;
            interrupt::check()?;
            rows.extend(self.perf()?);
            drop(running);
            print!("{}", table::render(&rows));
            print_threads(&threads);
        }
        Ok(())
    }

    /// perf, recording only, and with what gives names to addresses.
    fn perf(&self) -> Result<[Vec<String>; 2]> {
        let data = self.folder.join("perf.data");
        let mut record = host::program("perf");
        record.args(["record", "-q", "-F", FREQUENCY_HZ, "-a", "-g", "-o"]).arg(&data);
        record.args(["--", "sleep", &self.arguments.seconds.to_string()]);
        let recorded = measure::run(record.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let mut script = host::program("perf");
        script.args(["script", "-i"]).arg(&data);
        let scripted = measure::run(script.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let both = Cost {
            cpu_seconds: recorded.cpu_seconds + scripted.cpu_seconds,
            peak_rss_bytes: recorded.peak_rss_bytes.max(scripted.peak_rss_bytes),
            wall_seconds: 0.0,
        };
        Ok([self.perf_row("perf record -a -g", recorded), self.perf_row("perf record, then perf script", both)])
    }

    fn perf_row(&self, name: &str, cost: Cost) -> Vec<String> {
        let seconds = f64::from(self.arguments.seconds);
        let share = cost.cpu_seconds / seconds / self.cpus as f64;
        let cells = [
            name.to_owned(),
            format!("{:.2}", cost.cpu_seconds / seconds * TOLD_FOR_SECONDS),
            "-".to_owned(),
            "-".to_owned(),
            format!("{:.2}", share * 100.0),
            mib(cost.peak_rss_bytes as f64),
        ];
        cells.into_iter().chain(["-", "-", "-"].map(str::to_owned)).collect()
    }

    /// One agent, and more and more processes.
    fn as_processes_grow(&self, crowd: &Path, counts: &[u32], wake_ms: u32) -> Result<()> {
        let what = if wake_ms == 0 { "sleep".to_owned() } else { format!("wake every {wake_ms} ms for 50 us") };
        println!(
            "\nMore and more processes that {what}; `coming` is the CPU time of the process until they had settled."
        );
        let state = self.state()?;
        let mut agent = self.start(state.path())?;
        let settle = Duration::from_secs(self.arguments.settle.into());
        interrupt::sleep(settle)?;
        let mut heading = heading("processes");
        heading.push("coming s".to_owned());
        let (mut rows, mut threads) = (vec![heading], Vec::new());
        let (mut crowds, mut there) = (Vec::new(), 0);
        for count in [&[0], counts].concat() {
            let before = agent.cost()?;
            if count > there {
                crowds.push(Crowd::start(crowd, count - there, wake_ms)?);
                there = count;
                interrupt::sleep(settle)?;
            }
            let came = agent.cost()?.since(&before);
            let measured = self.measure(&agent)?;
            let mut row = self.row(&format!("{there} more"), &measured);
            row.push(format!("{:.2}", came.cpu_seconds));
            rows.push(row);
            threads.push((there.to_string(), measured.spent));
        }
        drop(crowds);
        agent.end()?;
        print!("{}", table::render(&rows));
        print_threads(&threads);
        Ok(())
    }

    fn measure(&self, agent: &Agent) -> Result<Measured> {
        let before = (agent.metrics()?, agent.cost()?);
        self.measure_from(agent, Some(before))
    }

    /// From the agent's start where nothing came before.
    fn measure_from(&self, agent: &Agent, before: Option<(Metrics, crate::agent::Cost)>) -> Result<Measured> {
        let since = before.as_ref().map_or(agent.began(), |(_, cost)| cost.at);
        interrupt::sleep_until(since + self.seconds())?;
        let cost = agent.cost()?;
        // Asking costs: not within what is measured.
        let after = agent.metrics()?;
        let (before, spent) = match before {
            Some((metrics, before)) => (metrics, cost.since(&before)),
            None => (Metrics::default(), cost.since_start(agent.began())),
        };
        let grown = |name: &str, labels: &[(&str, &str)]| {
            after.sum(name, labels).unwrap_or(0.0) - before.sum(name, labels).unwrap_or(0.0)
        };
        Ok(Measured {
            bpf_told_seconds: grown("obs_agent_cpu_time_seconds_total", &[("side", "bpf")]),
            rss_bytes: cost.process.rss_bytes,
            map_bytes: after.sum("obs_agent_map_memory_bytes", &[]).unwrap_or(0.0),
            lost: grown("obs_agent_samples_lost_total", &[]) + grown("obs_agent_stage_dropped_total", &[]),
            shed: after.sum("obs_agent_shed_level", &[]).unwrap_or(0.0),
            spent,
        })
    }

    fn row(&self, name: &str, measured: &Measured) -> Vec<String> {
        let Measured { spent, bpf_told_seconds, rss_bytes, map_bytes, lost, shed } = measured;
        let told = |seconds: f64| format!("{:.2}", seconds / spent.seconds * TOLD_FOR_SECONDS);
        let share = (spent.cpu_seconds + spent.bpf_seconds) / spent.seconds / self.cpus as f64;
        let mark = if share > CPU_SHARE_MAX { "!" } else { "" };
        vec![
            name.to_owned(),
            told(spent.cpu_seconds),
            told(spent.bpf_seconds),
            told(*bpf_told_seconds),
            format!("{mark}{:.2}", share * 100.0),
            mib(*rss_bytes as f64),
            mib(*map_bytes),
            format!("{lost:.0}"),
            format!("{shed:.0}"),
        ]
    }
}

fn heading(first: &str) -> Vec<String> {
    let cells = [first, "CPU s", "BPF s", "BPF s, told", "host %", "RSS MiB", "maps MiB", "lost", "shed"];
    cells.map(str::to_owned).to_vec()
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / BYTES_PER_MIB)
}

/// Which of the agent's threads the CPU time went to, for 30 s.
fn print_threads(columns: &[(impl AsRef<str>, Spent)]) {
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, spent)| spent.threads.keys()).collect();
    names.sort();
    names.dedup();
    let mut rows = vec![["CPU s by thread".to_owned()].into_iter().collect::<Vec<_>>()];
    rows[0].extend(columns.iter().map(|(name, _)| name.as_ref().to_owned()));
    for name in names {
        let of = |spent: &Spent| spent.threads.get(name).copied().unwrap_or(0.0) / spent.seconds * TOLD_FOR_SECONDS;
        let seconds: Vec<f64> = columns.iter().map(|(_, spent)| of(spent)).collect();
        if seconds.iter().any(|seconds| *seconds >= 0.005) {
            rows.push(
                [name.clone()].into_iter().chain(seconds.iter().map(|seconds| format!("{seconds:.2}"))).collect(),
            );
        }
    }
    print!("{}", table::render(&rows));
}

//! Latencies: as many and as long as the program, or the kernel's own count, says that they were.

mod in_agent;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Background, Cgroup, Context, Finished, Need, Scenario, wait_until};

const ANYWHERE: &[Need] = &[Need::Root, Need::Workload("latencies")];
const TIMED: &[Need] = &[Need::Root, Need::RealCpu, Need::Workload("latencies")];
const TUNNEL: &[Need] = &[Need::Root, Need::RealCpu, Need::Workload("latencies"), Need::File("/dev/net/tun")];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "latency::every_source_attaches",
        needs: &[Need::Root, Need::Workload("idle")],
        run: |context| beside_short_programs(context, every_source),
    },
    Scenario { name: "latency::what_does_not_exist", needs: &[], run: misuse },
    Scenario { name: "latency::two_lengths_by_system_call", needs: TIMED, run: two_lengths },
    Scenario { name: "latency::two_lengths_off_cpu", needs: TIMED, run: two_lengths_off_cpu },
    Scenario { name: "latency::page_faults_are_exact", needs: ANYWHERE, run: page_faults },
    Scenario {
        name: "latency::reads_are_those_of_diskstats",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("latencies"), Need::File("/sys/block/vda")],
        run: reads,
    },
    Scenario { name: "latency::connecting_through_a_slow_network", needs: TUNNEL, run: slow_connect },
    Scenario { name: "latency::round_trips_through_a_slow_network", needs: TUNNEL, run: slow_round_trips },
    Scenario {
        name: "latency::segments_sent_again_are_exact",
        needs: TUNNEL,
        run: |context| sent_again(context, &["tunnel", "5", "3", "100", "7", "0"], 7),
    },
    // Buffers of several segments, of which many are lost at once, are sent again as such.
    Scenario {
        name: "latency::segments_sent_again_at_once_are_exact",
        needs: TUNNEL,
        run: |context| sent_again(context, &["tunnel", "5", "1", "0", "20", "60000"], 20),
    },
    Scenario {
        name: "latency::in_the_agent_as_prometheus_reads_it",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("prometheus"), Need::Workload("latencies")],
        run: in_agent::read_by_prometheus,
    },
    Scenario {
        name: "latency::flushes_count_where_obs_is_left_out",
        needs: &[Need::Root, Need::File("/sys/block/vda")],
        run: in_agent::flushes_beside_obs,
    },
    Scenario { name: "latency::refused_connections", needs: ANYWHERE, run: refused },
    Scenario {
        name: "latency::only_a_cgroup",
        needs: &[Need::Root, Need::Cgroup, Need::Workload("latencies")],
        run: by_cgroup,
    },
    Scenario { name: "latency::more_processes_than_keys", needs: ANYWHERE, run: too_many_keys },
    Scenario {
        name: "latency::two_busy_threads_on_one_cpu",
        needs: &[Need::Root, Need::RealCpu, Need::Tool("taskset"), Need::Workload("busy")],
        run: shared_cpu,
    },
];

/// A quantile may be off by half a bucket, and what is measured in the kernel differs a little from what the program sees.
const QUANTILE_ERROR: f64 = 0.044_3 + 0.015;
/// Of means and sums, which buckets do not round.
const MEAN_ERROR: f64 = 0.02;
/// What the workload's network takes there and back.
const ROUND_TRIP_SECONDS: f64 = 0.020;
/// Keys of histograms that the kernel side keeps apart.
const KEYS_MAX: usize = 1_024;

/// What obs printed of the whole time: one object for each key.
struct Totals {
    lines: Vec<Value>,
    text: String,
}

impl Totals {
    fn read(finished: &Finished) -> Result<Self> {
        let (line, stderr) = (&finished.line, &finished.stderr);
        ensure!(finished.status.success(), "{line} ended with {}:\n{stderr}", finished.status);
        let text = finished.stdout_text();
        let objects = text.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str::<Value>);
        let mut lines = objects.collect::<Result<Vec<_>, _>>().context("a line is no JSON")?;
        lines.retain(|line| line["total"] == true);
        Ok(Self { lines, text })
    }

    /// The words behind a word that begins a line of the workload.
    fn numbers(&self, word: &str) -> Result<Vec<f64>> {
        numbers(&self.text, word)
    }

    /// The key with this label.
    fn key(&self, name: &str, value: &str) -> Result<&Value> {
        let found = self.lines.iter().find(|line| line["labels"][name] == value);
        found.with_context(|| format!("nothing with {name}={value} in {:?}", self.labels()))
    }

    fn labels(&self) -> Vec<String> {
        self.lines.iter().map(|line| line["labels"].to_string()).collect()
    }

    fn count(&self) -> u64 {
        self.lines.iter().map(count).sum()
    }

    fn sum_seconds(&self) -> f64 {
        self.lines.iter().filter_map(|line| line["sum_seconds"].as_f64()).sum()
    }
}

fn count(line: &Value) -> u64 {
    line["count"].as_u64().unwrap_or(0)
}

fn seconds(line: &Value, name: &str) -> Result<f64> {
    line[name].as_f64().with_context(|| format!("no {name} in {line}"))
}

fn numbers(text: &str, word: &str) -> Result<Vec<f64>> {
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    let line = line.with_context(|| format!("no line `{word}` in {text:?}"))?;
    line.split_whitespace().map(|number| number.parse().with_context(|| format!("{number} is no number"))).collect()
}

fn is_within(what: &str, seen: f64, expected: f64, share: f64) -> Result<()> {
    println!("  {what}: {seen:.9}, {expected:.9} expected");
    ensure!(
        (seen - expected).abs() <= share * expected,
        "{what}: {seen}, but {expected} ± {:.1} % is true",
        share * 100.0
    );
    Ok(())
}

/// Between what the network takes, and what the program saw, which had to wait for a CPU besides: on an idle machine they are one.
fn is_between(what: &str, seen: f64, least: f64, most: f64, share: f64) -> Result<()> {
    println!("  {what}: {seen:.9}, {least:.9} to {most:.9} expected");
    ensure!(seen >= least * (1.0 - share) && seen <= most * (1.0 + share), "{what}: {seen}, not {least} to {most}");
    Ok(())
}

/// Measures the workload from its first instruction.
fn watch(context: &Context, arguments: &[&str], work: &[&str]) -> Result<Totals> {
    watch_program(context, arguments, &context.program("latencies"), work)
}

fn watch_program(context: &Context, arguments: &[&str], program: &str, work: &[&str]) -> Result<Totals> {
    let mut command = context.obs(&["latency"]);
    command.args(arguments).args(["--format", "json", "--interval", "1h", "--", program]).args(work);
    Totals::read(&context.run(&mut command)?)
}

/// A workload that is measured from when obs measures, and not from its first instruction.
struct Beside {
    work: Background,
    obs: Background,
}

impl Beside {
    /// Starts both; the workload does nothing yet, and obs measures with so many programs.
    fn start(context: &Context, programs: usize, arguments: &[&str], by_pid: bool, work: &[&str]) -> Result<Self> {
        let mut all = vec!["wait"];
        all.extend(work);
        let work = context.background("latencies", &all)?;
        let pid = work.pid().to_string();
        let sigusr1 = 1_u64 << (Signal::USR1.as_raw() - 1);
        wait_until("the workload waits", context.limit(), || {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            let blocked = u64::from_str_radix(blocked.unwrap_or("0").trim(), 16)?;
            Ok(blocked & sigusr1 != 0)
        })?;
        let mut command = context.obs(&["latency"]);
        command.args(arguments).args(["--format", "json", "--interval", "1h"]);
        if by_pid {
            command.args(["-p", &pid]);
        }
        let obs = Background::start(&mut command)?;
        wait_until("obs measures", context.limit(), || Ok(links_of(obs.pid()) >= programs))?;
        Ok(Self { work, obs })
    }

    /// Has the workload do its work; what it printed.
    fn work(self, context: &Context) -> Result<(String, Background)> {
        self.work.signal(Signal::USR1)?;
        let finished = self.work.finish(context.limit())?;
        ensure!(finished.status.success(), "the workload failed: {}", finished.stderr);
        Ok((finished.stdout_text(), self.obs))
    }
}

/// Ends a measurement of the whole host.
fn interrupt(context: &Context, obs: Background) -> Result<Totals> {
    obs.signal(Signal::INT)?;
    Totals::read(&obs.finish(context.limit())?)
}

/// How many programs of a process are attached.
fn links_of(pid: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return 0 };
    let details = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    details.filter(|detail| detail.contains("link_type:")).count()
}

/// What can be measured, as obs says when it is asked for something else.
fn whats(context: &Context) -> Result<Vec<String>> {
    let refused = context.run(&mut context.obs(&["latency", "nonsense"]))?;
    ensure!(refused.status.code() == Some(2), "{} ended with {}", refused.line, refused.status);
    let list = refused.stderr.split_once("possible values: ").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.with_context(|| format!("no list of what there is in {}", refused.stderr))?;
    Ok(list.split(',').map(|name| name.trim().to_owned()).collect())
}

/// Runs it while programs start and end all the time: a quiet machine has moments in which nothing happens at all.
fn beside_short_programs(context: &Context, run: fn(&Context) -> Result<()>) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    let is_over = AtomicBool::new(false);
    let program = context.program("idle");
    thread::scope(|scope| {
        let starts = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                Command::new(&program).arg("0").status().with_context(|| format!("starting {program}"))?;
                thread::sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let result = run(context);
        is_over.store(true, Ordering::Relaxed);
        starts.join().unwrap_or_else(|_| anyhow::bail!("the thread that starts programs panicked"))?;
        result
    })
}

fn every_source(context: &Context) -> Result<()> {
    let all = whats(context)?;
    ensure!(all.len() >= 10, "only {all:?}");
    let own = std::process::id().to_string();
    for what in &all {
        let arguments = ["latency", what, "-d", "500ms", "--format", "json"];
        let totals = Totals::read(&context.run(&mut context.obs(&arguments))?)?;
        println!("  {what}: {} events, {} keys", totals.count(), totals.lines.len());
        // Those that there always are.
        if ["runqueue", "offcpu", "syscall", "softirq", "pagefault"].contains(&what.as_str()) {
            ensure!(totals.count() > 0, "{what} saw nothing");
        }
        if !what.ends_with("irq") {
            let mut chosen = context.obs(&arguments);
            chosen.args(["-p", &own, "--by", "process"]);
            Totals::read(&context.run(&mut chosen)?).with_context(|| format!("{what} of a process"))?;
        }
    }
    Ok(())
}

fn misuse(context: &Context) -> Result<()> {
    for (arguments, word) in [
        (&["latency", "nonsense"][..], "possible values"),
        (&["latency"], "WHAT"),
        (&["latency", "softirq", "-p", "1"], "nobody's"),
        (&["latency", "block", "--syscall", "read"], "--syscall"),
        (&["latency", "syscall", "--syscall", "raed"], "did you mean 'read'"),
        (&["latency", "block", "--"], "a command must follow"),
    ] {
        let finished = context.run(&mut context.obs(arguments))?;
        println!("  {}", finished.stderr.lines().next().unwrap_or_default());
        ensure!(finished.status.code() == Some(2), "{} ended with {}", finished.line, finished.status);
        ensure!(finished.stderr.contains(word), "{} does not say {word:?}:\n{}", finished.line, finished.stderr);
    }
    Ok(())
}

/// Nine of ten sleeps are short: the median is theirs, and the 99th percentile that of the others.
fn two_lengths(context: &Context) -> Result<()> {
    let calls = ["syscall", "--syscall", "nanosleep,clock_nanosleep"];
    let totals = watch(context, &calls, &["bimodal"])?;
    ensure!(totals.lines.len() == 1, "more than one key: {:?}", totals.labels());
    ensure!(totals.count() == 1_000, "{} sleeps, but 1000 are true", totals.count());
    let [median, tail, _, above] = totals.numbers("bimodal_seconds")?[..] else { anyhow::bail!("not four numbers") };
    let line = &totals.lines[0];
    is_within("median", seconds(line, "p50_seconds")?, median, QUANTILE_ERROR)?;
    is_within("99th percentile", seconds(line, "p99_seconds")?, tail, QUANTILE_ERROR)?;
    // A bucket below 10 ms, or above; that on which side one of them lies is a matter of microseconds.
    let first = line["first_bucket"].as_i64().context("no first bucket")?;
    let buckets = line["buckets"].as_array().context("no buckets")?.iter().filter_map(Value::as_u64);
    let seen: u64 = (first..).zip(buckets).filter(|(bucket, _)| *bucket > -53).map(|(_, count)| count).sum();
    println!("  {seen} above 10 ms, {above} expected");
    ensure!((seen as f64 - above).abs() <= 3.0, "{seen} sleeps are above 10 ms, but {above} are true");
    Ok(())
}

fn two_lengths_off_cpu(context: &Context) -> Result<()> {
    let totals = watch(context, &["offcpu"], &["bimodal"])?;
    let asleep = totals.key("state", "sleep")?;
    // obs starts the program by a pipe, for which it may wait once. A sleep whose timer is quicker than it is no sleep. What a kernel
    // lets nobody see is told.
    let (seen, not_seen) = (count(asleep), asleep["losses"]["not_seen"].as_u64().context("no losses")?);
    println!("  {seen} sleeps and {not_seen} not seen");
    ensure!(not_seen < 50 && (990..=1_001).contains(&(seen + not_seen)), "{seen} sleeps, but 1000 are true");
    // Until it is woken, and not until it has a CPU again: as long as its timer, however busy the machine is.
    is_within("median", seconds(asleep, "p50_seconds")?, 0.002, QUANTILE_ERROR)?;
    let queued = totals.key("state", "run queue").and_then(|line| seconds(line, "sum_seconds")).unwrap_or(0.0);
    let sum = totals.numbers("bimodal_seconds")?[2];
    // Each that was not seen is missing with at most a long sleep.
    let missing = not_seen as f64 * 0.025 / sum;
    is_within("asleep and on the run queue", seconds(asleep, "sum_seconds")? + queued, sum, MEAN_ERROR + missing)
}

fn page_faults(context: &Context) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    // Those that follow its children, and two on each CPU.
    let beside = Beside::start(context, 3 + 2 * cpus, &["pagefault"], true, &["faults", "400000"])?;
    let (text, obs) = beside.work(context)?;
    let [minor, major] = numbers(&text, "faults")?[..] else { anyhow::bail!("no two numbers in {text:?}") };
    let totals = Totals::read(&obs.finish(context.limit())?)?;
    let seen = totals.key("kind", "minor").map(count)?;
    println!("  {seen} minor faults, {minor} by the kernel's own count, {major} major");
    // Between when it is asked how many there were and its end there are some of printing.
    ensure!(
        minor >= 400_000.0 && (minor as u64..minor as u64 + 64).contains(&seen),
        "{seen} faults, but {minor} are true"
    );
    Ok(())
}

/// Reads, and milliseconds in all, of a disk so far.
fn diskstats(device: u64) -> Result<(u64, u64)> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string("/proc/diskstats").context("reading /proc/diskstats")?;
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = lines
        .into_iter()
        .find(|fields| fields.len() > 6 && fields[0] == major.to_string() && fields[1] == minor.to_string());
    let fields = fields.with_context(|| format!("no disk {major}:{minor} in /proc/diskstats"))?;
    Ok((fields[3].parse()?, fields[6].parse()?))
}

/// Unfiltered, against the kernel's own count of all reads of that disk: in a moment in which nobody else reads they are equal.
fn reads(context: &Context) -> Result<()> {
    const READS: usize = 2_000;
    const BYTES: usize = 256 << 10;
    const ATTEMPTS: u32 = 10;
    // Requests of this size are not split, and take long enough that what `diskstats` counts besides is little.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("making a folder")?;
    let path = folder.path().join("data");
    fs::write(&path, vec![7; 64 << 20]).context("writing a file")?;
    fs::File::open(&path)?.sync_all().context("bringing it to the disk")?;
    let device = fs::metadata(&path)?.dev();
    let name = fs::read_link(format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))?;
    let name = name.file_name().context("no name")?.to_string_lossy().into_owned();
    ensure!(Path::new("/sys/block").join(&name).exists(), "{name} is a part of a disk");
    let work = ["reads", &path.display().to_string(), &READS.to_string(), &BYTES.to_string()].map(str::to_owned);
    let work: Vec<&str> = work.iter().map(String::as_str).collect();
    for attempt in 1..=ATTEMPTS {
        let before = diskstats(device)?;
        let beside = Beside::start(context, 3, &["block"], false, &work)?;
        let inner_before = diskstats(device)?;
        let (_, obs) = beside.work(context)?;
        let inner = diskstats(device)?;
        let totals = interrupt(context, obs)?;
        let after = diskstats(device)?;
        let of = |part: &str| {
            let is = |line: &&Value| {
                line["labels"]["device"] == name
                    && line["labels"]["operation"] == "read"
                    && line["labels"]["part"] == part
            };
            let line =
                totals.lines.iter().find(is).with_context(|| format!("no reads of {name}: {:?}", totals.labels()))?;
            anyhow::Ok((count(line), seconds(line, "sum_seconds")?))
        };
        let ((count, device_seconds), (queued, queue_seconds)) = (of("device")?, of("queue")?);
        let (least, most) = (inner.0 - inner_before.0, after.0 - before.0);
        println!("  {count} reads, {queued} in the queue, {least} to {most} by the kernel's own count");
        // Some kernels run no program for what interrupts certain threads; then it is told. The last ones may not be yet.
        let not_seen = totals.lines[0]["losses"]["not_seen"].as_u64().context("no losses")?;
        println!("  {not_seen} completions not seen");
        ensure!((least..=most).contains(&queued) && queued >= READS as u64, "{queued} reads");
        ensure!(
            (0..=8).contains(&(queued as i64 - count as i64 - not_seen as i64)),
            "{count} reads and {not_seen} not seen"
        );
        ensure!(not_seen * 20 < queued, "{not_seen} completions were not seen");
        // Those that are not seen are not of the usual length; nor is what is left of a request while a host takes the CPU away.
        if least == most {
            let expected = (inner.1 - inner_before.1) as f64 / 1e3 / least as f64;
            let mean = device_seconds / count as f64 + queue_seconds / queued as f64;
            let agrees = is_within("mean of queue and device together", mean, expected, MEAN_ERROR);
            if agrees.is_ok() || attempt == ATTEMPTS {
                return agrees;
            }
        }
        println!("  the machine was disturbed, attempt {attempt}");
    }
    anyhow::bail!("somebody else read from {name} each time")
}

fn slow_connect(context: &Context) -> Result<()> {
    let totals = watch(context, &["connect"], &["tunnel", "10", "50", "10", "0", "0"])?;
    let expected = totals.numbers("connect_seconds")?[0];
    let made = totals.key("outcome", "established")?;
    ensure!(count(made) == 50, "{} connections, but 50 are true", count(made));
    is_between(
        "mean",
        seconds(made, "mean_seconds")?,
        ROUND_TRIP_SECONDS,
        totals.numbers("connect_seconds")?[1],
        MEAN_ERROR,
    )?;
    is_between("median", seconds(made, "p50_seconds")?, ROUND_TRIP_SECONDS, expected, QUANTILE_ERROR)
}

fn slow_round_trips(context: &Context) -> Result<()> {
    let totals = watch(context, &["rtt"], &["tunnel", "10", "3", "200", "0", "0"])?;
    let most = totals.numbers("rtt_seconds")?[0];
    ensure!(totals.count() >= 200, "{} segments, but 200 and more are true", totals.count());
    is_between("median", seconds(&totals.lines[0], "p50_seconds")?, ROUND_TRIP_SECONDS, most, QUANTILE_ERROR)
}

/// The network loses as many segments as it is told to; timers, which are quick to fire on a busy machine, send some more again.
fn sent_again(context: &Context, work: &[&str], lost: u64) -> Result<()> {
    const ATTEMPTS: u32 = 5;
    for attempt in 1..=ATTEMPTS {
        let totals = watch(context, &["retransmit"], work)?;
        let (seen, expected) = (totals.count(), totals.numbers("retransmits")?[0] as u64);
        println!("  {seen} segments, {expected} by the kernel's own count");
        ensure!(expected >= lost, "the network lost {expected} segments instead of {lost}");
        ensure!(seen <= expected, "{seen} segments, but {expected} are true");
        if seen == expected {
            return Ok(());
        }
        // A timer fires in whatever thread runs, and some hosts' kernels run no program while certain threads do.
        println!("  a timer fired unseen, attempt {attempt}");
    }
    anyhow::bail!("fewer segments than were sent again, {ATTEMPTS} times")
}

fn refused(context: &Context) -> Result<()> {
    let totals = watch(context, &["connect"], &["refused", "25"])?;
    ensure!(count(totals.key("outcome", "failed")?) == 25, "{:?}", totals.lines);
    ensure!(totals.count() == 25, "connections were made: {:?}", totals.labels());
    Ok(())
}

/// Of two processes that do the same, one is in the chosen group.
fn by_cgroup(context: &Context) -> Result<()> {
    let group = Cgroup::make("latency")?;
    let inner = group.make_child("inner")?;
    let path = group.path().display().to_string();
    let cpus = thread::available_parallelism()?.get();
    let arguments = ["pagefault", "--by", "cgroup", "--cgroup", &path];
    let beside = Beside::start(context, 2 * cpus, &arguments, false, &["faults", "50000"])?;
    inner.put(beside.work.pid())?;
    context.output("latencies", &["faults", "30000"])?;
    let (text, obs) = beside.work(context)?;
    let minor = numbers(&text, "faults")?[0] as u64;
    let totals = interrupt(context, obs)?;
    let name = inner.path().strip_prefix(group.path().parent().context("the group has no parent")?)?;
    let seen = totals.key("cgroup", &format!("/{}", name.display())).map(count)?;
    println!("  {seen} faults, {minor} by the kernel's own count");
    // What it did between its measurements and its end is in the group too.
    ensure!((minor..minor + 200).contains(&seen) && totals.count() == seen, "{seen} of {}", totals.count());
    Ok(())
}

/// What finds no room is not lost, but told apart no more.
fn too_many_keys(context: &Context) -> Result<()> {
    let arguments = ["syscall", "--syscall", "getppid", "--by", "process"];
    let totals = watch(context, &arguments, &["processes", "1500"])?;
    let other = totals.key("key", "~other").map(count)?;
    println!("  {} calls under {} keys, {other} of them under ~other", totals.count(), totals.lines.len());
    ensure!(totals.count() == 1_500, "{} calls, but 1500 are true", totals.count());
    ensure!(totals.lines.len() == KEYS_MAX && other == 1_501 - KEYS_MAX as u64, "{} keys", totals.lines.len());
    ensure!(totals.lines[0]["losses"]["other"] == other, "the losses do not say so: {}", totals.lines[0]["losses"]);
    Ok(())
}

/// Two threads that both want one CPU: each waits for it half of the time.
fn shared_cpu(context: &Context) -> Result<()> {
    let busy = context.program("busy");
    let totals = watch_program(context, &["runqueue"], "taskset", &["-c", "0", &busy, "2", "1.5"])?;
    let cpu_seconds = totals.numbers("cpu_seconds")?[0];
    println!("  {:.3} s on the CPU, {:.3} s waiting for it", cpu_seconds, totals.sum_seconds());
    // While one of them runs the other waits: as much as both ran. What else runs on that CPU comes on top, for both.
    let all_seconds = seconds(totals.lines.first().context("nobody waited")?, "seconds")?;
    ensure!(totals.sum_seconds() > 0.95 * cpu_seconds, "{} s of waiting", totals.sum_seconds());
    let most = 2.0 * all_seconds - cpu_seconds + 0.05 * all_seconds;
    ensure!(totals.sum_seconds() < most, "{} s of waiting are more than there is", totals.sum_seconds());
    Ok(())
}

//! How many samples there must be: CPU seconds times frequency, and none of who does not run.

use anyhow::{Result, ensure};

use crate::{
    harness::{Context, Need, Scenario},
    stats::{poisson_tolerance, sample_tolerance, taken_seconds},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "totals::two_busy_threads_at_the_default_frequency",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("busy")],
        run: |context| busy_threads(context, 2, 5.0, None),
    },
    Scenario {
        name: "totals::two_busy_threads_at_999_hertz",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("busy")],
        run: |context| busy_threads(context, 2, 3.0, Some(999)),
    },
    Scenario {
        name: "totals::more_threads_than_cpus",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("busy")],
        run: |context| busy_threads(context, 6, 0.7, Some(999)),
    },
    Scenario {
        name: "totals::an_idle_program",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("idle")],
        run: idle,
    },
    Scenario {
        name: "totals::processes_that_live_20_ms",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("short"), Need::Workload("spawner")],
        run: short_lived,
    },
    Scenario {
        name: "totals::shares_of_a_known_call_tree",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("call_tree")],
        run: call_tree_shares,
    },
    Scenario {
        name: "totals::a_recording_of_the_host_counts_every_cpu",
        needs: &[Need::Root, Need::Workload("busy")],
        run: whole_host,
    },
];

const DEFAULT_HERTZ: f64 = 99.0;

/// Samples of a busy program are its CPU seconds times the frequency.
fn busy_threads(context: &Context, threads: u32, seconds_each: f64, hertz: Option<u32>) -> Result<()> {
    let (program, threads_text, seconds_text) =
        (context.program("busy"), threads.to_string(), seconds_each.to_string());
    let hertz_text = hertz.map(|hertz| hertz.to_string());
    let mut arguments = hertz_text.as_deref().map_or_else(Vec::new, |hertz| vec!["-F", hertz]);
    arguments.extend(["--", &program, &threads_text, &seconds_text]);

    let taken_before = taken_seconds()?;
    let recording = context.record(".folded", &arguments)?;
    let taken_seconds = taken_seconds()? - taken_before;
    let cpu_seconds = recording.finished.cpu_seconds()?;
    let hertz = hertz.map_or(DEFAULT_HERTZ, f64::from);
    let expected = cpu_seconds * hertz;
    let cpus = std::thread::available_parallelism()?.get().min(threads as usize);
    let duration_seconds = recording.seconds()?;
    let load = cpu_seconds / (duration_seconds * cpus as f64);
    let tolerance = sample_tolerance(expected, load);
    let seen = recording.folded()?.count(|stack| stack.process == "busy") as f64;
    println!(
        "  {seen} samples, {expected:.0} ± {tolerance:.0} expected ({cpu_seconds:.2} CPU s, load {load:.2}, {taken_seconds:.2} s taken)"
    );
    // A tick that a hypervisor held up hits the program all the same.
    let most = expected + tolerance + taken_seconds * hertz;
    ensure!(
        (expected - tolerance..=most).contains(&seen),
        "{seen} samples, but {expected:.1} ± {tolerance:.1} expected, and {most:.1} at most"
    );
    ensure!(recording.lost()? == 0, "samples were lost: {}", recording.summary["samples"]);
    Ok(())
}

/// A program that sleeps has next to no samples: it starts and exits.
fn idle(context: &Context) -> Result<()> {
    let recording = context.record(".folded", &["-F", "999", "--", &context.program("idle"), "2"])?;
    let seen = recording.folded()?.total();
    // Were it running, there would be 2,000. Its exec, page faults and exit take some milliseconds of CPU.
    let most = 40;
    ensure!(seen <= most, "{seen} samples of a program that sleeps; at most {most} are its start and end");
    Ok(())
}

/// Short lives are seen: each has 20 ms, twice the sampling period.
fn short_lived(context: &Context) -> Result<()> {
    const PROCESSES: f64 = 50.0;
    let (spawner, short) = (context.program("spawner"), context.program("short"));
    let recording = context.record(".folded", &["--", &spawner, "50", &short])?;
    let cpu_seconds = recording.finished.cpu_seconds()?;
    let folded = recording.folded()?;

    // The children's CPU time holds what they did between fork and exec, under the name of their parent.
    let expected = cpu_seconds * DEFAULT_HERTZ;
    let seen = folded.total() as f64;
    let tolerance = poisson_tolerance(expected);
    println!("  {seen} samples, {expected:.0} ± {tolerance:.0} expected");
    ensure!((seen - expected).abs() <= tolerance, "{seen} samples, but {expected:.1} ± {tolerance:.1} expected");

    // A process that is never preempted is hit at least once, for its life is longer than the period. One that is
    // preempted often is missed with a chance of at most e^(-0.020 × 99) = 14 %: of 50 that is 7 ± 2.5, and with four
    // standard deviations 17.
    let processes = recording.processes()?.iter().filter(|(_, name, _)| name == "short").count() as f64;
    println!("  {processes} of {PROCESSES} processes have samples");
    ensure!(processes >= PROCESSES - 17.0, "only {processes} of {PROCESSES} processes are in the profile");
    Ok(())
}

/// Each function's inclusive share is what the program made it, within 2 points.
fn call_tree_shares(context: &Context) -> Result<()> {
    // 5 s at 1,999 Hz are 10,000 samples. On a CPU of its own each visit of a function gains or loses at most a sample at
    // its ends: nothing. On a CPU that is shared with much else the samples become independent draws, and the standard
    // deviation of a share of 40 % is sqrt(0.4 × 0.6 / 10,000) = 0.49 points: the 2 points are four of them.
    let recording = context.record(".folded", &["-F", "1999", "--", &context.program("call_tree"), "5"])?;
    let folded = recording.folded()?;
    let total = folded.count_with("main") as f64;
    ensure!(total > 0.9 * folded.total() as f64, "only {total} of {} samples are in main", folded.total());
    let shares = [
        ("share_10", 10.0),
        ("share_20", 20.0),
        ("share_30", 30.0),
        ("share_40", 40.0),
        ("phase_a", 30.0),
        ("phase_b", 70.0),
    ];
    for (function, expected) in shares {
        let share = 100.0 * folded.count_with(function) as f64 / total;
        println!("  {function}: {share:.2} %, {expected} % expected");
        ensure!((share - expected).abs() <= 2.0, "{function} has {share:.2} %, but {expected} % ± 2 expected");
    }
    for (function, caller) in [("share_10", "phase_a"), ("share_40", "phase_b")] {
        let strays = folded.count(|stack| stack.has(function) && !stack.has(caller));
        // A sample in the function's first two instructions, before its frame is linked, skips its caller: 0.1 %.
        ensure!(strays as f64 <= 0.001 * total, "{strays} samples of {function} are not under {caller}");
    }
    Ok(())
}

/// Without a choice, everything on every CPU is measured: samples and idle ticks together are CPUs × seconds × hertz.
fn whole_host(context: &Context) -> Result<()> {
    let _hog = context.background("busy", &["1", "1000"])?;
    let recording = context.record(".folded", &["-a", "-F", "199", "-d", "2s"])?;
    let cpus = std::thread::available_parallelism()?.get() as f64;
    let seconds = recording.seconds()?;
    let expected = cpus * seconds * 199.0;
    let idle = recording.number("/samples/idle")? as f64;
    let taken = recording.taken()? as f64;
    println!("  {taken} samples and {idle} idle ticks in {seconds:.2} s; at most {expected:.0} expected");
    // An idle CPU may stop its tick, so only too many would be wrong in total; the hog's CPU never idles.
    ensure!(taken + idle <= 1.02 * expected + 2.0 * cpus, "{taken} + {idle} ticks, but at most {expected:.0} expected");
    ensure!(recording.samples_of("busy")? > 0, "the busy program is not in the recording of the whole host");
    ensure!(
        recording.number("/samples/filtered")? == 0,
        "nothing was to be filtered: {}",
        recording.summary["samples"]
    );
    Ok(())
}

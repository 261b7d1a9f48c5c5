//! Every format of real programs' profiles, read by readers that share no code with the writers, with equal totals.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    harness::{Context, Need, Recording, Scenario, tool},
    read::{pprof::Pprof, speedscope::Speedscope, svg::Svg},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "formats::a_c_program_with_frame_pointers",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("call_tree")],
        run: call_tree,
    },
    Scenario { name: "formats::xz_of_a_real_file", needs: &[Need::Root, Need::Tool("xz")], run: xz },
    Scenario { name: "formats::python3", needs: &[Need::Root, Need::Tool("python3")], run: python },
    Scenario { name: "formats::gcc_of_real_sources", needs: &[Need::Root, Need::Tool("gcc")], run: gcc },
    Scenario {
        name: "formats::a_shell_pipeline",
        needs: &[
            Need::Root,
            Need::RealCpu,
            Need::Tool("sh"),
            Need::Tool("seq"),
            Need::Tool("sort"),
            Need::Tool("gzip"),
        ],
        run: pipeline,
    },
    Scenario {
        name: "formats::pprof_as_go_tool_pprof_reads_it",
        needs: &[Need::Root, Need::Tool("go"), Need::Workload("call_tree")],
        run: go_tool_pprof,
    },
    Scenario {
        name: "formats::folded_on_standard_output_by_default",
        needs: &[Need::Root, Need::FastCpu, Need::Tool("sh")],
        run: standard_output,
    },
    Scenario {
        name: "formats::the_option_overrules_the_ending",
        needs: &[Need::Root, Need::FastCpu, Need::Workload("call_tree")],
        run: option_overrules,
    },
    Scenario {
        name: "formats::pprof_labels_name_process_and_thread",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("busy")],
        run: pprof_labels,
    },
];

const ENDINGS: [&str; 5] = [".folded", ".pb.gz", ".svg", ".speedscope.json", ".json"];

/// Records the command once per format. Each file must hold as many samples as its summary says, and, if processes are
/// named, samples of each.
fn every_format(context: &Context, command: &[&str], processes: &[&str]) -> Result<()> {
    for ending in ENDINGS {
        let mut arguments = vec!["-F", "499", "--"];
        arguments.extend(command);
        let recording = context.record(ending, &arguments)?;
        let taken = recording.taken()?;
        let in_file = samples_in_file(&recording, ending).with_context(|| format!("{ending} of {command:?}"))?;
        println!("  {ending}: {in_file} samples");
        ensure!(taken > 0, "no samples of {command:?}");
        ensure!(in_file == taken, "{ending}: the file holds {in_file} samples, the summary says {taken}");
        let of_processes: u64 = recording.processes()?.iter().map(|(_, _, samples)| samples).sum();
        ensure!(of_processes == taken, "the processes have {of_processes} samples together, not {taken}");
        for process in processes {
            ensure!(
                recording.samples_of(process)? > 0,
                "{ending}: no samples of the process {process}: {:?}",
                recording.processes()?
            );
        }
    }
    Ok(())
}

/// How many samples a file holds, by its own reader.
fn samples_in_file(recording: &Recording, ending: &str) -> Result<u64> {
    match ending {
        ".folded" => Ok(recording.folded()?.total()),
        ".pb.gz" => {
            let profile = Pprof::parse(&recording.data)?;
            ensure!(profile.sample_types == ["samples/count", "cpu/nanoseconds"], "types {:?}", profile.sample_types);
            ensure!(profile.period_type == "cpu/nanoseconds", "period of type {:?}", profile.period_type);
            ensure!(profile.duration_ns > 0, "a profile without a duration");
            let count = profile.total("samples/count")?;
            let nanoseconds = profile.total("cpu/nanoseconds")?;
            ensure!(
                nanoseconds == count * profile.period,
                "{count} samples of {} ns are {nanoseconds} ns",
                profile.period
            );
            Ok(count)
        }
        ".svg" => {
            let svg = Svg::parse(&recording.data)?;
            let all = svg.samples_of("all").context("no box named `all`")?;
            Ok(all)
        }
        ".speedscope.json" => {
            let file = Speedscope::parse(&recording.data)?;
            ensure!(file.profiles.iter().all(|profile| profile.unit == "nanoseconds"), "a unit other than nanoseconds");
            in_periods(file.total())
        }
        ".json" => {
            let file: Value = serde_json::from_slice(&recording.data).context("the file is no JSON")?;
            ensure!(file["value_types"][0]["name"] == "samples", "value types {}", file["value_types"]);
            let samples = file["samples"].as_array().context("no samples")?;
            let count: u64 = samples.iter().filter_map(|sample| sample["values"][0].as_u64()).sum();
            ensure!(file["totals"][0] == count, "the total {} is not the sum {count}", file["totals"][0]);
            Ok(count)
        }
        other => bail!("no reader for {other}"),
    }
}

/// Nanoseconds in sampling periods at 499 Hz.
fn in_periods(nanoseconds: f64) -> Result<u64> {
    let period = (1e9_f64 / 499.0).floor();
    let count = nanoseconds / period;
    ensure!((count - count.round()).abs() < 1e-3, "{nanoseconds} ns are no whole number of periods of {period} ns");
    Ok(count.round() as u64)
}

fn call_tree(context: &Context) -> Result<()> {
    let program = context.program("call_tree");
    every_format(context, &[&program, "1"], &["call_tree"])?;

    // What a reader sees in each is the same program: its hottest function has its share.
    let share = |recording: &Recording, ending: &str| -> Result<f64> {
        Ok(match ending {
            ".folded" => recording.folded()?.count_with("share_40") as f64 / recording.folded()?.total() as f64,
            ".pb.gz" => {
                let profile = Pprof::parse(&recording.data)?;
                let of_function =
                    profile.samples.iter().filter(|sample| sample.functions.iter().any(|f| f == "share_40"));
                of_function.map(|sample| sample.values[0]).sum::<u64>() as f64 / profile.total("samples/count")? as f64
            }
            ".svg" => {
                let svg = Svg::parse(&recording.data)?;
                let of_function = svg.samples_of("share_40").context("no box named share_40")?;
                of_function as f64 / svg.samples_of("all").context("no box named all")? as f64
            }
            ".speedscope.json" => {
                let file = Speedscope::parse(&recording.data)?;
                file.total_with("share_40") / file.total()
            }
            other => bail!("no reader for {other}"),
        })
    };
    for ending in &ENDINGS[..4] {
        let recording = context.record(ending, &["-F", "1999", "--", &program, "5"])?;
        let percent = 100.0 * share(&recording, ending)?;
        println!("  {ending}: share_40 has {percent:.2} %");
        // See totals::shares_of_a_known_call_tree; here of all samples, those of exec and exit included.
        ensure!((percent - 40.0).abs() <= 2.0, "{ending}: share_40 has {percent:.2} %, but 40 % ± 2 expected");
    }
    Ok(())
}

fn xz(context: &Context) -> Result<()> {
    // The beginning of the program under test: real content, of which xz has a second or two.
    const BYTES: usize = 3 << 20;
    let folder = tempfile::tempdir().context("making a folder for the file")?;
    let file = folder.path().join("file").display().to_string();
    let program = fs::read(context.obs_path()).context("reading obs")?;
    fs::write(&file, &program[..BYTES.min(program.len())]).context("writing the file")?;
    every_format(context, &["xz", "-9", "--threads=1", "--keep", "--stdout", &file], &["xz"])
}

fn python(context: &Context) -> Result<()> {
    // Not a launcher script that a version manager may have put before it.
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let script = obs_tests::workloads::sources().join("python_hot.py").display().to_string();
    every_format(context, &[python, &script, "1"], &["python3"])
}

fn gcc(context: &Context) -> Result<()> {
    let sources = obs_tests::workloads::sources();
    let folder = tempfile::tempdir().context("making a folder for the objects")?;
    // Where gcc puts its objects is where it runs: the shell goes there first.
    let compile = format!("cd {} && gcc -O2 -c {}/*.c", folder.path().display(), sources.display());
    every_format(context, &["sh", "-c", &compile], &["cc1", "as"])
}

fn pipeline(context: &Context) -> Result<()> {
    let pipeline = "seq 1 400000 | sort -r | gzip -9 | wc -c";
    every_format(context, &["sh", "-c", pipeline], &["sort", "gzip"])
}

/// The format's own tool reads the file, and finds the same totals.
fn go_tool_pprof(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let path = folder.path().join("out.pb.gz").display().to_string();
    let program = context.program("call_tree");
    let mut command =
        context.obs(&["record", "cpu", "-F", "1999", "--summary", "json", "-o", &path, "--", &program, "5"]);
    let finished = context.run(&mut command)?;
    ensure!(finished.status.success(), "obs failed: {}", finished.stderr);
    let taken = finished.summary()?.pointer("/samples/taken").and_then(Value::as_u64).context("no /samples/taken")?;

    let go = tool("go").context("no go")?;
    let pprof = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(&go);
        command.args(["tool", "pprof"]).args(arguments).arg(&path).env("HOME", folder.path());
        let finished = context.run(&mut command)?;
        ensure!(finished.status.success(), "go tool pprof failed: {}", finished.stderr);
        Ok(finished.stdout_text())
    };
    // `Showing nodes accounting for 998, 100% of 998 total`, then `flat flat% sum% cum cum% name`.
    let top = pprof(&["-top", "-nodecount=1000", "-sample_index=samples"])?;
    let total: u64 = top
        .lines()
        .find_map(|line| line.strip_suffix(" total")?.rsplit(' ').next()?.parse().ok())
        .with_context(|| format!("no total in:\n{top}"))?;
    ensure!(total == taken, "go tool pprof counts {total} samples, the summary {taken}");
    let share_40 =
        top.lines().find(|line| line.ends_with(" share_40")).with_context(|| format!("no share_40:\n{top}"))?;
    let fields: Vec<_> = share_40.split_whitespace().collect();
    let cumulative: f64 =
        fields.get(4).and_then(|field| field.strip_suffix('%')?.parse().ok()).context("no percentage")?;
    println!("  {total} samples; share_40 has {cumulative} %");
    ensure!((cumulative - 40.0).abs() <= 2.0, "share_40 has {cumulative} %, but 40 % ± 2 expected");
    let raw = pprof(&["-raw"])?;
    ensure!(raw.contains("PeriodType: cpu nanoseconds"), "no period in:\n{raw}");
    Ok(())
}

fn standard_output(context: &Context) -> Result<()> {
    for arguments in
        [&["record", "cpu", "--summary", "json"][..], &["record", "cpu", "--summary", "json", "-o", "-"][..]]
    {
        let mut command = context.obs(arguments);
        // The command's own output would be mixed into the profile: it prints none here.
        let finished =
            context.run(command.args(["--", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]))?;
        ensure!(finished.status.success(), "obs failed: {}", finished.stderr);
        let folded = crate::read::folded::Folded::parse(&finished.stdout)?;
        let taken =
            finished.summary()?.pointer("/samples/taken").and_then(Value::as_u64).context("no /samples/taken")?;
        ensure!(folded.total() == taken && taken > 0, "{} samples, the summary says {taken}", folded.total());
    }
    Ok(())
}

fn option_overrules(context: &Context) -> Result<()> {
    let program = context.program("call_tree");
    let recording = context.record(".svg", &["--format", "folded", "--", &program, "0.3"])?;
    ensure!(recording.folded()?.total() == recording.taken()?, "the format that was asked for is folded");
    let recording = context.record(".anything", &["--format", "pprof", "--", &program, "0.3"])?;
    ensure!(Pprof::parse(&recording.data)?.total("samples/count")? == recording.taken()?, "pprof was asked for");
    Ok(())
}

fn pprof_labels(context: &Context) -> Result<()> {
    let recording = context.record(".pb.gz", &["-F", "499", "--", &context.program("busy"), "2", "0.5"])?;
    let profile = Pprof::parse(&recording.data)?;
    for thread in ["busy-0", "busy-1"] {
        let of_thread =
            profile.samples.iter().filter(|sample| sample.labels.get("thread").is_some_and(|t| t == thread));
        let count: u64 = of_thread.map(|sample| sample.values[0]).sum();
        // Half a second at 499 Hz each; whatever the load, a quarter of that is more than four deviations away.
        ensure!(count >= 125, "{count} samples of the thread {thread}, but about 250 expected");
    }
    let mapped = profile.mappings.iter().find(|(file, _)| file.ends_with("/busy"));
    let (_, build_id) = mapped.with_context(|| format!("no mapping of busy: {:?}", profile.mappings))?;
    ensure!(build_id.len() == 40 && build_id.bytes().all(|b| b.is_ascii_hexdigit()), "the build id is {build_id:?}");
    let pids: Vec<u32> = recording.processes()?.iter().map(|(pid, _, _)| *pid).collect();
    for sample in &profile.samples {
        ensure!(sample.labels.get("process").is_some_and(|name| name == "busy"), "labels {:?}", sample.labels);
        let pid = sample.number_labels.get("pid").and_then(|pid| u32::try_from(*pid).ok());
        ensure!(pid.is_some_and(|pid| pids.contains(&pid)), "labels {:?}", sample.number_labels);
    }
    Ok(())
}

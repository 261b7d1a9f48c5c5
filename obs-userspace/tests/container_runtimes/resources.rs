//! The resource monitor against a real container: what it burned, what it may use, and that a process of it was killed for
//! lack of memory.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use obs_userspace::{
    collect::resources::{Report, ResourceOptions, Resources, Roots},
    model::record::Record,
};
use serde_json::{Value, json};

use super::{Case, Finally, expect, output, root_file_system, run_detached, runc::write_bundle, unique, wait_for};

pub(crate) const CASE: Case = Case { name: "containers::resources", tools: &["runc"], run };

/// An id as most runtimes give: the monitor knows containers by the paths of their cgroups alone.
const ID: &str = "0b5e0000c0ffee00000000000000000000000000000000000000000000000001";

const LIMIT_BYTES: u64 = 32 << 20;

/// What one reading says of our container: values by `metric{other labels}`, and how many events of each name.
fn read(resources: &mut Resources) -> (BTreeMap<String, f64>, Report) {
    let mut records = Vec::new();
    let report = resources.read_all(&mut records);
    let mut values = BTreeMap::new();
    for record in records {
        let (name, labels, value) = match record {
            Record::Counter(counter) => (counter.name, counter.labels, counter.value),
            Record::Gauge(gauge) => (gauge.name, gauge.labels, gauge.value),
            Record::Event(event) => (event.name, event.labels, 1.0),
            Record::StackSample(_) | Record::Histogram(_) => continue,
        };
        if labels.iter().any(|(_, value)| &**value == ID) {
            let others: Vec<&str> = labels.iter().map(|(_, value)| &**value).filter(|value| *value != ID).collect();
            values.insert(format!("{name}{{{}}}", others.join(",")), value);
        }
    }
    (values, report)
}

/// CPU seconds of a process, as the kernel tells of it by itself.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("a short line")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// CPU seconds of all that ever ran in the cgroup of a process, from the file that obs does not read.
fn group_cpu_seconds(pid: u32) -> Result<f64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in groups.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { continue };
        let root = Path::new("/sys/fs/cgroup");
        if controllers.split(',').any(|name| name == "cpuacct") {
            let file = root.join("cpuacct").join(path.trim_start_matches('/')).join("cpuacct.usage");
            let nanoseconds: u64 =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?.trim().parse()?;
            return Ok(nanoseconds as f64 / 1e9);
        }
        let file = root.join(path.trim_start_matches('/')).join("cpu.stat");
        if controllers.is_empty()
            && let Ok(text) = fs::read_to_string(&file)
        {
            let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
            let microseconds: u64 = usage.with_context(|| format!("no usage in {}", file.display()))?.parse()?;
            return Ok(microseconds as f64 / 1e6);
        }
    }
    bail!("no cgroup of {pid} counts CPU time: {groups}")
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    root_file_system(folder.path())?;
    // Busy for a while, then asleep for ever.
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; touch /tmp/done; exec sleep 100000";
    write_bundle(folder.path(), &["/bin/busybox", "sh", "-c", script])?;
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["root"]["readonly"] = json!(false);
    config["linux"]["cgroupsPath"] = json!(format!("/docker/{ID}"));
    config["linux"]["resources"]["memory"] = json!({"limit": LIMIT_BYTES});
    fs::write(&path, serde_json::to_vec(&config)?)?;

    let mut resources = Resources::new(&Roots::default(), ResourceOptions::default());
    read(&mut resources);
    let name = unique("resources");
    let _remove = Finally(|| {
        let _ = output(Command::new("runc").args(["delete", "--force", &name]));
    });
    run_detached(
        Command::new("runc").args(["run", "--detach", "--bundle"]).arg(folder.path()).arg(&name),
        folder.path(),
    )?;
    let state: Value = serde_json::from_str(&output(Command::new("runc").args(["state", &name]))?)?;
    let pid = u32::try_from(state["pid"].as_u64().context("runc tells no pid")?)?;
    wait_for("the container has done its work", || Ok(folder.path().join("rootfs/tmp/done").exists().then_some(())))?;

    let (values, report) = read(&mut resources);
    let value = |key: &str| {
        let found = values.get(key).copied();
        found.with_context(|| format!("no {key} of {values:?}; absent: {:?}", report.absent))
    };
    let told = cpu_seconds(pid)?;
    let all = group_cpu_seconds(pid)?;
    let found = value("container.cpu.time{user}")? + value("container.cpu.time{system}")?;
    // What runc did in it before the program began is its, too.
    ensure!(
        found >= told - 0.03 && found <= all + 0.03,
        "the container used {found} s, its process {told} s, its group {all} s"
    );
    let memory = value("container.memory.usage{}")?;
    ensure!(memory > 0.0 && memory <= LIMIT_BYTES as f64, "{memory} bytes of {LIMIT_BYTES}");
    ensure!(value("container.uptime{}")? > 0.0, "it has not begun");
    expect("kills", value("obs.container.oom_kills{}")?, 0.0)?;
    expect("restarts", value("obs.process.restarts{container}")?, 0.0)?;

    // It keeps the last line of a file that has none.
    let greedy = output(Command::new("runc").args(["exec", &name, "/bin/busybox", "tail", "/dev/zero"]));
    ensure!(greedy.is_err(), "a program that takes all memory there is was not stopped");
    let (values, _) = read(&mut resources);
    expect("kills", values.get("obs.container.oom_kills{}").copied(), Some(1.0))?;
    expect("told of the kill", values.get("obs.oom_kill{1}").copied(), Some(1.0))?;
    let (values, _) = read(&mut resources);
    expect("told once", values.get("obs.oom_kill{1}").copied(), None)?;
    // Nothing of it is left when it is gone.
    output(Command::new("runc").args(["delete", "--force", &name]))?;
    let (values, _) = read(&mut resources);
    let left: Vec<&String> = values.keys().filter(|key| !key.starts_with("obs.process.restarts")).collect();
    ensure!(left.is_empty(), "still there: {left:?}");
    Ok(())
}

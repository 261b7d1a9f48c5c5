//! The machine: where things are, what is missing, how slow it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use obs_tests::workloads;

use super::{Background, Finished, Need, Scenario, cgroup};

/// How much slower software emulation is taken to be.
const EMULATION_SLOW_FACTOR: f64 = 8.0;

/// How often a scenario that fails is tried under emulation, where a CPU may stand still for seconds.
const ATTEMPTS_EMULATED: u32 = 2;

/// How long one command may take before it counts as hung, on a machine that is not slow.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Says that the machine's clock may be set.
const OWN_CLOCK_VARIABLE: &str = "OBS_SCENARIOS_OWN_CLOCK";

/// Where the dynamic programs' loader is. A small guest has none.
const DYNAMIC_LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// What every scenario is handed.
pub(crate) struct Context {
    obs: PathBuf,
    workloads: PathBuf,
    /// How much slower than a usual machine this one is; at least 1.
    slow_factor: f64,
    is_root: bool,
}

impl Context {
    /// Finds the binary under test; compiles the workloads unless a folder of them is given.
    pub(crate) fn prepare() -> Result<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("the target folder has no parent")?;
        let obs = env::var_os("OBS_BIN").map_or_else(|| target.join("release/obs"), PathBuf::from);
        ensure!(
            obs.is_file(),
            "there is no obs at {}: build it (`cargo xtask build`) or name it in OBS_BIN",
            obs.display()
        );
        let workloads = if let Some(folder) = env::var_os("OBS_WORKLOADS") {
            PathBuf::from(folder)
        } else {
            let folder = target.join("workloads");
            for (name, outcome) in workloads::build_all(&folder)? {
                if let Err(reason) = outcome {
                    println!("SKIPPED building the workload {name}: {reason}");
                }
            }
            let built = Path::new(env!("CARGO_BIN_EXE_rust_async"));
            fs::copy(built, folder.join(workloads::RUST_ASYNC))
                .with_context(|| format!("copying {}", built.display()))?;
            folder
        };
        let slow_factor = match env::var("OBS_SCENARIOS_SLOW_FACTOR") {
            Ok(text) => text.parse().with_context(|| format!("OBS_SCENARIOS_SLOW_FACTOR={text:?} is no number"))?,
            Err(_) if is_emulated() => EMULATION_SLOW_FACTOR,
            Err(_) => 1.0,
        };
        ensure!(slow_factor >= 1.0, "OBS_SCENARIOS_SLOW_FACTOR must be at least 1");
        let is_root = rustix::process::geteuid().is_root();
        Ok(Self { obs: absolute(&obs)?, workloads: absolute(&workloads)?, slow_factor, is_root })
    }

    /// Why the scenario cannot run here, if it cannot.
    pub(crate) fn missing(&self, scenario: &Scenario) -> Option<String> {
        scenario.needs.iter().find_map(|need| match *need {
            Need::Root => (!self.is_root).then(|| "needs root".to_owned()),
            Need::Workload(name) => self.missing_workload(name),
            Need::Tool(name) => tool(name).is_none().then(|| format!("no {name} on this machine")),
            Need::Cgroup => cgroup::unified_root().err().map(|error| format!("{error:#}")),
            Need::File(path) => (!Path::new(path).exists()).then(|| format!("this kernel has no {path}")),
            Need::OwnClock => env::var_os(OWN_CLOCK_VARIABLE)
                .is_none_or(|value| value != "1")
                .then(|| format!("the clock is not ours to set ({OWN_CLOCK_VARIABLE}=1 says that it is)")),
            Need::FastCpu => is_emulated()
                .then(|| "the CPU is emulated, and others show as much of this kernel in less time".to_owned()),
            Need::RealCpu => {
                is_emulated().then(|| "the CPU is emulated: its clock ticks faster than it works".to_owned())
            }
        })
    }

    fn missing_workload(&self, name: &str) -> Option<String> {
        let path = self.workload(name);
        let Ok(bytes) = fs::read(&path) else {
            return Some(format!("the workload {name} is not in {}", self.workloads.display()));
        };
        let is_dynamic =
            bytes.windows(DYNAMIC_LOADER.len()).take(8192).any(|window| window == DYNAMIC_LOADER.as_bytes());
        (is_dynamic && !Path::new(DYNAMIC_LOADER).exists())
            .then(|| format!("the workload {name} is dynamic, and there is no {DYNAMIC_LOADER} here"))
    }

    /// Where a compiled workload is.
    pub(crate) fn workload(&self, name: &str) -> PathBuf {
        self.workloads.join(name)
    }

    /// The path of a compiled workload as an argument.
    pub(crate) fn program(&self, name: &str) -> String {
        self.workload(name).display().to_string()
    }

    /// Where obs is.
    pub(crate) fn obs_path(&self) -> &Path {
        &self.obs
    }

    /// obs with these arguments.
    pub(crate) fn obs(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.obs);
        command.args(arguments);
        command
    }

    /// How long something that must end may take.
    pub(crate) fn limit(&self) -> Duration {
        COMMAND_LIMIT.mul_f64(self.slow_factor)
    }

    /// How often a scenario may be tried before it has failed. On a real CPU it is tried once.
    pub(crate) fn attempts(&self) -> u32 {
        if is_emulated() { ATTEMPTS_EMULATED } else { 1 }
    }

    /// How much slower than a usual machine this one is; at least 1.
    pub(crate) fn slow_factor(&self) -> f64 {
        self.slow_factor
    }

    /// Runs a command to its end, and fails if it does not end.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Finished> {
        Background::start(command)?.finish(self.limit())
    }

    /// What a compiled workload prints, run on its own.
    pub(crate) fn output(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let finished = self.run(Command::new(self.workload(name)).args(arguments))?;
        ensure!(finished.status.success(), "{name} failed: {}", finished.stderr);
        Ok(finished.stdout_text())
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("making {} absolute", path.display()))
}

/// Whether the CPU is emulated in software.
fn is_emulated() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
}

/// Finds a program of the system, also where distributions put versioned tools. A multi-call binary's lesser version
/// does not count, but for the shell: scenarios name the processes that they expect, and use the real ones' options.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let is_real = |candidate: &PathBuf| {
        let file = candidate.canonicalize().ok()?;
        Some(file.is_file() && (name == "sh" || !file.ends_with("busybox")))
    };
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/lib/go-1.19/bin")])
        .map(|folder| folder.join(name))
        .find(|candidate| is_real(candidate).unwrap_or(false))
}

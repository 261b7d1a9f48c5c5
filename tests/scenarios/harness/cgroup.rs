//! A cgroup that lives as long as the scenario.

use std::{
    fs,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// The folder of the controller of CPU time of version 1.
const QUOTA_ROOT: &str = "/sys/fs/cgroup/cpu";

/// How often the removal of a group is tried: its processes may still be on their way out.
const REMOVAL_TRIES: u32 = 200;

/// A group. Dropping it kills what is in it and removes it.
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group below the root of the unified hierarchy.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let path = unified_root()?.join(format!("obs-scenario-{}-{name}", process::id()));
        fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes a group of version 1 whose processes may use so much of a CPU's time in each tenth of a second.
    pub(crate) fn with_quota(name: &str, quota: Duration) -> Result<Self> {
        let path = Path::new(QUOTA_ROOT).join(format!("obs-scenario-{}-{name}", process::id()));
        fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        let group = Self { path };
        for (file, value) in [("cpu.cfs_period_us", 100_000), ("cpu.cfs_quota_us", quota.as_micros())] {
            fs::write(group.path.join(file), value.to_string()).with_context(|| format!("writing {file}"))?;
        }
        Ok(group)
    }

    /// Makes a group below this one.
    pub(crate) fn make_child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where its folder is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it.
    pub(crate) fn put(&self, pid: u32) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("writing {pid} to {}", procs.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..REMOVAL_TRIES {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        println!("could not remove the cgroup {}", self.path.display());
    }
}

/// Where the unified hierarchy is mounted: in hybrid set-ups not at `/sys/fs/cgroup` itself.
pub(super) fn unified_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("cgroup2")) = (fields.next(), fields.next()) {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("no unified cgroup hierarchy is mounted")
}

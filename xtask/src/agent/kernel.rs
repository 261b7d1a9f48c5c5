//! How long a process's BPF programs ran, as the kernel counts it: what obs says of itself is held to this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::host;

/// Whether the kernel counts, for all programs of the host.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// While this lives the kernel counts how long BPF programs run, which costs each run some 20 ns. After SIGKILL it goes on
/// counting until somebody writes 0 there.
pub(crate) struct RunTimes {
    before: Vec<u8>,
}

impl RunTimes {
    /// Switches counting on.
    ///
    /// # Errors
    /// When the switch cannot be set.
    pub(crate) fn count() -> Result<Self> {
        let switch = PathBuf::from(SWITCH);
        let before = host::read(&switch)?;
        host::write(&switch, "1")?;
        Ok(Self { before })
    }
}

impl Drop for RunTimes {
    fn drop(&mut self) {
        if let Err(error) = host::write(Path::new(SWITCH), &self.before) {
            eprintln!("the kernel goes on counting run times of BPF programs: {error:#}");
        }
    }
}

/// What the kernel says of each program that a process holds, by the program's number.
pub(crate) type Programs = BTreeMap<u64, ProgramTime>;

/// How often a program ran, and how long together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProgramTime {
    pub(crate) runs: u64,
    pub(crate) seconds: f64,
}

/// What programs ran since an earlier moment. Of a program that is gone, what it did since then is not known any more.
pub(super) fn since(now: &Programs, before: &Programs) -> ProgramTime {
    now.iter().fold(ProgramTime::default(), |sum, (number, program)| {
        let before = before.get(number).copied().unwrap_or_default();
        ProgramTime {
            runs: sum.runs + program.runs.saturating_sub(before.runs),
            seconds: sum.seconds + (program.seconds - before.seconds).max(0.0),
        }
    })
}

/// All programs that a process holds, given its folder in procfs; each once, however many descriptors lead to it.
pub(super) fn read(folder: &Path) -> Result<Programs> {
    let folder = folder.join("fdinfo");
    let mut programs = Programs::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = entry.and_then(|entry| fs::read_to_string(entry.path())) else { continue };
        programs.extend(program(&text));
    }
    Ok(programs)
}

/// The number of a program and its times, in the text about its descriptor; `None` for other descriptors.
fn program(text: &str) -> Option<(u64, ProgramTime)> {
    let number = |field: &str| text.lines().find_map(|line| line.strip_prefix(field))?.trim().parse::<u64>().ok();
    number("prog_type:")?;
    let seconds = number("run_time_ns:")? as f64 / 1e9;
    Some((number("prog_id:")?, ProgramTime { runs: number("run_cnt:")?, seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_gone_takes_nothing_back() {
        let time = |runs, seconds| ProgramTime { runs, seconds };
        let before = Programs::from([(1, time(100, 9.0)), (2, time(10, 1.0))]);
        let now = Programs::from([(2, time(15, 1.5)), (3, time(7, 0.25))]);
        assert_eq!(since(&now, &before), time(12, 0.75));
    }

    #[test]
    fn programs_are_told_from_other_descriptors() {
        let text = "pos:\t0\nprog_type:\t7\nprog_jited:\t1\nmemlock:\t4096\nprog_id:\t25\nrun_time_ns:\t2000000000\nrun_cnt:\t8\n";
        assert_eq!(program(text), Some((25, ProgramTime { runs: 8, seconds: 2.0 })));
        // A link names its program, and is none.
        assert_eq!(program("link_type:\tperf\nprog_tag:\taa\nprog_id:\t25\n"), None);
        assert_eq!(program("pos:\t0\nflags:\t02\n"), None);
    }
}

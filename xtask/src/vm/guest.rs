//! One run of qemu: from power-on to power-off, or to the time limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::host;

/// The guest's memory: the archive, once compressed and once unpacked, and room for what runs.
const MEMORY_MIB: u32 = 3072;
/// The guest's CPUs: scenarios have programs with two busy threads.
const CPUS: u32 = 2;
/// How long nothing may appear on the console: no step and no scenario takes a third of it under emulation.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether the guest has powered off.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// What the kernel is told: messages on the serial console, those of errors only, and power-off instead of going on
/// after an error of its own. Mitigations cost much under emulation and change nothing that is tested.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 oops=panic panic=-1 mitigations=off nokaslr";

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the processor.
    Kvm,
    /// In software.
    Emulation,
}

impl Accelerator {
    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Emulation => "software emulation",
        }
    }

    /// Whether the kernel died of the emulator, by how the guest ended and what appeared on the console. qemu before 8.1 with a thread per CPU at
    /// times runs code that another CPU has changed meanwhile as it was in between: the kernel, which switches its own
    /// features so, meets a breakpoint that nobody knows of any more, or meets one for ever: then all CPUs are busy and not even the
    /// time limits of scenarios come about any more.
    pub(super) fn is_to_blame(self, end: End, serial: &str) -> bool {
        let has_died = || serial.lines().any(|line| line.contains("] Oops: int3: "));
        self == Accelerator::Emulation && (matches!(end, End::Stalled(_)) || has_died())
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// qemu ended by itself: the guest powered off, or could not be started; the serial log tells which.
    Exited,
    /// It took longer than the limit and was killed.
    TimeLimit(Duration),
    /// Nothing appeared on its console for so long, and it was killed.
    Stalled(Duration),
}

/// What to boot.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    /// What people call it.
    pub(super) name: &'a str,
    /// The kernel.
    pub(super) image: &'a Path,
    /// Its first file system.
    pub(super) archive: &'a Path,
    /// How to run it.
    pub(super) accelerator: Accelerator,
    /// Where all that appears on the serial console is kept.
    pub(super) log: PathBuf,
}

impl Guest<'_> {
    /// Boots, and waits until the guest powers off or the limit has passed.
    ///
    /// # Errors
    /// When qemu cannot be started. A guest that fails is not an error here: see the log.
    pub(super) fn run(&self, limit: Duration) -> Result<End> {
        let log = File::create(&self.log).with_context(|| format!("cannot create {}", self.log.display()))?;
        let errors = log.try_clone().with_context(|| format!("cannot write {}", self.log.display()))?;
        // Through setpriv, so that the guest does not outlive this process, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(self.accelerator.arguments())
            .args(["-m", &format!("{MEMORY_MIB}M"), "-smp", &CPUS.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-no-reboot")
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.archive)
            .args(["-append", KERNEL_ARGUMENTS])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", host::line(&command)))?;
        let begin = Instant::now();
        let (mut said_bytes, mut said_at) = (0, begin);
        loop {
            if child.try_wait().context("cannot wait for qemu")?.is_some() {
                return Ok(End::Exited);
            }
            let bytes = fs::metadata(&self.log).map_or(said_bytes, |log| log.len());
            if bytes != said_bytes {
                (said_bytes, said_at) = (bytes, Instant::now());
            }
            let end = match () {
                () if begin.elapsed() > limit => End::TimeLimit(limit),
                () if said_at.elapsed() > SILENCE_MAX => End::Stalled(SILENCE_MAX),
                () => {
                    thread::sleep(POLL_INTERVAL);
                    continue;
                }
            };
            child.kill().context("cannot kill qemu")?;
            child.wait().context("cannot wait for qemu")?;
            return Ok(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_is_blamed_for_nothing_else() {
        let died = "[    7.038414] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n[    7.038980] CPU: 0 UID: 0 PID: 0\r\n";
        assert!(Accelerator::Emulation.is_to_blame(End::Exited, died));
        assert!(!Accelerator::Kvm.is_to_blame(End::Exited, died));
        assert!(Accelerator::Emulation.is_to_blame(End::Stalled(SILENCE_MAX), ""));
        assert!(!Accelerator::Kvm.is_to_blame(End::Stalled(SILENCE_MAX), ""));
        for other in [
            "",
            "[    7.0] Oops: 0002 [#1] PREEMPT SMP NOPTI\n",
            "test int3 ... FAILED\n",
            "Oops: int3: as a test says\n",
        ] {
            assert!(!Accelerator::Emulation.is_to_blame(End::Exited, other), "{other}");
        }
    }
}

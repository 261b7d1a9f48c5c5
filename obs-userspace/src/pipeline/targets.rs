//! The processes that a recording was asked for: that they exist, and when they end.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Chosen processes (or a started command); the recording has no more to do when all have ended.
pub(super) struct Targets {
    /// Whether there were any: nobody has no end.
    any: bool,
    /// Those that had not ended when they were last looked at.
    living: Vec<OwnedFd>,
}

impl Targets {
    /// Looks the processes up.
    ///
    /// # Errors
    /// If one does not exist or is a thread of another.
    pub(super) fn open(pids: &[u32]) -> anyhow::Result<Self> {
        let living = pids.iter().map(|&pid| Self::open_one(pid)).collect::<Result<_, _>>()?;
        Ok(Self { any: !pids.is_empty(), living })
    }

    fn open_one(pid: u32) -> anyhow::Result<OwnedFd> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        let Ok(status) = status else { bail!("there is no process {pid}; `ps -e` lists those that there are") };
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<u32>().ok());
        if let Some(process) = process.filter(|process| *process != pid) {
            bail!("{pid} is a thread of the process {process}; choose threads with --tid");
        }
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id is a positive number")?;
        pidfd_open(id, PidfdFlags::empty()).with_context(|| format!("cannot watch the process {pid}"))
    }

    /// Whether there were some, and all have ended.
    pub(super) fn all_ended(&mut self) -> bool {
        // A descriptor of a process is readable when it has ended, and for ever after: who is woken by it forgets it.
        self.living.retain(|fd| {
            let mut fds = [PollFd::new(fd, PollFlags::IN)];
            !poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        });
        self.any && self.living.is_empty()
    }

    /// Becomes readable when one of them ends that [`Self::all_ended`] has not seen to have ended. Only one is watched at a time: the
    /// others are looked at when that one has ended.
    pub(super) fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.living.first().map(|fd| fd.as_fd())
    }
}

/// Checks that threads exist.
///
/// # Errors
/// If one does not.
pub(super) fn check_threads(tids: &[u32]) -> anyhow::Result<()> {
    for tid in tids {
        if !fs::exists(format!("/proc/{tid}")).unwrap_or(false) {
            bail!("there is no thread {tid}; `ps -eL` lists those that there are");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn tells_when_all_have_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut targets = Targets::open(&[child.id()]).unwrap();
        assert!(!targets.all_ended());
        child.kill().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(targets.wake_fd().unwrap(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        assert!(targets.all_ended());
        assert!(targets.all_ended(), "and it stays so");
        child.wait().unwrap();
        assert!(!Targets::open(&[]).unwrap().all_ended(), "nobody was chosen: there is no end");
    }

    #[test]
    fn one_that_has_ended_wakes_nobody_for_the_others() {
        let mut children = [(); 2].map(|()| Command::new("sleep").arg("1000").spawn().unwrap());
        let mut targets = Targets::open(&children.each_ref().map(Child::id)).unwrap();
        let [first, second] = &mut children;
        first.kill().unwrap();
        let is_woken = |targets: &Targets, at_most: Option<&Timespec>| {
            poll(&mut [PollFd::from_borrowed_fd(targets.wake_fd().unwrap(), PollFlags::IN)], at_most).unwrap() > 0
        };
        assert!(is_woken(&targets, None));
        assert!(!targets.all_ended());
        let left = is_woken(&targets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        second.kill().unwrap();
        assert!(!left, "the first has ended, which is known already");
        assert!(is_woken(&targets, None));
        assert!(targets.all_ended());
        for mut child in children {
            child.wait().unwrap();
        }
    }

    #[test]
    fn refuses_what_does_not_exist() {
        let error = Targets::open(&[4_194_305]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no process 4194305"), "{error}");
        assert!(check_threads(&[4_194_305]).is_err());
        assert!(check_threads(&[std::process::id()]).is_ok());
    }
}

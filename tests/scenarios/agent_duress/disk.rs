//! Where the history cannot be written: a full disk, a folder that may only be read, a folder that is none.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::{
    client,
    running::{self, Running, windows},
};
use crate::harness::{Context, Finished, wait_until};

/// How large the small disk is: room for some windows and for what names need.
const DISK_OPTIONS: &std::ffi::CStr = c"size=4m";

/// More than any small disk has room for, in pieces of this size, in bytes.
const PIECE_BYTES: usize = 4096;

/// A small file system in memory. Dropping it removes it.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn make() -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), DISK_OPTIONS).context("mounting a tmpfs")?;
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.filler()).context("making a file")?;
        loop {
            match file.write_all(&[b'x'; PIECE_BYTES]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!("filling the disk failed: {error}"),
            }
        }
    }

    /// Gives it back.
    fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("removing a file")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.folder.path(), UnmountFlags::DETACH) {
            println!("  could not unmount {}: {error}", self.folder.path().display());
        }
    }
}

/// While the disk is full, windows are lost and counted, and nothing else happens; with room again, windows are kept again.
pub(super) fn full(context: &Context) -> Result<()> {
    let disk = SmallDisk::make()?;
    let agent = Running::start_in(context, "", tempfile::tempdir()?, disk.state())?;
    agent.wait_for_windows(context, 2)?;
    disk.fill()?;
    let failed = || agent.metric("obs_agent_stage_errors_total", &["stage=\"keep\""]);
    let dropped = || agent.metric("obs_agent_stage_dropped_total", &["stage=\"keep\""]);
    wait_until("two windows are lost", context.limit(), || {
        // What is freed meanwhile (a journal's torn end) is filled again.
        disk.fill()?;
        Ok(failed()? >= 2.0)
    })?;
    agent.wait_for_log(context, "a window was lost: it cannot be written")?;
    agent.wait_for_log(context, "make room on that file system")?;
    // It still answers, and what it kept before is whole.
    let live = client::get(agent.address(), "/live")?;
    ensure!(live.status == 200, "/live says {}: {}", live.status, live.text());
    let (kept, lost) = (agent.windows(context)?, failed()?);
    ensure!(kept >= 2, "of two windows {kept} are left");
    ensure!(agent.is_running(), "the agent ended");

    disk.free()?;
    agent.wait_for_windows(context, kept + 2)?;
    let (received, sent) = (
        agent.metric("obs_agent_stage_received_total", &["stage=\"keep\""])?,
        agent.metric("obs_agent_stage_sent_total", &["stage=\"keep\""])?,
    );
    // Read one after the other: a window may have come in between.
    let accounted = sent + failed()? + dropped()?;
    ensure!((received - accounted).abs() <= 3.0, "{received} windows came, {accounted} are accounted for");
    println!("  {kept} windows before, {lost} lost while the disk was full");
    agent.stop(context)?;
    ensure!(windows(context, &disk.state())? >= kept + 2, "windows are gone");
    Ok(())
}

/// An agent that finds its disk full when it starts runs all the same: else nobody would be told, and a reboot would end it.
pub(super) fn full_at_start(context: &Context) -> Result<()> {
    let disk = SmallDisk::make()?;
    let agent = Running::start_in(context, "", tempfile::tempdir()?, disk.state())?;
    agent.wait_for_windows(context, 2)?;
    disk.fill()?;
    agent.kill(context)?;
    disk.fill()?;
    let kept = windows(context, &disk.state())?;
    // Not one page is left, not even for a process id.
    fs::write(disk.state().join("lock"), "").context("emptying the lock's file")?;
    disk.fill()?;
    let agent = Running::start_in(context, "", tempfile::tempdir()?, disk.state())?;
    wait_until("a window is lost", context.limit(), || {
        disk.fill()?;
        Ok(agent.metric("obs_agent_stage_errors_total", &["stage=\"keep\""])? >= 1.0)
    })?;
    ensure!(agent.windows(context)? >= kept, "windows are gone");
    disk.free()?;
    agent.wait_for_windows(context, kept + 1)?;
    agent.stop(context).map(drop)
}

/// Runs the agent, which must refuse to start with this status and these words.
fn refused(context: &Context, state: &Path, status: i32, words: &[&str]) -> Result<Finished> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let config = folder.path().join("obs.yaml");
    fs::write(&config, "").context("writing a configuration")?;
    let log = folder.path().join("obs.log");
    let finished = context.run(&mut running::command(context, state, &config, &log))?;
    let Finished { status: ended, stderr, .. } = &finished;
    ensure!(ended.code() == Some(status), "on {} it ended with {ended}: {stderr}", state.display());
    for word in words {
        ensure!(stderr.contains(word), "on {} it does not say {word:?}: {stderr}", state.display());
        // A reason that is given twice is harder to read.
        ensure!(stderr.matches(word).count() == 1, "on {} it says {word:?} twice: {stderr}", state.display());
    }
    Ok(finished)
}

/// A folder that can only be read is refused, whether there is a history in it or not.
pub(super) fn read_only(context: &Context) -> Result<()> {
    let disk = SmallDisk::make()?;
    let agent = Running::start_in(context, "", tempfile::tempdir()?, disk.state())?;
    agent.wait_for_windows(context, 1)?;
    agent.stop(context)?;
    let kept = windows(context, &disk.state())?;
    mount_remount(disk.path(), MountFlags::RDONLY, DISK_OPTIONS).context("mounting it again, to read only")?;
    let advice = "choose a state folder on a file system that can be written";
    for (state, place) in [(disk.state(), "state/lock"), (disk.path().join("other"), "other/blocks")] {
        refused(context, &state, 1, &["Read-only file system", place, advice])?;
    }
    // What was kept can be read all the same.
    ensure!(windows(context, &disk.state())? == kept, "windows are gone");
    Ok(())
}

/// What is no folder, or names none, is refused.
pub(super) fn no_folder(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").context("writing a file")?;
    let inside = file.join("state");
    refused(
        context,
        Path::new("var/obs"),
        2,
        &["OBS_STATE_DIR", "'var/obs' does not begin with /", "an absolute path"],
    )?;
    for state in [&file, &inside] {
        refused(context, state, 1, &["Not a directory", "create the folder"])?;
    }
    ensure!(fs::read_to_string(&file)? == "not a folder", "the file was changed");
    // A name that leads to itself.
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).context("making a link")?;
    refused(context, &circle, 1, &["circle", "create the folder"])?;
    Ok(())
}

//! Keeps CPUs busy while something is measured.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use anyhow::{Context as _, Result};

use crate::host;

/// Programs that compress for as long as this lives.
pub(crate) struct Load(Vec<Child>);

impl Load {
    /// Compresses the file again and again, in as many processes.
    pub(crate) fn start(count: usize, file: &Path) -> Result<Self> {
        let mut load = Load(Vec::new());
        for _ in 0..count {
            // xz reads a pipe whose only other end is held here: it ends when this process does, however that happens.
            let mut command = host::program("xz");
            command.args(["-6", "-c"]).stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn().context("cannot start xz as a load")?;
            let mut pipe = child.stdin.take().context("xz has no standard input")?;
            load.0.push(child);
            // In pieces: what this process holds would count as the memory of the programs that it starts.
            let file = file.to_owned();
            thread::spawn(
                move || while File::open(&file).and_then(|mut file| io::copy(&mut file, &mut pipe)).is_ok() {},
            );
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // They may be gone already; there is nothing to do about it if not.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

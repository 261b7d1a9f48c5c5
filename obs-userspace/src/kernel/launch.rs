//! Starts a command that waits until it is being watched.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
    thread::JoinHandle,
};

/// A command whose process exists but has not executed its first instruction.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    gate: PipeWriter,
    spawner: JoinHandle<io::Result<Child>>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running(Child);

impl Held {
    /// Creates the process. It stops before `exec`, so that its very first instruction can be measured.
    ///
    /// # Errors
    /// If no process can be created. That the program does not exist is found out by [`Held::release`].
    pub fn start(command: &[OsString]) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(program);
        child.args(arguments);
        let (mut pid_reader, pid_writer) = io::pipe()?;
        let (gate_reader, gate) = io::pipe()?;
        let (pid_out, gate_in, gate_out) = (pid_writer.as_raw_fd(), gate_reader.as_raw_fd(), gate.as_raw_fd());
        // SAFETY: between fork and exec the closure makes async-signal-safe calls only, on descriptors that live until
        // `spawn` returns.
        unsafe { child.pre_exec(move || hold(pid_out, gate_in, gate_out)) };

        // `spawn` returns only after `exec`, which waits for the gate: so it waits in a thread of its own.
        let spawner = std::thread::Builder::new().name("obs-launch".to_owned()).spawn(move || {
            let spawned = child.spawn();
            drop::<(PipeWriter, PipeReader)>((pid_writer, gate_reader));
            spawned
        })?;
        let mut pid = [0; 4];
        match pid_reader.read_exact(&mut pid) {
            Ok(()) => Ok(Self { pid: u32::from_ne_bytes(pid), gate, spawner }),
            // The process ended, or never was: the thread knows why.
            Err(error) => Err(join(spawner).err().unwrap_or(error)),
        }
    }

    /// The id of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it run.
    ///
    /// # Errors
    /// If the program cannot be executed.
    pub fn release(mut self) -> io::Result<Running> {
        self.gate.write_all(&[1])?;
        join(self.spawner).map(Running)
    }
}

fn join(spawner: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawner.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts the command panicked")))
}

/// Runs in the new process: tells its id and waits for the gate.
fn hold(pid_out: i32, gate_in: i32, gate_out: i32) -> io::Result<()> {
    let mut byte = [0_u8; 1];
    // SAFETY: the calls take valid buffers of the given sizes and descriptors inherited from the parent.
    let opened = unsafe {
        // Else this process would hold its own gate open, and wait forever if obs died.
        libc::close(gate_out);
        let pid = libc::getpid().to_ne_bytes();
        let told = libc::write(pid_out, pid.as_ptr().cast(), pid.len());
        told == 4 && libc::read(gate_in, byte.as_mut_ptr().cast(), 1) == 1
    };
    if !opened {
        // obs gave up. There may be nobody left to report an error to, and trying would print one.
        // SAFETY: the call ends this process at once.
        unsafe { libc::_exit(1) };
    }
    Ok(())
}

impl Running {
    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

/// The exit status that a shell would report: the command's own, or 128 and the number of the signal that ended it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(words: &[&str]) -> Held {
        Held::start(&words.iter().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn waits_for_its_release_and_returns_the_status() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let command = held(&["sh", "-c", &format!("touch {}; exit 3", mark.display())]);
        assert!(command.pid() > 0);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!mark.exists(), "it ran before it was released");
        let mut running = command.release().unwrap();
        assert_eq!(exit_code(running.wait().unwrap()), 3);
        assert!(mark.exists());
    }

    #[test]
    fn reports_a_missing_program_and_a_signal() {
        assert_eq!(held(&["/no/such/program"]).release().unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut killed = held(&["sh", "-c", "kill -9 $$"]).release().unwrap();
        assert_eq!(exit_code(killed.wait().unwrap()), 137);
    }

    #[test]
    fn a_command_that_is_never_released_ends() {
        let command = held(&["sleep", "1000"]);
        drop(command.gate);
        assert_eq!(exit_code(join(command.spawner).unwrap().wait().unwrap()), 1);
    }
}

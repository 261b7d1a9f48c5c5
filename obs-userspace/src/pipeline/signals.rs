//! Signals: Ctrl-C ends a recording early, and obs at once when it comes twice; SIGHUP makes the agent read its configuration again.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    SigId,
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag, low_level,
};

/// What a shell reports of a program that was ended by Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

/// Listens for the signals that ask a program to end, while it lives.
pub(super) struct EndRequests {
    stream: UnixStream,
    registered: Vec<SigId>,
}

impl EndRequests {
    /// Starts listening, for the signals that end a recording.
    pub(super) fn listen() -> io::Result<Self> {
        Self::listen_to(&[SIGINT, SIGTERM, SIGHUP])
    }

    fn listen_to(signals: &[i32]) -> io::Result<Self> {
        let (stream, sender) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        let mut registered = Vec::new();
        for &signal in signals {
            // In this order: the first signal finds the flag unset and sets it, the second finds it set.
            registered.push(flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, asked.clone())?);
            registered.push(flag::register(signal, asked.clone())?);
            registered.push(low_level::pipe::register(signal, sender.try_clone()?)?);
        }
        Ok(Self { stream, registered })
    }

    /// Whether a signal came.
    pub(super) fn received(&self) -> bool {
        (&self.stream).read(&mut [0; 16]).is_ok_and(|count| count > 0)
    }
}

impl AsFd for EndRequests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for EndRequests {
    /// The flags that end the process at once stay: results are still being written.
    fn drop(&mut self) {
        for (index, id) in self.registered.iter().enumerate() {
            if index % 3 == 2 {
                low_level::unregister(*id);
            }
        }
    }
}

/// Listens for what people and service managers ask of an agent, while it lives.
pub(super) struct AgentSignals {
    /// SIGTERM and SIGINT: end. A second one ends the process at once.
    pub(super) end: EndRequests,
    /// SIGHUP: read the configuration again.
    reload: UnixStream,
    registered: SigId,
}

impl AgentSignals {
    /// Starts listening.
    pub(super) fn listen() -> io::Result<Self> {
        let end = EndRequests::listen_to(&[SIGINT, SIGTERM])?;
        let (reload, sender) = UnixStream::pair()?;
        reload.set_nonblocking(true)?;
        let registered = low_level::pipe::register(SIGHUP, sender)?;
        Ok(Self { end, reload, registered })
    }

    /// Whether a reload was asked for since the last call.
    pub(super) fn reload_asked(&self) -> bool {
        (&self.reload).read(&mut [0; 16]).is_ok_and(|count| count > 0)
    }

    /// Readable when there is something to do.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.end.as_fd(), self.reload.as_fd()]
    }
}

impl Drop for AgentSignals {
    fn drop(&mut self) {
        low_level::unregister(self.registered);
    }
}

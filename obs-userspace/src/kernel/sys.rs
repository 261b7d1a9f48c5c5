//! The raw system calls that aya 0.14 has no words for: bpf(2) and perf_event_open(2), and the memory that they share.
//!
//! **Boundary:** what comes out is safe to call. Sizes are checked against the kernel's own idea of them before the
//! kernel is given an address; every descriptor is owned by somebody and closed on exec.

pub mod bpf;
pub mod drain;
pub mod jited;
pub mod perf;
pub mod program;
pub mod ring;

/// A request that the kernel refused, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}: {source}")]
pub struct SysError {
    /// What was attempted, on what.
    pub attempted: String,
    /// What the kernel said.
    pub source: std::io::Error,
    /// Whether it was the verifier that refused: some of its refusals look like missing privileges.
    pub by_verifier: bool,
}

impl SysError {
    pub(crate) fn new(attempted: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { attempted: attempted.into(), source: source.into(), by_verifier: false }
    }

    pub(crate) fn last(attempted: impl Into<String>) -> Self {
        Self::new(attempted, std::io::Error::last_os_error())
    }

    pub(crate) fn invalid(attempted: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(attempted, std::io::Error::new(std::io::ErrorKind::InvalidInput, why.into()))
    }

    /// The kernel's error number, 0 where the refusal is our own.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Whether a privilege is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        !self.by_verifier && matches!(self.errno(), libc::EPERM | libc::EACCES)
    }
}

/// The CPUs that are online.
///
/// # Errors
///
/// `/sys/devices/system/cpu/online` cannot be read.
pub fn online_cpus() -> Result<Vec<u32>, SysError> {
    aya::util::online_cpus().map_err(|(attempted, source)| SysError::new(attempted, source))
}

/// How many CPUs there can ever be: how many values a per-CPU map has for each key.
///
/// # Errors
///
/// `/sys/devices/system/cpu/possible` cannot be read.
pub fn possible_cpus() -> Result<usize, SysError> {
    aya::util::nr_cpus().map_err(|(attempted, source)| SysError::new(attempted, source))
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_bytes() -> usize {
    // SAFETY: no address is passed.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4_096)
}

//! The filter that runs in the kernel, before anything is paid for.
//!
//! Kinds of filter are joined by *and*, the entries of one kind by *or*. Its flags are fixed when a program is loaded, so
//! that the verifier removes what is not asked for.

/// Only processes in the map `FILTER_TGIDS`.
pub const BY_TGID: u32 = 1 << 0;
/// Only threads in the map `FILTER_TIDS`.
pub const BY_TID: u32 = 1 << 1;
/// Only threads whose own name or whose process's name is in the map `FILTER_COMMS`.
pub const BY_COMM: u32 = 1 << 2;
/// Only threads in, or below, a cgroup in the map `FILTER_CGROUPS`.
pub const BY_CGROUP: u32 = 1 << 3;
/// Never the process in `SELF_TGID`.
pub const NOT_SELF: u32 = 1 << 4;

/// In the map `FILTER_TGIDS`: the process is chosen.
pub const CHOSEN: u8 = 1;
/// In the map `FILTER_TGIDS`: the process is chosen from the moment that it executes a program.
pub const CHOSEN_AT_EXEC: u8 = 2;

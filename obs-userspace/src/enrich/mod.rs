//! Who an address and a process are: from process ids to processes and containers, from addresses to names.
//!
//! **Invariant:** imports `model` (and `obs-unwind`) only. Whatever it reads (`/proc`, ELF files, perf maps) belongs to
//! the processes that are watched, and may be written to mislead: everything is read with bounds, opened so that it can
//! neither block nor lead elsewhere, and named only when it is known to be the file that was mapped.
//!
//! **Boundary:** nothing here knows BPF. What the kernel side says arrives as [`crate::model::process::ProcessEvent`] and
//! [`crate::model::record::StackSample`]; what leaves is a [`crate::model::profile::Profile`],
//! or a [`crate::model::process::Identity`].

pub mod build;
pub mod identity;
pub mod process;
pub mod symbolize;

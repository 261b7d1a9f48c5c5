//! Everything that talks to the kernel: loads, attaches, reads, and finds out what works here.
//!
//! **Boundary:** only this module knows aya and makes raw system calls, and only here does user space have `unsafe`. What
//! comes out of it are plain values.

pub mod attach;
pub mod btf;
pub mod features;
pub mod file_map;
pub mod heap;
pub mod latency;
pub mod launch;
pub mod load;
mod mapped_array;
mod offsets;
pub mod read;
pub mod sideband;
mod space;
pub mod sys;
pub mod unwind;
pub mod waits;

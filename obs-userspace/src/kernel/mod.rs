//! Everything that talks to the kernel: loads, attaches, reads, and finds out what works here.
//!
//! **Boundary:** only this module knows aya and makes raw system calls. What comes out of it are plain values.

pub mod btf;
pub mod sideband;
pub mod sys;

//! Known-answer programs, and what obs must show of them on a real kernel.
//!
//! - `workloads/`: programs that know the answer, each with its true call chain or shares in its first lines;
//! - [`workloads`]: the table of how each is compiled, and the function that does it;
//! - `scenarios/`: what obs must show of them. One file per theme; `scenarios/harness.rs` says how to add one.

pub mod workloads;

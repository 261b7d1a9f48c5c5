//! Byte layouts and limits that the BPF programs (`obs-ebpf`) and the daemon (`obs-userspace`) share.
//!
//! Everything here is `repr(C)`, free of padding that nobody wrote, and free of logic, but for what both sides must compute alike
//! ([`histogram`]). A field that a key holds is part
//! of what is counted apart: nothing that varies from sample to sample (an instruction pointer, a stack pointer, a
//! time) may stand in a key.
#![no_std]

pub mod counters;
pub mod events;
pub mod filter;
pub mod histogram;
pub mod latency;
pub mod limits;
pub mod stack;
pub mod unwind_map;
pub mod unwind_row;
pub mod wait;

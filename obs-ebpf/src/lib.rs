//! The kernel side of obs: what every collector's program shares.
//!
//! A program goes through these in order: [`filter`] (is this asked for?), [`process`] (who is it?), [`stack`] (where is
//! it?), its own measurement, and a count in a map. Whatever is lost on the way is counted by [`loss`].
//!
//! **Invariant:** nothing here writes to user memory, changes a return value, sends a signal or touches a packet.
//! **Invariant:** nothing here can panic: the verifier has no place to go for it, and the build refuses such an object.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    expect(unstable_features, reason = "inline assembly for BPF is not stable yet"),
    feature(asm_experimental_arch)
)]

pub mod counts;
pub mod filter;
pub mod latency;
pub mod loss;
pub mod process;
pub mod registers;
pub mod ring;
mod snapshot;
pub mod stack;
mod system_call;
pub mod task;
pub mod unwind;
mod verifier;
pub mod wait;

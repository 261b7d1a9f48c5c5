//! The kernel's side of the border: load, attach, read maps.
//!
//! **Invariant:** this is the only module that knows aya, and the only one in user space with `unsafe`.

pub mod attach;
pub mod btf;
pub mod launch;
pub mod load;
mod offsets;
pub mod read;

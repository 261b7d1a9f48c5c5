//! What the user chose: plain data that every stage may read.

pub mod agent;
pub mod duration;
pub mod filter;
pub mod sampling;
pub mod symbol_cache;
pub mod waits;

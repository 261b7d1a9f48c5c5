//! obs as a library. The modules stand in the order in which data flows through them.

pub mod config;
pub mod kernel;
pub mod model;

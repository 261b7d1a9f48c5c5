//! obs as a library. The modules stand in the order in which data flows through them.

pub mod cli;
pub mod collect;
pub mod config;
pub mod kernel;
pub mod model;
pub mod telemetry;

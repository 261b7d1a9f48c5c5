//! The only place that wires stages together.

pub mod agent;
mod convert;
pub mod latency;
pub mod record;
mod session;
mod signals;
mod targets;
mod unwind;
mod window_histograms;

//! The only place that wires stages together.

pub mod record;
mod signals;
mod targets;

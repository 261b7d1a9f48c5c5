//! The only place that wires stages together.

mod convert;
pub mod record;
mod session;
mod signals;
mod targets;
mod unwind;

//! The records of one kind of event each.

pub mod process;

//! Independent readers of what obs writes: none shares code with the writers.

pub(crate) mod folded;
pub(crate) mod pprof;
pub(crate) mod protobuf;
pub(crate) mod speedscope;
pub(crate) mod svg;

//! obs as a library, in the order in which data flows: kernel → collect → enrich → aggregate → export.

pub mod kernel;
pub mod model;

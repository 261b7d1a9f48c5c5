//! obs as a library, in the order in which data flows: kernel → collect → enrich → aggregate → export.

pub mod enrich;
pub mod model;

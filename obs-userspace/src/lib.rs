//! obs as a library, in the order in which data flows: kernel → collect → enrich → aggregate → export.

pub mod model;

pub mod export;

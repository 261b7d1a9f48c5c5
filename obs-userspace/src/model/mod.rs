//! The closed set of shapes that flow from the collectors to everything downstream.
//!
//! **Invariant:** this module imports nothing of ours. A collector decodes the kernel's bytes into these shapes; enrich,
//! aggregate, store, export and the page see these only, so that a new collector changes nothing after `collect`.

pub mod container;
pub mod process;
pub mod profile;
pub mod quantile;
pub mod record;
pub mod stack;
pub mod summary;
pub mod wait;

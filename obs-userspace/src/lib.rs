//! obs as a library. The modules stand in the order in which data flows through them.

pub mod config;
pub mod kernel;

pub mod collect;

pub mod enrich;

pub mod store;

pub mod export;
pub mod web;

pub mod model;

pub mod cli;
pub mod pipeline;
pub mod telemetry;

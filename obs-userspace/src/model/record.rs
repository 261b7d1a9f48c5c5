//! The records that a collector hands on: samples of stacks, counters, gauges, histograms, events.

use std::sync::Arc;

use super::{
    process::ProcessKey,
    stack::Stack,
    wait::{Wait, Waker},
};

/// A stack, who was in it, and how often or how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackSample {
    /// The process image that was measured.
    pub process: ProcessKey,
    /// The name of the thread that was measured.
    pub thread_name: Arc<str>,
    /// The id of its cgroup in the unified hierarchy.
    pub cgroup_id: u64,
    /// Its user stack, if it has one.
    pub user: Option<Arc<Stack>>,
    /// Its kernel stack, if it was in the kernel.
    pub kernel: Option<Arc<Stack>>,
    /// What it waited for, if a wait was measured.
    pub wait: Option<Wait>,
    /// Who ended the wait, if that was asked for.
    pub waker: Option<Waker>,
    /// Samples or events.
    pub count: u64,
    /// Their summed weight, in the unit of the collector's weighted output.
    pub weight: u64,
}

/// A label of a series: a name and a value.
pub type Label = (&'static str, Arc<str>);

/// A sum that only grows, as it stood when it was read.
///
/// What it counts from stands with the output: the collector's start, the host's, or that of what is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counter {
    /// The output's name, one of those that the collector declares.
    pub name: &'static str,
    /// What tells this series from its siblings.
    pub labels: Vec<Label>,
    /// The sum, in the output's base unit. Seconds have fractions; whole numbers are exact up to 2^53.
    pub value: f64,
}

/// A value that goes up and down.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// The output's name, one of those that the collector declares.
    pub name: &'static str,
    /// What tells this series from its siblings.
    pub labels: Vec<Label>,
    /// The value when it was read.
    pub value: f64,
}

/// Latencies (or sizes) by bucket: base-2 exponential of schema 3, each bucket 2^(1/8) wide.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The output's name, one of those that the collector declares.
    pub name: &'static str,
    /// What tells this series from its siblings.
    pub labels: Vec<Label>,
    /// Index of the first bucket: bucket `i` holds values in `(2^((i-1)/8), 2^(i/8)]` of the output's base unit.
    pub first_bucket: i32,
    /// Events per bucket.
    pub buckets: Vec<u64>,
    /// Events below every bucket (exactly zero).
    pub zero_count: u64,
    /// Sum of all values, in the output's base unit.
    pub sum: f64,
}

/// Something that happened once.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The output's name, one of those that the collector declares.
    pub name: &'static str,
    /// When, in nanoseconds of the boot-time clock.
    pub time_ns: u64,
    /// To which process, if to one.
    pub process: Option<ProcessKey>,
    /// What else is known of it.
    pub labels: Vec<Label>,
}

/// One record of a collector.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A stack with its count.
    StackSample(StackSample),
    /// A growing sum.
    Counter(Counter),
    /// A value.
    Gauge(Gauge),
    /// A distribution.
    Histogram(Histogram),
    /// Something that happened.
    Event(Event),
}

//! Where readers put what they found: records by the table of metrics, what is absent and why, and what failed.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
};

use super::metrics::{MetricKind, ResourceMetric};
use crate::model::record::{Counter, Event, Gauge, Label, Record};

/// The value of a label.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// One of a few words of ours.
    Word(&'static str),
    /// A name that is kept by whoever gives it.
    Name(&'a Arc<str>),
}

/// What keeps from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    words: HashMap<&'static str, Arc<str>>,
    /// Failed reads since the start, by what was read.
    errors: BTreeMap<&'static str, u64>,
}

impl Memory {
    pub(super) fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.errors
    }
}

/// Takes what one reading finds.
#[derive(Debug)]
pub(super) struct Out<'a> {
    records: &'a mut Vec<Record>,
    memory: &'a mut Memory,
    /// Why metrics have no value, the first reason each.
    absent: BTreeMap<&'static str, String>,
    /// Nanoseconds of the boot-time clock.
    now_ns: u64,
}

impl<'a> Out<'a> {
    pub(super) fn new(records: &'a mut Vec<Record>, memory: &'a mut Memory, now_ns: u64) -> Self {
        Self { records, memory, absent: BTreeMap::new(), now_ns }
    }

    /// The time of this reading, in nanoseconds of the boot-time clock.
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Hands on a value. Labels stand in the order of the metric's declaration; those that are left out at its end do not
    /// apply.
    pub(super) fn put(&mut self, metric: &'static ResourceMetric, labels: &[Value<'_>], value: f64) {
        debug_assert!(labels.len() <= metric.labels.len(), "{}: {labels:?}", metric.name);
        let labels = self.labels(metric, labels);
        let name = metric.name;
        self.records.push(match metric.kind {
            MetricKind::Counter => Record::Counter(Counter { name, labels, value }),
            MetricKind::Gauge => Record::Gauge(Gauge { name, labels, value }),
            MetricKind::Event => Record::Event(Event { name, time_ns: self.now_ns, process: None, labels }),
        });
    }

    /// Hands on that something happened. A label with an empty value does not apply.
    pub(super) fn event(&mut self, metric: &'static ResourceMetric, labels: &[Value<'_>]) {
        let mut labels = self.labels(metric, labels);
        labels.retain(|(_, value)| !value.is_empty());
        self.records.push(Record::Event(Event { name: metric.name, time_ns: self.now_ns, process: None, labels }));
    }

    fn labels(&mut self, metric: &'static ResourceMetric, values: &[Value<'_>]) -> Vec<Label> {
        let words = &mut self.memory.words;
        let mut value = |value: &Value<'_>| match value {
            Value::Word(word) => Arc::clone(words.entry(word).or_insert_with(|| (*word).into())),
            Value::Name(name) => Arc::clone(name),
        };
        metric.labels.iter().zip(values).map(|(name, given)| (*name, value(given))).collect()
    }

    /// Says why metrics have no value. The first reason stays.
    pub(super) fn absent(&mut self, metrics: &[&'static ResourceMetric], reason: impl Into<String>) {
        let reason = reason.into();
        for metric in metrics {
            self.absent.entry(metric.name).or_insert_with(|| reason.clone());
        }
    }

    /// Says that a file could not be read, and which metrics have no value for it. That the kernel has no such file, or gives it to others only, is no
    /// error, but a fact.
    pub(super) fn unreadable(
        &mut self,
        metrics: &[&'static ResourceMetric],
        what: &'static str,
        path: &Path,
        error: &io::Error,
    ) {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => format!("this kernel has no {}", path.display()),
            // What reading pressure files says where the kernel was booted with psi=0.
            io::ErrorKind::Unsupported => format!("{} is switched off in this kernel", path.display()),
            io::ErrorKind::PermissionDenied => format!("obs has not the right to read {}", path.display()),
            _ => {
                self.failed(what);
                format!("{} cannot be read: {error}", path.display())
            }
        };
        self.absent(metrics, reason);
    }

    /// Says that a file did not hold what it should.
    pub(super) fn misread(&mut self, metrics: &[&'static ResourceMetric], what: &'static str, path: &Path) {
        self.failed(what);
        self.absent(metrics, format!("{} has no such value in a form that obs knows", path.display()));
    }

    /// Counts a failed read.
    pub(super) fn failed(&mut self, what: &'static str) {
        *self.memory.errors.entry(what).or_insert(0) += 1;
    }

    pub(super) fn into_absent(self) -> BTreeMap<&'static str, String> {
        self.absent
    }
}

//! What was counted under keys that are gone. Nothing of it is lost: the total has it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Instant,
};

use obs_common::latency::LatencyKey;

use super::{IDLE, Series, Value};
use crate::model::record::Label;

/// What was counted under keys that gave their room to others.
#[derive(Default)]
pub(super) struct Gone {
    /// By source and labels, where another key has the same ones: a cgroup that was made again, say. What is told of labels only grows.
    retired: BTreeMap<(u32, Vec<Label>), Value>,
    /// All the rest, by source.
    ended: BTreeMap<u32, Value>,
}

impl Gone {
    /// Takes the keys that the kernel has no more, when they have been told once more: a sum that begins again is a new one.
    pub(super) fn take_from(&mut self, series: &mut BTreeMap<LatencyKey, Series>, now: Instant) {
        let is_told = |series: &Series| series.is_kept || now.duration_since(series.changed) < 2 * IDLE;
        let keys: Vec<LatencyKey> = series.iter().filter(|(_, series)| !is_told(series)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(Series { value, labels, changed: _, is_kept: _ }) = series.remove(&key) else { continue };
            let mut others = series.iter().filter(|(other, _)| other.source == key.source);
            match labels {
                Some(labels) if others.any(|(_, other)| other.labels.as_ref() == Some(&labels)) => {
                    add(&mut self.retired, (key.source, labels), value);
                }
                labels => {
                    let retired = labels.and_then(|labels| self.retired.remove(&(key.source, labels)));
                    retired.into_iter().chain([value]).for_each(|value| add(&mut self.ended, key.source, value));
                }
            }
        }
    }

    /// What is to be told with the keys that there are, by source and labels.
    pub(super) fn retired(&self) -> impl Iterator<Item = (u32, &[Label], &Value)> {
        self.retired.iter().map(|((source, labels), value)| (*source, labels.as_slice(), value))
    }

    /// What no key that there is stands for, by source.
    pub(super) fn ended(&self) -> impl Iterator<Item = (u32, &Value)> {
        self.ended.iter().map(|(source, value)| (*source, value)).filter(|(_, value)| value.count() > 0)
    }

    /// All of it.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.retired.values().chain(self.ended.values())
    }
}

fn add<K: Ord>(all: &mut BTreeMap<K, Value>, key: K, value: Value) {
    match all.entry(key) {
        Entry::Occupied(mut sum) => sum.get_mut().merge(&value),
        Entry::Vacant(place) => drop(place.insert(value)),
    }
}

#[cfg(test)]
mod tests {
    use obs_common::latency::{LatencyOwner, LatencySource};

    use super::*;

    fn key(detail: u64) -> LatencyKey {
        LatencyKey { owner: LatencyOwner::NOBODY, detail, source: LatencySource::PageFault as u32, reserved: 0 }
    }

    /// A key that the kernel has no more, with this many events.
    fn removed(label: &'static str, count: u64, changed: Instant) -> Series {
        let labels = Some(vec![("kind", label.into())]);
        Series { value: Value::Events { last: 0, count }, labels, changed, is_kept: false }
    }

    fn counts<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<u64> {
        values.map(Value::count).collect()
    }

    #[test]
    fn nothing_that_was_counted_is_forgotten() {
        let begun = Instant::now();
        let mut series = BTreeMap::from([
            (key(1), removed("a", 10, begun)),
            (key(2), removed("b", 200, begun)),
            (key(3), removed("b", 3_000, begun + IDLE)),
            (key(4), Series { is_kept: true, ..removed("c", 40_000, begun) }),
        ]);
        let mut gone = Gone::default();
        gone.take_from(&mut series, begun + IDLE);
        assert_eq!((series.len(), gone.values().count()), (4, 0), "all are told once more");
        gone.take_from(&mut series, begun + 2 * IDLE);
        assert_eq!(series.keys().copied().collect::<Vec<_>>(), [key(3), key(4)]);
        assert_eq!(counts(gone.ended().map(|(_, value)| value)), [10]);
        assert_eq!(counts(gone.retired().map(|(_, _, value)| value)), [200], "another key has these labels");
        gone.take_from(&mut series, begun + 3 * IDLE);
        assert_eq!(series.keys().copied().collect::<Vec<_>>(), [key(4)]);
        assert_eq!(gone.retired().count(), 0, "no key has these labels any more");
        assert_eq!(counts(gone.ended().map(|(_, value)| value)), [3_210]);
        // A key that comes again begins from zero, and goes again.
        series.insert(key(1), removed("a", 5, begun + 3 * IDLE));
        gone.take_from(&mut series, begun + 5 * IDLE);
        assert_eq!(counts(gone.values()), [3_215]);
    }

    #[test]
    fn a_key_without_events_leaves_nothing() {
        let begun = Instant::now();
        let mut series = BTreeMap::from([(key(1), Series { labels: None, ..removed("", 0, begun) })]);
        let mut gone = Gone::default();
        gone.take_from(&mut series, begun + 2 * IDLE);
        assert_eq!((series.len(), gone.ended().count()), (0, 0));
    }
}

//! What there is: collectors, series, labels and their values.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        Range,
        attributes::label as names,
        block::Parts,
        bytes::Parsed,
        codes::SeriesKind,
        error::{FileError, StoreError},
        reader::{Reader, Source, Visit},
        tables::Tables,
    },
    Limits, Notes, matcher,
    profile::kind_of,
};
use crate::model::profile::ValueType;

/// A collector that has profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorInfo {
    /// Its name.
    pub name: Arc<str>,
    /// What its values mean.
    pub value_types: Vec<ValueType>,
}

/// Series of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesInfo {
    /// Their name.
    pub name: Arc<str>,
    /// What they hold.
    pub kind: SeriesKind,
    /// The names of their labels.
    pub labels: BTreeSet<Arc<str>>,
    /// How many there are in the block that has the most.
    pub series_max: u64,
}

/// What there is in a range of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// When the first window began and the last one ended, in nanoseconds since 1970; `None` if there is none.
    pub windows: Option<(u64, u64)>,
    /// Collectors that have profiles.
    pub collectors: Vec<CollectorInfo>,
    /// Series, by name.
    pub series: Vec<SeriesInfo>,
    /// Names of events.
    pub events: BTreeSet<Arc<str>>,
    /// Labels by which processes and threads can be chosen.
    pub process_labels: BTreeSet<Arc<str>>,
    /// How complete it is.
    pub notes: Notes,
}

impl Reader {
    /// Lists what there is in the files that a range touches.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn catalog(&self, range: Range, limits: &Limits) -> Result<Catalog, StoreError> {
        let parts = Parts { code: false, series: true };
        let plan = Visit { range, parts, newest_first: true, deadline: limits.deadline };
        let mut catalog = Catalog::default();
        let mut notes = Notes::default();
        let mut series: BTreeMap<(Arc<str>, SeriesKind), SeriesInfo> = BTreeMap::new();
        let computed = [names::PID, names::THREAD, names::UNIT];
        catalog.process_labels.extend(computed.into_iter().map(Arc::from));
        self.visit(&plan, &mut notes, |source, notes| {
            for (start, duration) in source.windows(range) {
                let (first, last) = catalog.windows.unwrap_or((u64::MAX, 0));
                catalog.windows = Some((first.min(start), last.max(start.saturating_add(duration))));
            }
            let tables = source.tables();
            let damaged = |what| FileError::Damaged { offset: 0, what };
            add_collectors(tables, &mut catalog, limits, notes).map_err(damaged)?;
            add_series(tables, &mut series, limits, notes).map_err(damaged)?;
            add_events(source, range, &mut catalog, limits, notes)
        })?;
        catalog.series = series.into_values().collect();
        catalog.collectors.sort_by(|left, right| left.name.cmp(&right.name));
        catalog.notes = notes;
        Ok(catalog)
    }

    /// Lists the values of a label: of series, of processes and of threads.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn label_values(
        &self,
        range: Range,
        label: &str,
        limits: &Limits,
    ) -> Result<(BTreeSet<Arc<str>>, Notes), StoreError> {
        let parts = Parts { code: false, series: true };
        let plan = Visit { range, parts, newest_first: true, deadline: limits.deadline };
        let mut values = BTreeSet::new();
        let mut notes = Notes::default();
        self.visit(&plan, &mut notes, |source, notes| {
            let add = |value: &str| insert(&mut values, value, limits.names, notes);
            each_value(source.tables(), label, add).map_err(|what| FileError::Damaged { offset: 0, what })
        })?;
        Ok((values, notes))
    }
}

/// Gives every value of a label to a function.
fn each_value(tables: &Tables, label: &str, mut visit: impl FnMut(&str)) -> Parsed<()> {
    for series in &tables.series {
        for (name, value) in &series.labels {
            if tables.strings.get(*name)? == label {
                visit(tables.strings.get(*value)?);
            }
        }
    }
    if label == names::THREAD {
        return tables.keys.iter().try_for_each(|key| tables.strings.get(key.thread).map(&mut visit));
    }
    for process in &tables.processes {
        matcher::process_label(tables, process, label, |value| {
            if !value.is_empty() {
                visit(value);
            }
        })?;
    }
    Ok(())
}

fn insert(set: &mut BTreeSet<Arc<str>>, value: &str, max: usize, notes: &mut Notes) {
    if set.contains(value) {
        return;
    }
    if set.len() < max {
        set.insert(value.into());
    } else {
        notes.omitted += 1;
    }
}

fn add_collectors(tables: &Tables, catalog: &mut Catalog, limits: &Limits, notes: &mut Notes) -> Parsed<()> {
    for kind in &tables.kinds {
        let name = tables.strings.get(kind.collector)?;
        let (value_types, _) = kind_of(tables, kind)?;
        let is_known = |info: &CollectorInfo| *info.name == *name && info.value_types == value_types;
        if catalog.collectors.iter().any(is_known) {
            continue;
        }
        if catalog.collectors.len() < limits.names {
            catalog.collectors.push(CollectorInfo { name: name.into(), value_types });
        } else {
            notes.omitted += 1;
        }
    }
    for process in &tables.processes {
        for (name, _) in &process.attributes {
            insert(&mut catalog.process_labels, tables.strings.get(*name)?, limits.names, notes);
        }
    }
    Ok(())
}

fn add_series(
    tables: &Tables,
    series: &mut BTreeMap<(Arc<str>, SeriesKind), SeriesInfo>,
    limits: &Limits,
    notes: &mut Notes,
) -> Parsed<()> {
    let mut counts: BTreeMap<(u32, SeriesKind), u64> = BTreeMap::new();
    for entry in &tables.series {
        let key = (Arc::from(tables.strings.get(entry.name)?), entry.kind);
        if !series.contains_key(&key) && series.len() >= limits.names {
            notes.omitted += 1;
            continue;
        }
        let info = series.entry(key).or_insert_with_key(|(name, kind)| SeriesInfo {
            name: Arc::clone(name),
            kind: *kind,
            labels: BTreeSet::new(),
            series_max: 0,
        });
        for (name, _) in &entry.labels {
            insert(&mut info.labels, tables.strings.get(*name)?, limits.names, notes);
        }
        let count = counts.entry((entry.name, entry.kind)).or_default();
        *count += 1;
        info.series_max = info.series_max.max(*count);
    }
    Ok(())
}

fn add_events(
    source: &mut Source<'_>,
    range: Range,
    catalog: &mut Catalog,
    limits: &Limits,
    notes: &mut Notes,
) -> Result<(), FileError> {
    source.events(range, |tables, row| {
        insert(&mut catalog.events, tables.strings.get(row.name)?, limits.names, notes);
        Ok(())
    })
}

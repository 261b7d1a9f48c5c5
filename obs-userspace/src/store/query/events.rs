//! Events of a range of time.

use std::sync::Arc;

use super::{
    super::{
        KnownProcess, Range,
        block::Parts,
        bytes::Parsed,
        error::StoreError,
        reader::{Reader, Visit},
        tables::{Tables, at},
        window::EventRow,
    },
    Label, Limits, Matcher, Notes, Shared, matcher, text_bytes,
};

/// Events are kept with the window in which they were read, which may be a little later than the one in which they happened.
const LATE_NS: u64 = 120_000_000_000;

/// Which events to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// When they happened.
    pub range: Range,
    /// Their names; none is all.
    pub names: Vec<String>,
    /// Conditions on the event's labels or, where it has no such label, its process; all must be met.
    pub matchers: Vec<Matcher>,
    /// How much the answer may hold.
    pub limits: Limits,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// When, in nanoseconds since 1970.
    pub time_unix_ns: u64,
    /// What.
    pub name: Arc<str>,
    /// To which process, if to one. Without a name if nothing but its key was known.
    pub process: Option<Arc<KnownProcess>>,
    /// What else is known of it.
    pub labels: Vec<Label>,
}

/// The events that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// The newest first.
    pub events: Vec<EventRecord>,
    /// How complete they are.
    pub notes: Notes,
}

impl Reader {
    /// Reads the events of a range.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed. What cannot be read of single files is in the notes.
    pub fn events(&self, query: &EventQuery) -> Result<Events, StoreError> {
        let EventQuery { range, names: _, matchers: _, limits } = query;
        let late = Range {
            from_unix_ns: range.from_unix_ns.saturating_sub(LATE_NS),
            to_unix_ns: range.to_unix_ns.saturating_add(LATE_NS),
        };
        let plan = Visit { range: late, parts: Parts::default(), newest_first: true, deadline: limits.deadline };
        let mut notes = Notes::default();
        let mut events: Vec<EventRecord> = Vec::new();
        let keep_newest = |events: &mut Vec<EventRecord>, notes: &mut Notes| {
            events.sort_by_key(|event| std::cmp::Reverse(event.time_unix_ns));
            let mut bytes = 0;
            let fits = |event: &&EventRecord| {
                bytes += event.text_bytes();
                bytes <= limits.text_bytes
            };
            let kept = events.iter().take(limits.events).take_while(fits).count();
            notes.omitted += (events.len() - kept) as u64;
            events.truncate(kept);
        };
        self.visit(&plan, &mut notes, |source, notes| {
            let mut shared = Shared::default();
            source.events(*range, |tables, row| {
                if accepts(tables, &row, query)? {
                    events.push(record(tables, &row, &mut shared)?);
                }
                if events.len() > limits.events.saturating_mul(2).saturating_add(1) {
                    keep_newest(&mut events, notes);
                }
                Ok(())
            })?;
            // Before the texts of another file come.
            keep_newest(&mut events, notes);
            Ok(())
        })?;
        keep_newest(&mut events, &mut notes);
        Ok(Events { events, notes })
    }
}

fn accepts(tables: &Tables, row: &EventRow, query: &EventQuery) -> Parsed<bool> {
    let name = tables.strings.get(row.name)?;
    if !query.names.is_empty() && !query.names.iter().any(|wanted| wanted == name) {
        return Ok(false);
    }
    let process = row.process.get().map(|index| at(&tables.processes, index)).transpose()?;
    for matcher in &query.matchers {
        let mut own = None;
        for (label, value) in &row.labels {
            if tables.strings.get(*label)? == matcher.label {
                own = Some(tables.strings.get(*value)?);
            }
        }
        let is_accepted = match (own, process) {
            (Some(value), _) => matcher.accepts(value),
            (None, Some(process)) => {
                matcher::process_label(tables, process, &matcher.label, |value| matcher.accepts(value))?
            }
            (None, None) => matcher.accepts(""),
        };
        if !is_accepted {
            return Ok(false);
        }
    }
    Ok(true)
}

fn record(tables: &Tables, row: &EventRow, shared: &mut Shared) -> Parsed<EventRecord> {
    Ok(EventRecord {
        time_unix_ns: row.time_unix_ns,
        name: shared.text(tables, row.name)?,
        process: row.process.get().map(|index| shared.process(tables, index)).transpose()?,
        labels: shared.labels(tables, &row.labels)?,
    })
}

impl EventRecord {
    fn text_bytes(&self) -> usize {
        let of_process = self.process.as_ref().map_or(0, |process| text_bytes(&process.labels));
        self.name.len() + of_process + text_bytes(&self.labels)
    }
}

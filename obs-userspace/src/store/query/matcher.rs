//! Choosing by labels: of processes and threads, of series, of events.

use super::super::{
    attributes::{label, unit_of},
    bytes::Parsed,
    tables::{KeyEntry, ProcessEntry, Tables, at},
};

/// How a label's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// It is the same.
    Equal,
    /// It is not the same.
    NotEqual,
    /// It fits the pattern, in which `*` stands for any characters and nothing else is special.
    Like,
    /// It does not fit the pattern.
    NotLike,
}

/// A condition on a label. A label that is not there has the empty value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// The label's name; those of processes and threads are in [`label`].
    pub label: String,
    /// How its value is compared.
    pub op: MatchOp,
    /// With what.
    pub value: String,
}

impl Matcher {
    /// A condition.
    #[must_use]
    pub fn new(label: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Self {
        Self { label: label.into(), op, value: value.into() }
    }

    /// Whether a value meets the condition.
    #[must_use]
    pub fn accepts(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => value == self.value,
            MatchOp::NotEqual => value != self.value,
            MatchOp::Like => is_like(value, &self.value),
            MatchOp::NotLike => !is_like(value, &self.value),
        }
    }
}

/// Each part between stars is taken where it occurs first: that leaves most for the others.
fn is_like(value: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return value == pattern };
    let Some(mut value) = value.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').map_or((None, rest), |(middle, end)| (Some(middle), end));
    for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
        match value.find(part) {
            Some(at) => value = &value[at + part.len()..],
            None => return false,
        }
    }
    value.ends_with(end)
}

/// Whether a process meets every condition that is about processes; those about threads are left out.
pub(super) fn accepts_process(tables: &Tables, process: &ProcessEntry, matchers: &[Matcher]) -> Parsed<bool> {
    for matcher in matchers.iter().filter(|matcher| matcher.label != label::THREAD) {
        if !process_label(tables, process, &matcher.label, |value| matcher.accepts(value))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the value of a process's label to a function.
pub(super) fn process_label<T>(
    tables: &Tables,
    process: &ProcessEntry,
    name: &str,
    read: impl FnOnce(&str) -> T,
) -> Parsed<T> {
    let attribute = |name: &str| -> Parsed<&str> {
        for (attribute, value) in &process.attributes {
            if tables.strings.get(*attribute)? == name {
                return tables.strings.get(*value);
            }
        }
        Ok("")
    };
    Ok(match name {
        label::PID => read(&process.key.pid.to_string()),
        label::UNIT => match attribute(label::UNIT)? {
            "" => read(unit_of(attribute(label::CGROUP)?)),
            told => read(told),
        },
        _ => read(attribute(name)?),
    })
}

/// Per key, whether it is of the wanted kinds and meets every condition.
pub(super) fn wanted_keys(
    tables: &Tables,
    is_kind_wanted: impl Fn(&KeyEntry) -> bool,
    matchers: &[Matcher],
) -> Parsed<Vec<bool>> {
    let of_threads: Vec<&Matcher> = matchers.iter().filter(|matcher| matcher.label == label::THREAD).collect();
    let processes: Vec<bool> =
        tables.processes.iter().map(|process| accepts_process(tables, process, matchers)).collect::<Parsed<_>>()?;
    tables
        .keys
        .iter()
        .map(|key| {
            if !is_kind_wanted(key) || !*at(&processes, key.process)? {
                return Ok(false);
            }
            let thread = tables.strings.get(key.thread)?;
            Ok(of_threads.iter().all(|matcher| matcher.accepts(thread)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, value, expected) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
            ("*", "", true),
            ("ng*", "nginx", true),
            ("*x", "nginx", true),
            ("n*i*x", "nginx", true),
            ("n*i*n", "nginx", false),
            ("a*a", "a", false),
            ("*ab*ab*", "ab", false),
            ("*ab*ab*", "xabyabz", true),
            ("a**b", "ab", true),
            ("*é*", "caféine", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(is_like(value, pattern), expected, "{value} like {pattern}");
        }
    }

    #[test]
    fn operators_are_each_others_opposites() {
        let accepts = |op, value: &str| Matcher::new("x", op, "a*").accepts(value);
        for value in ["a*", "ab", "b", ""] {
            assert_ne!(accepts(MatchOp::Equal, value), accepts(MatchOp::NotEqual, value));
            assert_ne!(accepts(MatchOp::Like, value), accepts(MatchOp::NotLike, value));
        }
        assert!(accepts(MatchOp::Equal, "a*") && !accepts(MatchOp::Equal, "ab") && accepts(MatchOp::Like, "ab"));
    }
}

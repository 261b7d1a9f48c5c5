//! From a file's tree to settings, with every problem on the way.

use std::{collections::BTreeMap, path::Path};

use super::{
    list::{allowed, join},
    problem::{Problem, Source, nearest, shown},
    settings::{AgentConfig, Rule, Section, Visitor},
    value::Value,
    yaml::{self, Entry, Kind, Node, Place},
};

/// Where each setting was given that was.
pub(super) type Origins = BTreeMap<String, Source>;

/// Sets what a file's text says. Settings with problems keep what they had.
pub(super) fn apply(
    text: &str,
    path: &Path,
    config: &mut AgentConfig,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) {
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let message = format!("this is no YAML that can be read: {}", error.why);
            problems.push(Problem { source: Source::file(path, error.place), setting: String::new(), message });
            return;
        }
    };
    let entries = match root.kind {
        Kind::Null => return,
        Kind::Mapping(entries) => entries,
        Kind::Scalar(_) | Kind::List(_) => {
            let message = format!("{} was given where settings are wanted, such as `window: 10s`", root.kind.name());
            problems.push(Problem { source: Source::file(path, Some(root.place)), setting: String::new(), message });
            return;
        }
    };
    let everywhere = config.settings().into_iter().map(|setting| setting.path).collect();
    let mut reader =
        Reader { path, everywhere, section: String::new(), entries, known: Vec::new(), found: Vec::new(), origins };
    config.visit(&mut reader);
    reader.leave();
    let mut found = reader.found;
    // In the order of the file, and not in that of the settings.
    found.sort_by_key(|problem| match problem.source {
        Source::File { line_and_column, .. } => line_and_column,
        Source::Environment(_) | Source::Default => None,
    });
    problems.append(&mut found);
}

struct Reader<'a> {
    path: &'a Path,
    /// The paths of all settings.
    everywhere: Vec<String>,
    /// The section that is being read; empty for the top.
    section: String,
    /// What the file says in it and nobody has taken yet.
    entries: Vec<Entry>,
    /// The keys that it may have.
    known: Vec<String>,
    found: Vec<Problem>,
    origins: &'a mut Origins,
}

impl Reader<'_> {
    fn problem(&mut self, place: Place, setting: String, message: String) {
        self.found.push(Problem { source: Source::file(self.path, Some(place)), setting, message });
    }

    /// Takes what the file says for a key, if it says something. What it says again stays: [`Reader::leave`] tells of it.
    fn take(&mut self, key: &str) -> Option<Node> {
        self.known.push(key.to_owned());
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).value)
    }

    /// Tells of what nobody took.
    fn leave(&mut self) {
        for Entry { key, place, .. } in std::mem::take(&mut self.entries) {
            let message =
                if self.known.contains(&key) { "is given twice; keep one".to_owned() } else { self.unknown(&key) };
            let setting = if self.known.contains(&key) { join(&self.section, &key) } else { self.section.clone() };
            self.problem(place, setting, message);
        }
    }

    fn unknown(&self, key: &str) -> String {
        let mut message = format!("there is no setting {}", shown(key));
        if let Some(meant) = nearest(key, self.known.iter().map(String::as_str)) {
            message.push_str(&format!("; did you mean '{meant}'?"));
        } else if let Some(path) = self.everywhere.iter().find(|path| path.rsplit('.').next() == Some(key)) {
            message.push_str(&format!("; did you mean {path}?"));
        }
        if self.known.is_empty() {
            message.push_str(" (nothing can be set here)");
        } else {
            message.push_str(&format!(" (allowed here: {})", self.known.join(", ")));
        }
        message
    }
}

impl Visitor for Reader<'_> {
    fn field<T: Value>(&mut self, key: &str, value: &mut T, rule: Rule<T>) {
        let Some(node) = self.take(key) else { return };
        let setting = join(&self.section, key);
        match judge(&node, &rule) {
            Ok(read) => {
                *value = read;
                self.origins.insert(setting, Source::file(self.path, Some(node.place)));
            }
            Err(refusals) => {
                for (place, why) in refusals {
                    self.problem(place, setting.clone(), why);
                }
            }
        }
    }

    fn section<S: Section>(&mut self, key: &str, section: &mut S) {
        let node = self.take(key);
        let path = join(&self.section, key);
        let entries = match node.map(|node| (node.place, node.kind)) {
            None | Some((_, Kind::Null)) => Vec::new(),
            Some((_, Kind::Mapping(entries))) => entries,
            Some((place, kind @ (Kind::Scalar(_) | Kind::List(_)))) => {
                let message = format!("{} was given where a mapping of settings is wanted", kind.name());
                self.problem(place, path, message);
                return;
            }
        };
        let outer = (
            std::mem::replace(&mut self.section, path),
            std::mem::replace(&mut self.entries, entries),
            std::mem::take(&mut self.known),
        );
        section.visit(self);
        self.leave();
        (self.section, self.entries, self.known) = outer;
    }
}

/// Reads a value and holds it to its rule.
pub(super) fn judge<T: Value>(node: &Node, rule: &Rule<T>) -> Result<T, Vec<(Place, String)>> {
    let value =
        T::read(node).map_err(|refused| refused.into_iter().map(|it| (it.place, it.why)).collect::<Vec<_>>())?;
    let too = if rule.least.as_ref().is_some_and(|least| value < *least) {
        "little"
    } else if rule.most.as_ref().is_some_and(|most| value > *most) {
        "much"
    } else {
        return Ok(value);
    };
    let text = if let Kind::Scalar(text) = &node.kind { shown(text) } else { value.write() };
    Err(vec![(node.place, format!("{text} is too {too}; write {}", allowed(rule)))])
}

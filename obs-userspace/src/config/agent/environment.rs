//! Settings from environment variables: `OBS_` and the setting's path in capitals.

use std::{collections::BTreeMap, ffi::OsString};

use super::{
    list::{join, variable},
    problem::{Problem, Source, nearest, shown},
    read::{Origins, judge},
    settings::{AgentConfig, Rule, Section, Visitor},
    value::Value,
    yaml::{self, Kind, Node, Place},
};

/// What all of our variables begin with.
const PREFIX: &str = "OBS_";

/// Variables of ours that are no settings: the configuration file itself, and the kernel's types where it has none.
pub(super) const CONFIG_VARIABLE: &str = "OBS_CONFIG";
const OTHERS: [&str; 2] = [CONFIG_VARIABLE, "OBS_KERNEL_BTF"];

/// The variables that begin with `OBS_`.
pub(super) struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    pub(super) fn new(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = all.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(PREFIX).then_some((name, value))
        });
        Self { variables: ours.collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name)
    }

    /// Sets what the variables say; returns warnings about those that nobody knows.
    pub(super) fn apply(
        &self,
        config: &mut AgentConfig,
        origins: &mut Origins,
        problems: &mut Vec<Problem>,
    ) -> Vec<Problem> {
        let mut reader = Reader { environment: self, section: String::new(), known: Vec::new(), origins, problems };
        config.visit(&mut reader);
        let known = reader.known;
        let mut warnings = Vec::new();
        for name in self.variables.keys() {
            if known.contains(name) || OTHERS.contains(&name.as_str()) || is_service_link(name) {
                continue;
            }
            let candidates = known.iter().map(String::as_str).chain(OTHERS);
            let meant = nearest(name, candidates).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            warnings.push(Problem {
                source: Source::Environment(shown(name).trim_matches('\'').to_owned()),
                setting: String::new(),
                message: format!("no setting has this variable{meant}; it has no effect"),
            });
        }
        warnings
    }
}

/// Whether Kubernetes or Docker sets it for every container beside a service that is named `obs`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let is_port = |rest: &str| rest.split('_').next().is_some_and(|port| port.parse::<u16>().is_ok());
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest == "PORT"
        || rest.strip_prefix("PORT_").is_some_and(is_port)
}

struct Reader<'a> {
    environment: &'a Environment,
    section: String,
    known: Vec<String>,
    origins: &'a mut Origins,
    problems: &'a mut Vec<Problem>,
}

impl Visitor for Reader<'_> {
    fn field<T: Value>(&mut self, key: &str, value: &mut T, rule: Rule<T>) {
        let setting = join(&self.section, key);
        let name = variable(&setting);
        self.known.push(name.clone());
        let Some(given) = self.environment.get(&name) else { return };
        let source = Source::Environment(name);
        let read = given
            .to_str()
            .ok_or_else(|| vec![format!("{} is no valid UTF-8", shown(&given.to_string_lossy()))])
            .and_then(|text| node::<T>(text).map_err(|why| vec![why]))
            .and_then(|node| judge(&node, &rule).map_err(|all| all.into_iter().map(|(_, why)| why).collect()));
        match read {
            Ok(read) => {
                *value = read;
                self.origins.insert(setting, source);
            }
            Err(all) => {
                for message in all {
                    self.problems.push(Problem { source: source.clone(), setting: setting.clone(), message });
                }
            }
        }
    }

    fn section<S: Section>(&mut self, key: &str, section: &mut S) {
        let inner = join(&self.section, key);
        let outer = std::mem::replace(&mut self.section, inner);
        section.visit(self);
        self.section = outer;
    }
}

/// A variable's text as a file's node: empty is nothing; a list stands in brackets as in the file, or between commas.
fn node<T: Value>(text: &str) -> Result<Node, String> {
    let scalar = |text: &str| Node { place: Place::default(), kind: Kind::Scalar(text.trim().to_owned()) };
    let nothing = text.is_empty() || text == "null";
    if !T::LIST {
        let kind = if nothing { Kind::Null } else { Kind::Scalar(text.to_owned()) };
        return Ok(Node { place: Place::default(), kind });
    }
    if text.trim_start().starts_with('[') {
        return yaml::parse(text).map_err(|error| format!("{} is no list: {}", shown(text), error.why));
    }
    let items = if nothing { Vec::new() } else { text.split(',').map(scalar).collect() };
    Ok(Node { place: Place::default(), kind: Kind::List(items) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_not_ours() {
        for name in ["OBS_SERVICE_HOST", "OBS_SERVICE_PORT_HTTP", "OBS_PORT", "OBS_PORT_7373_TCP_ADDR"] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["OBS_HTTP_LISTEN", "OBS_PORT_HTTP", "OBS_SERVICE", "OBS_"] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}

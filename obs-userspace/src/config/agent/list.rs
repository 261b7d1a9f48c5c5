//! All settings as a list: path, value as text, and what holds for it. For comparing, for the documents, for suggestions.

use super::{
    settings::{AgentConfig, OnReload, Rule, Section, Visitor},
    value::Value,
};

/// A setting, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path: `http.limits.body`.
    pub path: String,
    /// Its value, as YAML.
    pub value: String,
    /// What is allowed, with an example.
    pub allowed: String,
    /// What a change takes.
    pub on_reload: OnReload,
}

impl Setting {
    /// The environment variable that overrides it.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(&self.path)
    }
}

/// The environment variable of a setting: `http.listen` is `OBS_HTTP_LISTEN`.
pub(super) fn variable(path: &str) -> String {
    let mut name = String::from("OBS_");
    name.extend(path.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }));
    name
}

/// The path of a key within a section.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// What is allowed, in words.
pub(super) fn allowed<T: Value>(rule: &Rule<T>) -> String {
    match (&rule.least, &rule.most) {
        (Some(least), Some(most)) => format!("{}, from {} to {}", T::allowed(), least.write(), most.write()),
        (Some(least), None) => format!("{}, at least {}", T::allowed(), least.write()),
        (None, Some(most)) => format!("{}, at most {}", T::allowed(), most.write()),
        (None, None) => T::allowed(),
    }
}

struct Lister {
    section: String,
    settings: Vec<Setting>,
}

impl Visitor for Lister {
    fn field<T: Value>(&mut self, key: &str, value: &mut T, rule: Rule<T>) {
        self.settings.push(Setting {
            path: join(&self.section, key),
            value: value.write(),
            allowed: allowed(&rule),
            on_reload: rule.on_reload,
        });
    }

    fn section<S: Section>(&mut self, key: &str, section: &mut S) {
        let inner = join(&self.section, key);
        let outer = std::mem::replace(&mut self.section, inner);
        section.visit(self);
        self.section = outer;
    }
}

impl AgentConfig {
    /// Every setting with its value, in the order of the documented default.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut lister = Lister { section: String::new(), settings: Vec::new() };
        self.clone().visit(&mut lister);
        lister.settings
    }
}

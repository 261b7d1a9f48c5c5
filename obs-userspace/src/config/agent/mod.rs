//! The agent's configuration: one YAML file, environment variables over it, and everything wrong told at once.
//!
//! **Invariant:** `settings` is the only list of settings. The reader, the environment, the documented default, the
//! documents and the comparison at a reload go through it.

mod change;
mod check;
mod environment;
mod list;
mod problem;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod value;
mod yaml;

use std::{
    ffi::OsString,
    fs,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use self::environment::{CONFIG_VARIABLE, Environment};
use self::value::Value as _;
pub use self::{
    change::{Change, ReloadRefused, diff, reload},
    list::Setting,
    problem::{ConfigErrors, Problem, Source},
    settings::{
        AgentConfig, BreakerConfig, CollectorConfig, CollectorsConfig, FiltersConfig, GovernorConfig, HttpConfig,
        HttpLimits, KindsConfig, LogConfig, OnReload, PrivacyConfig, ResourcesConfig, StoreConfig, SymbolsConfig,
        UnwindConfig,
    },
    value::{Bytes, Comm, KeyPart, LogFormat, LogLevel, Megabytes, Pattern, Percent, Word},
};
use super::sampling::Frequency;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The documented default, but for the collectors.
const DEFAULT_TEXT: &str = include_str!("default.yaml");
/// The line of it that stands for them.
const COLLECTORS_LINE: &str = "#{collectors}\n";

/// A collector of this binary, as far as configuration is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCollector<'a> {
    /// What users call it.
    pub name: &'a str,
    /// What it measures, in one line.
    pub summary: &'a str,
    /// Whether it samples, and so has a frequency.
    pub samples: bool,
    /// Whether it runs by default.
    pub enabled: bool,
    /// What it can measure, if that is to be chosen.
    pub kinds: Option<KnownKinds<'a>>,
}

/// What a collector can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKinds<'a> {
    /// Everything.
    pub all: &'a [&'a str],
    /// What it measures by default.
    pub default: &'a [&'a str],
}

/// A configuration that holds together.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: AgentConfig,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// Variables that begin with `OBS_` and that nobody knows: worth a warning each.
    pub warnings: Vec<Problem>,
}

impl AgentConfig {
    /// The defaults.
    #[must_use]
    pub fn defaults(collectors: &[KnownCollector<'_>]) -> Self {
        let of = |known: &KnownCollector<'_>| CollectorConfig {
            enabled: known.enabled,
            frequency: known.samples.then(Frequency::default),
            kinds: known.kinds.map(|kinds| KindsConfig {
                kinds: kinds.default.iter().map(|name| Word::known(name)).collect(),
                by: Vec::new(),
            }),
        };
        let by_name = collectors.iter().map(|known| (known.name.to_owned(), of(known))).collect();
        Self { collectors: CollectorsConfig { by_name }, ..Self::default() }
    }

    /// Reads `path`, or else the file that `OBS_CONFIG` names, or else none; then the variables `OBS_…` of `environment`
    /// (usually `std::env::vars_os()`), which win.
    ///
    /// # Errors
    /// Everything that is wrong: a file that cannot be read, unknown keys, values without sense, settings that do not go
    /// together. Unknown variables are warnings only: an orchestrator sets some that nobody wrote.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        collectors: &[KnownCollector<'_>],
    ) -> Result<Loaded, ConfigErrors> {
        let environment = Environment::new(environment);
        let file = path.map(Path::to_owned).or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from));
        let text = match &file {
            None => String::new(),
            Some(path) => read_file(path).map_err(|message| {
                let source = Source::file(path, None);
                ConfigErrors { problems: vec![Problem { source, setting: String::new(), message }] }
            })?,
        };
        Self::from_text(&text, file, &environment, collectors)
    }

    fn from_text(
        text: &str,
        file: Option<PathBuf>,
        environment: &Environment,
        collectors: &[KnownCollector<'_>],
    ) -> Result<Loaded, ConfigErrors> {
        let mut config = Self::defaults(collectors);
        let (mut origins, mut problems) = (read::Origins::new(), Vec::new());
        if let Some(path) = &file {
            read::apply(text, path, &mut config, &mut origins, &mut problems);
        }
        let warnings = environment.apply(&mut config, &mut origins, &mut problems);
        check::check(&config, collectors, &origins, &mut problems);
        if problems.is_empty() { Ok(Loaded { config, file, warnings }) } else { Err(ConfigErrors { problems }) }
    }
}

/// The default configuration as a commented file: what `obs agent --print-default-config` prints.
#[must_use]
pub fn default_config_text(collectors: &[KnownCollector<'_>]) -> String {
    let mut section = String::new();
    let defaults = AgentConfig::defaults(collectors);
    // In the order of the settings, which is that of the names.
    for (name, CollectorConfig { enabled, frequency, kinds }) in &defaults.collectors.by_name {
        let Some(known) = collectors.iter().find(|known| known.name == name) else { continue };
        section.push_str(&format!("  # {}\n  {name}:\n    enabled: {enabled}\n", known.summary));
        if let Some(frequency) = frequency {
            section.push_str(&format!(
                "    # Samples per second and CPU, 1Hz to {}Hz.\n    frequency: {frequency}Hz\n",
                Frequency::MAX_HERTZ
            ));
        }
        if let (Some(KindsConfig { kinds, by }), Some(known)) = (kinds, known.kinds) {
            section.push_str(&format!(
                "    # Of what: {}.\n    kinds: {}\n    # What is told apart besides: cgroup, process.\n    by: {}\n",
                known.all.join(", "),
                kinds.write(),
                by.write()
            ));
        }
    }
    DEFAULT_TEXT.replacen(COLLECTORS_LINE, &section, 1)
}

/// Reads a configuration file, which may be anything that somebody named.
fn read_file(path: &Path) -> Result<String, String> {
    let why = |error: std::io::Error| format!("the configuration file cannot be read: {error}");
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    // Without blocking, or opening a pipe would wait for its writer.
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(why)?;
    if !file.metadata().map_err(why)?.is_file() {
        return Err("the configuration file is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(why)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(format!(
            "the configuration file has more than {FILE_BYTES_MAX} bytes, which no configuration needs"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is no valid UTF-8")
    })
}

//! What a reload would change, and whether it can.

use std::fmt;

use super::settings::{AgentConfig, OnReload};

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path.
    pub path: String,
    /// What it was, as YAML.
    pub old: String,
    /// What it would be.
    pub new: String,
    /// What that takes.
    pub on_reload: OnReload,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, old, new, on_reload } = self;
        write!(formatter, "{path}: {old} -> {new}")?;
        match on_reload {
            OnReload::Takes => Ok(()),
            OnReload::Restart(why) => write!(formatter, " (needs a restart: {why})"),
        }
    }
}

/// Why a reload is refused as a whole: these settings need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadRefused {
    /// The settings that need it; never empty.
    pub changes: Vec<Change>,
}

impl fmt::Display for ReloadRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the new configuration was not taken, and the old one holds; restart obs to change")?;
        for (at, change) in self.changes.iter().enumerate() {
            let separator = if at == 0 { "" } else { ";" };
            write!(formatter, "{separator} {change}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ReloadRefused {}

/// Everything that differs, in the order of the documented default. Both must know the same collectors.
#[must_use]
pub fn diff(old: &AgentConfig, new: &AgentConfig) -> Vec<Change> {
    let new = new.settings();
    let pairs = old.settings().into_iter().filter_map(|old| {
        let new = new.iter().find(|new| new.path == old.path)?;
        (old.value != new.value).then(|| Change {
            path: old.path,
            old: old.value,
            new: new.value.clone(),
            on_reload: old.on_reload,
        })
    });
    pairs.collect()
}

/// What a reload changes, if it can.
///
/// # Errors
/// If a setting changes that needs a restart: nothing may be taken then, so that what holds is one of the two
/// configurations and not a mixture.
pub fn reload(old: &AgentConfig, new: &AgentConfig) -> Result<Vec<Change>, ReloadRefused> {
    let (live, refused): (Vec<_>, Vec<_>) =
        diff(old, new).into_iter().partition(|change| change.on_reload == OnReload::Takes);
    if refused.is_empty() { Ok(live) } else { Err(ReloadRefused { changes: refused }) }
}

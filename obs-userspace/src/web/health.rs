//! How the agent's components are: told by them, asked for by `/health`, `/ready` and `/live`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

/// Most components; further ones are not taken up.
const COMPONENTS_MAX: usize = 256;

/// How a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It has not begun its work yet.
    Starting,
    /// It does its work.
    Healthy,
    /// It does part of its work.
    Degraded,
    /// It does not do its work.
    Failed,
    /// It was not asked for, or this host cannot have it.
    Off,
}

/// What follows from a component that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Without it the agent is not healthy, and not ready until it is there.
    Required,
    /// The agent does without.
    Optional,
}

/// A component, as it was told last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComponentHealth {
    /// Its name.
    pub name: String,
    /// How it is.
    pub status: Health,
    /// Whether the agent can do without.
    pub need: Need,
    /// Since when it is so, in nanoseconds since 1970 (UTC).
    #[serde(serialize_with = "super::time::serialize")]
    pub since: u64,
    /// Why it is so; empty if there is nothing to say.
    pub reason: String,
}

struct Component {
    status: Health,
    need: Need,
    since_unix_ns: u64,
    reason: Arc<str>,
}

struct State {
    components: BTreeMap<&'static str, Component>,
    heartbeat: Option<Instant>,
}

/// Where components say how they are.
pub struct HealthBoard {
    state: Mutex<State>,
}

impl Default for HealthBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthBoard {
    /// A board without components; it has no heartbeat yet.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Mutex::new(State { components: BTreeMap::new(), heartbeat: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with the lock left a map that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a component, which is starting. Required ones must be declared before the server starts.
    pub fn declare(&self, name: &'static str, need: Need) {
        let mut state = self.state();
        if state.components.len() < COMPONENTS_MAX || state.components.contains_key(name) {
            let since_unix_ns = super::time::now_unix_ns();
            let component = Component { status: Health::Starting, need, since_unix_ns, reason: Arc::from("") };
            state.components.insert(name, component);
        }
    }

    /// Says how a component is, and why. The time changes with the status only. One that was not declared is optional.
    pub fn set(&self, name: &'static str, status: Health, reason: &str) {
        let mut state = self.state();
        if state.components.len() >= COMPONENTS_MAX && !state.components.contains_key(name) {
            return;
        }
        let component = state.components.entry(name).or_insert_with(|| Component {
            status,
            need: Need::Optional,
            since_unix_ns: super::time::now_unix_ns(),
            reason: Arc::from(""),
        });
        if component.status != status {
            component.status = status;
            component.since_unix_ns = super::time::now_unix_ns();
        }
        if *component.reason != *reason {
            component.reason = reason.into();
        }
    }

    /// The pipeline has finished a round.
    pub fn beat(&self) {
        self.state().heartbeat = Some(Instant::now());
    }

    /// How old the last heartbeat is; `None` if there was none.
    #[must_use]
    pub fn heartbeat_age(&self) -> Option<Duration> {
        self.state().heartbeat.map(|at| at.elapsed())
    }

    /// All components, by name.
    #[must_use]
    pub fn components(&self) -> Vec<ComponentHealth> {
        let state = self.state();
        state
            .components
            .iter()
            .map(|(name, component)| {
                let Component { status, need, since_unix_ns, reason } = component;
                ComponentHealth {
                    name: (*name).to_owned(),
                    status: *status,
                    need: *need,
                    since: *since_unix_ns,
                    reason: reason.to_string(),
                }
            })
            .collect()
    }

    /// The first required component that failed: why the agent is not healthy.
    #[must_use]
    pub fn failed(&self) -> Option<ComponentHealth> {
        self.components().into_iter().find(|it| it.need == Need::Required && it.status == Health::Failed)
    }

    /// The first required component that does not work yet, or not any more: why the agent is not ready.
    #[must_use]
    pub fn not_ready(&self) -> Option<ComponentHealth> {
        self.components().into_iter().find(|component| {
            component.need == Need::Required
                && match component.status {
                    Health::Starting | Health::Failed | Health::Off => true,
                    Health::Healthy | Health::Degraded => false,
                }
        })
    }
}

/// Now, for those who set `since` themselves.
pub(super) fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_components_decide_and_optional_ones_do_not() {
        let board = HealthBoard::new();
        assert_eq!((board.failed(), board.not_ready(), board.heartbeat_age()), (None, None, None));
        board.declare("store", Need::Required);
        board.set("gpu", Health::Failed, "no such device");
        assert_eq!(board.failed(), None);
        assert_eq!(board.not_ready().map(|it| it.name).as_deref(), Some("store"));
        board.set("store", Health::Healthy, "");
        assert_eq!(board.not_ready(), None);
        board.set("store", Health::Failed, "the disk is full");
        assert_eq!(board.failed().map(|it| it.reason).as_deref(), Some("the disk is full"));
        board.beat();
        assert!(board.heartbeat_age().is_some());
    }

    #[test]
    fn the_time_is_that_of_the_change_and_not_of_the_last_word() {
        let board = HealthBoard::new();
        board.set("store", Health::Healthy, "a");
        let before = board.components();
        board.set("store", Health::Healthy, "b");
        let after = board.components();
        assert_eq!(before[0].since, after[0].since);
        assert_eq!(after[0].reason, "b");
    }

    #[test]
    fn components_have_a_bound() {
        let board = HealthBoard::new();
        for number in 0..COMPONENTS_MAX + 10 {
            board.set(Box::leak(number.to_string().into_boxed_str()), Health::Healthy, "");
        }
        assert_eq!(board.components().len(), COMPONENTS_MAX);
    }
}

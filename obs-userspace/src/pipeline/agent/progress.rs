//! How far the keeper's thread is with a window, for those who have to know whether it goes on at all.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What the thread is at, and since when.
#[derive(Default)]
pub(super) struct Progress(Mutex<Option<(&'static str, Instant)>>);

impl Progress {
    fn state(&self) -> MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins a step.
    pub(super) fn begin(&self, step: &'static str) {
        *self.state() = Some((step, Instant::now()));
    }

    /// It has nothing to do, which may last as long as it likes.
    pub(super) fn rest(&self) {
        *self.state() = None;
    }

    /// What it has been at for so long or longer.
    pub(super) fn stuck(&self, at_least: Duration) -> Option<String> {
        let (step, since) = (*self.state())?;
        let elapsed = since.elapsed();
        (elapsed >= at_least).then(|| format!("{step} has been going on for {} s", elapsed.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_takes_too_long_is_told_and_rest_is_not() {
        let progress = Progress::default();
        assert_eq!(progress.stuck(Duration::ZERO), None);
        progress.begin("writing a window");
        assert_eq!(progress.stuck(Duration::from_secs(60)), None);
        assert_eq!(progress.stuck(Duration::ZERO).as_deref(), Some("writing a window has been going on for 0 s"));
        std::thread::sleep(Duration::from_millis(20));
        assert!(progress.stuck(Duration::from_millis(20)).is_some());
        // The next step has its own time: many slow ones are slow, and not stuck.
        progress.begin("reading resources");
        assert_eq!(progress.stuck(Duration::from_secs(60)), None);
        progress.rest();
        assert_eq!(progress.stuck(Duration::ZERO), None);
    }
}

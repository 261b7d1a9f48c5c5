//! How far the keeper's thread is with a window, for those who have to know whether it goes on at all.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Who uses less of a CPU than one part in so many waits for something that does not come. On a slow host, or with little CPU time to use,
/// finding names may take minutes; but it takes them at work.
const AT_WORK: u32 = 1000;

/// What the thread is at.
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    since: Instant,
    thread: i32,
    /// CPU time of the thread when it began.
    cpu_time: Duration,
}

/// What the thread is at, and since when.
#[derive(Default)]
pub(super) struct Progress(Mutex<Option<Step>>);

impl Progress {
    fn state(&self) -> MutexGuard<'_, Option<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This thread begins a step.
    pub(super) fn begin(&self, name: &'static str) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let cpu_time = cpu_time_of(thread).unwrap_or_default();
        *self.state() = Some(Step { name, since: Instant::now(), thread, cpu_time });
    }

    /// It has nothing to do, which may last as long as it likes.
    pub(super) fn rest(&self) {
        *self.state() = None;
    }

    /// What it has been at for so long or longer without doing anything.
    pub(super) fn stuck(&self, at_least: Duration) -> Option<String> {
        let Step { name, since, thread, cpu_time } = (*self.state())?;
        let elapsed = since.elapsed();
        if elapsed < at_least {
            return None;
        }
        let worked = cpu_time_of(thread).unwrap_or_default().saturating_sub(cpu_time);
        (worked < elapsed / AT_WORK).then(|| format!("{name} has been going on for {} s", elapsed.as_secs()))
    }
}

/// CPU time of a thread of this process; `None` if this kernel does not tell.
fn cpu_time_of(thread: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
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
        std::thread::sleep(Duration::from_millis(500));
        let told = progress.stuck(Duration::from_millis(500));
        assert_eq!(told.as_deref(), Some("writing a window has been going on for 0 s"));
        // The next step has its own time: many slow ones are slow, and not stuck.
        progress.begin("reading resources");
        assert_eq!(progress.stuck(Duration::from_secs(60)), None);
        progress.rest();
        assert_eq!(progress.stuck(Duration::ZERO), None);
    }
}

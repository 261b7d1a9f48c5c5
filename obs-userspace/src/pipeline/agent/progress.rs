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
struct Step {
    name: &'static str,
    since: Instant,
    thread: i32,
    /// When it was last known to be at work, and its CPU time then, if this kernel tells.
    worked: Instant,
    cpu_time: Option<Duration>,
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
        let now = Instant::now();
        *self.state() = Some(Step { name, since: now, thread, worked: now, cpu_time: cpu_time_of(thread) });
    }

    /// It has nothing to do, which may last as long as it likes.
    pub(super) fn rest(&self) {
        *self.state() = None;
    }

    /// What it has been at without doing anything for so long or longer. To be asked every now and then: what is seen is whether it worked
    /// since.
    pub(super) fn stuck(&self, at_least: Duration) -> Option<String> {
        let mut state = self.state();
        let step = state.as_mut()?;
        let idle = step.worked.elapsed();
        let cpu_time = cpu_time_of(step.thread);
        let used = cpu_time.zip(step.cpu_time).map(|(now, before)| now.saturating_sub(before));
        if used.is_some_and(|used| !used.is_zero() && used >= idle / AT_WORK) {
            (step.worked, step.cpu_time) = (Instant::now(), cpu_time);
            return None;
        }
        (idle >= at_least).then(|| format!("{} has been going on for {} s", step.name, step.since.elapsed().as_secs()))
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

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_step_in_which_nothing_is_done_is_told_and_rest_is_not() {
        let progress = Progress::default();
        assert_eq!(progress.stuck(Duration::ZERO), None);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.begin("writing a window");
                begun.send(()).unwrap();
                ended.into_iter().for_each(drop);
            });
            has_begun.recv().unwrap();
            assert_eq!(progress.stuck(LONG), None);
            // What it did to begin may be told a little later.
            let begun = Instant::now();
            let told = loop {
                if let Some(told) = progress.stuck(Duration::from_millis(50)) {
                    break told;
                }
                assert!(begun.elapsed() < LONG, "nothing is told");
                std::thread::sleep(Duration::from_millis(10));
            };
            assert!(told.starts_with("writing a window has been going on for "), "{told}");
            drop(end);
        });
        progress.rest();
        assert_eq!(progress.stuck(Duration::ZERO), None);
    }

    #[test]
    fn who_works_is_not_stuck_however_long_that_takes() {
        let progress = Progress::default();
        progress.begin("finding names");
        for _ in 0..3 {
            let begun = cpu_time_of(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let used = || cpu_time_of(rustix::thread::gettid().as_raw_nonzero().get()).unwrap() - begun;
            while used() < Duration::from_millis(20) {}
            assert_eq!(progress.stuck(Duration::ZERO), None);
        }
    }
}

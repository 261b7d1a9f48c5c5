//! The thread and its queue, with windows in which nothing was measured.

use super::*;

/// Only so that a mistake fails a test rather than holding it up for ever.
const LIMIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn measured(number: u64) -> Measured {
    Measured {
        started_unix_ns: number * 10_000_000_000,
        duration_ns: 10_000_000_000,
        samples: Vec::new(),
        kernel_code: KernelCode::default(),
        events: Vec::new(),
        latencies: None,
        latencies_are_new: false,
    }
}

/// A keeper that reads no resources, and what it shares.
fn keeper(state_dir: &Path) -> (Keeper, Arc<Shared>, AgentConfig) {
    let mut config = AgentConfig { state_dir: state_dir.to_owned(), ..AgentConfig::default() };
    config.resources.enabled = false;
    let shared = Arc::new(Shared::default());
    let who = Who::start(&config.privacy);
    let keeper = Keeper::start(&config, &Registry::default(), Arc::clone(&shared), who).unwrap();
    (keeper, shared, config)
}

/// Before, settings went through the queue, and were lost when it was full.
#[test]
fn settings_come_into_force_also_when_windows_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (mut keeper, shared, mut config) = keeper(dir.path());
    // What the thread needs at the end of a window: it waits there.
    let held = shared.measured.lock().unwrap();
    keeper.keep(measured(1));
    until("the first window is taken up", || !keeper.is_full() && keeper.waiting.load(Ordering::Relaxed) == 0);
    keeper.keep(measured(2));
    keeper.keep(measured(3));
    assert!(keeper.is_full());
    config.resources.enabled = true;
    keeper.reconfigure(&config, Who::start(&config.privacy));
    assert!(held.is_empty());
    drop(held);
    assert_eq!(keeper.stop(Instant::now() + LIMIT), Ok(()));
    assert!(!shared.measured.lock().unwrap().is_empty(), "resources are not read");
}

/// Before, nobody could tell a thread that hangs from one that has nothing to do.
#[test]
fn what_the_thread_hangs_in_is_told_until_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut keeper, shared, _) = keeper(dir.path());
    let held = shared.measured.lock().unwrap();
    keeper.keep(measured(1));
    until("the window is being written", || {
        shared.progress.stuck(Duration::ZERO).is_some_and(|it| it.contains("writing"))
    });
    assert_eq!(keeper.stuck(), None);
    drop(held);
    until("the thread rests", || shared.progress.stuck(Duration::ZERO).is_none());
    assert_eq!(keeper.stop(Instant::now() + LIMIT), Ok(()));
}

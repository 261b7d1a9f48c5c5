//! Ctrl-C and SIGTERM as an error, so that what was started is ended and what was changed is put back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How soon after a signal a sleep ends.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether a signal came. Set by a handler, which there can be only one of.
static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on these signals do not end this process, but the next [`sleep_until`] or [`check`].
///
/// # Errors
/// When the system refuses.
pub(crate) fn listen() -> Result<()> {
    let came = CAME.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(came)).context("cannot listen for signals")?;
    }
    Ok(())
}

/// An error if a signal came.
///
/// # Errors
/// If a signal came.
pub(crate) fn check() -> Result<()> {
    if CAME.get().is_some_and(|came| came.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps until then.
///
/// # Errors
/// If a signal came.
pub(crate) fn sleep_until(then: Instant) -> Result<()> {
    loop {
        check()?;
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}

/// Sleeps for so long.
///
/// # Errors
/// If a signal came.
pub(crate) fn sleep(duration: Duration) -> Result<()> {
    sleep_until(Instant::now() + duration)
}

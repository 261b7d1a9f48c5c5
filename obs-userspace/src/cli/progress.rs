//! The bar on a terminal while a recording runs.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pipeline::record::Phase;

/// Shows how far a recording is; nothing where standard error is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    bounded: bool,
}

impl Progress {
    /// A bar for a recording of a known length, a spinner for one that ends by itself.
    pub(super) fn new(duration: Option<Duration>, shown: bool) -> Self {
        let target = if shown { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let length = duration.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let bar = ProgressBar::with_draw_target(length, target);
        let template = if duration.is_some() { "{bar:30} {msg}" } else { "{spinner} {msg}" };
        // The templates are fixed and a test reads them.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, bounded: duration.is_some() }
    }

    /// Updates it.
    pub(super) fn show(&mut self, phase: &Phase) {
        match phase {
            Phase::Recording { elapsed, samples } => {
                if self.bounded {
                    self.bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                } else {
                    self.bar.tick();
                }
                self.bar.set_message(format!(
                    "recording {:.0} s, {samples} samples (Ctrl-C ends it)",
                    elapsed.as_secs_f64()
                ));
            }
            Phase::Symbolizing => {
                self.bar.set_message("looking up names");
            }
        }
    }

    /// Removes it.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in ["{bar:30} {msg}", "{spinner} {msg}"] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}

//! Histograms of a window, from those that grow since the start: the history keeps what happened within each window.

use std::collections::HashMap;

use crate::model::record::{Histogram, Label};

/// The histograms as they stood at the end of the last window.
#[derive(Default)]
pub(super) struct WindowHistograms {
    last: HashMap<(&'static str, Vec<Label>), Last>,
    windows: u64,
}

struct Last {
    histogram: Histogram,
    /// In which window.
    window: u64,
}

impl WindowHistograms {
    /// What was added since the last window; `None` if nothing was.
    pub(super) fn added(&mut self, now: Histogram) -> Option<Histogram> {
        let last = Last { histogram: now.clone(), window: self.windows };
        let before = self.last.insert((now.name, now.labels.clone()), last);
        let added = match before {
            Some(Last { histogram: before, .. }) => difference(&before, now),
            None => now,
        };
        (added.zero_count > 0 || added.buckets.iter().any(|count| *count > 0)).then_some(added)
    }

    /// All of a window were told. Those that were not are gone: should they come again, then from zero.
    pub(super) fn end_window(&mut self) {
        self.last.retain(|_, last| last.window == self.windows);
        self.windows += 1;
    }
}

fn difference(before: &Histogram, now: Histogram) -> Histogram {
    let of_before = |bucket: i32| {
        let index = usize::try_from(bucket - before.first_bucket).ok();
        index.and_then(|index| before.buckets.get(index)).copied().unwrap_or(0)
    };
    let buckets = (now.first_bucket..).zip(&now.buckets);
    let buckets = buckets.map(|(bucket, count)| count.saturating_sub(of_before(bucket))).collect();
    Histogram {
        buckets,
        zero_count: now.zero_count.saturating_sub(before.zero_count),
        sum: (now.sum - before.sum).max(0.0),
        ..now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(first_bucket: i32, buckets: &[u64], zero_count: u64, sum: f64) -> Histogram {
        Histogram { name: "h", labels: Vec::new(), first_bucket, buckets: buckets.to_vec(), zero_count, sum }
    }

    #[test]
    fn each_window_has_its_own() {
        let mut histograms = WindowHistograms::default();
        let mut added = |histogram| histograms.added(histogram);
        assert_eq!(added(histogram(5, &[1, 2], 0, 3.0)), Some(histogram(5, &[1, 2], 0, 3.0)));
        assert_eq!(added(histogram(5, &[1, 2], 0, 3.0)), None, "nothing happened");
        // It has grown to both sides.
        assert_eq!(added(histogram(4, &[7, 1, 2, 1], 1, 9.0)), Some(histogram(4, &[7, 0, 0, 1], 1, 6.0)));
        histograms.end_window();
        histograms.end_window();
        let mut added = |histogram| histograms.added(histogram);
        assert_eq!(
            added(histogram(5, &[1, 2], 0, 3.0)),
            Some(histogram(5, &[1, 2], 0, 3.0)),
            "it was gone for a window"
        );
        let other = Histogram { labels: vec![("stage", "keep".into())], ..histogram(4, &[1], 0, 1.0) };
        assert_eq!(added(other.clone()), Some(other));
    }
}

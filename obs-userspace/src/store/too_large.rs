//! Windows that a block's tables cannot hold: what is kept of them.
//!
//! One program with thousands of functions of long names is enough for that. It may cost samples, and never what the window says of
//! everybody else.

use std::{borrow::Cow, cmp::Reverse, collections::HashSet};

use super::{Window, error::WindowError, interner::Interner, limits::FRAME_BYTES_MAX, window};
use crate::model::profile::{Profile, ProfileSample};

/// A collector, and the sum of the first values of its samples that were left out.
pub type SamplesDropped = (Cow<'static, str>, u64);

/// What of a window fits a block without others, and what was left out for it. Of one that is too large the lighter half of each profile's
/// samples goes, by their first value, until it takes half of a block's tables at most, so that the next ones find room there too; and
/// with them go the processes that have no others. One that would not fit without any samples is refused.
pub(super) fn fit(window: &Window) -> Result<(Cow<'_, Window>, Vec<SamplesDropped>), WindowError> {
    if fills(window).is_ok() {
        return Ok((Cow::Borrowed(window), Vec::new()));
    }
    // What it has besides may fill the tables by itself: then it is enough that the samples fit.
    let has_room = !fills(&with_samples(window, |_| 0))?;
    let mut fitted = with_samples(window, |samples| samples / 2);
    let has_samples = |window: &Window| window.profiles.iter().any(|profile| !profile.samples.is_empty());
    while has_samples(&fitted) && fills(&fitted).map_or(true, |is_full| is_full && has_room) {
        fitted = with_samples(&fitted, |samples| samples / 2);
    }
    let dropped = dropped(window, &fitted);
    Ok((Cow::Owned(fitted), dropped))
}

/// Whether a window alone fills a block's tables so that the next one begins another block; an error if it does not fit.
fn fills(window: &Window) -> Result<bool, WindowError> {
    let mut tables = Interner::default();
    let (raw, _) = window::encode(window, &mut tables)?;
    if raw.len() > FRAME_BYTES_MAX {
        return Err(WindowError::TooLarge { what: "bytes", max: FRAME_BYTES_MAX });
    }
    Ok(tables.is_full())
}

/// The window with as many samples of each profile as is said of their number, the heaviest, and with the processes of these.
fn with_samples(window: &Window, keep: impl Fn(usize) -> usize) -> Window {
    let mut window = window.clone();
    let mut left_out = HashSet::new();
    for profile in &mut window.profiles {
        let count = keep(profile.samples.len());
        keep_heaviest(&mut profile.samples, count);
        left_out.extend(profile.processes.iter().map(|process| process.key));
        forget_unused_processes(profile);
    }
    for process in window.profiles.iter().flat_map(|profile| &profile.processes) {
        left_out.remove(&process.key);
    }
    window.processes.retain(|process| !left_out.contains(&process.info.key));
    window
}

/// Those of one weight go from the end, so that the same window always keeps the same samples.
fn keep_heaviest(samples: &mut Vec<ProfileSample>, count: usize) {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|index| Reverse(weight(&samples[*index])));
    let kept: HashSet<usize> = order.into_iter().take(count).collect();
    let mut index = 0..;
    samples.retain(|_| index.next().is_some_and(|index| kept.contains(&index)));
}

fn weight(sample: &ProfileSample) -> u64 {
    sample.values.first().copied().unwrap_or_default()
}

fn forget_unused_processes(profile: &mut Profile) {
    let mut is_used = vec![false; profile.processes.len()];
    for sample in &profile.samples {
        if let Some(is_used) = is_used.get_mut(sample.process as usize) {
            *is_used = true;
        }
    }
    let mut left = 0;
    let positions: Vec<u32> = is_used
        .iter()
        .map(|is_used| {
            let position = left;
            left += u32::from(*is_used);
            position
        })
        .collect();
    for sample in &mut profile.samples {
        if let Some(position) = positions.get(sample.process as usize) {
            sample.process = *position;
        }
    }
    let mut is_used = is_used.into_iter();
    profile.processes.retain(|_| is_used.next().unwrap_or_default());
}

fn dropped(window: &Window, fitted: &Window) -> Vec<SamplesDropped> {
    let sum = |profile: &Profile| profile.samples.iter().map(weight).fold(0, u64::saturating_add);
    let pairs = window.profiles.iter().zip(&fitted.profiles);
    let dropped = pairs.map(|(before, after)| (before.collector.clone(), sum(before).saturating_sub(sum(after))));
    dropped.filter(|(_, sum)| *sum > 0).collect()
}

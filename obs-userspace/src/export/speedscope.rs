//! The file format of speedscope.app: shared frames and one sampled profile per process and thread name.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{
    check::Checked,
    lines::{self, Streamed},
    names::{Names, Place, clean, process_text},
    order::Order,
};
use crate::model::profile::{Profile, ProfileSample};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a, Frames, Profiles> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'a str,
    active_profile_index: usize,
    shared: Shared<Frames>,
    profiles: Profiles,
}

#[derive(Serialize)]
struct Shared<Frames> {
    frames: Frames,
}

#[derive(Serialize)]
struct FrameRow<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SampledProfile<Samples, Weights> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Samples,
    weights: Weights,
}

pub(super) fn write(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let profile = checked.profile;
    let order = Order::new(profile);
    let names = Names::new(profile, Place::Alone);
    let shared = &SharedFrames::new(profile, &order, &names);
    let sample = |index: &u32| &profile.samples[*index as usize];
    // Samples are ordered by process and thread name first: each view is a run of them.
    let views: Vec<View<'_>> = order
        .samples
        .indices
        .chunk_by(|left, right| thread_of(sample(left)) == thread_of(sample(right)))
        .map(|samples| View { profile, shown: checked.shown(), samples })
        .collect();
    let heaviest = views.iter().enumerate().max_by_key(|(index, view)| (view.weight(), usize::MAX - index));
    let file = File {
        schema: SCHEMA,
        exporter: concat!("obs ", env!("CARGO_PKG_VERSION")),
        name: &format!("obs {}", profile.collector),
        active_profile_index: heaviest.map_or(0, |(index, _)| index),
        shared: Shared { frames: Streamed(|| shared.rows()) },
        profiles: Streamed(|| views.iter().map(|view| view.row(shared))),
    };
    lines::write(&file, 4, 3, out)
}

/// What samples of one view have in common.
fn thread_of(sample: &ProfileSample) -> (u32, &str) {
    (sample.process, &sample.thread_name)
}

/// The samples of one thread name of one process.
struct View<'a> {
    profile: &'a Profile,
    /// Which value counts.
    shown: usize,
    /// Indices, at least one.
    samples: &'a [u32],
}

impl<'a> View<'a> {
    fn samples(&self) -> impl Iterator<Item = &'a ProfileSample> + use<'a> {
        let (profile, samples) = (self.profile, self.samples);
        samples.iter().map(|index| &profile.samples[*index as usize])
    }

    fn weights(&self) -> impl Iterator<Item = u64> + use<'a> {
        let shown = self.shown;
        self.samples().map(move |sample| sample.values[shown])
    }

    fn weight(&self) -> u64 {
        self.weights().sum()
    }

    fn name(&self) -> String {
        let sample = &self.profile.samples[self.samples[0] as usize];
        let process = &self.profile.processes[sample.process as usize];
        let thread = clean(Cow::Borrowed(&sample.thread_name));
        format!("{} ({}) / {thread}", clean(process_text(process)), process.key.pid)
    }

    fn row(&self, shared: &SharedFrames<'_>) -> SampledProfile<impl Serialize, impl Serialize> {
        SampledProfile {
            kind: "sampled",
            name: self.name(),
            unit: unit(&self.profile.value_types[self.shown].unit),
            start_value: 0,
            end_value: self.weight(),
            samples: Streamed(|| self.samples().map(|sample| Streamed(|| shared.stack(sample)))),
            weights: Streamed(|| self.weights()),
        }
    }
}

/// The unit as the format knows it; what it doesn't know is a bare number.
fn unit(unit: &str) -> &'static str {
    match unit {
        "bytes" => "bytes",
        "nanoseconds" => "nanoseconds",
        "microseconds" => "microseconds",
        "milliseconds" => "milliseconds",
        "seconds" => "seconds",
        _ => "none",
    }
}

/// Frames as speedscope tells them apart: one per name and module, whatever the address.
struct SharedFrames<'a> {
    names: &'a Names<'a>,
    /// Name and, if known, the rank of the module plus one, with the source file, or else the module, to show.
    rows: Vec<((u32, u32), Option<&'a str>)>,
    of_frame: Vec<u32>,
    /// The row of each name that stands for a cut.
    of_cut: BTreeMap<u32, u32>,
}

impl<'a> SharedFrames<'a> {
    fn new(profile: &'a Profile, order: &Order, names: &'a Names<'a>) -> Self {
        let keys: Vec<(u32, u32)> = (0..profile.frames.len() as u32)
            .map(|index| {
                let module = profile.frames[index as usize].module;
                (names.of_frame(index), module.map_or(0, |module| order.modules.rank(module) + 1))
            })
            .collect();
        let cuts = profile.samples.iter().filter_map(|sample| names.of_cut(sample)).map(|name| (name, 0));
        let mut files: BTreeMap<(u32, u32), Option<&str>> = cuts.map(|key| (key, None)).collect();
        for (frame, key) in profile.frames.iter().zip(&keys) {
            let file = frame.source.as_ref().map(|(file, _)| &**file);
            // Some addresses of a function may have no source, inlined code has another: take the first by name.
            let known = files.entry(*key).or_default();
            *known = match (*known, file) {
                (Some(known), Some(file)) => Some(known.min(file)),
                (known, file) => known.or(file),
            };
        }
        let mut rows: Vec<_> = files.into_iter().collect();
        for ((_, module), file) in &mut rows {
            if let (None, Some(rank)) = (&file, module.checked_sub(1)) {
                *file = Some(&*profile.modules[order.modules.indices[rank as usize] as usize].path);
            }
        }
        let row_of = |key: &(u32, u32)| rows.partition_point(|(row, _)| row < key) as u32;
        let of_frame = keys.iter().map(row_of).collect();
        let of_cut = rows
            .iter()
            .enumerate()
            .filter(|(_, ((_, module), _))| *module == 0)
            .map(|(row, ((name, _), _))| (*name, row as u32))
            .collect();
        Self { names, rows, of_frame, of_cut }
    }

    fn rows(&self) -> impl Iterator<Item = FrameRow<'_>> {
        self.rows.iter().map(|((name, _), file)| FrameRow { name: self.names.text(*name), file: *file })
    }

    /// The sample's stack from the outermost frame to the innermost.
    fn stack(&self, sample: &ProfileSample) -> impl Iterator<Item = u32> {
        let cut = self.names.of_cut(sample).and_then(|name| self.of_cut.get(&name)).copied();
        cut.into_iter().chain(sample.stack.iter().rev().map(|frame| self.of_frame[*frame as usize]))
    }
}

//! pprof's format: a gzip-compressed protocol-buffer message.
//!
//! The message is written in pieces: concatenated encodings of a message are an encoding of it with their repeated
//! fields joined, so that samples need not be held as messages all at once.

mod proto;
mod tables;
#[cfg(test)]
pub(super) mod tests;

use std::{
    borrow::Cow,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use self::{
    proto::{Label, Profile as Piece, Sample},
    tables::Tables,
};
use super::{
    check::{Checked, cut_of},
    names::{clean, process_text},
    order::Order,
};
use crate::model::{
    process::ProcessInfo,
    profile::{ProfileSample, ValueType},
};

/// Writes the profile. gzip's header carries neither time nor name, so that equal profiles give equal files.
pub(super) fn write(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    // The usual level takes half as much time again for a file a fifth smaller: who records wants to look soon.
    let mut pieces = Pieces { out: GzEncoder::new(out, Compression::fast()), buffer: Vec::new() };
    let profile = checked.profile;
    let order = Order::new(profile);
    let mut tables = Tables::new(profile, &order, main_module(checked));

    let head = head(checked, &mut tables);
    pieces.write(&head)?;
    pieces.write(&Piece { mapping: tables.mappings(&order), ..Piece::default() })?;
    for sample in order.samples.of(&profile.samples) {
        let mut location_id: Vec<u64> = Vec::with_capacity(sample.stack.len() + 1);
        let mut rest = &sample.stack[..];
        while !rest.is_empty() {
            let (location, inlined_into) = rest.split_at(tables.location_length(rest));
            location_id.push(tables.location(location));
            rest = inlined_into;
        }
        if let Some(end) = cut_of(sample) {
            location_id.push(tables.cut_location(end));
        }
        let value = sample.values.iter().map(|value| signed(*value)).collect();
        let label = labels(&profile.processes[sample.process as usize], sample, &mut tables);
        let (location, function) = tables.take_new();
        pieces.write(&Piece {
            sample: vec![Sample { location_id, value, label }],
            location,
            function,
            ..Piece::default()
        })?;
    }
    for string in tables.into_strings() {
        pieces.write(&Piece { string_table: vec![string.into_owned()], ..Piece::default() })?;
    }
    pieces.out.finish()?;
    Ok(())
}

/// Everything that stands once in a file.
fn head<'a>(checked: &Checked<'a>, tables: &mut Tables<'a>) -> Piece {
    let profile = checked.profile;
    let mut value_type = |of: &'a ValueType| proto::ValueType {
        r#type: tables.string(Cow::Borrowed(&*of.name)),
        unit: tables.string(Cow::Borrowed(&*of.unit)),
    };
    let sample_type: Vec<_> = profile.value_types.iter().map(&mut value_type).collect();
    let period_type = profile.period.as_ref().map(|(of, _)| value_type(of));
    let comment = comments(checked).into_iter().map(|line| tables.string(Cow::Owned(line))).collect();
    Piece {
        default_sample_type: sample_type[checked.shown()].r#type,
        sample_type,
        period_type,
        period: profile.period.as_ref().map_or(0, |(_, period)| signed(*period)),
        time_nanos: signed(profile.started_unix_ns),
        duration_nanos: signed(profile.duration_ns),
        comment,
        ..Piece::default()
    }
}

/// What `pprof -comments` shows: who wrote the file, and how many stacks lack their outer part, and why.
fn comments(checked: &Checked<'_>) -> Vec<String> {
    let profile = checked.profile;
    let counted = checked.counted();
    let (total, cut) = (checked.totals[counted], checked.cut.values().sum::<u64>());
    let ValueType { name, unit } = &profile.value_types[counted];
    let mut lines = vec![
        format!("obs {} profile, obs {}", profile.collector, env!("CARGO_PKG_VERSION")),
        format!("cut stacks: {cut} of {total} {name}/{unit}"),
    ];
    lines.extend(checked.cut.iter().map(|(end, value)| format!("cut: {}: {value} {name}/{unit}", end.reason())));
    lines
}

/// The index of the module that pprof should take for the main one: the program of the heaviest process.
fn main_module(checked: &Checked<'_>) -> Option<u32> {
    let (profile, shown) = (checked.profile, checked.shown());
    let mut weights = vec![0_u64; profile.processes.len()];
    for sample in &profile.samples {
        weights[sample.process as usize] += sample.values[shown];
    }
    let heaviest = profile.processes.iter().zip(weights).max_by_key(|(process, weight)| (*weight, process.key))?.0;
    let executable = heaviest.executable.as_ref()?;
    let is_it = |module: &crate::model::profile::Module| module.path == *executable;
    profile.modules.iter().position(is_it).map(|index| index as u32)
}

/// Who was measured.
fn labels<'a>(process: &'a ProcessInfo, sample: &'a ProfileSample, tables: &mut Tables<'a>) -> Vec<Label> {
    let ProcessInfo { key, name: _, executable, container_id, cgroup } = process;
    let mut labels = Vec::with_capacity(6);
    let texts = [
        ("process", Some(process_text(process))),
        ("thread", Some(Cow::Borrowed(&*sample.thread_name))),
        ("container_id", container_id.as_deref().map(Cow::Borrowed)),
        ("cgroup", cgroup.as_deref().map(Cow::Borrowed)),
        ("executable", executable.as_deref().map(Cow::Borrowed)),
    ];
    for (name, text) in texts {
        // An empty text would read as a number.
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let key = tables.string(Cow::Borrowed(name));
            labels.push(Label { key, str: tables.string(clean(text)), ..Label::default() });
        }
    }
    let pid = tables.string(Cow::Borrowed("pid"));
    labels.push(Label { key: pid, num: i64::from(key.pid), ..Label::default() });
    labels
}

/// [`Checked`] keeps sums of values below 2^63; times of the far future are shown as the latest that fits.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Encodes a message piece by piece.
struct Pieces<'a> {
    out: GzEncoder<&'a mut dyn Write>,
    buffer: Vec<u8>,
}

impl Pieces<'_> {
    fn write(&mut self, piece: &Piece) -> io::Result<()> {
        self.buffer.clear();
        // A vector grows: encoding into it cannot run out of room.
        piece.encode(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }
}

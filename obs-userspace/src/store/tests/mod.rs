//! The store as a whole: what goes in comes out, whatever happens in between.

mod answers;
mod crash;
mod odd;
mod retention;
mod room;
mod round_trip;
mod too_large;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::*;
use crate::model::{
    process::ProcessKey,
    profile::{Frame, FrameKind, Module, ProfileSample, ValueType},
    record::Label,
    stack::StackEnd,
};

const SECOND_NS: u64 = 1_000_000_000;
const WINDOW_NS: u64 = 10 * SECOND_NS;
const PERIOD_NS: u64 = 10_101_010;
/// A multiple of two hours, so that tests know where blocks end.
const START_NS: u64 = 1_700_006_400 * SECOND_NS;

fn options() -> StoreOptions {
    StoreOptions { boot_id: [1; 16], ..StoreOptions::default() }
}

fn process(pid: u32, name: &str) -> ProcessInfo {
    let key = ProcessKey { pid, started_ns: u64::from(pid) * 1000, exec_id: 1 };
    ProcessInfo { key, name: name.into(), executable: None, container_id: None, cgroup: None }
}

/// A profile of user functions: per stack its process, its functions from the outermost to the innermost, its count.
fn profile(stacks: &[(&ProcessInfo, &[&str], u64)]) -> Profile {
    let mut profile = Profile {
        collector: "cpu".into(),
        value_types: vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
        period: Some((ValueType::new("cpu", "nanoseconds"), PERIOD_NS)),
        started_unix_ns: START_NS,
        duration_ns: WINDOW_NS,
        modules: vec![Module { path: "/bin/app".into(), build_id: Some("abcd".into()) }],
        frames: Vec::new(),
        processes: Vec::new(),
        samples: Vec::new(),
    };
    for (process, functions, count) in stacks {
        let stack: Vec<u32> = functions
            .iter()
            .rev()
            .map(|name| {
                let frame = Frame {
                    function: Some((*name).into()),
                    kind: FrameKind::User,
                    module: Some(0),
                    address: 0,
                    source: Some(("app.c".into(), name.len() as u32)),
                };
                position(&mut profile.frames, frame)
            })
            .collect();
        let process = position(&mut profile.processes, (*process).clone());
        let values = vec![*count, count * PERIOD_NS];
        let thread_name = "main".into();
        profile.samples.push(ProfileSample { process, thread_name, stack: stack.into(), cut: None, values });
    }
    profile
}

fn position<T: PartialEq>(table: &mut Vec<T>, entry: T) -> u32 {
    let at = table.iter().position(|known| *known == entry).unwrap_or_else(|| {
        table.push(entry);
        table.len() - 1
    });
    at as u32
}

/// The window of that number, with a profile.
fn window(number: u64, profiles: Vec<Profile>) -> Window {
    Window {
        started_unix_ns: START_NS + number * WINDOW_NS,
        duration_ns: WINDOW_NS,
        boot_unix_ns: START_NS - 1000 * SECOND_NS,
        profiles,
        ..Window::default()
    }
}

/// A window whose contents tell its number: that many samples in one stack, and a gauge.
fn numbered(number: u64) -> Window {
    let app = process(7, "app");
    let function = format!("step_{}", number % 3);
    let gauges = vec![Gauge { name: "number", labels: vec![("host", "h".into())], value: number as f64 }];
    Window { gauges, ..window(number, vec![profile(&[(&app, &["main", &function], number + 1)])]) }
}

fn query(range: Range) -> ProfileQuery {
    ProfileQuery {
        range,
        collector: "cpu".to_owned(),
        matchers: Vec::new(),
        grouping: Grouping::Threads,
        limits: Limits::default(),
    }
}

/// The numbers of the windows that are there, from the gauge that [`numbered`] makes.
fn numbers(reader: &Reader) -> Vec<u64> {
    let query = SeriesQuery {
        name: "number".to_owned(),
        matchers: Vec::new(),
        range: Range::ALL,
        step_ns: 0,
        limits: Limits::default(),
    };
    let result = reader.series(&query).unwrap();
    let points = result.series.iter().flat_map(|series| &series.points);
    points
        .map(|point| match point.value {
            SeriesValue::Gauge { last, .. } => last as u64,
            _ => panic!("a gauge"),
        })
        .collect()
}

/// A sample's place without positions in tables.
type Place = (ProcessKey, String, Vec<Frame>, Vec<Option<Module>>, Option<StackEnd>);

/// A profile as sums, whatever the order of its tables.
fn sums<'a>(profiles: impl IntoIterator<Item = &'a Profile>) -> BTreeMap<String, Vec<u64>> {
    let mut sums = BTreeMap::new();
    for profile in profiles {
        for sample in &profile.samples {
            let frames: Vec<Frame> = sample.stack.iter().map(|index| profile.frames[*index as usize].clone()).collect();
            let modules: Vec<Option<Module>> =
                frames.iter().map(|frame| frame.module.map(|index| profile.modules[index as usize].clone())).collect();
            let frames = frames.into_iter().map(|frame| Frame { module: None, ..frame }).collect();
            let info = &profile.processes[sample.process as usize];
            let place: Place = (info.key, sample.thread_name.to_string(), frames, modules, sample.cut);
            let sum: &mut Vec<u64> =
                sums.entry(format!("{place:?}")).or_insert_with(|| vec![0; profile.value_types.len()]);
            sum.iter_mut().zip(&sample.values).for_each(|(sum, value)| *sum += value);
        }
    }
    sums.retain(|_, values| values.iter().any(|value| *value > 0));
    sums
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.join("blocks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn file_names(dir: &Path) -> Vec<String> {
    files(dir).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn label(name: &'static str, value: &str) -> Label {
    (name, Arc::from(value))
}

//! The store and what it imports, without the rest of obs-userspace; and what every target does with a file.

#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/store/mod.rs"]
pub mod store;

use std::{
    fs,
    path::{Path, PathBuf},
};

use store::{
    EventQuery, Grouping, Limits, MatchOp, Matcher, ProcessQuery, ProfileQuery, Range, Reader, SeriesQuery, Store, StoreOptions,
};

/// A folder in memory, or where the variable `OBS_FUZZ_DIR` says, with one file.
pub fn folder(name: &str, bytes: &[u8]) -> PathBuf {
    let memory = || format!("/dev/shm/obs-fuzz-{}", std::process::id()).into();
    let dir = std::env::var_os("OBS_FUZZ_DIR").map_or_else(memory, PathBuf::from);
    let blocks = dir.join("blocks");
    let _ = fs::remove_dir_all(&blocks);
    fs::create_dir_all(&blocks).expect("a folder in memory");
    fs::write(blocks.join(name), bytes).expect("a file in memory");
    dir
}

/// Asks everything.
pub fn ask(dir: &Path) {
    let reader = Reader::open(dir).expect("the folder is there");
    let limits = Limits { stacks: 100, functions: 10, series: 10, points: 100, buckets: 100, events: 10, processes: 10, text_bytes: 10_000, names: 10, deadline: None };
    let part = Range { from_unix_ns: 1_700_006_460_000_000_000, to_unix_ns: 1_700_007_000_000_000_000 };
    for range in [Range::ALL, part] {
        for matchers in [Vec::new(), vec![Matcher::new("process", MatchOp::Like, "*a*"), Matcher::new("unit", MatchOp::Equal, "")]] {
            let limits = limits.clone();
            let query = ProfileQuery { range, collector: "cpu".to_owned(), matchers, grouping: Grouping::Threads, limits };
            let merged = reader.profile(&query).expect("the folder is listed");
            assert!(merged.profile.samples.len() <= 100);
            for sample in &merged.profile.samples {
                assert!((sample.process as usize) < merged.profile.processes.len());
                assert!(sample.stack.iter().all(|frame| (*frame as usize) < merged.profile.frames.len()));
                assert_eq!(sample.values.len(), merged.profile.value_types.len());
            }
            let top = reader.top_functions(&query, None).expect("the folder is listed");
            assert!(top.functions.len() <= 10);
        }
        for name in ["number", "c", "h"] {
            for step_ns in [0, 600_000_000_000] {
                let query = SeriesQuery { name: name.to_owned(), matchers: Vec::new(), range, step_ns, limits: limits.clone() };
                let found = reader.series(&query).expect("the folder is listed");
                assert!(found.series.len() <= 10);
                assert!(found.series.iter().map(|series| series.points.len()).sum::<usize>() <= 100);
            }
        }
        let query = EventQuery { range, names: Vec::new(), matchers: Vec::new(), limits: limits.clone() };
        assert!(reader.events(&query).expect("the folder is listed").events.len() <= 10);
        let collector = Some("cpu".to_owned());
        let query = ProcessQuery { range, matchers: Vec::new(), collector, limits: limits.clone() };
        assert!(reader.processes(&query).expect("the folder is listed").processes.len() <= 10);
        reader.catalog(range, &limits).expect("the folder is listed");
        for label in ["thread", "pid", "l"] {
            assert!(reader.label_values(range, label, &limits).expect("the folder is listed").0.len() <= 10);
        }
    }
}

/// Opens the folder for writing, appends a window, and makes blocks of everything.
pub fn write(dir: &Path) {
    let mut store = Store::open(dir, StoreOptions::default()).expect("a damaged file is no reason");
    let window = store::Window { started_unix_ns: 1_700_006_500_000_000_000, duration_ns: 1, ..store::Window::default() };
    store.append(&window).expect("an empty window fits");
    store.rotate().expect("there is room");
}

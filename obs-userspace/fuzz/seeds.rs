//! Fills the corpora of the fuzz targets with files that the store wrote. `cargo run --bin seeds`, in this folder.

use std::{fs, path::Path};

use obs_userspace_fuzz::{
    model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
        record::{Counter, Event, Gauge, Histogram},
    },
    store::{KnownProcess, Store, StoreOptions, Window, fuzz, limits::STACK_FRAMES_MAX},
};

const START_NS: u64 = 1_700_006_400_000_000_000;
const WINDOW_NS: u64 = 10_000_000_000;

fn window(number: u64) -> Window {
    let key = ProcessKey { pid: 7, started_ns: 5, exec_id: 1 };
    let info = ProcessInfo {
        key,
        name: "app".into(),
        executable: None,
        container_id: None,
        cgroup: Some("/system.slice/app.service".into()),
    };
    let frame = |name: String| Frame {
        function: Some(name.into()),
        kind: FrameKind::User,
        module: Some(0),
        address: number,
        source: Some(("a.c".into(), 1)),
    };
    let sample = |stack: &[u32], values: [u64; 2]| ProfileSample {
        process: 0,
        thread_name: "main".into(),
        stack: stack.into(),
        cut: None,
        values: values.to_vec(),
    };
    let profile = Profile {
        collector: "cpu".into(),
        value_types: vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
        period: Some((ValueType::new("cpu", "nanoseconds"), 10)),
        started_unix_ns: 0,
        duration_ns: 0,
        modules: vec![Module { path: "/bin/app".into(), build_id: None }],
        frames: vec![frame("main".to_owned()), frame(format!("step_{}", number % 3))],
        processes: vec![info.clone()],
        samples: vec![
            sample(&[1, 0], [number + 1, 10 * number + 10]),
            sample(&[0], [1, number % 2 + 9]),
            // As deep as stacks may be: one call more is damage.
            sample(&[0; STACK_FRAMES_MAX], [1, 10]),
        ],
    };
    let label = |value: &str| vec![("l", value.into())];
    Window {
        started_unix_ns: START_NS + number * WINDOW_NS,
        duration_ns: WINDOW_NS,
        boot_unix_ns: START_NS,
        profiles: vec![profile],
        processes: vec![KnownProcess { info, labels: vec![("user".into(), "root".into())] }],
        counters: vec![Counter { name: "c", labels: label("x"), value: (number * 100 % 700) as f64 / 10.0 }],
        gauges: vec![
            Gauge { name: "number", labels: label("x"), value: number as f64 },
            Gauge { name: "number", labels: label("y"), value: 1.0 / (number + 1) as f64 },
        ],
        histograms: vec![Histogram {
            name: "h",
            labels: Vec::new(),
            first_bucket: -8,
            buckets: vec![1, 2, number],
            zero_count: 0,
            sum: 0.5,
        }],
        events: vec![Event { name: "exec", time_ns: number * WINDOW_NS, process: Some(key), labels: label("z") }],
    }
}

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("a folder for seeds");
    fs::write(folder.join(name), bytes).expect("a seed");
}

fn main() {
    for windows in [1, 3, 70] {
        let dir = std::env::temp_dir().join(format!("obs-seeds-{}-{windows}", std::process::id()));
        let mut store = Store::open(&dir, StoreOptions::default()).expect("a state folder");
        (0..windows).for_each(|number| {
            store.append(&window(number)).expect("the window fits");
        });
        let journal = fs::read(dir.join("blocks/0000000001.journal")).expect("the journal");
        store.rotate().expect("a block");
        let block = fs::read(dir.join("blocks/0000000001.block")).expect("the block");
        fs::remove_dir_all(&dir).expect("the state folder goes");

        put("frames", &format!("journal-{windows}"), &[&[0], &journal[..]].concat());
        put("frames", &format!("block-{windows}"), &[&[1], &block[..]].concat());
        let mut seed = Vec::new();
        for (_, raw) in fuzz::contents(&journal).expect("the journal is whole") {
            seed.extend_from_slice(&(raw.len() as u16).to_le_bytes());
            seed.extend_from_slice(&raw);
        }
        put("journal", &format!("windows-{windows}"), &seed);
        for choice in [0, 1] {
            let mut seed = vec![choice];
            for (code, raw) in fuzz::contents(&block).expect("the block is whole") {
                let length = (raw.len() as u32).to_le_bytes();
                seed.extend_from_slice(&[code, length[0], length[1], length[2]]);
                seed.extend_from_slice(&raw);
            }
            put("block", &format!("block-{windows}-{choice}"), &seed);
        }
    }
}

//! Any windows, any ranges: the sum of what went in is what comes out.

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = Arc<str>> {
    let nasty = prop::sample::select(vec!["", " ", "a;b", "é日🦀", "\u{0}", "x"]).prop_map(Arc::<str>::from);
    prop_oneof![2 => nasty, 3 => "[a-d]".prop_map(Arc::<str>::from)]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..20_u64, 1 => 0..1_000_000_000_000_u64]
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let kind = prop::sample::select(vec![FrameKind::User, FrameKind::UserInlined, FrameKind::Jit, FrameKind::Kernel]);
    let frame = (
        prop::option::of(text()),
        kind,
        prop::option::of(0..2_u32),
        prop_oneof![Just(0), any::<u64>()],
        prop::option::of((text(), any::<u32>())),
    );
    let info = (1..4_u32, 0..2_u64, text(), prop::option::of(text()), prop::option::of(text()));
    let cut = prop::sample::select(vec![None, None, Some(StackEnd::NoRow), Some(StackEnd::Complete)]);
    let sample = (0..3_u32, text(), prop::collection::vec(0..5_u32, 0..6), cut, value(), value(), any::<bool>());
    let two_types = any::<bool>();
    (
        prop::collection::vec((text(), prop::option::of(text())), 2),
        prop::collection::vec(frame, 5),
        prop::collection::vec(info, 3),
        prop::collection::vec(sample, 0..10),
        two_types,
        1..4_u64,
    )
        .prop_map(|(modules, frames, infos, samples, two_types, factor)| {
            let mut profile = profile(&[]);
            profile.modules = modules.into_iter().map(|(path, build_id)| Module { path, build_id }).collect();
            for (function, kind, module, address, source) in frames {
                profile.frames.push(Frame { function, kind, module, address, source });
            }
            for (pid, started_ns, name, executable, cgroup) in infos {
                let key = ProcessKey { pid, started_ns, exec_id: 0 };
                profile.processes.push(ProcessInfo { key, name, executable, container_id: None, cgroup });
            }
            if two_types {
                profile.collector = "lock".into();
            }
            for (process, thread_name, stack, cut, count, weight, is_multiple) in samples {
                // Some profiles' second value follows from the first, some do not.
                let weight = if two_types && !is_multiple { weight } else { count * factor };
                let (stack, values) = (stack.into(), vec![count, weight]);
                profile.samples.push(ProfileSample { process, thread_name, stack, cut, values });
            }
            profile
        })
}

fn any_window() -> impl Strategy<Value = (u64, bool, Window)> {
    let bits = prop_oneof![any::<f64>(), (0..100_i32).prop_map(|value| f64::from(value) / 10.0)];
    let gauge = (text(), bits).prop_map(|(value, number)| (value, number));
    let counter = (text(), value());
    let event = (0..100_u64, text());
    (
        prop_oneof![4 => 1..3_u64, 1 => 100..800_u64],
        prop::bool::weighted(0.1),
        prop::collection::vec(any_profile(), 0..3),
        prop::collection::vec(gauge, 0..4),
        prop::collection::vec(counter, 0..4),
        prop::collection::vec(event, 0..3),
    )
        .prop_map(|(gap, rotate, profiles, gauges, counters, events)| {
            let mut window = window(0, profiles);
            window.gauges = gauges
                .into_iter()
                .map(|(label, value)| Gauge { name: "g", labels: vec![("l", label)], value })
                .collect();
            window.counters = counters
                .into_iter()
                .map(|(label, value)| Counter { name: "c", labels: vec![("l", label)], value: value as f64 })
                .collect();
            let event = |(at, label)| Event { name: "e", time_ns: at, process: None, labels: vec![("l", label)] };
            window.events = events.into_iter().map(event).collect();
            (gap, rotate, window)
        })
}

/// What a naive reader of the windows would say of a gauge: every reading, bit for bit.
fn readings(windows: &[Window], range: Range) -> BTreeMap<(String, u64), u64> {
    let mut readings = BTreeMap::new();
    for window in windows.iter().filter(|window| range.contains(window.started_unix_ns)) {
        for gauge in &window.gauges {
            readings.insert((gauge.labels[0].1.to_string(), window.started_unix_ns), gauge.value.to_bits());
        }
    }
    readings
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_went_in_comes_out(
        windows in prop::collection::vec(any_window(), 1..40),
        from in 0..2000_u64,
        length in 1..4000_u64,
        thin: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), options()).unwrap();
        let mut number = 0;
        let mut put = Vec::new();
        for (gap, rotate, mut window) in windows {
            number += gap;
            window.started_unix_ns = START_NS + number * WINDOW_NS;
            window.boot_unix_ns = window.started_unix_ns;
            store.append(&window).unwrap();
            if rotate {
                store.rotate().unwrap();
            }
            put.push(window);
        }
        let part = Range { from_unix_ns: START_NS + from * WINDOW_NS, to_unix_ns: START_NS + (from + length) * WINDOW_NS };
        let reader = store.reader();
        for range in [Range::ALL, part] {
            for collector in ["cpu", "lock"] {
                let merged = reader.profile(&ProfileQuery { collector: collector.to_owned(), ..query(range) }).unwrap();
                prop_assert!(merged.notes.is_complete(), "{:?}", merged.notes);
                let expected = put
                    .iter()
                    .filter(|window| range.contains(window.started_unix_ns))
                    .flat_map(|window| &window.profiles)
                    .filter(|profile| profile.collector == collector);
                prop_assert_eq!(sums([&merged.profile]), sums(expected));
            }
            let query = SeriesQuery {
                name: "g".to_owned(),
                matchers: Vec::new(),
                range,
                step_ns: 0,
                limits: Limits::default(),
            };
            let mut found = BTreeMap::new();
            for series in reader.series(&query).unwrap().series {
                for point in series.points {
                    let SeriesValue::Gauge { last, .. } = point.value else { panic!("a gauge") };
                    found.insert((series.labels[0].1.to_string(), point.started_unix_ns), last.to_bits());
                }
            }
            prop_assert_eq!(found, readings(&put, range));
            let query = EventQuery { range, names: Vec::new(), matchers: Vec::new(), limits: Limits::default() };
            let mut found: Vec<(u64, String)> = reader.events(&query).unwrap().events
                .into_iter()
                .map(|event| (event.time_unix_ns, event.labels[0].1.to_string()))
                .collect();
            let mut expected: Vec<(u64, String)> = put
                .iter()
                .flat_map(|window| window.events.iter().map(|event| ((window.boot_unix_ns + event.time_ns) / 1000 * 1000, event)))
                .filter(|(time, _)| range.contains(*time))
                .map(|(time, event)| (time, event.labels[0].1.to_string()))
                .collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
        // Without its windows the whole is still the same.
        store.rotate().unwrap();
        drop(store);
        if thin {
            let folder = folder::Folder::new(dir.path());
            for name in folder.list().unwrap().files {
                seal::thin(&folder, name).unwrap();
            }
            let merged = reader.profile(&query(Range::ALL)).unwrap();
            let expected = put.iter().flat_map(|window| &window.profiles).filter(|profile| profile.collector == "cpu");
            prop_assert_eq!(sums([&merged.profile]), sums(expected));
        }
        let report = check(dir.path()).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report);
        let total = |of: fn(&Contents) -> u64| report.files.iter().map(|file| of(&file.contents)).sum::<u64>();
        prop_assert_eq!(total(|contents| contents.windows), put.len() as u64);
    }
}

#[test]
fn a_stack_that_a_window_has_in_two_profiles_is_added_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let mut twice = numbered(4);
    twice.profiles.push(twice.profiles[0].clone());
    assert_eq!(store.append(&twice).unwrap().samples, 1);
    store.append(&numbered(5)).unwrap();
    let expected = [&twice.profiles[0], &twice.profiles[1], &numbered(5).profiles[0]].map(Profile::clone);
    for _ in 0..2 {
        let merged = store.reader().profile(&query(Range::ALL)).unwrap();
        assert_eq!(sums([&merged.profile]), sums(&expected));
        // A block has no place for it twice: it could not be read.
        store.rotate().unwrap();
        assert!(check(dir.path()).unwrap().is_clean());
    }
}

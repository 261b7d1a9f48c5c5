//! Questions with known answers.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn with_matchers(matchers: Vec<Matcher>) -> ProfileQuery {
    ProfileQuery { matchers, ..query(Range::ALL) }
}

fn equal(label: &str, value: &str) -> Matcher {
    Matcher::new(label, MatchOp::Equal, value)
}

fn samples(profile: &Profile) -> u64 {
    profile.samples.iter().map(|sample| sample.values[0]).sum()
}

#[test]
fn a_profile_of_one_window_is_what_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let mut app = process(7, "app");
    app.executable = Some("/bin/app".into());
    app.container_id = Some("c0ffee".into());
    app.cgroup = Some("/system.slice/app.service".into());
    let mut put = profile(&[(&app, &["main", "work"], 3), (&app, &["main"], 2)]);
    put.samples[1].cut = Some(StackEnd::NoRow);
    put.frames.push(Frame {
        function: None,
        kind: FrameKind::KernelInlined,
        module: None,
        address: u64::MAX,
        source: None,
    });
    put.samples.push(ProfileSample {
        process: 0,
        thread_name: "".into(),
        stack: [2, 2, 2].into(),
        cut: None,
        values: vec![1, 5],
    });
    put.samples.push(ProfileSample {
        process: 0,
        thread_name: "".into(),
        stack: [].into(),
        cut: Some(StackEnd::Lost),
        values: vec![4, 0],
    });
    store.append(&window(0, vec![put.clone()])).unwrap();
    for _ in 0..2 {
        let merged = store.reader().profile(&query(Range::ALL)).unwrap();
        assert!(merged.notes.is_complete());
        assert_eq!(merged.covered_ns, WINDOW_NS);
        let Profile { collector, value_types, period, started_unix_ns, duration_ns, processes, .. } = &merged.profile;
        assert_eq!(collector, "cpu");
        assert_eq!((value_types, period), (&put.value_types, &put.period));
        assert_eq!((*started_unix_ns, *duration_ns), (START_NS, WINDOW_NS));
        assert_eq!(processes, &put.processes);
        assert_eq!(sums([&merged.profile]), sums([&put]));
        store.rotate().unwrap();
    }
}

#[test]
fn samples_are_chosen_by_label() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let mut web = process(1, "nginx");
    web.cgroup = Some("/system.slice/nginx.service".into());
    let mut job = process(2, "job");
    job.container_id = Some("c0ffee".into());
    job.executable = Some("/usr/bin/job".into());
    let mut put = profile(&[(&web, &["main", "serve"], 1), (&job, &["main", "crunch"], 10), (&job, &["main"], 100)]);
    put.samples[2].thread_name = "worker".into();
    store.append(&window(0, vec![put])).unwrap();
    for _ in 0..2 {
        for (matcher, expected) in [
            (equal("process", "nginx"), 1),
            (equal("pid", "2"), 110),
            (equal("unit", "nginx.service"), 1),
            (equal("container", "c0ffee"), 110),
            (equal("container", ""), 1),
            (equal("thread", "worker"), 100),
            (equal("executable", "/usr/bin/job"), 110),
            (Matcher::new("thread", MatchOp::NotEqual, "worker"), 11),
            (Matcher::new("process", MatchOp::Like, "*n*"), 1),
            (Matcher::new("process", MatchOp::NotLike, "n*"), 110),
            (equal("nonsense", "x"), 0),
        ] {
            let merged = store.reader().profile(&with_matchers(vec![matcher.clone()])).unwrap();
            assert_eq!(samples(&merged.profile), expected, "{matcher:?}");
        }
        let both = vec![equal("pid", "2"), equal("thread", "main")];
        assert_eq!(samples(&store.reader().profile(&with_matchers(both)).unwrap().profile), 10);
        let other = ProfileQuery { collector: "offcpu".to_owned(), ..query(Range::ALL) };
        let none = store.reader().profile(&other).unwrap().profile;
        assert!(none.samples.is_empty() && none.value_types.is_empty());
        store.rotate().unwrap();
    }
}

#[test]
fn what_is_known_of_a_process_holds_for_its_samples() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let app = process(7, "app");
    let mut put = window(0, vec![profile(&[(&app, &["main"], 3)])]);
    let labels = [("user", "www"), ("unit", "told.service"), ("process", "another name")];
    let labels = labels.map(|(name, value)| (Arc::from(name), Arc::from(value))).to_vec();
    put.processes = vec![KnownProcess { info: app.clone(), labels }];
    store.append(&put).unwrap();
    for _ in 0..2 {
        for (matcher, expected) in [
            (equal("user", "www"), 3),
            (equal("unit", "told.service"), 3),
            (equal("process", "app"), 3),
            (equal("user", ""), 0),
        ] {
            let merged = store.reader().profile(&with_matchers(vec![matcher.clone()])).unwrap();
            assert_eq!(samples(&merged.profile), expected, "{matcher:?}");
        }
        let query =
            ProcessQuery { range: Range::ALL, matchers: Vec::new(), collector: None, limits: Limits::default() };
        let found = store.reader().processes(&query).unwrap().processes;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].process.info, app);
        assert!(found[0].process.labels.contains(&("user".into(), "www".into())));
        store.rotate().unwrap();
    }
}

#[test]
fn a_reused_pid_is_two_processes() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let first = process(7, "first");
    let mut second = process(7, "second");
    second.key.started_ns += 1;
    let mut third = second.clone();
    third.key.exec_id += 1;
    third.name = "third".into();
    for (number, who) in [(0, &first), (1, &second), (2, &third), (3, &second)] {
        store.append(&window(number, vec![profile(&[(who, &["main"], 1 + number)])])).unwrap();
    }
    for _ in 0..2 {
        let merged = store.reader().profile(&query(Range::ALL)).unwrap().profile;
        let mut found: Vec<(String, u64)> = merged
            .samples
            .iter()
            .map(|sample| (merged.processes[sample.process as usize].name.to_string(), sample.values[0]))
            .collect();
        found.sort();
        assert_eq!(found, [("first".to_owned(), 1), ("second".to_owned(), 2 + 4), ("third".to_owned(), 3)]);
        store.rotate().unwrap();
    }
}

#[test]
fn functions_are_counted_once_per_stack() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let app = process(7, "app");
    let put = profile(&[(&app, &["main", "fib", "fib", "fib"], 3), (&app, &["main", "work"], 5), (&app, &[], 2)]);
    store.append(&window(0, vec![put])).unwrap();
    let top = store.reader().top_functions(&query(Range::ALL), Some("samples")).unwrap();
    let rows: Vec<_> = top.functions.iter().map(|of| (of.name.as_str(), of.self_value, of.total_value)).collect();
    assert_eq!(rows, [("work", 5, 5), ("fib", 3, 3), ("main", 0, 8)]);
    assert_eq!((top.total, top.without_frames, top.functions_omitted), (10, 2, 0));
    assert_eq!(top.functions[0].module.as_deref(), Some("/bin/app"));
    let limits = Limits { functions: 1, ..Limits::default() };
    let top = store.reader().top_functions(&ProfileQuery { limits, ..query(Range::ALL) }, None).unwrap();
    assert_eq!((top.functions.len(), top.functions_omitted), (1, 2));
    assert_eq!(top.value_type, Some(ValueType::new("cpu", "nanoseconds")));
    assert_eq!(top.total, 10 * PERIOD_NS);
}

#[test]
fn beyond_the_limit_the_largest_stacks_stay_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let app = process(7, "app");
    for number in 0..10 {
        let names: Vec<String> = (0..100).map(|index| format!("f{}", number * 100 + index)).collect();
        let stacks: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
        let rows: Vec<(&ProcessInfo, &[&str], u64)> =
            (0..).zip(&stacks).map(|(index, stack)| (&app, &stack[..], 1 + number * 100 + index)).collect();
        store.append(&window(number, vec![profile(&rows)])).unwrap();
        if number % 3 == 0 {
            store.rotate().unwrap();
        }
    }
    let limits = Limits { stacks: 50, ..Limits::default() };
    let merged = store.reader().profile(&ProfileQuery { limits, ..query(Range::ALL) }).unwrap();
    assert_eq!(merged.profile.samples.len(), 50);
    assert_eq!(merged.profile.frames.len(), 50, "only what is needed");
    assert_eq!(merged.notes.omitted, 950);
    let kept = samples(&merged.profile);
    assert_eq!(kept, (951..=1000).sum::<u64>());
    assert_eq!(merged.omitted_values, [500_500 - kept, (500_500 - kept) * PERIOD_NS]);
}

#[test]
fn a_range_takes_the_roll_up_inside_and_windows_at_its_edges() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..900 {
        store.append(&numbered(number)).unwrap();
    }
    for (from, to) in
        [(0, 900), (0, 720), (13, 701), (60, 120), (59, 121), (61, 119), (100, 101), (700, 750), (899, 900)]
    {
        let range = Range { from_unix_ns: START_NS + from * WINDOW_NS, to_unix_ns: START_NS + to * WINDOW_NS };
        let merged = store.reader().profile(&query(range)).unwrap();
        assert_eq!(samples(&merged.profile), (from + 1..=to).sum::<u64>(), "{from}..{to}");
        assert_eq!(merged.covered_ns, (to - from) * WINDOW_NS);
        assert!(merged.notes.is_complete());
    }
}

fn series(reader: &Reader, name: &str, range: Range, step_ns: u64, matchers: Vec<Matcher>) -> Vec<Series> {
    let query = SeriesQuery { name: name.to_owned(), matchers, range, step_ns, limits: Limits::default() };
    let result = reader.series(&query).unwrap();
    assert!(result.notes.is_complete(), "{:?}", result.notes);
    result.series
}

#[test]
fn steps_of_a_counter_add_up_to_its_growth() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    // It grows by 7 a window, and begins again at 0 once.
    for number in 0..1000_u64 {
        let since = if number < 500 { number } else { number - 500 };
        let counter = |of: &str, value| Counter { name: "bytes", labels: vec![label("of", of)], value };
        let counters = vec![counter("a", (since * 7) as f64), counter("b", 42.0)];
        store.append(&Window { counters, ..window(number, Vec::new()) }).unwrap();
    }
    for step_ns in [0, 30 * SECOND_NS, 600 * SECOND_NS, 3600 * SECOND_NS] {
        let found = series(&store.reader(), "bytes", Range::ALL, step_ns, vec![equal("of", "a")]);
        assert_eq!(found.len(), 1);
        let (mut growth, mut windows) = (0.0, 0);
        for point in &found[0].points {
            let SeriesValue::Counter { increase, .. } = point.value else { panic!("a counter") };
            growth += increase;
            windows += point.windows;
            assert_eq!(if step_ns > 0 { point.started_unix_ns % step_ns } else { 0 }, 0);
        }
        // 499 steps of 7, then from 0 again 499 of them.
        assert_eq!((growth, windows), (f64::from(2 * 499 * 7), 1000), "step {step_ns}");
    }
    // The growth since the reading before the range counts.
    let range = Range { from_unix_ns: START_NS + 100 * WINDOW_NS, to_unix_ns: START_NS + 102 * WINDOW_NS };
    let found = series(&store.reader(), "bytes", range, 0, Vec::new());
    assert_eq!(found.len(), 2);
    let a = found.iter().find(|series| &*series.labels[0].1 == "a").unwrap();
    let values: Vec<SeriesValue> = a.points.iter().map(|point| point.value.clone()).collect();
    assert_eq!(
        values,
        [SeriesValue::Counter { last: 700.0, increase: 7.0 }, SeriesValue::Counter { last: 707.0, increase: 7.0 }]
    );
}

#[test]
fn steps_of_gauges_and_histograms_sum_them_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..720_u64 {
        let gauges = vec![Gauge { name: "g", labels: Vec::new(), value: number as f64 + 0.1 }];
        let histograms = vec![Histogram {
            name: "h",
            labels: Vec::new(),
            first_bucket: -3 + (number % 2) as i32,
            buckets: vec![1, 2],
            zero_count: 1,
            sum: 0.25,
        }];
        store.append(&Window { gauges, histograms, ..window(number, Vec::new()) }).unwrap();
    }
    for _ in 0..2 {
        let hours = series(&store.reader(), "g", Range::ALL, 3600 * SECOND_NS, Vec::new()).remove(0).points;
        assert_eq!(hours.len(), 2);
        let SeriesValue::Gauge { min, max, mean, last } = hours[1].value else { panic!("a gauge") };
        assert_eq!((min, max, last), (360.1, 719.1, 719.1));
        assert!((mean - 539.6).abs() < 1e-9, "{mean}");
        let hours = series(&store.reader(), "h", Range::ALL, 3600 * SECOND_NS, Vec::new()).remove(0).points;
        let expected = HistogramValue { first_bucket: -3, buckets: vec![180, 540, 360], zero_count: 360, sum: 90.0 };
        assert_eq!(hours[0].value, SeriesValue::Histogram(expected));
        store.rotate().unwrap();
    }
}

#[test]
fn too_many_series_and_points_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..10 {
        let gauge = |index: u64| Gauge { name: "g", labels: vec![label("i", &index.to_string())], value: 1.0 };
        store.append(&Window { gauges: (0..10).map(gauge).collect(), ..window(number, Vec::new()) }).unwrap();
    }
    let ask = |limits| {
        let query = SeriesQuery { name: "g".to_owned(), matchers: Vec::new(), range: Range::ALL, step_ns: 0, limits };
        let result = store.reader().series(&query).unwrap();
        (
            result.series.len(),
            result.series.iter().map(|series| series.points.len()).sum::<usize>(),
            result.notes.omitted,
        )
    };
    assert_eq!(ask(Limits { series: 4, ..Limits::default() }), (4, 40, 6));
    assert_eq!(ask(Limits { points: 25, ..Limits::default() }).1, 25);
    assert_eq!(ask(Limits { points: 25, ..Limits::default() }).2, 75);
}

#[test]
fn too_many_buckets_of_histograms_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..10 {
        let (name, labels, buckets) = ("h", Vec::new(), vec![1; 100]);
        // Two windows of a step overlap by half.
        let first_bucket = if number % 2 == 0 { 0 } else { 50 };
        let histogram = Histogram { name, labels, first_bucket, buckets, zero_count: 0, sum: 1.0 };
        store.append(&Window { histograms: vec![histogram], ..window(number, Vec::new()) }).unwrap();
    }
    let ask = |step_ns, buckets| {
        let (name, matchers) = ("h".to_owned(), Vec::new());
        let limits = Limits { buckets, ..Limits::default() };
        let result =
            store.reader().series(&SeriesQuery { name, matchers, range: Range::ALL, step_ns, limits }).unwrap();
        let buckets = |point: &SeriesPoint| match &point.value {
            SeriesValue::Histogram(value) => value.buckets.len(),
            _ => panic!("a histogram"),
        };
        (result.series[0].points.iter().map(buckets).collect::<Vec<_>>(), result.notes.omitted)
    };
    assert_eq!(ask(0, 1000), (vec![100; 10], 0));
    assert_eq!(ask(0, 350), (vec![100; 3], 7));
    assert_eq!(ask(2 * WINDOW_NS, 750), (vec![150; 5], 0));
    assert_eq!(ask(2 * WINDOW_NS, 260), (vec![150, 100], 7));
}

#[test]
fn events_have_their_time_of_day_and_their_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let app = process(7, "app");
    let event = |name, at: u64, key, of: &str| Event {
        name,
        time_ns: (1000 + at) * SECOND_NS,
        process: key,
        labels: vec![label("of", of)],
    };
    let unknown = ProcessKey { pid: 9, started_ns: 1, exec_id: 0 };
    let mut put = window(0, Vec::new());
    put.processes = vec![KnownProcess { info: app.clone(), labels: Vec::new() }];
    put.events =
        vec![event("exec", 1, Some(app.key), "a"), event("oom", 5, Some(unknown), "b"), event("exec", 3, None, "c")];
    store.append(&put).unwrap();
    for _ in 0..2 {
        let ask = |names: &[&str], matchers: Vec<Matcher>, events| {
            let query = EventQuery {
                range: Range { from_unix_ns: START_NS, to_unix_ns: START_NS + 6 * SECOND_NS },
                names: names.iter().map(ToString::to_string).collect(),
                matchers,
                limits: Limits { events, ..Limits::default() },
            };
            store.reader().events(&query).unwrap()
        };
        let all = ask(&[], Vec::new(), 10);
        let found: Vec<_> = all
            .events
            .iter()
            .map(|event| {
                let name = event.process.as_ref().map(|process| (process.info.key.pid, process.info.name.to_string()));
                (
                    (event.time_unix_ns - START_NS) / SECOND_NS,
                    event.name.to_string(),
                    name,
                    event.labels[0].1.to_string(),
                )
            })
            .collect();
        let expected = [
            (5, "oom".to_owned(), Some((9, String::new())), "b".to_owned()),
            (3, "exec".to_owned(), None, "c".to_owned()),
            (1, "exec".to_owned(), Some((7, "app".to_owned())), "a".to_owned()),
        ];
        assert_eq!(found, expected);
        assert_eq!(ask(&["exec"], Vec::new(), 10).events.len(), 2);
        assert_eq!(ask(&[], vec![equal("process", "app")], 10).events.len(), 1);
        assert_eq!(ask(&[], vec![equal("of", "c")], 10).events.len(), 1);
        let newest = ask(&[], Vec::new(), 1);
        assert_eq!((newest.events.len(), newest.notes.omitted), (1, 2));
        assert_eq!(&*newest.events[0].name, "oom");
        store.rotate().unwrap();
    }
}

#[test]
fn too_many_events_of_a_window_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let event = Event { name: "fork", time_ns: 1, process: None, labels: Vec::new() };
    let put = Window { events: vec![event; limits::WINDOW_EVENTS_MAX + 5], ..window(0, Vec::new()) };
    let appended = store.append(&put).unwrap();
    assert_eq!((appended.events, appended.events_dropped), (limits::WINDOW_EVENTS_MAX as u64, 5));
    assert_eq!(store.stats().events_dropped, 5);
}

#[test]
fn processes_are_listed_with_what_they_took_and_when() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let (busy, idle) = (process(1, "busy"), process(2, "idle"));
    for number in 0..10 {
        let profiles = if number < 5 { vec![profile(&[(&busy, &["main"], 2)])] } else { Vec::new() };
        let processes =
            if number >= 3 { vec![KnownProcess { info: idle.clone(), labels: Vec::new() }] } else { Vec::new() };
        store.append(&Window { processes, ..window(number, profiles) }).unwrap();
    }
    let ask = |reader: &Reader, from: u64, to: u64| {
        let query = ProcessQuery {
            range: Range { from_unix_ns: START_NS + from * WINDOW_NS, to_unix_ns: START_NS + to * WINDOW_NS },
            matchers: Vec::new(),
            collector: Some("cpu".to_owned()),
            limits: Limits::default(),
        };
        let found = reader.processes(&query).unwrap();
        let row = |process: ProcessRecord| (process.process.info.name.to_string(), process.values.first().copied());
        found.processes.into_iter().map(row).collect::<Vec<_>>()
    };
    let named = |name: &str, value| (name.to_owned(), value);
    assert_eq!(ask(&store.reader(), 0, 10), [named("busy", Some(10)), named("idle", Some(0))]);
    assert_eq!(ask(&store.reader(), 0, 2), [named("busy", Some(4))]);
    store.rotate().unwrap();
    assert_eq!(ask(&store.reader(), 0, 10), [named("busy", Some(10)), named("idle", Some(0))]);
    assert_eq!(ask(&store.reader(), 0, 2), [named("busy", Some(4))]);
    assert_eq!(ask(&store.reader(), 8, 10), [named("idle", Some(0))]);
}

#[test]
fn the_catalog_names_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let mut app = process(7, "app");
    app.container_id = Some("c0ffee".into());
    let mut put = window(0, vec![profile(&[(&app, &["main"], 1)])]);
    put.gauges = vec![
        Gauge { name: "g", labels: vec![label("disk", "sda")], value: 1.0 },
        Gauge { name: "g", labels: vec![label("disk", "sdb")], value: 1.0 },
    ];
    put.events = vec![Event { name: "exec", time_ns: 1, process: None, labels: Vec::new() }];
    store.append(&put).unwrap();
    for _ in 0..2 {
        let catalog = store.reader().catalog(Range::ALL, &Limits::default()).unwrap();
        assert_eq!(catalog.windows, Some((START_NS, START_NS + WINDOW_NS)));
        assert_eq!(&*catalog.collectors[0].name, "cpu");
        assert_eq!((&*catalog.series[0].name, catalog.series[0].series_max), ("g", 2));
        assert!(catalog.series[0].labels.contains("disk"));
        assert!(catalog.events.contains("exec"));
        assert!(
            ["pid", "process", "thread", "unit", "container"].iter().all(|name| catalog.process_labels.contains(*name))
        );
        let values = |name: &str| {
            let (values, _) = store.reader().label_values(Range::ALL, name, &Limits::default()).unwrap();
            values.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(values("disk"), ["sda", "sdb"]);
        assert_eq!(values("pid"), ["7"]);
        assert_eq!(values("thread"), ["main"]);
        assert_eq!(values("container"), ["c0ffee"]);
        store.rotate().unwrap();
    }
}

#[test]
fn texts_of_events_and_processes_have_a_bound_and_the_largest_processes_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..4_u32 {
        let info = process(number + 1, "app");
        let labels = vec![("role".into(), "x".repeat(100).into())];
        let labels_of_event = vec![label("of", &"y".repeat(100))];
        let put = Window {
            processes: vec![KnownProcess { info: info.clone(), labels }],
            events: vec![Event { name: "exec", time_ns: 0, process: Some(info.key), labels: labels_of_event }],
            ..window(number.into(), vec![profile(&[(&info, &["main"], 10 - u64::from(number))])])
        };
        store.append(&put).unwrap();
    }
    // `exec`, `process`, `app`, `role`, `of`, and two hundred.
    let event_bytes = 4 + 10 + 104 + 102;
    for _ in 0..2 {
        let reader = store.reader();
        let processes = |limits| {
            let collector = Some("cpu".to_owned());
            let query = ProcessQuery { range: Range::ALL, matchers: Vec::new(), collector, limits };
            let found = reader.processes(&query).unwrap();
            (found.processes.iter().map(|of| of.process.info.key.pid).collect::<Vec<_>>(), found.notes.omitted)
        };
        assert_eq!(processes(Limits::default()), (vec![1, 2, 3, 4], 0));
        assert_eq!(
            processes(Limits { processes: 1, ..Limits::default() }),
            (vec![1], 3),
            "not the first that is found"
        );
        assert_eq!(processes(Limits { text_bytes: 2 * 114 + 113, ..Limits::default() }).1, 2);
        let events = |text_bytes| {
            let limits = Limits { text_bytes, ..Limits::default() };
            let (range, names, matchers) = (Range::ALL, Vec::new(), Vec::new());
            let found = reader.events(&EventQuery { range, names, matchers, limits }).unwrap();
            (found.events.len(), found.notes.omitted)
        };
        assert_eq!(events(4 * event_bytes), (4, 0));
        assert_eq!(events(3 * event_bytes - 1), (2, 2));
        store.rotate().unwrap();
    }
}

#[test]
fn events_share_what_is_known_of_their_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let info = process(7, "app");
    let event = Event { name: "exec", time_ns: 0, process: Some(info.key), labels: vec![label("of", "y")] };
    let processes = vec![KnownProcess { info, labels: Vec::new() }];
    store.append(&Window { processes, events: vec![event.clone(), event], ..window(0, Vec::new()) }).unwrap();
    let (names, matchers, limits) = (Vec::new(), Vec::new(), Limits::default());
    let found = store.reader().events(&EventQuery { range: Range::ALL, names, matchers, limits }).unwrap().events;
    let [first, second] = [0, 1].map(|index| found[index].process.as_ref().unwrap());
    assert!(Arc::ptr_eq(first, second) && Arc::ptr_eq(&found[0].labels[0].1, &found[1].labels[0].1));
}

#[test]
fn a_reader_that_is_ended_answers_with_what_it_has_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&numbered(0)).unwrap();
    let is_ended = Arc::new(AtomicBool::new(false));
    let reader = store.reader().ended_by(Arc::clone(&is_ended));
    assert!(reader.profile(&query(Range::ALL)).unwrap().notes.is_complete());
    is_ended.store(true, Ordering::Relaxed);
    let ended = reader.profile(&query(Range::ALL)).unwrap();
    assert!(ended.notes.is_timed_out && ended.profile.samples.is_empty());
    // Others go on.
    assert!(store.reader().profile(&query(Range::ALL)).unwrap().notes.is_complete());
}

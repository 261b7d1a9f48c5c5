//! Windows that a block's tables cannot hold.

use super::*;

/// Names of that many functions, 1,000 characters each.
fn long_names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:0>1000}")).collect()
}

/// What others have in the window of that number: a function that takes most of the time, a gauge, an event.
fn others(number: u64) -> (Window, ProcessInfo) {
    let app = process(7, "app");
    let mut window = numbered(number);
    window.profiles = vec![profile(&[(&app, &["main", "work"], 1_000_000)])];
    window.events = vec![Event { name: "oom", time_ns: 1005 * SECOND_NS, process: Some(app.key), labels: Vec::new() }];
    (window, app)
}

/// Adds one sample per function to a profile, each of its own weight.
fn add_functions(profile: &mut Profile, process: ProcessInfo, names: &[String]) {
    let process = position(&mut profile.processes, process);
    for (count, name) in (1..).zip(names) {
        let (function, kind) = (Some(name.as_str().into()), FrameKind::User);
        profile.frames.push(Frame { function, kind, module: None, address: 0, source: None });
        let stack = [profile.frames.len() as u32 - 1].into();
        let values = vec![count, count * PERIOD_NS];
        profile.samples.push(ProfileSample { process, thread_name: "t".into(), stack, cut: None, values });
    }
}

fn samples(profile: &Profile) -> u64 {
    profile.samples.iter().map(|sample| sample.values[0]).sum()
}

/// Before, all of the window was lost: everybody else's samples, the resources, the events.
#[test]
fn one_program_with_many_long_names_costs_light_samples_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    // Also behind a window that fits.
    assert_eq!(store.append(&numbered(0)).unwrap().samples_dropped, []);
    let (mut window, app) = others(1);
    add_functions(&mut window.profiles[0], process(8, "hostile"), &long_names(5000));
    let all = samples(&window.profiles[0]);
    let appended = store.append(&window).unwrap();
    let merged =
        store.reader().profile(&query(Range { from_unix_ns: START_NS + WINDOW_NS, ..Range::ALL })).unwrap().profile;
    let [(collector, dropped)] = &appended.samples_dropped[..] else { panic!("{appended:?}") };
    assert_eq!(collector, "cpu");
    assert!(*dropped > 0 && samples(&merged) + dropped == all, "{dropped} of {all}");
    // A half went, twice: the lighter.
    assert_eq!(merged.samples.len(), 1250);
    let of_app = merged.processes.iter().position(|process| process.key == app.key).unwrap() as u32;
    let counts = |is_app: bool| merged.samples.iter().filter(move |sample| (sample.process == of_app) == is_app);
    assert_eq!(counts(true).map(|sample| sample.values[0]).collect::<Vec<_>>(), [1_000_000]);
    assert_eq!(counts(false).map(|sample| sample.values[0]).min(), Some(3752));
    assert_eq!(numbers(&store.reader()), [0, 1]);
    let events = store.reader().events(&EventQuery {
        range: Range::ALL,
        names: Vec::new(),
        matchers: Vec::new(),
        limits: Limits::default(),
    });
    assert_eq!(events.unwrap().events.len(), 1);
    assert_eq!(store.append(&others(2).0).unwrap().samples_dropped, []);
    assert_eq!((store.stats().windows, store.stats().windows_failed), (3, 0));
    drop(store);
    assert!(check(dir.path()).unwrap().is_clean());
}

/// Each began a block of its own: the history's room would have been used up within hours.
#[test]
fn windows_that_are_too_large_share_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..20 {
        let (mut window, _) = others(number);
        add_functions(&mut window.profiles[0], process(8, "hostile"), &long_names(5000));
        assert_eq!(store.append(&window).unwrap().samples_dropped.len(), 1);
        assert_eq!(store.append(&others(number).0).unwrap().samples_dropped, []);
    }
    assert_eq!(store.stats().windows, 40);
    assert!(file_names(dir.path()).len() <= 2, "{:?}", file_names(dir.path()));
}

#[test]
fn processes_without_samples_that_are_kept_go_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let (mut window, app) = others(0);
    let known = |info: &ProcessInfo| {
        let labels = vec![("command_line".into(), format!("{:0>4000}", info.key.pid).into())];
        KnownProcess { info: info.clone(), labels }
    };
    for pid in 100..2000 {
        add_functions(&mut window.profiles[0], process(pid, "crowd"), &["main".to_owned()]);
    }
    window.processes = window.profiles[0].processes.iter().map(known).collect();
    let appended = store.append(&window).unwrap();
    assert!(!appended.samples_dropped.is_empty());
    let merged = store.reader().profile(&query(Range::ALL)).unwrap().profile;
    assert!(merged.processes.iter().any(|process| process.key == app.key));
    assert!(merged.processes.len() < 1000, "{} are left", merged.processes.len());
}

#[test]
fn the_same_window_keeps_the_same_samples() {
    let (mut window, _) = others(0);
    add_functions(&mut window.profiles[0], process(8, "hostile"), &long_names(10_000));
    // All of one weight.
    window.profiles[0].samples.iter_mut().for_each(|sample| sample.values = vec![1, PERIOD_NS]);
    let kept = || {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), options()).unwrap();
        let appended = store.append(&window).unwrap();
        (appended.samples_dropped, sums([&store.reader().profile(&query(Range::ALL)).unwrap().profile]))
    };
    assert_eq!(kept(), kept());
}

//! What every format must show: known answers, equal totals, hostile names kept in their place.

use std::{io::Read, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    test_profile::{any_profile, empty, frame, of_stacks, one_of_everything, process, reversed, sample},
    *,
};
use crate::model::{
    profile::{FrameKind, ValueType},
    stack::StackEnd,
};

fn bytes(profile: &Profile, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    write(profile, format, &mut out).expect("the profile is consistent and a vector takes everything");
    out
}

fn text(profile: &Profile, format: Format) -> String {
    String::from_utf8(bytes(profile, format)).expect("text formats are UTF-8")
}

fn parsed(profile: &Profile, format: Format) -> Value {
    serde_json::from_str(&text(profile, format)).expect("it is JSON")
}

/// The names and the text of every element, if the document is well-formed.
fn svg_titles(document: &str) -> Vec<String> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(document);
    reader.config_mut().check_end_names = true;
    let (mut titles, mut in_title, mut depth) = (Vec::<String>::new(), false, 0);
    loop {
        match reader.read_event().expect("it is XML") {
            Event::Start(element) => {
                depth += 1;
                in_title = element.name().as_ref() == b"title";
                if in_title {
                    titles.push(String::new());
                }
                assert!(element.attributes().all(|attribute| attribute.is_ok()), "attributes are well-formed");
            }
            Event::End(_) => {
                depth -= 1;
                in_title = false;
            }
            Event::Text(part) if in_title => {
                let part = part.decode().expect("it is UTF-8").into_owned();
                titles.last_mut().expect("a title is open").push_str(&part);
            }
            Event::GeneralRef(part) if in_title => {
                let character = match &*part.decode().expect("it is UTF-8") {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "quot" => '"',
                    "apos" => '\'',
                    other => panic!("unexpected entity {other}"),
                };
                titles.last_mut().expect("a title is open").push(character);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "every element is closed");
    let is_allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(document.chars().all(is_allowed), "XML allows every character");
    titles
}

fn folded_total(text: &str) -> u64 {
    text.lines()
        .map(|line| line.rsplit_once(' ').expect("a line has a count").1.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn folded_lines_are_as_the_design_says() {
    let expected = "\
app;_start;main;[libc.so.6+0x2abc];do_syscall_64_[k];copy_user_[i] 20
app;_start;main;work 15
app;_start;main;work;step_[i] 40
node 1
node;[cut: broken frame-pointer chain];[0x7f00deadbeef];LazyCompile:~f file.js:1_[j] 4
node;[cut: stack lost in ring buffer] 2
";
    assert_eq!(text(&one_of_everything(), Format::Folded), expected);
    assert_eq!(text(&empty(), Format::Folded), "");
}

#[test]
fn folded_counts_samples_if_there_are_any_and_the_default_value_otherwise() {
    let mut profile = of_stacks(&[("p", &["main"], 3)]);
    assert_eq!(text(&profile, Format::Folded), "p;main 3\n");
    profile.value_types = vec![ValueType::new("contentions", "count"), ValueType::new("lock_wait", "nanoseconds")];
    assert_eq!(text(&profile, Format::Folded), "p;main 30000000\n");
}

#[test]
fn names_in_folded_lines_stay_in_their_place() {
    let profile = of_stacks(&[("a;b", &["x;y\nz", "f 12"], 1), ("# p", &[" "], 2), ("", &["</script>"], 3)]);
    let expected = "#_p;[0x0] 2\n[pid 3];</script> 3\na:b;x:y\u{fffd}z;f_12 1\n";
    assert_eq!(text(&profile, Format::Folded), expected);
}

#[test]
fn speedscope_has_a_view_per_process_and_thread() {
    let expected = json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": concat!("obs ", env!("CARGO_PKG_VERSION")),
        "name": "obs cpu",
        "activeProfileIndex": 1,
        "shared": {"frames": [
            {"name": "LazyCompile:~f file.js:1_[j]", "file": "[jit]"},
            {"name": "[0x7f00deadbeef]"},
            {"name": "[cut: broken frame-pointer chain]"},
            {"name": "[cut: stack lost in ring buffer]"},
            {"name": "[libc.so.6+0x2abc]", "file": "/usr/lib/libc.so.6"},
            {"name": "_start", "file": "/usr/bin/app"},
            {"name": "copy_user_[i]", "file": "[kernel]"},
            {"name": "do_syscall_64_[k]", "file": "[kernel]"},
            {"name": "main", "file": "/usr/bin/app"},
            {"name": "step_[i]", "file": "/src/step.h"},
            {"name": "work", "file": "/src/app.c"},
        ]},
        "profiles": [
            {
                "type": "sampled", "name": "node (7) / node", "unit": "nanoseconds", "startValue": 0,
                "endValue": 70_000_000, "samples": [[], [2, 1, 0], [3]], "weights": [10_000_000, 40_000_000, 20_000_000],
            },
            {
                "type": "sampled", "name": "app (42) / app", "unit": "nanoseconds", "startValue": 0,
                "endValue": 650_000_000, "samples": [[5, 8, 4, 7, 6], [5, 8, 10, 9], [5, 8, 10]],
                "weights": [200_000_000, 400_000_000, 50_000_000],
            },
            {
                "type": "sampled", "name": "app (42) / worker", "unit": "nanoseconds", "startValue": 0,
                "endValue": 100_000_000, "samples": [[5, 8, 10]], "weights": [100_000_000],
            },
        ],
    });
    assert_eq!(parsed(&one_of_everything(), Format::Speedscope), expected);
}

#[test]
fn json_holds_everything_one_entry_per_line() {
    let expected = r#"{
"format":"obs-profile",
"version":1,
"collector":"cpu",
"value_types":[
{"name":"samples","unit":"count"},
{"name":"cpu","unit":"nanoseconds"}
],
"totals":[
82,
820000000
],
"period":{"name":"cpu","unit":"nanoseconds","value":10000000},
"started_unix_ns":1700000000123456789,
"duration_ns":2500000000,
"modules":[
{"path":"/usr/bin/app","build_id":"abcd1234"},
{"path":"/usr/lib/libc.so.6","build_id":null},
{"path":"[jit]","build_id":null},
{"path":"[kernel]","build_id":"feed"}
],
"frames":[
{"function":null,"kind":"user","module":null,"address":"0x7f00deadbeef","file":null,"line":null},
{"function":null,"kind":"user","module":1,"address":"0x2abc","file":null,"line":null},
{"function":"LazyCompile:~f file.js:1","kind":"jit","module":2,"address":"0x7f0000001000","file":null,"line":null},
{"function":"_start","kind":"user","module":0,"address":"0x1000","file":null,"line":null},
{"function":"copy_user","kind":"kernel-inlined","module":3,"address":"0xffffffff81000010","file":null,"line":null},
{"function":"do_syscall_64","kind":"kernel","module":3,"address":"0xffffffff81000010","file":null,"line":null},
{"function":"main","kind":"user","module":0,"address":"0x1100","file":null,"line":null},
{"function":"step","kind":"user-inlined","module":0,"address":"0x1200","file":"/src/step.h","line":3},
{"function":"work","kind":"user","module":0,"address":"0x1200","file":"/src/app.c","line":12},
{"function":"work","kind":"user","module":0,"address":"0x1208","file":null,"line":null}
],
"processes":[
{"pid":7,"started_ns":7000,"exec_id":1,"name":"node","executable":null,"container_id":null,"cgroup":null},
{"pid":42,"started_ns":42000,"exec_id":1,"name":"app","executable":"/usr/bin/app","container_id":"c0ffee","cgroup":"/system.slice/app.service"}
],
"samples":[
{"process":0,"thread":"node","stack":[],"cut":null,"values":[1,10000000]},
{"process":0,"thread":"node","stack":[2,0],"cut":"frame-pointer-chain","values":[4,40000000]},
{"process":0,"thread":"node","stack":[],"cut":"lost","values":[2,20000000]},
{"process":1,"thread":"app","stack":[4,5,1,6,3],"cut":null,"values":[20,200000000]},
{"process":1,"thread":"app","stack":[7,8,6,3],"cut":null,"values":[40,400000000]},
{"process":1,"thread":"app","stack":[9,6,3],"cut":null,"values":[5,50000000]},
{"process":1,"thread":"worker","stack":[8,6,3],"cut":null,"values":[10,100000000]}
]
}
"#;
    assert_eq!(text(&one_of_everything(), Format::Json), expected);
}

#[test]
fn svg_shows_every_frame_with_its_share() {
    let document = text(&one_of_everything(), Format::Svg);
    let titles = svg_titles(&document);
    for title in [
        "all (82 samples, 100%)",
        "app (75 samples, 91.46%)",
        "work (55 samples, 67.07%)",
        "step (40 samples, 48.78%)",
        "[libc.so.6+0x2abc] (20 samples, 24.39%)",
        "[cut: broken frame-pointer chain] (4 samples, 4.88%)",
        "LazyCompile:~f file.js:1 (4 samples, 4.88%)",
        "node (7 samples, 8.54%)",
    ] {
        assert!(titles.iter().any(|found| found == title), "{title} is not in {titles:?}");
    }
    assert_eq!(titles.len(), 14);
    assert!(document.contains("2.5 s · 82 samples · 92.6 % in complete stacks"), "the subtitle tells the quality");
}

#[test]
fn svg_of_nothing_says_so() {
    let document = text(&empty(), Format::Svg);
    assert_eq!(svg_titles(&document), Vec::<String>::new());
    assert!(document.contains("no samples were recorded in 2.5 s"));
}

#[test]
fn svg_draws_a_frame_once_even_if_its_name_begins_anothers() {
    let profile = of_stacks(&[("p", &["f"], 1), ("p", &["f(int)"], 1), ("p", &["f", "g"], 1), ("p", &["f.cold"], 1)]);
    let titles = svg_titles(&text(&profile, Format::Svg));
    assert_eq!(titles.iter().filter(|title| *title == "f (2 samples, 50.00%)").count(), 1, "{titles:?}");
}

#[test]
fn svg_gives_waits_in_microseconds() {
    let mut profile = of_stacks(&[("p", &["wait"], 123)]);
    profile.value_types = vec![ValueType::new("contentions", "count"), ValueType::new("lock_wait", "nanoseconds")];
    let titles = svg_titles(&text(&profile, Format::Svg));
    assert!(titles.contains(&"wait (1,230,000 µs, 100.00%)".to_owned()), "{titles:?}");
}

#[test]
fn a_name_of_a_megabyte_is_bounded_where_it_would_repeat() {
    let huge: Arc<str> = "<&\";\u{1}".repeat(1_000_000 / 5).into();
    let mut profile = empty();
    profile.processes = vec![process(1, &huge)];
    profile.frames = vec![frame(&huge, FrameKind::User, None, 1), frame("leaf", FrameKind::User, None, 2)];
    profile.samples = vec![sample(0, &huge, &[1, 0, 0, 0], None, 1)];
    assert!(text(&profile, Format::Folded).len() < 5 * 5000);
    let document = text(&profile, Format::Svg);
    assert!(document.len() < 400_000, "{}", document.len());
    assert_eq!(svg_titles(&document).len(), 6);
    // Tables hold each name once, whole.
    assert_eq!(parsed(&profile, Format::Json)["frames"][0]["function"].as_str(), Some(&*huge));
    assert_eq!(
        parsed(&profile, Format::Speedscope)["shared"]["frames"][0]["name"].as_str().map(str::len),
        Some(1_400_000)
    );
}

#[test]
fn inconsistent_profiles_are_refused_before_the_first_byte() {
    let good = of_stacks(&[("p", &["main"], 1)]);
    type Damage = fn(&mut Profile);
    let broken: [(Damage, &str); 6] = [
        (|profile| profile.value_types.clear(), "it has no value type"),
        (|profile| profile.samples[0].process = 1, "sample 0 points at entry 1 of the 1 processes"),
        (|profile| profile.samples[0].stack = [0, 9].into(), "sample 0 points at entry 9 of the 1 frames"),
        (|profile| profile.frames[0].module = Some(0), "frame 0 points at entry 0 of the 0 modules"),
        (|profile| profile.samples[0].values.truncate(1), "sample 0 has 1 values for 2 value types"),
        (
            |profile| {
                profile.samples.push(profile.samples[0].clone());
                profile.samples[0].values[1] = i64::MAX as u64;
            },
            "its values of cpu/nanoseconds add up to more than 9223372036854775807",
        ),
    ];
    for (damage, complaint) in broken {
        let mut profile = good.clone();
        damage(&mut profile);
        for spec in FORMATS {
            let mut out = Vec::new();
            match write(&profile, spec.format, &mut out) {
                Err(ExportError::Inconsistent { source, .. }) => assert_eq!(source.to_string(), complaint),
                other => panic!("{complaint}: {other:?}"),
            }
            assert!(out.is_empty());
        }
    }
}

#[test]
fn failing_writers_are_reported() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = self.0.min(data.len());
            self.0 -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for spec in FORMATS {
        match write(&one_of_everything(), spec.format, &mut Full(20)) {
            Err(ExportError::Write { format, source }) => {
                assert_eq!((format, source.kind()), (spec.format, io::ErrorKind::StorageFull));
            }
            other => panic!("{}: {other:?}", spec.name),
        }
    }
}

fn pprof_totals(profile: &Profile) -> Vec<i64> {
    pprof::tests::decoded(&bytes(profile, Format::Pprof)).totals()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn totals_are_equal_in_every_format(profile in any_profile()) {
        let total = |index: usize| profile.samples.iter().map(|sample| sample.values[index]).sum::<u64>();
        let totals = [total(0), total(1)];

        prop_assert_eq!(folded_total(&text(&profile, Format::Folded)), totals[0]);
        prop_assert_eq!(pprof_totals(&profile), totals.map(|total| total as i64));

        let json = parsed(&profile, Format::Json);
        prop_assert_eq!(&json["totals"], &json!(totals));
        for (index, total) in totals.into_iter().enumerate() {
            let rows = json["samples"].as_array().expect("samples");
            let sum = rows.iter().map(|row| row["values"][index].as_u64().expect("a value")).sum::<u64>();
            prop_assert_eq!(sum, total);
        }

        let speedscope = parsed(&profile, Format::Speedscope);
        let views = speedscope["profiles"].as_array().expect("profiles");
        prop_assert_eq!(views.iter().map(|view| view["endValue"].as_u64().expect("a sum")).sum::<u64>(), totals[1]);
        for view in views {
            let weights = view["weights"].as_array().expect("weights");
            prop_assert_eq!(weights.len(), view["samples"].as_array().expect("samples").len());
            let sum = weights.iter().map(|weight| weight.as_u64().expect("a number")).sum::<u64>();
            prop_assert_eq!(sum, view["endValue"].as_u64().expect("a sum"));
        }

        let document = text(&profile, Format::Svg);
        let titles = svg_titles(&document);
        let total = format!("total_samples=\"{}\"", totals[0]);
        prop_assert!(totals[0] == 0 || document.contains(&total) && !titles.is_empty());
    }

    #[test]
    fn folded_lines_survive_hostile_names(profile in any_profile()) {
        let text = text(&profile, Format::Folded);
        let mut lines: Vec<Vec<&str>> = Vec::new();
        for line in text.lines() {
            let (path, count) = line.rsplit_once(' ').expect("a line has a count");
            prop_assert!(count.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert!(!line.chars().any(char::is_control) && line.trim() == line && !line.starts_with("# "));
            // No second count, as in lines that compare two profiles.
            let last = path.rsplit(' ').next().expect("a part");
            let is_count = last.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            prop_assert!(!path.contains(' ') || !is_count, "{}", line);
            let parts: Vec<&str> = path.split(';').collect();
            prop_assert!(parts.iter().all(|part| !part.is_empty()));
            lines.push(parts);
        }
        prop_assert!(lines.is_sorted_by(|left, right| left < right), "in order, each stack once");
        let deepest = profile.samples.iter().filter(|sample| sample.values[0] > 0).map(|sample| {
            1 + sample.stack.len() + usize::from(sample.cut.is_some_and(|end| end != StackEnd::Complete))
        });
        prop_assert_eq!(lines.iter().map(Vec::len).max(), deepest.max());
    }

    #[test]
    fn the_order_of_tables_changes_no_byte(profile in any_profile()) {
        let reversed = reversed(&profile);
        for spec in FORMATS {
            prop_assert_eq!(bytes(&profile, spec.format), bytes(&reversed, spec.format), "{}", spec.name);
        }
    }

    #[test]
    fn json_keeps_every_name_as_it_is(profile in any_profile()) {
        let json = parsed(&profile, Format::Json);
        let find = |table: &str, key: &str, text: &str| {
            json[table].as_array().expect("a table").iter().any(|row| row[key].as_str() == Some(text))
        };
        for frame in &profile.frames {
            prop_assert!(frame.function.as_ref().is_none_or(|name| find("frames", "function", name)));
        }
        for process in &profile.processes {
            prop_assert!(find("processes", "name", &process.name));
        }
        for sample in &profile.samples {
            prop_assert!(find("samples", "thread", &sample.thread_name));
        }
    }
}

/// The bytes of a gzip file.
pub(super) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("it is a gzip file");
    plain
}

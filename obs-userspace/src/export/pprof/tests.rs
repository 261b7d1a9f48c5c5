//! Reads our files back as pprof's readers do.

use std::collections::BTreeSet;

use prost::Message;

use super::proto;
use crate::export::{Format, test_profile, tests::gunzip, write};

/// A file that passed the checks that pprof's readers make.
pub(in crate::export) struct Decoded(proto::Profile);

/// Decodes a file and checks what pprof's readers insist on.
pub(in crate::export) fn decoded(file: &[u8]) -> Decoded {
    let profile = proto::Profile::decode(&*gunzip(file)).expect("it is a protocol-buffer message");
    let strings = &profile.string_table;
    assert_eq!(strings.first().map(String::as_str), Some(""));
    let unique: BTreeSet<&String> = strings.iter().collect();
    assert_eq!(unique.len(), strings.len(), "each string is kept once");
    let known = |place: i64| assert!(usize::try_from(place).is_ok_and(|place| place < strings.len()));
    let ids = |ids: Vec<u64>| {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        assert!(set.len() == ids.len() && !set.contains(&0), "ids are different and not 0");
        set
    };
    let functions = ids(profile.function.iter().map(|function| function.id).collect());
    let mappings = ids(profile.mapping.iter().map(|mapping| mapping.id).collect());
    let locations = ids(profile.location.iter().map(|location| location.id).collect());
    for function in &profile.function {
        [function.name, function.system_name, function.filename].into_iter().for_each(known);
        assert_ne!(function.name, 0, "every function has a name");
    }
    for mapping in &profile.mapping {
        [mapping.filename, mapping.build_id].into_iter().for_each(known);
    }
    for location in &profile.location {
        assert!(location.mapping_id == 0 || mappings.contains(&location.mapping_id));
        assert!(!location.line.is_empty());
        assert!(location.line.iter().all(|line| functions.contains(&line.function_id)));
    }
    for sample in &profile.sample {
        assert_eq!(sample.value.len(), profile.sample_type.len());
        assert!(sample.location_id.iter().all(|id| locations.contains(id)));
        for label in &sample.label {
            [label.key, label.str].into_iter().for_each(known);
            assert!(label.str == 0 || label.num == 0);
        }
    }
    Decoded(profile)
}

impl Decoded {
    /// The sum of each value type.
    pub(in crate::export) fn totals(&self) -> Vec<i64> {
        let types = 0..self.0.sample_type.len();
        types.map(|index| self.0.sample.iter().map(|sample| sample.value[index]).sum()).collect()
    }

    fn string(&self, place: i64) -> &str {
        &self.0.string_table[place as usize]
    }

    /// Samples as text: the locations from the innermost to the outermost, each with its address and its functions from
    /// the innermost to the outermost; the values; the labels.
    fn samples(&self) -> Vec<String> {
        let function = |line: &proto::Line| {
            let found = self.0.function.iter().find(|function| function.id == line.function_id);
            let found = found.expect("ids were checked");
            let (name, file) = (self.string(found.name), self.string(found.filename));
            if file.is_empty() { name.to_owned() } else { format!("{name}({file}:{})", line.line) }
        };
        let location = |id: &u64| {
            let found = self.0.location.iter().find(|location| location.id == *id).expect("ids were checked");
            let lines: Vec<String> = found.line.iter().map(function).collect();
            let mapping = self.0.mapping.iter().find(|mapping| mapping.id == found.mapping_id);
            let file = mapping.map_or("-", |mapping| self.string(mapping.filename));
            format!("{file}+{:x}:{}", found.address, lines.join("<"))
        };
        let label = |label: &proto::Label| {
            let value = if label.str == 0 { label.num.to_string() } else { self.string(label.str).to_owned() };
            format!("{}={value}", self.string(label.key))
        };
        let samples = self.0.sample.iter();
        samples
            .map(|sample| {
                let stack: Vec<String> = sample.location_id.iter().map(location).collect();
                let labels: Vec<String> = sample.label.iter().map(label).collect();
                format!("{} {:?} {}", stack.join(" "), sample.value, labels.join(" "))
            })
            .collect()
    }
}

fn file_of(profile: &crate::model::profile::Profile) -> Vec<u8> {
    let mut out = Vec::new();
    write(profile, Format::Pprof, &mut out).expect("the profile is consistent");
    out
}

#[test]
fn samples_have_their_locations_values_and_labels() {
    let labels = "container_id=c0ffee cgroup=/system.slice/app.service executable=/usr/bin/app pid=42";
    let outer = "/usr/bin/app+1100:main /usr/bin/app+1000:_start";
    assert_eq!(
        decoded(&file_of(&test_profile::one_of_everything())).samples(),
        [
            " [1, 10000000] process=node thread=node pid=7".to_owned(),
            "[jit]+7f0000001000:LazyCompile:~f file.js:1 -+7f00deadbeef:[0x7f00deadbeef] \
             -+0:[cut: broken frame-pointer chain] [4, 40000000] process=node thread=node pid=7"
                .to_owned(),
            "-+0:[cut: stack lost in ring buffer] [2, 20000000] process=node thread=node pid=7".to_owned(),
            format!(
                "[kernel.kallsyms]+ffffffff81000010:copy_user<do_syscall_64 /usr/lib/libc.so.6+2abc:[libc.so.6+0x2abc] \
                 {outer} [20, 200000000] process=app thread=app {labels}"
            ),
            format!(
                "/usr/bin/app+1200:step(/src/step.h:3)<work(/src/app.c:12) {outer} [40, 400000000] process=app \
                 thread=app {labels}"
            ),
            format!("/usr/bin/app+1208:work {outer} [5, 50000000] process=app thread=app {labels}"),
            format!("/usr/bin/app+1200:work(/src/app.c:12) {outer} [10, 100000000] process=app thread=worker {labels}"),
        ]
    );
}

#[test]
fn the_head_tells_types_times_and_cut_stacks() {
    let file = decoded(&file_of(&test_profile::one_of_everything()));
    let proto::Profile { sample_type, period_type, period, time_nanos, duration_nanos, comment, mapping, .. } = &file.0;
    let name = |of: &proto::ValueType| format!("{}/{}", file.string(of.r#type), file.string(of.unit));
    assert_eq!(sample_type.iter().map(name).collect::<Vec<_>>(), ["samples/count", "cpu/nanoseconds"]);
    assert_eq!(period_type.as_ref().map(name).as_deref(), Some("cpu/nanoseconds"));
    assert_eq!((*period, *time_nanos, *duration_nanos), (10_000_000, 1_700_000_000_123_456_789, 2_500_000_000));
    assert_eq!(file.string(file.0.default_sample_type), "cpu");
    let comments: Vec<&str> = comment.iter().map(|place| file.string(*place)).collect();
    assert_eq!(
        comments,
        [
            concat!("obs cpu profile, obs ", env!("CARGO_PKG_VERSION")),
            "cut stacks: 6 of 82 samples/count",
            "cut: broken frame-pointer chain: 4 samples/count",
            "cut: stack lost in ring buffer: 2 samples/count",
        ]
    );
    let modules: Vec<_> = mapping
        .iter()
        .map(|mapping| {
            let flags =
                [mapping.has_functions, mapping.has_filenames, mapping.has_line_numbers, mapping.has_inline_frames];
            (file.string(mapping.filename), file.string(mapping.build_id), flags)
        })
        .collect();
    assert_eq!(
        modules,
        [
            // The program of the heaviest process comes first.
            ("/usr/bin/app", "abcd1234", [true, true, true, true]),
            ("/usr/lib/libc.so.6", "", [false, false, false, false]),
            ("[jit]", "", [true, false, false, false]),
            ("[kernel.kallsyms]", "feed", [true, false, false, true]),
        ]
    );
}

#[test]
fn a_profile_without_samples_is_still_a_profile() {
    let file = decoded(&file_of(&test_profile::empty()));
    assert_eq!(file.totals(), [0, 0]);
}

#[test]
fn names_lose_what_would_harm_a_terminal_and_nothing_else() {
    let profile = test_profile::of_stacks(&[("p;q", &["a;b 5", "c\u{1b}[2J"], 1)]);
    let samples = decoded(&file_of(&profile)).samples();
    assert_eq!(samples, ["-+0:c\u{fffd}[2J -+0:a;b 5 [1, 10000000] process=p;q thread=p;q pid=1"]);
}

//! Indexes of real files against what the files themselves say, and damaged ones.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use crate::enrich::symbolize::{
    CacheOptions, NamedFrame, Names, SymbolizerOptions,
    elf::ElfHeaders,
    tests::{names_of_places, quiet},
};

/// Addresses all over the code of a file: as file offsets, each once, the same in every run.
fn places(path: &Path, count: u64) -> Vec<u64> {
    let headers = ElfHeaders::read(&std::fs::File::open(path).unwrap()).unwrap();
    let code = headers.segments.iter().filter(|segment| segment.is_executable);
    let mut places = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for segment in code {
        for _ in 0..count {
            state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            places.push(segment.offset + (state >> 16) % segment.file_bytes.max(1));
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// How an index's answer differs from the file's own.
fn difference(expected: &Names, found: &Names) -> Option<&'static str> {
    if expected == found {
        return None;
    }
    let (Ok(expected), Ok(found)) = (expected, found) else {
        return Some(if expected.is_ok() { "no name in the index" } else { "name in the index only" });
    };
    let functions = |names: &Arc<[NamedFrame]>| -> Vec<(Arc<str>, bool)> {
        names.iter().map(|frame| (Arc::clone(&frame.function), frame.is_inlined)).collect()
    };
    let (left, right) = (functions(expected), functions(found));
    if left.last() != right.last() {
        return Some("another function");
    }
    if left != right {
        return Some(match (left.len(), right.len()) {
            (left, right) if left > right => "fewer inlined functions",
            (left, right) if left < right => "more inlined functions",
            _ => "other inlined functions",
        });
    }
    let lines = |names: &Arc<[NamedFrame]>| names.iter().filter(|frame| frame.source.is_some()).count();
    Some(match (lines(expected), lines(found)) {
        (left, right) if left > right => "fewer lines",
        (left, right) if left < right => "more lines",
        _ => "other lines",
    })
}

/// Names in one line, cut.
fn shown(names: &Names) -> String {
    let Ok(names) = names else { return "nothing".to_owned() };
    let frame = |frame: &NamedFrame| {
        let name: String = frame.function.chars().take(48).collect();
        let place = frame.source.as_ref().map(|(file, line)| format!("{}:{line}", file.rsplit('/').next().unwrap()));
        format!("{name} ({})", place.as_deref().unwrap_or("?"))
    };
    names.iter().map(frame).collect::<Vec<_>>().join(" < ")
}

/// What comparing a file showed: differences by class, with an example of each.
#[derive(Debug, Default)]
struct Compared {
    addresses: usize,
    inlined: usize,
    lines: usize,
    differences: BTreeMap<&'static str, (usize, String)>,
    index_bytes: u64,
}

fn options(folder: &Path, debug_folders: &[PathBuf]) -> SymbolizerOptions {
    let cache = CacheOptions { folder: folder.to_owned(), bytes_max: 1 << 30 };
    SymbolizerOptions { cache: Some(cache), debug_folders: debug_folders.to_vec(), ..quiet() }
}

/// The most memory that this process had so far, as the kernel writes it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().to_owned()
}

/// Compares the index of a file with what the file itself says at some addresses.
fn compare(path: &Path, count: u64, debug_folders: &[PathBuf]) -> Compared {
    let folder = tempfile::tempdir().unwrap();
    let places = places(path, count);
    let options = options(folder.path(), debug_folders);
    let memory_before = peak_memory();
    let begun = Instant::now();
    let made = names_of_places(options.clone(), path, &places[..1]);
    let (build, memory) = (begun.elapsed(), peak_memory());
    let kept: Vec<PathBuf> =
        std::fs::read_dir(folder.path().join("names")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let has_build_id = ElfHeaders::read(&std::fs::File::open(path).unwrap()).unwrap().build_id.is_some();
    assert_eq!(kept.len(), usize::from(has_build_id), "{}: an index, and nothing else", path.display());
    let begun = Instant::now();
    let found = names_of_places(options.clone(), path, &places);
    let look_up = begun.elapsed();
    assert_eq!(made[0], found[0]);
    let begun = Instant::now();
    let expected = names_of_places(SymbolizerOptions { cache: None, ..options }, path, &places);
    let direct = begun.elapsed();
    let mut compared = Compared { addresses: places.len(), ..Compared::default() };
    compared.index_bytes = kept.first().map_or(0, |index| std::fs::metadata(index).unwrap().len());
    for ((place, expected), found) in places.iter().zip(&expected).zip(&found) {
        if let Ok(names) = &found.names {
            compared.inlined += usize::from(names.len() > 1);
            compared.lines += usize::from(names[0].source.is_some());
        }
        if let Some(class) = difference(&expected.names, &found.names) {
            let example = || format!("{place:#x}: {} is {}", shown(&expected.names), shown(&found.names));
            compared.differences.entry(class).or_insert_with(|| (0, example())).0 += 1;
        }
    }
    println!(
        "{}: {} addresses, {} with inlined functions, {} with lines; index {} bytes; built in {build:?} (peak memory from \
         {memory_before} to {memory}), looked up in {look_up:?}, read directly in {direct:?}",
        path.display(),
        compared.addresses,
        compared.inlined,
        compared.lines,
        compared.index_bytes,
    );
    for (class, (count, example)) in &compared.differences {
        println!("  {count} times {class}, e.g. {example}");
    }
    compared
}

/// Compares the files that `OBS_INDEX_FILES` lists, separated by colons, at `OBS_INDEX_ADDRESSES` addresses.
#[test]
#[ignore = "a command: OBS_INDEX_FILES=/usr/bin/node:… cargo test -p obs-userspace --lib -- --ignored compare_files --nocapture"]
fn compare_files() {
    let files = std::env::var("OBS_INDEX_FILES").unwrap();
    let count = std::env::var("OBS_INDEX_ADDRESSES").map_or(10_000, |count| count.parse().unwrap());
    let different: usize = files
        .split(':')
        .map(|file| compare(Path::new(file), count, &["/usr/lib/debug".into()]))
        .flat_map(|compared| compared.differences.into_values().map(|(count, _)| count).collect::<Vec<_>>())
        .sum();
    println!("{different} differences");
}

/// Compiles a program; `None` where there is no such compiler.
fn compile(folder: &Path, name: &str, compiler: &str, arguments: &[&str], source: (&str, &str)) -> Option<PathBuf> {
    let (file, text) = source;
    std::fs::write(folder.join(file), text).unwrap();
    let output = folder.join(name);
    let status = Command::new(compiler).args(arguments).arg("-o").arg(&output).arg(file).current_dir(folder).status();
    assert!(status.as_ref().map_or(true, std::process::ExitStatus::success), "{compiler} {arguments:?}");
    status.ok().map(|_| output)
}

const C: (&str, &str) = (
    "program.c",
    "#include <stdio.h>\n#include <stdlib.h>\n\
     static int counter;\n\
     static inline __attribute__((always_inline)) int innermost(int x) { counter += x; return counter * 3; }\n\
     static inline __attribute__((always_inline)) int middle(int x) { return innermost(x) + innermost(x * 2); }\n\
     __attribute__((noinline)) int outer(int x) { int y = middle(x); if (y == 7) abort(); return y ^ 5; }\n\
     __attribute__((noinline)) static int hidden(int x) { return x * counter + 9; }\n\
     int main(int argc, char **argv) { printf(\"%s %d %d\\n\", argv[0], outer(argc), hidden(argc)); return 0; }\n",
);

const CPP: (&str, &str) = (
    "program.cc",
    "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <string>\n#include <vector>\n\
     namespace shop { struct Cart { std::map<std::string, int> all;\n\
     void add(const std::string& name) { all[name]++; }\n\
     int total() const { int sum = 0; for (auto& [name, count] : all) sum += count + (int)name.size(); return sum; } }; }\n\
     int main(int c, char** v) { std::vector<std::string> names(v, v + c); std::sort(names.begin(), names.end());\n\
     shop::Cart cart; for (auto& name : names) cart.add(name);\n\
     try { std::cout << cart.total() << names.at(c); } catch (const std::exception& e) { std::cout << e.what(); } }\n",
);

/// The index says what the file says, for every kind of debug information that the compilers here make.
#[test]
fn says_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    for (name, compiler, arguments, source) in [
        ("none", "gcc", ["-O2"].as_slice(), C),
        ("five", "gcc", &["-O2", "-g", "-gdwarf-5"], C),
        ("four", "gcc", &["-O2", "-g", "-gdwarf-4"], C),
        ("three", "gcc", &["-O2", "-g", "-gdwarf-3"], C),
        ("wide", "gcc", &["-O2", "-g", "-gdwarf64"], C),
        ("lines", "gcc", &["-O2", "-g1"], C),
        ("compressed", "gcc", &["-O1", "-g", "-gz"], C),
        ("static", "gcc", &["-O2", "-g", "-static"], C),
        ("linked", "gcc", &["-O2", "-g", "-flto"], C),
        ("stripped", "gcc", &["-O2", "-s"], C),
        ("cpp", "g++", &["-O2", "-g"], CPP),
        ("cpp-plain", "g++", &["-O0", "-g", "-gdwarf-4"], CPP),
        ("cpp-sections", "g++", &["-O2", "-g", "-ffunction-sections", "-Wl,--gc-sections"], CPP),
    ] {
        let Some(path) = compile(folder.path(), name, compiler, arguments, source) else { continue };
        let Compared { addresses, inlined, lines, differences, .. } = compare(&path, 400, &[]);
        assert!(differences.is_empty(), "{name}: {differences:#?}");
        let has_lines = !["none", "stripped"].contains(&name);
        // In a static program, random addresses hardly meet our functions; without optimisation, nothing is inlined.
        if name != "static" {
            assert_eq!(lines > 0, has_lines, "{name}");
            assert_eq!(inlined > 0, has_lines && name != "cpp-plain", "{name}");
        }
        assert!(addresses > 100, "{name}");
    }
}

/// Runs a tool in a folder; whether it is there and could do it.
fn run(folder: &Path, tool: &str, arguments: &[&str]) -> bool {
    Command::new(tool).args(arguments).current_dir(folder).output().is_ok_and(|output| output.status.success())
}

fn names_at(path: &Path, places: &[u64], debug_folders: &[PathBuf], cache: Option<&Path>) -> Vec<Names> {
    let of_cache = cache.map(|folder| options(folder, debug_folders));
    let options = of_cache.unwrap_or(SymbolizerOptions { debug_folders: debug_folders.to_vec(), ..quiet() });
    names_of_places(options, path, places).into_iter().map(|resolved| resolved.names).collect()
}

/// Debug information in a file of its own, packed, or rearranged, says the same.
#[test]
fn says_the_same_however_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(path) = compile(folder, "whole", "g++", &["-O2", "-g"], CPP) else { return };
    let places = places(&path, 1_000);
    let expected = names_at(&path, &places, &[], None);
    assert!(expected.iter().flatten().any(|names| names.len() > 2));
    let same = |file: &str, debug_folders: &[PathBuf]| {
        let cache = tempfile::tempdir().unwrap();
        let path = folder.join(file);
        for turn in ["made", "read"] {
            let found = names_at(&path, &places, debug_folders, Some(cache.path()));
            let example = expected.iter().zip(&found).find(|(expected, found)| expected != found);
            let example = example.map(|(expected, found)| format!("{} is {}", shown(expected), shown(found)));
            assert_eq!(example, None, "{file}, {turn}");
        }
    };
    same("whole", &[]);
    // GNU's strip can pack with Zstandard since 2.40, if it was built so.
    if run(folder, "objcopy", &["--compress-debug-sections=zstd", "whole", "zstandard"]) {
        same("zstandard", &[]);
    }
    if run(folder, "objcopy", &["--only-keep-debug", "whole", "split.debug"])
        && run(folder, "objcopy", &["--strip-all", "--add-gnu-debuglink=split.debug", "whole", "split"])
    {
        same("split", &[]);
    }
    // `dwz` moves what units have in common into partial units, and what files have in common into another file.
    if run(folder, "dwz", &["whole", "-o", "partial"]) {
        same("partial", &[]);
    }
    let Some(_) = compile(folder, "two", "g++", &["-O1", "-g"], CPP) else { return };
    std::fs::create_dir_all(folder.join("debug/.dwz")).unwrap();
    std::fs::copy(&path, folder.join("one")).unwrap();
    if run(folder, "dwz", &["-m", "debug/.dwz/common.debug", "-M", "/nowhere/common.debug", "one", "two"]) {
        let headers = ElfHeaders::read(&std::fs::File::open(folder.join("one")).unwrap()).unwrap();
        assert!(headers.section(".gnu_debugaltlink").is_some());
        same("one", &[folder.join("debug")]);
        // Without that file, there are no names of inlined functions, and no wrong ones.
        let cache = tempfile::tempdir().unwrap();
        let found = names_at(&folder.join("one"), &places, &[], Some(cache.path()));
        assert_eq!(found, names_at(&folder.join("one"), &places, &[], None));
        assert!(found.iter().zip(&expected).all(|(found, expected)| match (found, expected) {
            (Ok(found), Ok(expected)) => found.last().unwrap().function == expected.last().unwrap().function,
            (found, expected) => found == expected,
        }));
    }
}

/// Ourselves: Rust, with the debug information of a test, and the C library.
#[test]
fn says_what_real_files_say() {
    let ourselves = std::env::current_exe().unwrap();
    let headers = ElfHeaders::read(&std::fs::File::open(&ourselves).unwrap()).unwrap();
    if crate::enrich::symbolize::dwarf::weigh(&std::fs::File::open(&ourselves).unwrap(), &headers).is_ok() {
        let compared = compare(&ourselves, 500, &[]);
        assert!(compared.differences.is_empty(), "{:#?}", compared.differences);
        assert!(compared.inlined > 20 && compared.lines > 200, "{compared:#?}");
    }
    for path in ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/python3", "/usr/bin/git"] {
        if Path::new(path).exists() {
            let compared = compare(Path::new(path), 2_000, &["/usr/lib/debug".into()]);
            assert!(compared.differences.is_empty(), "{:#?}", compared.differences);
        }
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn good_file() -> Option<&'static Path> {
        static FILE: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
        FILE.get_or_init(|| compile(&tempfile::tempdir().unwrap().keep(), "good", "gcc", &["-O2", "-g"], C)).as_deref()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Damaged debug information and symbols: an index or none, soon, and never an end of ourselves. What the index
        /// says is the same the second time.
        #[test]
        fn damaged_files(patches in proptest::collection::vec((0.0..1.0_f64, any::<u64>(), 1..8_usize), 1..64)) {
            let Some(good) = good_file() else { return Ok(()) };
            let folder = tempfile::tempdir().unwrap();
            let headers = ElfHeaders::read(&std::fs::File::open(good).unwrap()).unwrap();
            let is_read = |name: &str| name.starts_with(".debug_") || [".symtab", ".strtab", ".plt"].contains(&name);
            let sections: Vec<_> = headers.sections.iter().filter(|section| is_read(&section.name)).collect();
            let mut bytes = std::fs::read(good).unwrap();
            for (place, value, length) in patches {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a section")]
                let at = {
                    let section = sections[(place * sections.len() as f64) as usize];
                    (section.offset + (place * 7_919.0_f64).fract().mul_add(section.size as f64, -8.0).max(0.0) as u64) as usize
                };
                bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            }
            let path = folder.path().join("bad");
            std::fs::write(&path, &bytes).unwrap();
            let places = places(&path, 64);
            let options = options(&folder.path().join("cache"), &[]);
            let first = names_of_places(options.clone(), &path, &places);
            prop_assert_eq!(first.len(), places.len());
            prop_assert_eq!(names_of_places(options, &path, &places), first);
        }

        /// A damaged index is told, or says what it said.
        #[test]
        fn damaged_indexes(patches in proptest::collection::vec((0.0..1.0, any::<u8>()), 1..16), length in 0.0..1.5) {
            let Some(good) = good_file() else { return Ok(()) };
            let folder = tempfile::tempdir().unwrap();
            let places = places(good, 64);
            let options = options(folder.path(), &[]);
            let expected = names_of_places(options.clone(), good, &places);
            let index = std::fs::read_dir(folder.path().join("names")).unwrap().next().unwrap().unwrap().path();
            let mut bytes = std::fs::read(&index).unwrap();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the index")]
            for (place, value) in patches {
                let place = (bytes.len() as f64 * place) as usize;
                bytes[place] = value;
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length")]
            bytes.truncate((bytes.len() as f64 * length) as usize);
            std::fs::write(&index, bytes).unwrap();
            prop_assert_eq!(names_of_places(options, good, &places), expected);
        }
    }
}

//! Names of real files: what the compiler of this machine makes, and what its tools say of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
};

use super::*;
use crate::{
    enrich::process::{Ledger, Procfs},
    model::process::{BuildId, FileId, MappedRegion, ProcessEvent},
};

const PID: u32 = 4_000_000_007; // No process has this id.

const KEY: ProcessKey = ProcessKey { pid: PID, started_ns: 1_000, exec_id: 1 };

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int counter;
static inline __attribute__((always_inline)) int innermost(int x) {
    counter += x;                                       /* line 7 */
    return counter * 3;
}
static inline __attribute__((always_inline)) int middle(int x) {
    return innermost(x) + 1;                            /* line 11 */
}
__attribute__((noinline)) int outer(int x) {
    int y = middle(x);                                  /* line 14 */
    return y ^ 5;
}
__attribute__((noinline)) static int hidden(int x) { return x * counter + 9; }
int main(int argc, char **argv) {
    char *text = malloc(argc + 10);
    strcpy(text, argv[0]);
    printf("%s %d %d\n", text, outer(argc), hidden(argc));
    free(text);
    return 0;
}
"#;

/// Compiles the program; `None` where there is no compiler.
fn compile(folder: &Path, name: &str, arguments: &[&str]) -> Option<PathBuf> {
    let source = folder.join("program.c");
    std::fs::write(&source, PROGRAM).unwrap();
    let output = folder.join(name);
    let status = Command::new("gcc").args(arguments).arg("-o").arg(&output).arg(&source).current_dir(folder).status();
    match status {
        Ok(status) => {
            assert!(status.success(), "gcc {arguments:?}");
            Some(output)
        }
        Err(_) => None,
    }
}

fn run(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn id_of(path: &Path) -> FileId {
    let status = std::fs::metadata(path).unwrap();
    let (device_major, device_minor) = (rustix::fs::major(status.dev()), rustix::fs::minor(status.dev()));
    FileId { device_major, device_minor, inode: status.ino() }
}

/// A process that has the whole of a file mapped, at 0.
fn process(path: &Path, id: Option<FileId>, build_id: Option<BuildId>) -> Ledger {
    let mut ledger = Ledger::new(Procfs::new());
    let region = MappedRegion {
        start: 0,
        end: 1 << 40,
        file_offset: 0,
        path: path.to_str().unwrap().into(),
        file: id,
        build_id,
    };
    ledger.apply(ProcessEvent::Exec { pid: PID, name: "x".into(), time_ns: 2_000 });
    ledger.apply(ProcessEvent::Mapped { pid: PID, time_ns: 2_001, region });
    ledger.apply(ProcessEvent::Seen { key: KEY, time_ns: 2_002, name: "x".into() });
    ledger
}

pub(super) fn quiet() -> SymbolizerOptions {
    SymbolizerOptions { debug_folders: Vec::new(), ..SymbolizerOptions::default() }
}

/// Names of addresses (as `nm` shows them) of a file.
fn names_with(options: SymbolizerOptions, path: &Path, addresses: &[u64]) -> Vec<Resolved> {
    let headers = elf::ElfHeaders::read(&std::fs::File::open(path).unwrap()).unwrap();
    let offset = |address: &u64| {
        let within =
            |segment: &&elf::Segment| (segment.address..segment.address + segment.file_bytes).contains(address);
        headers.segments.iter().find(within).map(|segment| address - segment.address + segment.offset).unwrap()
    };
    let wanted: Vec<(ProcessKey, u64)> = addresses.iter().map(|address| (KEY, offset(address))).collect();
    let ledger = process(path, Some(id_of(path)), None);
    let resolved = Symbolizer::new(options).user(&ledger.places([KEY]), &wanted);
    for (resolved, address) in resolved.iter().zip(addresses) {
        assert_eq!(resolved.address, *address, "the address in the file comes back");
    }
    resolved
}

/// Names of places (as offsets) in a file.
pub(super) fn names_of_places(options: SymbolizerOptions, path: &Path, places: &[u64]) -> Vec<Resolved> {
    let wanted: Vec<(ProcessKey, u64)> = places.iter().map(|place| (KEY, *place)).collect();
    Symbolizer::new(options).user(&process(path, Some(id_of(path)), None).places([KEY]), &wanted)
}

fn functions(resolved: &Resolved) -> Vec<String> {
    let names = resolved.names.as_ref().map_err(|reason| reason.phrase()).unwrap();
    names.iter().map(|frame| frame.function.to_string()).collect()
}

/// Functions by address, as `nm` shows them: names at each address, and where each ends.
fn functions_by_nm(path: &Path, arguments: &[&str]) -> BTreeMap<u64, (BTreeSet<String>, u64)> {
    let mut functions: BTreeMap<u64, (BTreeSet<String>, u64)> = BTreeMap::new();
    for line in run("nm", arguments, path).lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [start, size, kind, name] = fields.as_slice() else { continue };
        if !matches!(*kind, "t" | "T" | "w" | "W" | "i") {
            continue;
        }
        let start = u64::from_str_radix(start, 16).unwrap();
        let entry = functions.entry(start).or_default();
        entry.0.insert(name.split('@').next().unwrap().to_owned());
        entry.1 = entry.1.max(start + u64::from_str_radix(size, 16).unwrap());
    }
    functions
}

/// Every function that `nm` knows is known to us, by one of its names, at its first and its last byte.
fn compare_with_nm(path: &Path, arguments: &[&str]) -> usize {
    let functions = functions_by_nm(path, arguments);
    let mut wanted = Vec::new();
    for (start, (_, end)) in &functions {
        wanted.extend([*start, end - 1]);
    }
    let options = SymbolizerOptions { reads_dwarf: false, ..quiet() };
    let found = names_with(options, path, &wanted);
    let mut compared = 0;
    for (address, resolved) in wanted.iter().zip(&found) {
        // The closest function that covers it.
        let Some((_, (names, _))) = functions.range(..=address).rev().find(|(_, (_, end))| address < end) else {
            continue;
        };
        let name = functions_name(resolved);
        let demangled: BTreeSet<String> = names.iter().map(|name| demangle::demangle(name)).collect();
        assert!(name.as_ref().is_some_and(|name| demangled.contains(name)), "{address:#x}: {name:?}, nm {names:?}");
        compared += 1;
    }
    compared
}

fn functions_name(resolved: &Resolved) -> Option<String> {
    resolved.names.as_ref().ok()?.last().map(|frame| frame.function.to_string())
}

#[test]
fn malloc_of_the_c_library() {
    let maps = Procfs::new().executable_mappings(std::process::id()).unwrap();
    let Some(libc) = maps.iter().find(|region| region.path.ends_with("/libc.so.6")) else { return };
    let path = Path::new(&*libc.path);
    let functions = functions_by_nm(path, &["-D", "-S"]);
    let address = |wanted: &str| *functions.iter().find(|(_, (names, _))| names.contains(wanted)).unwrap().0;
    for name in ["malloc", "write", "qsort", "pthread_mutex_lock"] {
        let found = names_with(SymbolizerOptions { reads_dwarf: false, ..quiet() }, path, &[address(name) + 1]);
        assert_eq!(functions_name(&found[0]).as_deref(), Some(name));
        assert!(found[0].module.as_ref().unwrap().build_id.is_some());
    }
    assert!(compare_with_nm(path, &["-D", "-S"]) > 2_000);
}

#[test]
fn inlined_functions_and_lines() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "debug", &["-O2", "-g"]) else { return };
    let functions = functions_by_nm(&path, &["-S"]);
    let (start, (_, end)) = functions.iter().find(|(_, (names, _))| names.contains("outer")).unwrap();
    let addresses: Vec<u64> = (*start..*end).collect();
    let found = names_with(quiet(), &path, &addresses);
    let mut chains = BTreeSet::new();
    for (address, resolved) in addresses.iter().zip(&found) {
        // The oracle: function and line of each frame, innermost first, twice two lines each.
        let shown = run("addr2line", &["-f", "-i", &format!("{address:#x}"), "-e"], &path);
        let shown: Vec<&str> = shown.lines().collect();
        let line = |place: &str| place.rsplit(':').next().unwrap().split(' ').next().unwrap().parse::<u32>().ok();
        let expected: Vec<(String, Option<u32>)> =
            shown.chunks_exact(2).map(|pair| (pair[0].to_owned(), line(pair[1]))).collect();
        let names = resolved.names.as_ref().unwrap();
        let ours: Vec<(String, Option<u32>)> = names
            .iter()
            .map(|frame| (frame.function.to_string(), frame.source.as_ref().map(|(_, line)| *line)))
            .collect();
        assert_eq!(ours, expected, "{address:#x}");
        let marks: Vec<bool> = names.iter().map(|frame| frame.is_inlined).collect();
        assert!(!marks[marks.len() - 1] && marks[..marks.len() - 1].iter().all(|inlined| *inlined));
        chains.insert(ours.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" "));
    }
    assert!(chains.contains("innermost middle outer"), "{chains:?}");
}

#[test]
fn inlined_functions_of_what_runs_long_enough() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "debug", &["-O2", "-g"]) else { return };
    let functions_at = functions_by_nm(&path, &["-S"]);
    let (start, (_, end)) = functions_at.iter().find(|(_, (names, _))| names.contains("outer")).unwrap();
    let headers = elf::ElfHeaders::read(&std::fs::File::open(&path).unwrap()).unwrap();
    let segment = headers.segments.iter().find(|it| (it.address..it.address + it.file_bytes).contains(start)).unwrap();
    let wanted: Vec<(ProcessKey, u64)> =
        (*start..*end).map(|address| (KEY, address - segment.address + segment.offset)).collect();
    let cache = Some(CacheOptions { folder: folder.path().join("cache"), bytes_max: 1 << 30 });
    let indexing = Indexing::Aside { from_batch: 3, cpu_share_max: 1.0 };
    let options = SymbolizerOptions { indexing, cache, ..quiet() };
    let has_inlined = |symbolizer: &mut Symbolizer| {
        let ledger = process(&path, Some(id_of(&path)), None);
        let resolved = symbolizer.user(&ledger.places([KEY]), &wanted);
        assert!(resolved.iter().all(|resolved| functions_name(resolved).as_deref() == Some("outer")));
        resolved.iter().any(|resolved| functions(resolved).len() > 1)
    };
    let mut symbolizer = Symbolizer::new(options.clone());
    assert_eq!([(); 3].map(|()| has_inlined(&mut symbolizer)), [false; 3]);
    // The third batch has asked for the index.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !has_inlined(&mut symbolizer) {
        assert!(std::time::Instant::now() < limit, "no index is made");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // What an earlier run has found is known at once.
    assert!(has_inlined(&mut Symbolizer::new(options)));
}

#[test]
fn symbols_of_every_kind_of_program() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("plain", ["-O2"].as_slice()),
        ("fixed", &["-O2", "-no-pie"]),
        ("static", &["-O2", "-static"]),
        ("static-pie", &["-O2", "-static-pie"]),
        ("debug", &["-O1", "-g"]),
        ("compressed", &["-O1", "-g", "-gz"]),
    ] {
        let Some(path) = compile(folder.path(), name, arguments) else { return };
        let compared = compare_with_nm(&path, &["-S"]);
        assert!(compared > if name.starts_with("static") { 1_000 } else { 4 }, "{name}: {compared}");
    }
}

#[test]
fn stripped_programs_say_so_and_keep_their_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "stripped", &["-O2"]) else { return };
    let functions = functions_by_nm(&path, &["-S"]);
    let address = |wanted: &str| *functions.iter().find(|(_, (names, _))| names.contains(wanted)).unwrap().0;
    let (hidden, start) = (address("hidden"), address("_start"));
    run("strip", &[], &path);
    let found = names_with(quiet(), &path, &[hidden, start + 4]);
    assert_eq!(found[0].names, Err(NoSymbol::Stripped));
    let build_id = found[0].module.as_ref().unwrap().build_id.clone().unwrap();
    assert!(run("readelf", &["-n"], &path).contains(&*build_id));
    assert_eq!(functions_name(&found[1]).as_deref(), Some("_start"), "the entry point is known without symbols");
}

#[test]
fn stubs_go_by_their_targets() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("lazy", ["-O2", "-Wl,-z,lazy"].as_slice()),
        ("now", &["-O2", "-Wl,-z,now"]),
        ("cet", &["-O2", "-fcf-protection=full", "-Wl,-z,ibtplt", "-Wl,-z,lazy"]),
        ("no-plt-symbols", &["-O2", "-Wl,-z,lazy", "-s"]),
    ] {
        let Some(path) = compile(folder.path(), name, arguments) else { return };
        // The oracle: objdump's `0000000000001030 <malloc@plt>:`.
        let shown = run("objdump", &["-d"], &path);
        let stubs: Vec<(u64, String)> = shown
            .lines()
            .filter_map(|line| line.strip_suffix("@plt>:")?.split_once(" <"))
            .map(|(address, name)| (u64::from_str_radix(address, 16).unwrap(), format!("{name}@plt")))
            .filter(|(_, name)| !name.starts_with('*'))
            .collect();
        assert!(stubs.iter().any(|(_, stub)| stub == "malloc@plt"), "{name}: {stubs:?}");
        for (address, stub) in stubs {
            for place in [address, address + 4] {
                let found = names_with(quiet(), &path, &[place]);
                assert_eq!(functions_name(&found[0]).as_deref(), Some(&*stub), "{name} {place:#x}");
            }
        }
    }
}

#[test]
fn separate_debug_information() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "split", &["-O2", "-g"]) else { return };
    let functions = functions_by_nm(&path, &["-S"]);
    let (hidden, (_, end)) = functions.iter().find(|(_, (names, _))| names.contains("hidden")).unwrap();
    let places = [*hidden, end - 1];
    let debug = folder.path().join("split.debug");
    run("objcopy", &["--only-keep-debug", path.to_str().unwrap()], &debug);
    run("strip", &[], &path);
    assert_eq!(names_with(quiet(), &path, &places)[0].names, Err(NoSymbol::Stripped));
    let check = |options: SymbolizerOptions, how: &str| {
        for found in names_with(options, &path, &places) {
            assert_eq!(functions_name(&found).as_deref(), Some("hidden"), "{how}");
            let (file, line) = found.names.unwrap()[0].source.clone().unwrap();
            assert!(file.ends_with("/program.c") && line == 17, "{how}: {file}:{line}");
        }
    };
    // By build id, in a folder like /usr/lib/debug.
    let build_id = elf::ElfHeaders::read(&std::fs::File::open(&path).unwrap()).unwrap().build_id.unwrap().to_string();
    let global = folder.path().join("global");
    let by_id = global.join(".build-id").join(&build_id[..2]);
    std::fs::create_dir_all(&by_id).unwrap();
    std::fs::copy(&debug, by_id.join(format!("{}.debug", &build_id[2..]))).unwrap();
    check(SymbolizerOptions { debug_folders: vec![global.clone()], ..quiet() }, "build id");
    // By the link, beside the file, in .debug, and below a folder like /usr/lib/debug.
    run("objcopy", &[&format!("--add-gnu-debuglink={}", debug.display())], &path);
    check(quiet(), "link, beside");
    std::fs::create_dir(folder.path().join(".debug")).unwrap();
    std::fs::rename(&debug, folder.path().join(".debug/split.debug")).unwrap();
    check(quiet(), "link, .debug");
    let below = folder.path().join("other").join(folder.path().strip_prefix("/").unwrap());
    std::fs::create_dir_all(&below).unwrap();
    std::fs::rename(folder.path().join(".debug/split.debug"), below.join("split.debug")).unwrap();
    check(SymbolizerOptions { debug_folders: vec![folder.path().join("other")], ..quiet() }, "link, global");
    // What is there belongs to another build.
    let Some(other) = compile(folder.path(), "split.debug", &["-O1", "-g"]) else { return };
    assert_eq!(names_with(quiet(), &path, &places)[0].names, Err(NoSymbol::Stripped), "{}", other.display());
}

#[test]
fn a_replaced_file_gives_no_names() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "program", &["-O2"]) else { return };
    let id = id_of(&path);
    let build_id = elf::ElfHeaders::read(&std::fs::File::open(&path).unwrap()).unwrap().build_id;
    let wanted = [(KEY, 0x1040)];
    let ask = |id, build_id| {
        let mut symbolizer = Symbolizer::new(quiet());
        let names = symbolizer.user(&process(&path, id, build_id).places([KEY]), &wanted).remove(0).names;
        (names, symbolizer.problems())
    };
    assert!(ask(Some(id), None).0.is_ok());
    assert!(ask(None, build_id.clone()).0.is_ok());
    let other = compile(folder.path(), "other", &["-O1"]).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert_eq!(ask(Some(id), None).0, Err(NoSymbol::FileReplaced));
    let (names, problems) = ask(None, build_id);
    assert_eq!(names, Err(NoSymbol::FileReplaced));
    assert_eq!((problems.len(), problems[0].addresses, &*problems[0].path), (1, 1, path.to_str().unwrap()));
    assert!(problems[0].detail.as_ref().unwrap().contains("build id"), "{problems:?}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(Some(id), None).0, Err(NoSymbol::FileGone));
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    assert_eq!(ask(Some(id_of(&path)), None).0, Err(NoSymbol::NotElf));
}

#[test]
fn a_deleted_program_that_runs_keeps_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("sleeper.c");
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n").unwrap();
    let path = folder.path().join("sleeper");
    let Ok(status) = Command::new("gcc").arg("-O2").arg("-o").arg(&path).arg(&source).status() else { return };
    assert!(status.success());
    let main = *functions_by_nm(&path, &["-S"]).iter().find(|(_, (names, _))| names.contains("main")).unwrap().0;
    let mut child = Command::new(&path).spawn().unwrap();
    let mapped = |name: &str| {
        let regions = Procfs::new().executable_mappings(child.id()).unwrap();
        regions.into_iter().find(|region| region.path.ends_with(name))
    };
    // Until it has started the program, it is still a copy of ourselves.
    let region = loop {
        if let Some(region) = mapped("/sleeper") {
            break region;
        }
        std::thread::yield_now();
    };
    let vdso = mapped("[vdso]").map(|region| region.start);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "another file").unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let key = ProcessKey { pid: child.id(), started_ns: ticks * 10_000_000, exec_id: 1 };
    let mut ledger = Ledger::new(Procfs::new());
    ledger.apply(ProcessEvent::Seen { key, time_ns: key.started_ns + 1, name: "sleeper".into() });
    child.kill().unwrap();
    child.wait().unwrap();
    // Only now, after its end, and though another file has its name.
    let wanted = [(key, region.start + main - region.file_offset), (key, vdso.unwrap_or_default())];
    let found = Symbolizer::new(quiet()).user(&ledger.places([key]), &wanted);
    assert_eq!(functions(&found[0]), ["main"]);
    assert_eq!(&*found[0].module.as_ref().unwrap().path, path.to_str().unwrap());
    if vdso.is_some() {
        assert_eq!(&*found[1].module.as_ref().unwrap().path, "[vdso]");
    }
}

#[test]
fn names_are_kept_from_run_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = compile(folder.path(), "program", &["-O2", "-g"]) else { return };
    let functions = functions_by_nm(&path, &["-S"]);
    let addresses: Vec<u64> = functions.keys().copied().filter(|address| *address != 0).collect();
    let cache = CacheOptions { folder: folder.path().join("state"), bytes_max: 1 << 20 };
    let options = SymbolizerOptions { cache: Some(cache.clone()), ..quiet() };
    let first = names_with(options.clone(), &path, &addresses);
    let kept: Vec<PathBuf> =
        std::fs::read_dir(cache.folder.join("names")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(names_with(options.clone(), &path, &addresses), first);
    // The index is remade when it is damaged, wherever that is.
    let index = std::fs::read(&kept[0]).unwrap();
    for place in (0..index.len()).step_by(511) {
        let mut damaged = index.clone();
        damaged[place] ^= 0x10;
        std::fs::write(&kept[0], damaged).unwrap();
        assert_eq!(names_with(options.clone(), &path, &addresses), first, "{place}");
    }
    for length in [0, 1, 4_095, 4_096, index.len() / 2, index.len() - 1] {
        std::fs::write(&kept[0], &index[..length]).unwrap();
        assert_eq!(names_with(options.clone(), &path, &addresses), first, "{length}");
    }
    // What is in another's place is not taken.
    let other = compile(folder.path(), "other", &["-O1", "-g"]).unwrap();
    let of_other: Vec<u64> = functions_by_nm(&other, &["-S"]).into_keys().filter(|address| *address != 0).collect();
    let expected = names_with(quiet(), &other, &of_other);
    assert_eq!(names_with(options.clone(), &other, &of_other), expected);
    let names = std::fs::read_dir(cache.folder.join("names")).unwrap().map(|entry| entry.unwrap().path());
    let place = names.into_iter().find(|path| *path != kept[0]).unwrap();
    std::fs::write(place, &index).unwrap();
    assert_eq!(names_with(options.clone(), &other, &of_other), expected);
    // That names come from disk, and nothing else does, shows when symbols and debug information are overwritten. Only
    // root's files are known by build id and size alone, so that the file may be changed at all.
    if std::fs::metadata(&path).unwrap().uid() != 0 {
        return;
    }
    let headers = elf::ElfHeaders::read(&std::fs::File::open(&path).unwrap()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let is_read =
        |name: &str| name.starts_with(".debug_") || [".symtab", ".strtab", ".dynsym", ".dynstr"].contains(&name);
    for section in headers.sections.iter().filter(|section| is_read(&section.name)) {
        let (offset, length) = section.content();
        bytes[usize::try_from(offset).unwrap()..][..usize::try_from(length).unwrap()].fill(0);
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(names_with(options, &path, &addresses), first);
    assert!(
        names_with(quiet(), &path, &addresses)
            .iter()
            .all(|resolved| functions_name(resolved).is_none_or(|name| name == "_start"))
    );
}

#[test]
fn a_mapped_jit_region_without_map_is_its_own_reason() {
    let ledger = process(Path::new("//anon"), None, None);
    let mut symbolizer = Symbolizer::new(quiet());
    let found = symbolizer.user(&ledger.places([KEY]), &[(KEY, 0x1234)]);
    assert_eq!((found[0].kind, found[0].address), (FrameKind::Jit, 0x1234));
    assert_eq!(found[0].names, Err(NoSymbol::JitWithoutMap));
}

#[test]
fn compiled_code_keeps_its_names_after_its_process_ended() {
    // Ends by itself, should nobody end it.
    let script = "function obsHot(n) { let s = 0; for (let i = 0; i < n; i++) s += i % 7; return s; }\n\
                  const end = Date.now() + 60000; while (Date.now() < end) obsHot(100000);";
    // node leaves a log where it is started.
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--perf-basic-prof", "--interpreted-frames-native-stack", "-e", script];
    let node = Command::new("node").args(arguments).current_dir(folder.path()).spawn();
    let Ok(mut child) = node else { return };
    let map = PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
    let line = loop {
        let text = std::fs::read_to_string(&map).unwrap_or_default();
        // The last line may still be being written.
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        if let Some(line) = whole.lines().rfind(|line| line.contains("obsHot")) {
            break line.to_owned();
        }
        assert_eq!(child.try_wait().unwrap(), None, "node ended without a perf map");
        std::thread::yield_now();
    };
    let mut fields = line.splitn(3, ' ');
    let address = u64::from_str_radix(fields.next().unwrap().trim_start_matches("0x"), 16).unwrap() + 1;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let key = ProcessKey { pid: child.id(), started_ns: ticks * 10_000_000, exec_id: 1 };
    let mut ledger = Ledger::new(Procfs::new());
    ledger.apply(ProcessEvent::Seen { key, time_ns: key.started_ns + 1, name: "node".into() });
    ledger.observe(key, [address]);
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(&map).unwrap();
    let found = Symbolizer::new(quiet()).user(&ledger.places([key]), &[(key, address), (key, address + (1 << 20))]);
    assert_eq!(found[0].kind, FrameKind::Jit);
    assert!(functions(&found[0])[0].contains("obsHot"), "{found:?}");
    assert!(found[1].names.is_err() || !functions(&found[1])[0].contains("obsHot"), "{found:?}");
}

#[test]
fn cpp_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program.cc");
    let text = "namespace shop { struct Cart { __attribute__((noinline)) int add(int, char const*); };\n\
                int Cart::add(int n, char const* s) { return n + s[0]; } }\n\
                int main(int c, char** v) { return shop::Cart().add(c, v[0]); }\n";
    std::fs::write(&source, text).unwrap();
    let path = folder.path().join("cpp");
    let Ok(status) = Command::new("g++").args(["-O1", "-g", "-o"]).arg(&path).arg(&source).status() else { return };
    assert!(status.success());
    let functions = functions_by_nm(&path, &["-S"]);
    let address = *functions.iter().find(|(_, (names, _))| names.contains("_ZN4shop4Cart3addEiPKc")).unwrap().0;
    for reads_dwarf in [false, true] {
        let found = names_with(SymbolizerOptions { reads_dwarf, ..quiet() }, &path, &[address]);
        assert_eq!(functions_name(&found[0]).as_deref(), Some("shop::Cart::add(int, char const*)"));
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A damaged file gives names or reasons, soon, and never stops us.
        #[test]
        fn damaged_files(patches in proptest::collection::vec((0.0..1.0, any::<u64>()), 1..64), is_debug in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let Some(path) = good_file(is_debug) else { return Ok(()) };
            let mut bytes = std::fs::read(path).unwrap();
            for (place, value) in patches {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the file")]
                let place = ((bytes.len() - 8) as f64 * place) as usize;
                bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
            }
            bytes[..16].copy_from_slice(&std::fs::read(path).unwrap()[..16]);
            let path = folder.path().join("bad");
            std::fs::write(&path, &bytes).unwrap();
            let ledger = process(&path, Some(id_of(&path)), None);
            let wanted: Vec<(ProcessKey, u64)> = (0..64).map(|place| (KEY, place * 0x81)).collect();
            prop_assert_eq!(Symbolizer::new(quiet()).user(&ledger.places([KEY]), &wanted).len(), wanted.len());
        }
    }

    fn good_file(is_debug: bool) -> Option<&'static Path> {
        static FILES: std::sync::OnceLock<Option<(PathBuf, PathBuf)>> = std::sync::OnceLock::new();
        let files = FILES.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap().keep();
            Some((compile(&folder, "plain", &["-O2"])?, compile(&folder, "debug", &["-O2", "-g"])?))
        });
        files.as_ref().map(|(plain, debug)| if is_debug { debug.as_path() } else { plain.as_path() })
    }
}

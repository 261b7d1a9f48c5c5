//! Walks the stack of a real process that waits in a system call, by what /proc shows of it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic anywhere")]

use obs_common::stack::StackEnd;
use obs_unwind::{ElfImage, Found, Machine, Registers, UnwindTable, unwind};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the process when the test ends, however it does.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Mapping {
    start: u64,
    end: u64,
    bias: u64,
    table: UnwindTable,
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

fn mappings(pid: u32, memory: &File) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, access, offset, _, _, path] = words[..] else { continue };
        if !access.contains('x') {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (hexadecimal(start), hexadecimal(end));
        let data = if path == "[vdso]" {
            let mut data = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut data, start).unwrap();
            data
        } else if path.starts_with('/') {
            std::fs::read(path).unwrap()
        } else {
            continue;
        };
        let image = ElfImage::parse(&data).unwrap();
        let bias = image.load_bias(start, hexadecimal(offset)).unwrap();
        mappings.push(Mapping { start, end, bias, table: UnwindTable::build(&image).unwrap().0 });
    }
    mappings
}

/// The stack and instruction pointer of a process that waits in a system call, once it does.
fn waiting(pid: u32) -> (u64, u64) {
    const NANOSLEEP: [&str; 2] = ["35", "230"];
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        if NANOSLEEP.contains(words.first().unwrap_or(&"")) {
            let [.., sp, ip] = words[..] else { panic!("{text}") };
            return (hexadecimal(sp), hexadecimal(ip));
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it never sleeps: {text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_stack_of_a_sleeping_process_is_complete() {
    let command = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let process = Stopped(command);
    let pid = process.0.id();
    let (sp, ip) = waiting(pid);
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mappings = mappings(pid, &memory);
    let mapping = |address: u64| mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    // The frame pointer is not shown; no function of this chain needs it.
    let registers = Registers { ip, sp, fp: 0, lr: 0, general: [0; 31] };
    let walk = unwind(
        Machine::X86_64,
        &registers,
        |address| match mapping(address) {
            Some(mapping) => Found::Rule(mapping.table.find(address - mapping.bias).unwrap_or_default()),
            None => Found::NoMapping,
        },
        |address| {
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, address).ok().map(|()| u64::from_le_bytes(word))
        },
        64,
    );
    assert_eq!(walk.end, StackEnd::Complete, "{walk:x?}");
    // clock_nanosleep, nanosleep, xnanosleep, main, __libc_start_call_main, __libc_start_main, _start: more or less,
    // from one version to the next.
    assert!((5..=10).contains(&walk.frames.len()), "{walk:x?}");
    // The process's own entry point is the last.
    let data = std::fs::read(format!("/proc/{pid}/exe")).unwrap();
    let entry = u64::from_le_bytes(*data[24..].first_chunk().unwrap());
    let last = walk.frames.last().unwrap().address();
    let bias = mapping(last).unwrap().bias;
    assert!((entry..entry + 0x40).contains(&(last - bias)), "{walk:x?}");
}

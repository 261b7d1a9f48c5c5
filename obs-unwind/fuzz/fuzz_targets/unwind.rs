//! Tables, registers and memory are any bytes: the walk must end, and say why.
#![no_main]

use libfuzzer_sys::fuzz_target;
use obs_common::unwind_row::{RULE_BYTES, Rule};
use obs_unwind::{Found, Machine, Registers, UnwindTable, unwind};

const FRAMES_MAX: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some(([choice, rules, rows], rest)) = data.split_first_chunk() else { return };
    let machine = if choice & 1 == 0 { Machine::X86_64 } else { Machine::Aarch64 };
    let mut bytes = rest.iter().copied();
    let mut rest = |count: usize| -> Vec<u8> { bytes.by_ref().take(count).collect() };
    let rules: Vec<Rule> = rest(usize::from(*rules) % 16 * RULE_BYTES).chunks_exact(RULE_BYTES).map(rule).collect();
    let rows = rest(usize::from(*rows) * 4);
    let rows: Vec<u32> = rows.chunks_exact(4).map(|row| u32::from_le_bytes([row[0], row[1], row[2] & 15, 0])).collect();
    let pages: Vec<u32> = rest(8).into_iter().map(u32::from).collect();
    let table = UnwindTable::from_arrays(1, pages, rows, rules);
    // Addresses within the table and the stack, mostly.
    let words: Vec<u64> = rest(512).iter().map(|byte| 0x1000 | u64::from(*byte) << 3).collect();
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let registers = Registers { ip: word(0), sp: word(1), fp: word(2), lr: word(3), general: [word(4); 31] };
    let walk = unwind(
        machine,
        &registers,
        |address| table.find(address).map_or(Found::NoMapping, Found::Rule),
        |address| words.get(usize::try_from(address.checked_sub(0x1000)? >> 3).ok()?).copied(),
        FRAMES_MAX,
    );
    assert!((1..=FRAMES_MAX).contains(&walk.frames.len()));
    assert!(walk.frames[0].is_exact());
});

fn rule(bytes: &[u8]) -> Rule {
    Rule {
        cfa_offset: i32::from(i16::from_le_bytes([bytes[0], bytes[1]])),
        fp_offset: i16::from_le_bytes([bytes[4], bytes[5] % 3]),
        ra_offset: i16::from_le_bytes([bytes[6], bytes[7] % 3]),
        cfa_kind: bytes[8] % 12,
        fp_kind: bytes[9] % 7,
        ra_kind: bytes[10] & 0x83,
        arg: bytes[11],
    }
}

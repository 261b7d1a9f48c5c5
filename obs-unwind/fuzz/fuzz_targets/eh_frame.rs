//! The call frame information of a well-formed image is any bytes; the first ones choose the machine, the section and how
//! the rest is shared out.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../check.rs"]
mod check;
#[path = "../../tests/support/mod.rs"]
mod support;

fuzz_target!(|data: &[u8]| {
    let Some(([choice, cut], rest)) = data.split_first_chunk() else { return };
    let machine = if choice & 1 == 0 { 62 } else { 183 };
    let name = if choice & 2 == 0 { ".eh_frame" } else { ".debug_frame" };
    let (other, main) = rest.split_at(rest.len() * usize::from(*cut) / 512);
    let mut sections = vec![(name, 0x4000, 2, main)];
    match choice >> 2 & 3 {
        1 => sections.push((".eh_frame_hdr", 0x3f00, 2, other)),
        2 => sections.push((".debug_frame", 0, 0, other)),
        3 => sections.push((".gopclntab", 0x8000, 2, other)),
        _ => {}
    }
    let code = [0x90; 0x1800];
    let segments = vec![(0x1000, &code[..])];
    check::image(&support::image(&support::Parts { machine, segments, sections }));
});

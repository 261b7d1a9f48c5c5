//! The sections of a block are any bytes behind right checksums: a code and three bytes of length before each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use obs_userspace_fuzz::{ask, folder, store};

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let mut sections = Vec::new();
    while let Some(([code, low, middle, high], after)) = rest.split_first_chunk() {
        let length = usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16;
        let (section, after) = after.split_at(length.min(after.len()));
        sections.push((*code, section));
        rest = after;
    }
    let file = store::fuzz::block(choice & 1 == 1, sections);
    let _ = store::check_block_bytes(&file);
    ask(&folder("0000000001.block", &file));
});

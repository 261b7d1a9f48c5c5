//! The windows of a journal are any bytes behind right checksums: two bytes of length before each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use obs_userspace_fuzz::{ask, folder, store, write};

fuzz_target!(|data: &[u8]| {
    let mut windows = Vec::new();
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk() {
        let (window, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        windows.push(window);
        rest = after;
    }
    let file = store::fuzz::journal(windows);
    let _ = store::check_journal_bytes(&file);
    let dir = folder("0000000001.journal", &file);
    ask(&dir);
    write(&dir);
    // What was made of it is whole, whatever it was made from.
    for file in store::check(&dir).expect("the folder is listed").files {
        if file.name.ends_with("block") {
            assert_eq!(file.state, store::FileState::Whole, "{}", file.name);
        }
    }
    ask(&dir);
});

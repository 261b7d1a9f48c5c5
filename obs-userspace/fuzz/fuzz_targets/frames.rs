//! A file of the store is any bytes; the first one chooses which kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use obs_userspace_fuzz::store;

fuzz_target!(|data: &[u8]| {
    let Some((choice, file)) = data.split_first() else { return };
    if choice & 1 == 0 {
        let _ = store::check_journal_bytes(file);
    } else {
        let _ = store::check_block_bytes(file);
    }
});

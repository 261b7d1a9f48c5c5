//! Machine code that comes into the kernel and leaves it while it runs: BPF programs, and the trampolines that lead to them.
//!
//! `/proc/kallsyms` knows only what is there when it is read, and not how long it is. So a program that was unloaded by then has no
//! name there, and its addresses would be taken for those of whatever is loaded before them.

use std::{ops::Range, sync::Arc};

/// Most pieces of code that are remembered.
const PIECES_MAX: usize = 16_384;

/// Most bytes of code without a known length, such as trampolines that were there before: the kernel gives them a page at most.
const UNKNOWN_LENGTH_BYTES_MAX: u64 = 4_096;

/// Most bytes from a function's symbol to its first instruction (the hash that the kernel's control-flow integrity puts there).
const PREFIX_BYTES_MAX: u64 = 64;

/// What is known of such code.
#[derive(Clone, Debug, Default)]
pub struct KernelCode {
    named: Vec<Piece>,
    loaded: Vec<Range<u64>>,
}

/// A piece of code that was seen to come or to leave.
#[derive(Clone, Debug)]
struct Piece {
    range: Range<u64>,
    name: Arc<str>,
    is_loaded: bool,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    Nothing,
    /// It belonged to this.
    Name(Arc<str>),
    /// It belonged to one after the other, and nobody knows to which one when it was sampled.
    Several,
}

impl KernelCode {
    /// Takes note of code that was seen to come or to leave.
    pub fn add_named(&mut self, start: u64, length_bytes: u32, name: &str, is_loaded: bool) {
        let range = start..start.saturating_add(length_bytes.into());
        if let Some(known) = self.named.iter_mut().find(|known| known.range == range && *known.name == *name) {
            known.is_loaded = is_loaded;
            return;
        }
        // What exceeds this may yet be named by the kernel's list.
        if self.named.len() < PIECES_MAX {
            self.named.push(Piece { range, name: name.into(), is_loaded });
        }
    }

    /// Forgets what has left; to be called when no address that was sampled before waits for its name.
    pub fn forget_unloaded(&mut self) {
        self.named.retain(|piece| piece.is_loaded);
    }

    /// Takes note of where code lies that is loaded when the kernel's symbols are read.
    pub fn set_loaded(&mut self, mut functions: Vec<Range<u64>>) {
        functions.truncate(PIECES_MAX);
        self.loaded = functions;
    }

    /// What is known of an address.
    pub(super) fn find(&self, address: u64) -> Known {
        let mut names = self.named.iter().filter(|piece| piece.range.contains(&address)).map(|piece| &piece.name);
        let Some(first) = names.next() else { return Known::Nothing };
        if names.all(|name| name == first) { Known::Name(Arc::clone(first)) } else { Known::Several }
    }

    /// Whether the symbol of a piece of code covers an address behind it.
    pub(super) fn covers(&self, symbol_start: u64, symbol: &str, address: u64) -> bool {
        if !symbol.starts_with("bpf_prog_") {
            return address - symbol_start < UNKNOWN_LENGTH_BYTES_MAX;
        }
        let function = self.loaded.iter().find(|function| function.contains(&address));
        function.is_some_and(|function| symbol_start.saturating_add(PREFIX_BYTES_MAX) >= function.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_seen_has_a_name() {
        let mut code = KernelCode::default();
        for _ in 0..2 {
            code.add_named(0x1000, 0x100, "bpf_prog_1_a", true);
        }
        assert_eq!(code.named.len(), 1);
        assert_eq!(
            [0xfff, 0x1000, 0x10ff, 0x1100].map(|it| code.find(it) == Known::Nothing),
            [true, false, false, true]
        );
        assert_eq!(code.find(0x1050), Known::Name("bpf_prog_1_a".into()));
        code.add_named(0x1080, 0x100, "bpf_prog_2_b", false);
        assert_eq!(code.find(0x1090), Known::Several);
        assert_eq!(code.find(0x1070), Known::Name("bpf_prog_1_a".into()));
        code.forget_unloaded();
        assert_eq!([0x1090, 0x1150].map(|it| code.find(it)), [Known::Name("bpf_prog_1_a".into()), Known::Nothing]);
    }

    #[test]
    fn symbols_end_where_their_code_ends() {
        let mut code = KernelCode::default();
        assert!(!code.covers(0x1000, "bpf_prog_1_a", 0x1008), "how long it is, nobody knows");
        code.set_loaded(std::iter::once(0x1000..0x1100).collect());
        assert_eq!([0x1008, 0x10ff, 0x1100].map(|it| code.covers(0x1000, "bpf_prog_1_a", it)), [true, true, false]);
        assert!(!code.covers(0x800, "bpf_prog_0_x", 0x1008), "that lies in another function");
        assert!(code.covers(0x2000, "bpf_trampoline_7", 0x2fff) && !code.covers(0x2000, "bpf_trampoline_7", 0x3000));
    }
}

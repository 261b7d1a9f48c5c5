//! BPF instructions, as few as the trials need.
//!
//! The trials are programs of a dozen instructions each. Written by hand, they ask exactly one thing of the kernel and
//! need no object, no relocation and no compiler.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_ATOMIC, BPF_CALL, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MEM,
    BPF_MOV, BPF_ST, BPF_STX, BPF_W, BPF_X, bpf_func_id,
};

/// `BPF_PSEUDO_MAP_FD`: the constant is the descriptor of a map.
const SOURCE_IS_MAP: u8 = 1;
/// `BPF_PSEUDO_FUNC`: the constant is the distance to a function.
const SOURCE_IS_FUNCTION: u8 = 4;

/// A register. `R0` is what a helper returns, `R1` to `R5` are what it takes, the others survive it, and `R10` is the end
/// of the stack.
#[repr(u8)]
#[derive(Clone, Copy)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R10 = 10,
}

/// A program in the making.
#[derive(Default)]
pub(super) struct Instructions {
    words: Vec<u64>,
}

impl Instructions {
    fn push(&mut self, code: u32, target: u8, source: u8, offset: i16, constant: i32) {
        let registers = target | source << 4;
        let [offset_low, offset_high] = offset.to_le_bytes();
        let [c0, c1, c2, c3] = constant.to_le_bytes();
        // `struct bpf_insn`, whose fields are stored one after another.
        self.words.push(u64::from_ne_bytes([code as u8, registers, offset_low, offset_high, c0, c1, c2, c3]));
    }

    pub(super) fn copy(mut self, target: Register, source: Register) -> Self {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, target as u8, source as u8, 0, 0);
        self
    }

    pub(super) fn set(mut self, target: Register, constant: i32) -> Self {
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, target as u8, 0, 0, constant);
        self
    }

    pub(super) fn add(mut self, target: Register, constant: i32) -> Self {
        self.push(BPF_ALU64 | BPF_ADD | BPF_K, target as u8, 0, 0, constant);
        self
    }

    /// Stores 4 bytes on the stack, `offset` bytes from its end.
    pub(super) fn store_on_stack(mut self, offset: i16, constant: i32) -> Self {
        self.push(BPF_ST | BPF_MEM | BPF_W, Register::R10 as u8, 0, offset, constant);
        self
    }

    /// Stores 8 bytes on the stack, `offset` bytes from its end.
    pub(super) fn store_long_on_stack(mut self, offset: i16, constant: i32) -> Self {
        self.push(BPF_ST | BPF_MEM | BPF_DW, Register::R10 as u8, 0, offset, constant);
        self
    }

    /// Adds a register to 8 bytes of memory, atomically.
    pub(super) fn add_to_memory(mut self, address: Register, value: Register) -> Self {
        self.push(BPF_STX | BPF_ATOMIC | BPF_DW, address as u8, value as u8, 0, BPF_ADD as i32);
        self
    }

    /// Passes over the next `count` instructions if the register is zero.
    pub(super) fn skip_if_zero(mut self, register: Register, count: i16) -> Self {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, register as u8, 0, count, 0);
        self
    }

    fn load_long(mut self, target: Register, source: u8, constant: i32) -> Self {
        self.push(BPF_LD | BPF_DW | BPF_IMM, target as u8, source, 0, constant);
        self.push(0, 0, 0, 0, 0);
        self
    }

    pub(super) fn load_map(self, target: Register, map: BorrowedFd<'_>) -> Self {
        self.load_long(target, SOURCE_IS_MAP, map.as_raw_fd())
    }

    /// Loads the address of the function that begins at instruction `index`.
    pub(super) fn load_function(self, target: Register, index: i32) -> Self {
        let after_this = self.words.len() as i32 + 1;
        self.load_long(target, SOURCE_IS_FUNCTION, index - after_this)
    }

    pub(super) fn call(mut self, helper: bpf_func_id) -> Self {
        self.push(BPF_JMP | BPF_CALL, 0, 0, 0, helper as i32);
        self
    }

    /// Returns 0.
    pub(super) fn end(self) -> Self {
        let mut ended = self.set(Register::R0, 0);
        ended.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        ended
    }

    /// How many instructions there are so far.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }
}

/// A program that adds 1 to the only element (8 bytes) of an array.
pub(super) fn count_in(array: BorrowedFd<'_>) -> Instructions {
    use Register::{R0, R1, R2, R10};
    Instructions::default()
        .store_on_stack(-4, 0)
        .copy(R2, R10)
        .add(R2, -4)
        .load_map(R1, array)
        .call(bpf_func_id::BPF_FUNC_map_lookup_elem)
        .skip_if_zero(R0, 2)
        .set(R1, 1)
        .add_to_memory(R0, R1)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        // From `llvm-objdump` of the same statements.
        let program = Instructions::default()
            .set(Register::R0, 0)
            .copy(Register::R2, Register::R10)
            .add(Register::R2, -4)
            .store_on_stack(-4, 7)
            .call(bpf_func_id::BPF_FUNC_get_stack);
        let bytes: Vec<[u8; 8]> = program.words().iter().map(|word| word.to_ne_bytes()).collect();
        assert_eq!(
            bytes,
            [
                [0xb7, 0x00, 0, 0, 0, 0, 0, 0],
                [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
                [0x07, 0x02, 0, 0, 0xfc, 0xff, 0xff, 0xff],
                [0x62, 0x0a, 0xfc, 0xff, 7, 0, 0, 0],
                [0x85, 0x00, 0, 0, 67, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn the_distance_to_a_function_counts_from_the_next_instruction() {
        let program = Instructions::default().set(Register::R1, 1).load_function(Register::R2, 9);
        // The kernel adds it to the index of the load (1) and 1 more.
        assert_eq!(program.words()[1].to_ne_bytes(), [0x18, 0x42, 0, 0, 7, 0, 0, 0]);
        assert_eq!(program.len(), 3);
    }
}

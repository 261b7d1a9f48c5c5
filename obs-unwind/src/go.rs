//! Go's own function table (`.gopclntab`): how far each instruction of each function has lowered the stack pointer.
//!
//! The runtime needs the table to walk its own stacks, so that it is in every Go binary, stripped or not. It is more
//! precise than following frame pointers, which skip a function's caller while the function has not pushed its own,
//! and says which functions end a goroutine's stack. Versions since Go 1.16 are read (2021).

use crate::code;
use crate::elf::{ElfImage, Machine};
use crate::error::BuildError;
use crate::limits::{GO_FUNCTIONS_MAX, GO_STEPS_PER_FUNCTION_MAX, PADDING_BYTES_MAX};
use crate::table::Assembly;
use obs_common::unwind_row::{CfaKind, FRAME_POINTER_RULE, FpKind, OTHER_STACK, RaKind, Rule};

const MAGIC_1_16: u32 = 0xffff_fffa;
const MAGIC_1_18: u32 = 0xffff_fff0;
const MAGIC_1_20: u32 = 0xffff_fff1;

/// The function is the first of a stack (`funcFlag_TOPFRAME`, since Go 1.17).
const FLAG_TOP: u8 = 1;
/// The function sets the stack pointer to something that the table does not know (`funcFlag_SPWRITE`).
const FLAG_WRITES_SP: u8 = 2;

/// Functions that are the first of a stack, for the versions without flags.
const TOP_NAMES: [&[u8]; 3] = [b"runtime.goexit", b"runtime.mstart", b"runtime.rt0_go"];

/// Longest function that is looked at for being the signal trampoline.
const TRAMPOLINE_BYTES_MAX: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Go1_16,
    Go1_18,
    Go1_20,
}

/// Go's function table, read in address order.
#[derive(Debug)]
pub(crate) struct GoTable<'a> {
    version: Version,
    machine: Machine,
    quantum: u64,
    functions: u32,
    text_start: u64,
    names: &'a [u8],
    steps: &'a [u8],
    list: &'a [u8],
    next: u32,
}

/// One function of the table.
#[derive(Clone, Copy, Debug)]
struct Function {
    start: u64,
    end: u64,
    /// Where its steps begin in the table of steps.
    steps: u32,
    top: bool,
    writes_sp: bool,
}

impl<'a> GoTable<'a> {
    /// Reads the table's header; `None` when it is no table of a version that is known.
    pub(crate) fn parse(table: &'a [u8], machine: Machine) -> Option<Self> {
        let version = match u32_at(table, 0)? {
            MAGIC_1_16 => Version::Go1_16,
            MAGIC_1_18 => Version::Go1_18,
            MAGIC_1_20 => Version::Go1_20,
            _ => return None,
        };
        let (quantum, pointer_bytes) = (*table.get(6)?, *table.get(7)?);
        if pointer_bytes != 8 || !matches!(quantum, 1 | 4) {
            return None;
        }
        let word = |index: usize| u64_at(table, 8 + 8 * index);
        let part = |index: usize| table.get(usize::try_from(word(index)?).ok()?..);
        let (text_start, first) = match version {
            Version::Go1_16 => (0, 2),
            Version::Go1_18 | Version::Go1_20 => (word(2)?, 3),
        };
        Some(Self {
            version,
            machine,
            quantum: u64::from(quantum),
            functions: u32::try_from(word(0)?).ok().filter(|count| *count <= GO_FUNCTIONS_MAX)?,
            text_start,
            names: part(first)?,
            steps: part(first + 3)?,
            list: part(first + 4)?,
            next: 0,
        })
    }

    /// Adds the rows of the functions within `[start, end)`; returns how many functions that were. Calls must be made in
    /// address order.
    pub(crate) fn fill(
        &mut self,
        start: u64,
        end: u64,
        image: &ElfImage<'_>,
        table: &mut Assembly,
    ) -> Result<u64, BuildError> {
        let mut count = 0;
        while let Some(function) = self.function(self.next) {
            if function.start >= end {
                break;
            }
            let low = function.start.max(start);
            let high = function.end.min(end);
            if low < high {
                count += 1;
                self.rows(&function, (low, high), image, table)?;
                table.push(high, Rule::default())?;
            }
            if function.end > end {
                break;
            }
            self.next += 1;
        }
        Ok(count)
    }

    fn entry(&self, index: u32) -> Option<u64> {
        let index = index as usize;
        match self.version {
            Version::Go1_16 => u64_at(self.list, index.checked_mul(16)?),
            Version::Go1_18 | Version::Go1_20 => {
                self.text_start.checked_add(u64::from(u32_at(self.list, index.checked_mul(8)?)?))
            }
        }
    }

    fn function(&self, index: u32) -> Option<Function> {
        if index >= self.functions {
            return None;
        }
        let start = self.entry(index)?;
        let end = self.entry(index + 1)?.max(start);
        let at = match self.version {
            Version::Go1_16 => usize::try_from(u64_at(self.list, index as usize * 16 + 8)?).ok()?,
            Version::Go1_18 | Version::Go1_20 => u32_at(self.list, index as usize * 8 + 4)? as usize,
        };
        let facts = self.list.get(at..)?;
        // The entry (8 bytes, or 4 since 1.18), then words of 4 bytes: name, arguments, deferred return, steps, files,
        // lines, count of tables, unit, first line (since 1.20); then the function's id and its flags.
        let (words, id) = match self.version {
            Version::Go1_16 => (8, 8 + 8 * 4),
            Version::Go1_18 => (4, 4 + 8 * 4),
            Version::Go1_20 => (4, 4 + 9 * 4),
        };
        let flags = *facts.get(id + 1)?;
        let named_top = self.version == Version::Go1_16 && self.has_top_name(u32_at(facts, words)?);
        Some(Function {
            start,
            end,
            steps: u32_at(facts, words + 12)?,
            top: flags & FLAG_TOP != 0 || named_top,
            writes_sp: flags & FLAG_WRITES_SP != 0,
        })
    }

    fn has_top_name(&self, offset: u32) -> bool {
        let name = self.names.get(offset as usize..).unwrap_or_default();
        TOP_NAMES.iter().any(|top| name.strip_prefix(*top).is_some_and(|rest| rest.first() == Some(&0)))
    }

    fn rows(
        &self,
        function: &Function,
        (low, high): (u64, u64),
        image: &ElfImage<'_>,
        table: &mut Assembly,
    ) -> Result<(), BuildError> {
        if function.top {
            return table.push(low, Rule { cfa_kind: CfaKind::End as u8, ..Rule::default() });
        }
        if function.end - function.start <= TRAMPOLINE_BYTES_MAX
            && let Some(code) = image.code_at(function.start)
            && code::signal_return(self.machine, code).is_some()
        {
            let in_segment = image.code_at(low.wrapping_sub(1)).is_some();
            return table.push_trampoline(low, code::SIGNAL_RULE, in_segment);
        }
        if function.writes_sp {
            // Go enters C code, and its own scheduler, on the thread's stack, and leaves the frame pointer as it was: that is
            // the caller's, on the goroutine's stack.
            return table.push(low, Rule { arg: OTHER_STACK, ..FRAME_POINTER_RULE });
        }
        if function.steps == 0 {
            return table.push(low, FRAME_POINTER_RULE);
        }
        let mut steps = Steps::new(self.steps, function.steps, function.start, self.quantum);
        for _ in 0..GO_STEPS_PER_FUNCTION_MAX {
            let Some((from, to, lowered)) = steps.next_step() else { break };
            if to > low && from < high {
                table.push(from.max(low), self.rule(lowered))?;
            }
            if to >= high {
                return Ok(());
            }
        }
        // The steps end with the function's code; padding follows up to the next one.
        let known = steps.at.clamp(low, high);
        if known > function.start && high - known <= PADDING_BYTES_MAX {
            return Ok(());
        }
        table.push(known, FRAME_POINTER_RULE)
    }

    /// The rule where the stack pointer has been lowered by so many bytes since the function's first instruction.
    fn rule(&self, lowered: i64) -> Rule {
        let words = i16::try_from(lowered / 8).ok().filter(|words| *words >= 0 && lowered % 8 == 0);
        let offset = i32::try_from(lowered).ok();
        let (Some(words), Some(offset)) = (words, offset) else { return self.large_rule(lowered) };
        let fp = if lowered == 0 { FpKind::Unchanged } else { FpKind::AtCfa };
        let rule = Rule { cfa_offset: offset, cfa_kind: CfaKind::Sp as u8, fp_kind: fp as u8, ..Rule::default() };
        match self.machine {
            // The frame pointer is the first word of the frame, below the return address.
            Machine::X86_64 => Rule {
                cfa_offset: offset.saturating_add(8),
                fp_offset: if lowered == 0 { 0 } else { -2 },
                ra_offset: -1,
                ..rule
            },
            Machine::Aarch64 if lowered == 0 => Rule { ra_kind: RaKind::LinkRegister as u8, ..rule },
            // The return address stands at the stack pointer, the frame pointer right below it.
            Machine::Aarch64 => Rule { fp_offset: -words - 1, ra_offset: -words, ..rule },
        }
    }

    /// Frames beyond 256 KiB: nothing on x86-64 depends on their length but the CFA.
    fn large_rule(&self, lowered: i64) -> Rule {
        match (self.machine, i32::try_from(lowered)) {
            (Machine::X86_64, Ok(offset @ 1..)) if offset % 8 == 0 => Rule {
                cfa_offset: offset.saturating_add(8),
                fp_offset: -2,
                ra_offset: -1,
                cfa_kind: CfaKind::Sp as u8,
                fp_kind: FpKind::AtCfa as u8,
                ra_kind: RaKind::AtCfa as u8,
                arg: 0,
            },
            _ => FRAME_POINTER_RULE,
        }
    }
}

/// A function's steps: pairs of variable-length numbers, the change of the value (zigzag) and the bytes of code, over the
/// quantum, that the new value holds for.
struct Steps<'a> {
    bytes: &'a [u8],
    value: i64,
    at: u64,
    quantum: u64,
    first: bool,
}

impl<'a> Steps<'a> {
    fn new(steps: &'a [u8], offset: u32, start: u64, quantum: u64) -> Self {
        Self { bytes: steps.get(offset as usize..).unwrap_or_default(), value: -1, at: start, quantum, first: true }
    }

    /// From where to where, and the value.
    fn next_step(&mut self) -> Option<(u64, u64, i64)> {
        let change = self.number()?;
        if change == 0 && !self.first {
            return None;
        }
        self.first = false;
        let half = i64::from(change >> 1);
        self.value = self.value.checked_add(if change & 1 == 1 { !half } else { half })?;
        let from = self.at;
        self.at = from.checked_add(u64::from(self.number()?).checked_mul(self.quantum)?)?;
        Some((from, self.at, self.value))
    }

    fn number(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

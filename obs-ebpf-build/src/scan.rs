//! Reads the instructions of built objects: what they call, and whether they can reach a panic.

use std::fmt;

use crate::elf::{Elf, Reason, u32_at};

const INSTRUCTION_LEN: usize = 8;
/// Loads a 64-bit constant; the only instruction that is two slots long.
const LOAD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const CALL_REGISTER: u8 = 0x8d;
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;

/// What an instruction calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Callee {
    /// A kernel helper by its number, the `BPF_FUNC_…` constants of `linux/bpf.h`.
    Helper(u32),
    /// A kernel function by name (a "kfunc").
    Kernel(String),
    /// A kernel function that is named by a BTF type number only.
    KernelType(u32),
    /// Whatever a register points to: it cannot be told.
    Register,
}

impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Callee::Helper(number) => write!(f, "helper {number}"),
            Callee::Kernel(name) => write!(f, "kernel function {name}"),
            Callee::KernelType(number) => write!(f, "kernel function with BTF type {number}"),
            Callee::Register => f.write_str("an address in a register"),
        }
    }
}

/// One call out of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The section of the calling instruction, which for a program names its kind and its hook.
    pub section: String,
    /// The function that the instruction is in; empty when no symbol covers it.
    pub function: String,
    /// What is called.
    pub callee: Callee,
}

/// What a look through an object's code found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The sections that hold code, in the order of the file.
    pub sections: Vec<String>,
    /// Every call that leaves the object, in the order of the file.
    pub calls: Vec<Call>,
}

/// Lists the code sections of an object, and every call that leaves it.
///
/// # Errors
/// When the bytes are not a BPF object, with the reason.
pub fn contents(object: &[u8]) -> Result<Contents, Reason> {
    let elf = Elf::parse(object)?;
    let mut found = Contents::default();
    for (index, section) in elf.sections.iter().enumerate().filter(|(_, s)| s.is_code() && !s.bytes.is_empty()) {
        found.sections.push(section.name.to_owned());
        let relocations = elf.relocations(index)?;
        each_instruction(section.bytes, |at, code, source, immediate| {
            let callee = match (code, source) {
                (CALL, 0) => Callee::Helper(immediate),
                // Calls between functions of the object name a symbol that is defined here.
                (CALL, 1 | 2) => {
                    let relocation = relocations.iter().find(|r| r.offset == at as u64);
                    let symbol = relocation.and_then(|r| elf.symbols.get(r.symbol as usize));
                    match symbol {
                        Some(symbol) if symbol.is_undefined() => Callee::Kernel(symbol.name.to_owned()),
                        Some(_) => return,
                        None if source == 1 => return,
                        None => Callee::KernelType(immediate),
                    }
                }
                (CALL, _) | (CALL_REGISTER, _) => Callee::Register,
                _ => return,
            };
            let function = elf.symbols.iter().find(|s| {
                usize::from(s.section) == index
                    && s.size > 0
                    && (s.value..s.value.saturating_add(s.size)).contains(&(at as u64))
            });
            let function = function.map(|s| s.name.to_owned()).unwrap_or_default();
            found.calls.push(Call { section: section.name.to_owned(), function, callee });
        })?;
    }
    Ok(found)
}

/// What shows that a panic can be reached: a symbol of the panic machinery, or the endless loop of a panic handler.
/// `None` when there is no sign of one.
pub(crate) fn panic_evidence(elf: &Elf<'_>) -> Result<Option<String>, Reason> {
    let telling = |name: &str| name.contains("panic") || name.contains("rust_begin_unwind");
    if let Some(symbol) = elf.symbols.iter().find(|symbol| telling(symbol.name)) {
        return Ok(Some(format!("symbol {}", symbol.name)));
    }
    for section in elf.sections.iter().filter(|s| s.is_code()) {
        let mut evidence = None;
        each_instruction(section.bytes, |at, code, _, immediate| {
            let offset = section.bytes.get(at + 2..at + 4);
            let to_itself = code == JUMP && offset == Some(&[0xff, 0xff]) || code == JUMP32 && immediate == u32::MAX;
            if to_itself {
                evidence.get_or_insert(format!("a jump to itself at byte {at} of section {}", section.name));
            }
        })?;
        if evidence.is_some() {
            return Ok(evidence);
        }
    }
    Ok(None)
}

/// Calls `visit(offset, opcode, source register, immediate)` for each instruction.
fn each_instruction(code: &[u8], mut visit: impl FnMut(usize, u8, u8, u32)) -> Result<(), Reason> {
    if !code.len().is_multiple_of(INSTRUCTION_LEN) {
        return Err("a code section ends within an instruction");
    }
    let mut at = 0;
    while let Some(instruction) = code.get(at..at + INSTRUCTION_LEN) {
        let opcode = instruction.first().copied().unwrap_or_default();
        let source = instruction.get(1).copied().unwrap_or_default() >> 4;
        visit(at, opcode, source, u32_at(instruction, 4)?);
        at += if opcode == LOAD_IMM64 { 2 * INSTRUCTION_LEN } else { INSTRUCTION_LEN };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, call, exit, instruction};

    const CODE: u64 = 4;

    fn one_section(code: &[u8]) -> Vec<u8> {
        let mut sample = Sample::new();
        sample.section("perf_event", CODE, code);
        sample.finish()
    }

    fn callees(object: &[u8]) -> Vec<Callee> {
        contents(object).unwrap().calls.into_iter().map(|call| call.callee).collect()
    }

    #[test]
    fn every_helper_call_is_found() {
        let object = one_section(&[call(1), call(36), exit()].concat());
        assert_eq!(callees(&object), [Callee::Helper(1), Callee::Helper(36)]);
        assert_eq!(contents(&object).unwrap().sections, ["perf_event"]);
    }

    #[test]
    fn a_constant_that_looks_like_a_call_is_none() {
        let object = one_section(&[instruction(LOAD_IMM64, 0, 0, 7), call(36), exit()].concat());
        assert_eq!(callees(&object), []);
    }

    #[test]
    fn kernel_functions_are_named_and_own_functions_are_not_reported() {
        let mut sample = Sample::new();
        let code = [instruction(CALL, 1, 0, -1), instruction(CALL, 1, 0, -1), instruction(CALL, 2, 0, 9), exit()];
        let section = sample.section("iter/task", CODE, &code.concat());
        sample.symbol("helper_of_ours", section, 0x12);
        sample.symbol("bpf_task_release", 0, 0x10);
        sample.relocate(section, 0, "helper_of_ours");
        sample.relocate(section, 8, "bpf_task_release");
        let expected = [Callee::Kernel("bpf_task_release".into()), Callee::KernelType(9)];
        assert_eq!(callees(&sample.finish()), expected);
    }

    #[test]
    fn calls_through_registers_are_found() {
        assert_eq!(callees(&one_section(&[instruction(CALL_REGISTER, 0, 0, 1), exit()].concat())), [Callee::Register]);
    }

    #[test]
    fn panics_are_found_by_symbol_and_by_endless_loop() {
        let evidence = |object: &[u8]| panic_evidence(&Elf::parse(object).unwrap()).unwrap();
        assert_eq!(evidence(&one_section(&exit())), None);
        let looping = one_section(&[call(1), instruction(JUMP, 0, -1, 0)].concat());
        assert!(evidence(&looping).unwrap().contains("jump to itself at byte 8 of section perf_event"));
        let mut sample = Sample::new();
        let text = sample.section(".text", CODE, &exit());
        sample.symbol("_ZN4core9panicking5panic17h0E", text, 0x12);
        assert!(evidence(&sample.finish()).unwrap().contains("core9panicking"));
    }

    #[test]
    fn code_that_ends_within_an_instruction_is_refused() {
        assert!(contents(&one_section(&[0x95, 0, 0])).is_err());
    }
}

//! Recognises by their instructions the few pieces of code that nothing describes: padding between functions, the
//! trampolines that signal handlers return to, and stubs of the procedure linkage table.

use crate::elf::Machine;
use obs_common::unwind_row::{CfaKind, RaKind, Rule};

/// Instructions of `mov $15, %rax; syscall` (musl, glibc, Go) in its two encodings, and of `mov x8, #139; svc #0`.
const SIGNAL_RETURN_X86_64: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05], &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]];
const SIGNAL_RETURN_AARCH64: &[u8] = &[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];

/// The rule of a trampoline that a signal handler returns to.
pub(crate) const SIGNAL_RULE: Rule =
    Rule { cfa_offset: 0, fp_offset: 0, ra_offset: 0, cfa_kind: CfaKind::Signal as u8, fp_kind: 0, ra_kind: 0, arg: 0 };

/// The length of the signal trampoline that the code begins with, if it does.
pub(crate) fn signal_return(machine: Machine, code: &[u8]) -> Option<u64> {
    let known: &[&[u8]] = match machine {
        Machine::X86_64 => &SIGNAL_RETURN_X86_64,
        Machine::Aarch64 => &[SIGNAL_RETURN_AARCH64],
    };
    known.iter().find(|bytes| code.starts_with(bytes)).map(|bytes| bytes.len() as u64)
}

/// Bytes from the start of the code to its first signal trampoline.
pub(crate) fn find_signal_return(machine: Machine, code: &[u8]) -> Option<u64> {
    let (first, stride): (&[u8], usize) = match machine {
        Machine::X86_64 => (&[0x48, 0xb8], 1),
        Machine::Aarch64 => (&[0x68], 4),
    };
    (0..code.len())
        .step_by(stride)
        .find(|at| first.contains(&code[*at]) && signal_return(machine, &code[*at..]).is_some())
        .map(|at| at as u64)
}

/// Whether the code is nothing but what compilers and linkers fill the space between functions with.
pub(crate) fn is_padding(machine: Machine, code: &[u8]) -> bool {
    match machine {
        Machine::X86_64 => is_padding_x86_64(code),
        Machine::Aarch64 => {
            let (words, rest) = code.as_chunks::<4>();
            rest.is_empty() && words.iter().all(|word| matches!(u32::from_le_bytes(*word), 0 | 0xd503_201f))
        }
    }
}

/// `nop` in all its lengths with any number of 0x66 and segment prefixes, `xchg %ax,%ax`, `int3`, `lea 0(%rsi)` (old
/// binutils) are enough in practice; zero bytes are what a linker fills with.
fn is_padding_x86_64(mut code: &[u8]) -> bool {
    while let Some((first, rest)) = code.split_first() {
        code = match first {
            0x00 | 0x90 | 0xcc => rest,
            // Prefixes of a longer nop.
            0x66 | 0x2e => match rest.first() {
                Some(0x66 | 0x2e | 0x0f | 0x90) => rest,
                _ => return false,
            },
            // nopw/nopl with a mod/rm byte of a memory operand: its length follows from that byte.
            0x0f => match rest {
                [0x1f, modrm, rest @ ..] => {
                    let bytes = match modrm {
                        0x00 => 0,
                        0x40 => 1,
                        0x44 => 2,
                        0x80 => 4,
                        0x84 => 5,
                        _ => return false,
                    };
                    match rest.get(bytes..) {
                        Some(rest) => rest,
                        None => return false,
                    }
                }
                _ => return false,
            },
            _ => return false,
        };
    }
    true
}

/// Bytes of a stub of the procedure linkage table.
pub(crate) const STUB_BYTES: usize = 16;

/// The rule of a stub of the procedure linkage table that no description covers: its place in the stub, and the rule
/// from there on.
pub(crate) fn stub(machine: Machine, code: &[u8; STUB_BYTES]) -> Option<[(u64, Rule); 2]> {
    let base = Rule { ra_offset: -1, ..Rule::default() };
    let sp = |bytes| Rule { cfa_offset: bytes, cfa_kind: CfaKind::Sp as u8, ..base };
    let plt = |threshold| Rule { cfa_offset: 8, cfa_kind: CfaKind::Plt as u8, arg: threshold, ..base };
    let all = |rule| Some([(0, rule), (0, rule)]);
    match (machine, code) {
        // jmp *slot; push index; jmp first
        (Machine::X86_64, [0xff, 0x25, _, _, _, _, 0x68, _, _, _, _, 0xe9, ..]) => all(plt(11)),
        // endbr64; push index; jmp first
        (Machine::X86_64, [0xf3, 0x0f, 0x1e, 0xfa, 0x68, _, _, _, _, 0xe9 | 0xf2, ..]) => all(plt(9)),
        // push link map; jmp *resolver: what all other stubs jump to with their index pushed
        (Machine::X86_64, [0xff, 0x35, _, _, _, _, 0xff, 0x25, ..]) => Some([(0, sp(16)), (6, sp(24))]),
        // [endbr64; mov $index, %r11d;] jmp *slot
        (
            Machine::X86_64,
            [0xff, 0x25, ..]
            | [0xf3, 0x0f, 0x1e, 0xfa, 0xff | 0xf2, 0x25 | 0xff, ..]
            | [0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0xbb, _, _, _, _, 0xff, 0x25, ..],
        ) => all(sp(8)),
        // adrp x16; ldr x17, [x16]; add x16, x16; br x17
        (Machine::Aarch64, [_, _, _, adrp, _, _, _, 0xf9, .., 0x20, 0x02, 0x1f, 0xd6]) if adrp & 0x9f == 0x90 => {
            all(Rule {
                cfa_offset: 0,
                cfa_kind: CfaKind::Sp as u8,
                ra_kind: RaKind::LinkRegister as u8,
                ..Rule::default()
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_every_length_is_known_and_code_is_not() {
        let nops: [&[u8]; 6] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0xcc, 0xcc, 0, 0],
        ];
        for nop in nops {
            assert!(is_padding(Machine::X86_64, nop), "{nop:x?}");
        }
        assert!(!is_padding(Machine::X86_64, &[0xc3]));
        assert!(!is_padding(Machine::X86_64, &[0x66, 0xc3]));
        assert!(!is_padding(Machine::X86_64, &[0x0f, 0x1f, 0x84, 0]));
        assert!(is_padding(Machine::Aarch64, &[0x1f, 0x20, 0x03, 0xd5, 0, 0, 0, 0]));
        assert!(!is_padding(Machine::Aarch64, &[0xc0, 0x03, 0x5f, 0xd6]));
    }

    #[test]
    fn signal_trampolines_are_found_by_their_instructions() {
        let musl = [0x90, 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(find_signal_return(Machine::X86_64, &musl), Some(1));
        assert_eq!(find_signal_return(Machine::X86_64, &musl[..9]), None);
        let kernel = [0x1f, 0x20, 0x03, 0xd5, 0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
        assert_eq!(find_signal_return(Machine::Aarch64, &kernel), Some(4));
    }

    #[test]
    fn a_lazy_stub_has_pushed_its_index_after_eleven_bytes() {
        let code = [0xff, 0x25, 1, 2, 3, 4, 0x68, 1, 0, 0, 0, 0xe9, 1, 2, 3, 4];
        let rules = stub(Machine::X86_64, &code).unwrap();
        assert_eq!((rules[0].1.cfa_kind, rules[0].1.arg), (CfaKind::Plt as u8, 11));
        assert_eq!(stub(Machine::X86_64, &[0xc3; 16]), None);
    }
}

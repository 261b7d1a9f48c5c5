//! Says whether a row of readelf's and a rule of ours are the same.

use super::readelf::Row;
use obs_common::unwind_row::{CfaKind, FpKind, RA_SIGNED, RBX_LOST, RBX_UNCHANGED, RaKind, Rule};
use obs_unwind::Machine;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Equal,
    Explained(&'static str),
    Wrong(&'static str),
}

/// Compares a rule with the text of an expression that defines the CFA.
pub(super) fn expression_verdict(rule: &Rule, text: &str) -> Verdict {
    let Rule { cfa_offset, cfa_kind, arg, .. } = *rule;
    let addend = i32::from(arg as i8) * 8;
    let deref = |base: &str| match addend {
        0 => format!("{base}: {cfa_offset}; DW_OP_deref"),
        _ => format!("{base}: {cfa_offset}; DW_OP_deref; DW_OP_plus_uconst: {addend}"),
    };
    let ours = match cfa_kind {
        k if k == CfaKind::SpDeref as u8 => deref("DW_OP_breg7 (rsp)"),
        k if k == CfaKind::FpDeref as u8 => deref("DW_OP_breg6 (rbp)"),
        k if k == CfaKind::Plt as u8 => format!(
            "DW_OP_breg7 (rsp): {cfa_offset}; DW_OP_breg16 (rip): 0; DW_OP_lit15; DW_OP_and; DW_OP_lit{arg}; \
             DW_OP_ge; DW_OP_lit3; DW_OP_shl; DW_OP_plus"
        ),
        k if k == CfaKind::Signal as u8 => format!("DW_OP_breg7 (rsp): {}; DW_OP_deref", cfa_offset + 160),
        k if k == CfaKind::Unsupported as u8 => {
            return Verdict::Explained("expression: of a form that is left out (its rows are Unsupported)");
        }
        _ => return Verdict::Wrong("expression: taken for something else"),
    };
    if ours == text { Verdict::Equal } else { Verdict::Wrong("expression: not the same") }
}

/// The DWARF number of a register that readelf names.
fn register_number(machine: Machine, name: &str) -> Option<u16> {
    const X86_64: [&str; 17] = [
        "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "rip",
    ];
    match machine {
        Machine::X86_64 => X86_64.iter().position(|known| *known == name).and_then(|at| u16::try_from(at).ok()),
        Machine::Aarch64 if name == "sp" => Some(31),
        Machine::Aarch64 => name.strip_prefix('x').and_then(|number| number.parse().ok()),
    }
}

/// Compares a rule with a row.
pub(super) fn verdict(machine: Machine, row: &Row, rule: &Rule) -> Verdict {
    let kind = |kind: CfaKind| rule.cfa_kind == kind as u8;
    if kind(CfaKind::NoInformation) {
        return Verdict::Wrong("row: no information");
    }
    if row.ra == "u" && machine == Machine::X86_64 {
        let known = kind(CfaKind::End) || kind(CfaKind::Unsupported);
        return if known { Verdict::Equal } else { Verdict::Wrong("row: the return address is undefined") };
    }
    if kind(CfaKind::Unsupported) {
        return Verdict::Explained(if !matches!(row.sp.as_str(), "-" | "u" | "s") {
            "row: the caller's stack pointer is not the CFA: left out (Unsupported)"
        } else if row.cfa == "exp" {
            "row: an expression of a form that is left out (Unsupported)"
        } else if row.ra == "exp" || row.ra == "vexp" {
            "row: the return address is at an expression: left out (Unsupported)"
        } else {
            return Verdict::Wrong("row: unsupported for no known reason");
        });
    }
    if kind(CfaKind::Signal) {
        let ours = row.cfa == "exp" && row.ra == "exp" && row.fp == "exp";
        return if ours { Verdict::Equal } else { Verdict::Wrong("row: not a signal frame") };
    }
    if !cfa_agrees(machine, &row.cfa, rule) {
        return Verdict::Wrong("row: CFA");
    }
    if !ra_agrees(machine, &row.ra, rule) {
        return Verdict::Wrong("row: return address");
    }
    if !rbx_agrees(&row.rbx, rule) {
        return Verdict::Wrong("row: rbx");
    }
    fp_verdict(&row.fp, rule)
}

/// Where Go's own table, which we read, says more than its `.debug_frame`, which readelf prints.
pub(super) fn go_verdict(machine: Machine, row: &Row, rule: &Rule) -> Option<Verdict> {
    let kind = |kind: CfaKind| rule.cfa_kind == kind as u8;
    Some(Verdict::Explained(if kind(CfaKind::End) {
        "row: a Go function that is the first of its stack"
    } else if kind(CfaKind::FramePointer) {
        "row: a Go function that sets the stack pointer"
    } else if kind(CfaKind::Signal) {
        "row: Go's signal trampoline"
    } else if row.fp == "-"
        && rule.fp_kind == FpKind::AtCfa as u8
        && cfa_agrees(machine, &row.cfa, rule)
        && ra_agrees(machine, &row.ra, rule)
    {
        "row: a Go function's saved frame pointer"
    } else {
        return None;
    }))
}

fn cfa_agrees(machine: Machine, cfa: &str, rule: &Rule) -> bool {
    if cfa == "exp" {
        // Which one it is, the texts say.
        return [CfaKind::SpDeref, CfaKind::FpDeref, CfaKind::Plt].iter().any(|kind| rule.cfa_kind == *kind as u8);
    }
    let Some(at) = cfa.rfind(['+', '-']) else { return false };
    let (name, offset) = cfa.split_at(at);
    let (Some(number), Ok(offset)) = (register_number(machine, name), offset.parse::<i32>()) else { return false };
    let (sp, fp) = match machine {
        Machine::X86_64 => (7, 6),
        Machine::Aarch64 => (31, 29),
    };
    let kind = match number {
        n if n == sp => CfaKind::Sp,
        n if n == fp => CfaKind::Fp,
        _ => CfaKind::Register,
    };
    // What `arg` says otherwise, `rbx_agrees` looks at.
    let register = kind != CfaKind::Register || u16::from(rule.arg) == number;
    rule.cfa_kind == kind as u8 && rule.cfa_offset == offset && register
}

fn ra_agrees(machine: Machine, ra: &str, rule: &Rule) -> bool {
    let kind = rule.ra_kind & !RA_SIGNED;
    match (at_cfa(ra), saved_in(ra)) {
        (Some(bytes), _) => kind == RaKind::AtCfa as u8 && i64::from(rule.ra_offset) * 8 == bytes,
        (None, Some(number)) => kind == RaKind::Register as u8 && rule.ra_offset == number as i16,
        (None, None) => machine == Machine::Aarch64 && matches!(ra, "u" | "s") && kind == RaKind::LinkRegister as u8,
    }
}

/// Where rbx is, only the tables say that need it.
fn rbx_agrees(rbx: &str, rule: &Rule) -> bool {
    let followed = rule.cfa_kind == CfaKind::Sp as u8 || rule.cfa_kind == CfaKind::Fp as u8;
    match (rule.arg, at_cfa(rbx)) {
        _ if !followed => true,
        (RBX_LOST, _) => true,
        (RBX_UNCHANGED, _) => matches!(rbx, "-" | "u" | "s"),
        (words, Some(bytes)) => bytes == -8 * i64::from(words),
        (_, None) => false,
    }
}

fn fp_verdict(fp: &str, rule: &Rule) -> Verdict {
    let kind = |kind: FpKind| rule.fp_kind == kind as u8;
    let agrees = match (at_cfa(fp), saved_in(fp)) {
        (Some(bytes), _) => kind(FpKind::AtCfa) && i64::from(rule.fp_offset) * 8 == bytes,
        (None, Some(number)) => kind(FpKind::Register) && rule.fp_offset == number as i16,
        (None, None) => match fp {
            "-" | "s" => kind(FpKind::Unchanged),
            // Readelf prints `u` for what was not said, too.
            "u" => kind(FpKind::Unchanged) || kind(FpKind::Undefined),
            "exp" if kind(FpKind::Undefined) => {
                return Verdict::Explained("row: the frame pointer is at an expression: taken to be lost");
            }
            "exp" => kind(FpKind::AtFp) || kind(FpKind::AtSp),
            "vexp" => return Verdict::Explained("row: the frame pointer is an expression: taken to be lost"),
            _ if fp.starts_with('v') => {
                return Verdict::Explained("row: the frame pointer is an offset from the CFA: taken to be lost");
            }
            _ => false,
        },
    };
    if agrees { Verdict::Equal } else { Verdict::Wrong("row: frame pointer") }
}

/// The DWARF number of a register that another one is saved in.
fn saved_in(text: &str) -> Option<u16> {
    text.strip_prefix('r').and_then(|number| number.parse().ok())
}

/// The bytes of `c-16`.
fn at_cfa(text: &str) -> Option<i64> {
    text.strip_prefix('c').and_then(|offset| offset.parse().ok())
}

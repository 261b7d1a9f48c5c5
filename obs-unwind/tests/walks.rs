//! Walks over hand-made rules and stacks: the stack is an array.

use obs_common::stack::{FRAME_BY_POINTER, FRAME_EXACT, StackEnd};
use obs_common::unwind_row::{
    CfaKind, FRAME_POINTER_RULE, FpKind, RA_SIGNED, RBX, RBX_UNCHANGED, RaKind, Rule, signal_aarch64, signal_x86_64,
};
use obs_unwind::{Found, Machine, Registers, Walk, unwind};
use std::collections::BTreeMap;

/// A process: rules by the address that they begin at, and words of memory.
#[derive(Default)]
struct Process {
    rules: BTreeMap<u64, Rule>,
    memory: BTreeMap<u64, u64>,
}

impl Process {
    fn rule(mut self, start: u64, rule: Rule) -> Self {
        self.rules.insert(start, rule);
        self
    }

    fn words(mut self, address: u64, words: &[u64]) -> Self {
        self.memory.extend((address..).step_by(8).zip(words.iter().copied()));
        self
    }

    fn walk(&self, machine: Machine, registers: &Registers, frames_max: usize) -> Walk {
        let lookup = |address: u64| match self.rules.range(..=address).next_back() {
            Some((_, rule)) => Found::Rule(*rule),
            None => Found::NoMapping,
        };
        unwind(machine, registers, lookup, |address| self.memory.get(&address).copied(), frames_max)
    }

    fn walk_x86_64(&self, ip: u64, sp: u64, fp: u64) -> (Vec<u64>, StackEnd) {
        let walk = self.walk(Machine::X86_64, &registers(ip, sp, fp), 64);
        (walk.frames.iter().map(|frame| frame.0).collect(), walk.end)
    }
}

fn registers(ip: u64, sp: u64, fp: u64) -> Registers {
    Registers { ip, sp, fp, lr: 0, general: [0; 31] }
}

fn sp(bytes: i32) -> Rule {
    Rule { cfa_offset: bytes, ra_offset: -1, cfa_kind: CfaKind::Sp as u8, ..Rule::default() }
}

const END: Rule =
    Rule { cfa_offset: 0, fp_offset: 0, ra_offset: 0, cfa_kind: CfaKind::End as u8, fp_kind: 0, ra_kind: 0, arg: 0 };

#[test]
fn a_return_address_is_looked_up_before_itself() {
    // The caller's call is its last instruction: the return address is the first of the function after it.
    let process = Process::default()
        .rule(0x1000, sp(8))
        .rule(0x2000, sp(24))
        .rule(0x2010, Rule::default())
        .rule(0x3000, END)
        .words(0x8000, &[0x2010, 1, 2, 0x3005]);
    assert_eq!(
        process.walk_x86_64(0x1000, 0x8000, 0),
        (vec![FRAME_EXACT | 0x1000, 0x2010, 0x3005], StackEnd::Complete)
    );
}

#[test]
fn the_frame_pointer_is_restored_for_the_caller_that_needs_it() {
    let saves = Rule { fp_offset: -2, fp_kind: FpKind::AtCfa as u8, ..sp(16) };
    let by_fp = Rule { cfa_kind: CfaKind::Fp as u8, ..saves };
    let process = Process::default()
        .rule(0x1000, saves)
        .rule(0x2000, by_fp)
        .rule(0x3000, END)
        .words(0x8000, &[0x8100, 0x2005])
        .words(0x8100, &[0, 0x3005]);
    assert_eq!(
        process.walk_x86_64(0x1004, 0x8000, 0x1234),
        (vec![FRAME_EXACT | 0x1004, 0x2005, 0x3005], StackEnd::Complete)
    );
}

#[test]
fn a_realigned_frame_is_found_through_its_saved_pointer() {
    let prologue = Rule { cfa_offset: 0, cfa_kind: CfaKind::Register as u8, arg: 10, ..sp(0) };
    let body = Rule {
        cfa_offset: -8,
        cfa_kind: CfaKind::FpDeref as u8,
        fp_kind: FpKind::AtFp as u8,
        ra_offset: -1,
        ..Rule::default()
    };
    let process = Process::default()
        .rule(0x1000, prologue)
        .rule(0x1010, body)
        .rule(0x2000, END)
        // Saved r10 = the CFA, saved rbp, …, return address right below the CFA.
        .words(0x8018, &[0x8050, 0x9000])
        .words(0x8048, &[0x2005]);
    assert_eq!(process.walk_x86_64(0x1010, 0x8000, 0x8020).0, [FRAME_EXACT | 0x1010, 0x2005]);
    let mut with_r10 = registers(0x1000, 0x8000, 0x8020);
    with_r10.general[10] = 0x8050;
    assert_eq!(process.walk(Machine::X86_64, &with_r10, 64).end, StackEnd::Complete);
    // In a caller r10 is not known.
    let process = process.rule(0x500, sp(8)).words(0x7ff8, &[0x1005]);
    assert_eq!(process.walk_x86_64(0x500, 0x7ff8, 0).1, StackEnd::UnsupportedRule);
}

#[test]
fn a_frame_behind_a_saved_stack_pointer_is_found() {
    let rule = Rule { cfa_offset: 24, cfa_kind: CfaKind::SpDeref as u8, arg: 1, ra_offset: -1, ..Rule::default() };
    let process =
        Process::default().rule(0x1000, rule).rule(0x2000, END).words(0x8018, &[0x8100]).words(0x8100, &[0x2001]);
    assert_eq!(process.walk_x86_64(0x1000, 0x8000, 0), (vec![FRAME_EXACT | 0x1000, 0x2001], StackEnd::Complete));
}

#[test]
fn lazy_binding_is_walked_through_by_a_saved_rbx() {
    let resolver = Rule { cfa_offset: 24, cfa_kind: CfaKind::Register as u8, arg: RBX, ..sp(0) };
    let process = Process::default()
        .rule(0x1000, Rule { arg: RBX_UNCHANGED, ..sp(8) })
        .rule(0x1800, Rule { arg: 2, ..sp(16) })
        .rule(0x2000, resolver)
        .rule(0x3000, END)
        // A leaf's return address; the caller's rbx and return address; the resolver's frame, aligned; its own.
        .words(0x8000, &[0x1805, 0x8080, 0x2005])
        .words(0x8090, &[0x3005]);
    let path = vec![FRAME_EXACT | 0x1000, 0x1805, 0x2005, 0x3005];
    assert_eq!(process.walk_x86_64(0x1000, 0x8000, 0), (path, StackEnd::Complete));
    // Called by the leaf, it is the innermost frame's own rbx; lost on the way, it is nowhere.
    let process = process.words(0x8000, &[0x2005]);
    let mut with_rbx = registers(0x1000, 0x8000, 0);
    with_rbx.general[usize::from(RBX)] = 0x8080;
    assert_eq!(process.walk(Machine::X86_64, &with_rbx, 64).end, StackEnd::Complete);
    let process = process.rule(0x1000, sp(8));
    assert_eq!(process.walk(Machine::X86_64, &with_rbx, 64).end, StackEnd::UnsupportedRule);
}

#[test]
fn a_linkage_stub_has_one_word_more_from_its_threshold_on() {
    let stub = Rule { cfa_kind: CfaKind::Plt as u8, arg: 11, ..sp(8) };
    let process = Process::default().rule(0x1000, stub).rule(0x2000, END).words(0x8000, &[0x2001, 0x2002]);
    assert_eq!(process.walk_x86_64(0x100a, 0x8000, 0).0[1], 0x2001);
    assert_eq!(process.walk_x86_64(0x100b, 0x8000, 0).0[1], 0x2002);
}

#[test]
fn a_signal_leads_to_the_interrupted_frame_on_another_stack() {
    const FRAME: u64 = 0x9_0000;
    let signal = Rule { cfa_kind: CfaKind::Signal as u8, ..Rule::default() };
    let through_r10 = Rule { cfa_offset: 8, cfa_kind: CfaKind::Register as u8, arg: 10, ..sp(0) };
    let process = Process::default()
        .rule(0x1000, sp(8))
        .rule(0x2000, signal)
        .rule(0x3000, through_r10)
        .rule(0x4000, END)
        .words(FRAME - 8, &[0x2001])
        .words(FRAME + signal_x86_64::IP_BYTES, &[0x3000])
        .words(FRAME + signal_x86_64::SP_BYTES, &[0x1_0000])
        .words(FRAME + signal_x86_64::FP_BYTES, &[0x77])
        // r10 is the third of the saved registers.
        .words(FRAME + signal_x86_64::GREGS_BYTES + 16, &[0x1_0100])
        .words(0x1_0100, &[0x4001]);
    let (frames, end) = process.walk_x86_64(0x1000, FRAME - 8, 0);
    // The interrupted address was the first of its function: it is not looked up before itself.
    assert_eq!(frames, [FRAME_EXACT | 0x1000, 0x2001, FRAME_EXACT | 0x3000, 0x4001]);
    assert_eq!(end, StackEnd::Complete);
}

#[test]
fn aarch64_walks_from_a_leaf_through_a_signal_and_strips_signatures() {
    const FRAME: u64 = 0x9_0000;
    const SIGNED: u64 = 0x0032_0000_0000_3005;
    let leaf = Rule { cfa_kind: CfaKind::Sp as u8, ra_kind: RaKind::LinkRegister as u8, ..Rule::default() };
    let signal = Rule { cfa_kind: CfaKind::Signal as u8, ..Rule::default() };
    let signed = Rule { cfa_offset: 32, ra_offset: -3, ra_kind: RA_SIGNED, cfa_kind: CfaKind::Sp as u8, ..leaf };
    let process = Process::default()
        .rule(0x1000, leaf)
        .rule(0x1100, signal)
        .rule(0x2000, signed)
        .rule(0x3000, END)
        .words(FRAME + signal_aarch64::IP_BYTES, &[0x1008])
        .words(FRAME + signal_aarch64::SP_BYTES, &[0x8000])
        .words(FRAME + signal_aarch64::FP_BYTES, &[0])
        .words(FRAME + signal_aarch64::LR_BYTES, &[0x2005])
        .words(0x8008, &[SIGNED]);
    let registers = Registers { lr: 0x1101, ..registers(0x1000, FRAME, 0) };
    let walk = process.walk(Machine::Aarch64, &registers, 64);
    let frames: Vec<u64> = walk.frames.iter().map(|frame| frame.0).collect();
    assert_eq!(frames, [FRAME_EXACT | 0x1000, 0x1101, FRAME_EXACT | 0x1008, 0x2005, 0x3005]);
    assert_eq!(walk.end, StackEnd::Complete);
}

#[test]
fn a_link_register_is_only_that_of_the_innermost_frame() {
    let leaf = Rule { cfa_offset: 16, cfa_kind: CfaKind::Sp as u8, ra_kind: 1, ..Rule::default() };
    let process = Process::default().rule(0x1000, leaf);
    let registers = Registers { lr: 0x1005, ..registers(0x1000, 0x8000, 0) };
    assert_eq!(process.walk(Machine::Aarch64, &registers, 64).end, StackEnd::UnsupportedRule);
}

#[test]
fn frames_by_pointer_are_marked_and_their_chain_ends() {
    let process = Process::default()
        .rule(0x1000, FRAME_POINTER_RULE)
        .words(0x8000, &[0x8020, 0x1005])
        .words(0x8020, &[0, 0x1006]);
    assert_eq!(
        process.walk_x86_64(0x1000, 0x7000, 0x8000),
        (vec![FRAME_EXACT | 0x1000, FRAME_BY_POINTER | 0x1005, FRAME_BY_POINTER | 0x1006], StackEnd::FramePointerChain)
    );
}

#[test]
fn every_other_end_has_its_reason() {
    let process = Process::default().rule(0x1000, sp(8)).words(0x8000, &[0x1001, 0x1002, 0x1003, 0x500]);
    assert_eq!(process.walk_x86_64(0x1000, 0x8000, 0).1, StackEnd::NoMapping);
    assert_eq!(process.walk_x86_64(0x1000, 0x9000, 0).1, StackEnd::ReadFailed);
    assert_eq!(process.walk(Machine::X86_64, &registers(0x1000, 0x8000, 0), 3).end, StackEnd::TooDeep);
    let process =
        process.rule(0x2000, sp(-8)).rule(0x3000, Rule::default()).rule(0x4000, Rule { cfa_kind: 77, ..sp(8) });
    assert_eq!(process.walk_x86_64(0x2000, 0x8000, 0).1, StackEnd::NotAscending);
    assert_eq!(process.walk_x86_64(0x3000, 0x8000, 0).1, StackEnd::NoRow);
    assert_eq!(process.walk_x86_64(0x4000, 0x8000, 0).1, StackEnd::UnsupportedRule);
    let no_table = unwind(Machine::X86_64, &registers(1, 1, 1), |_| Found::NoTable, |_| None, 9);
    assert_eq!((no_table.frames.len(), no_table.end), (1, StackEnd::NoFileTable));
}

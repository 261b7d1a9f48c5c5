//! Evaluates the call frame instructions of one function into rules.
//!
//! Only what the rules need is kept (the CFA, the frame pointer, the return address), in a state that is cheap to copy;
//! `gimli` decodes the instructions. Tests compare it with `gimli`'s own evaluation of all registers.

use crate::elf::Machine;
use crate::expression::{Known, recognise};
use crate::limits::{INSTRUCTIONS_PER_CIE_MAX, INSTRUCTIONS_PER_FDE_MAX, REMEMBERED_STATES_MAX};
use gimli::{
    CallFrameInstruction as Instruction, EndianSlice, LittleEndian, Register, UnwindExpression, UnwindSection,
};
use obs_common::unwind_row::{CfaKind, FpKind, RA_SIGNED, RBX, RBX_LOST, RBX_UNCHANGED, RaKind, Rule, signal_x86_64};

pub(crate) type Reader<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Cie<'a> = gimli::CommonInformationEntry<Reader<'a>>;
pub(crate) type Fde<'a> = gimli::FrameDescriptionEntry<Reader<'a>>;

/// The DWARF numbers of the registers that matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) sp: u16,
    pub(crate) fp: u16,
    pub(crate) ra: u16,
}

impl Numbers {
    pub(crate) const fn of(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self { sp: 7, fp: 6, ra: 16 },
            Machine::Aarch64 => Self { sp: 31, fp: 29, ra: 30 },
        }
    }
}

/// Why a function's description could not be followed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It cannot be decoded, or makes no sense.
    Malformed,
    /// It exceeds a bound.
    TooLong,
}

/// The CFA. A register and offset survive an expression: a later `DW_CFA_def_cfa_register` goes on with the offset, as it
/// does in the runtime's own unwinder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cfa {
    register: Option<u16>,
    offset: i64,
    expression: Option<Option<Known>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saved {
    /// Nothing was said of the register.
    Unsaid,
    Undefined,
    Same,
    /// At the CFA plus so many bytes.
    AtCfa(i64),
    /// It is the CFA plus so many bytes.
    IsCfa(i64),
    InRegister(u16),
    /// At the address of a recognised expression.
    At(Option<Known>),
    Other,
}

/// The state of the evaluation at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    cfa: Cfa,
    sp: Saved,
    fp: Saved,
    ra: Saved,
    rbx: Saved,
    signed: bool,
}

impl State {
    const EMPTY: Self = Self {
        cfa: Cfa { register: None, offset: 0, expression: None },
        sp: Saved::Unsaid,
        fp: Saved::Unsaid,
        ra: Saved::Unsaid,
        rbx: Saved::Unsaid,
        signed: false,
    };
}

/// A CIE with the state that it leaves to its functions.
#[derive(Clone, Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) cie: Cie<'a>,
    pub(crate) initial: Result<State, Fault>,
}

/// Evaluates functions of one section.
#[derive(Clone, Debug)]
pub(crate) struct Evaluator<'a, S> {
    pub(crate) section: S,
    pub(crate) bases: gimli::BaseAddresses,
    pub(crate) machine: Machine,
    /// Whether rules say where rbx is.
    pub(crate) follow_rbx: bool,
    pub(crate) marker: std::marker::PhantomData<&'a ()>,
}

impl<'a, S: UnwindSection<Reader<'a>>> Evaluator<'a, S> {
    /// Runs a CIE's own instructions.
    pub(crate) fn prepare(&self, cie: Cie<'a>) -> Prepared<'a> {
        let initial = self.initial(&cie);
        Prepared { cie, initial }
    }

    fn initial(&self, cie: &Cie<'a>) -> Result<State, Fault> {
        if cie.return_address_register().0 != Numbers::of(self.machine).ra || cie.address_size() != 8 {
            return Err(Fault::Malformed);
        }
        let mut run = Run::new(self, cie, State::EMPTY, None);
        let mut instructions = cie.instructions(&self.section, &self.bases);
        let mut left = INSTRUCTIONS_PER_CIE_MAX;
        while let Some(instruction) = instructions.next().map_err(|_| Fault::Malformed)? {
            left = left.checked_sub(1).ok_or(Fault::TooLong)?;
            if run.advance(&instruction, 0)?.is_none() {
                run.apply(&instruction)?;
            }
        }
        Ok(run.state)
    }

    /// Evaluates a function within `[start, end)`, which lies in its range: `sink` gets the address of each row, in order,
    /// and its rule. What follows a fault has no rows, and the fault is returned with the address that it holds from.
    pub(crate) fn rows<E>(
        &self,
        fde: &Fde<'a>,
        initial: Result<State, Fault>,
        (start, end): (u64, u64),
        mut sink: impl FnMut(u64, Rule) -> Result<(), E>,
    ) -> Result<Option<(u64, Fault)>, E> {
        let initial = match initial {
            Ok(state) => state,
            Err(fault) => return Ok(Some((start, fault))),
        };
        let mut run = Run::new(self, fde.cie(), initial, Some(initial));
        let mut at = fde.initial_address();
        let mut instructions = fde.instructions(&self.section, &self.bases);
        for _ in 0..INSTRUCTIONS_PER_FDE_MAX {
            let fault = |fault| Ok(Some((at.max(start), fault)));
            let instruction = match instructions.next() {
                Ok(Some(instruction)) => instruction,
                Ok(None) => {
                    sink(at.max(start), run.rule())?;
                    return Ok(None);
                }
                Err(_) => return fault(Fault::Malformed),
            };
            match run.advance(&instruction, at) {
                Ok(None) => {
                    if let Err(cause) = run.apply(&instruction) {
                        return fault(cause);
                    }
                }
                Ok(Some(next)) => {
                    if next > at && next > start {
                        sink(at.max(start), run.rule())?;
                    }
                    at = next;
                    if at >= end {
                        return Ok(None);
                    }
                }
                Err(cause) => return fault(cause),
            }
        }
        Ok(Some((at.max(start), Fault::TooLong)))
    }
}

/// The evaluation of one list of instructions.
struct Run<'r, 'a, S> {
    evaluator: &'r Evaluator<'a, S>,
    numbers: Numbers,
    encoding: gimli::Encoding,
    code_factor: u64,
    data_factor: i64,
    signal: bool,
    /// What `DW_CFA_restore` goes back to; `None` while a CIE is run.
    initial: Option<State>,
    state: State,
    remembered: Vec<State>,
}

impl<'r, 'a, S: UnwindSection<Reader<'a>>> Run<'r, 'a, S> {
    fn new(evaluator: &'r Evaluator<'a, S>, cie: &Cie<'a>, state: State, initial: Option<State>) -> Self {
        Self {
            evaluator,
            numbers: Numbers::of(evaluator.machine),
            encoding: cie.encoding(),
            code_factor: cie.code_alignment_factor(),
            data_factor: cie.data_alignment_factor(),
            signal: cie.is_signal_trampoline(),
            initial,
            state,
            remembered: Vec::new(),
        }
    }

    /// The next row's address, when the instruction ends a row.
    fn advance(&self, instruction: &Instruction<usize>, at: u64) -> Result<Option<u64>, Fault> {
        match instruction {
            Instruction::AdvanceLoc { delta } => {
                let bytes = u64::from(*delta).checked_mul(self.code_factor).ok_or(Fault::Malformed)?;
                at.checked_add(bytes).map(Some).ok_or(Fault::Malformed)
            }
            Instruction::SetLoc { address } if *address >= at => Ok(Some(*address)),
            Instruction::SetLoc { .. } => Err(Fault::Malformed),
            _ => Ok(None),
        }
    }

    fn apply(&mut self, instruction: &Instruction<usize>) -> Result<(), Fault> {
        let factored = |offset: i64| offset.wrapping_mul(self.data_factor);
        match *instruction {
            Instruction::DefCfa { register, offset } => {
                self.state.cfa = Cfa { register: Some(register.0), offset: offset as i64, expression: None };
            }
            Instruction::DefCfaSf { register, factored_offset } => {
                let offset = factored(factored_offset);
                self.state.cfa = Cfa { register: Some(register.0), offset, expression: None };
            }
            Instruction::DefCfaRegister { register } => {
                self.state.cfa = Cfa { register: Some(register.0), expression: None, ..self.state.cfa };
            }
            Instruction::DefCfaOffset { offset } => self.state.cfa.offset = offset as i64,
            Instruction::DefCfaOffsetSf { factored_offset } => self.state.cfa.offset = factored(factored_offset),
            Instruction::DefCfaExpression { expression } => {
                self.state.cfa.expression = Some(self.recognise(expression));
            }
            Instruction::Undefined { register } => self.set(register, Saved::Undefined),
            Instruction::SameValue { register } => self.set(register, Saved::Same),
            Instruction::Offset { register, factored_offset } => {
                self.set(register, Saved::AtCfa(factored(factored_offset as i64)));
            }
            Instruction::OffsetExtendedSf { register, factored_offset } => {
                self.set(register, Saved::AtCfa(factored(factored_offset)));
            }
            Instruction::ValOffset { register, factored_offset } => {
                self.set(register, Saved::IsCfa(factored(factored_offset as i64)));
            }
            Instruction::ValOffsetSf { register, factored_offset } => {
                self.set(register, Saved::IsCfa(factored(factored_offset)));
            }
            Instruction::Register { dest_register, src_register } => {
                self.set(dest_register, Saved::InRegister(src_register.0));
            }
            Instruction::Expression { register, expression } => {
                if self.is_kept(register) {
                    self.set(register, Saved::At(self.recognise(expression)));
                }
            }
            Instruction::ValExpression { register, .. } => self.set(register, Saved::Other),
            Instruction::Restore { register } => self.restore(register)?,
            Instruction::RememberState => {
                if self.remembered.len() == REMEMBERED_STATES_MAX {
                    return Err(Fault::TooLong);
                }
                self.remembered.push(self.state);
            }
            Instruction::RestoreState => self.state = self.remembered.pop().ok_or(Fault::Malformed)?,
            Instruction::NegateRaState => self.state.signed = !self.state.signed,
            Instruction::ArgsSize { .. } | Instruction::Nop => {}
            Instruction::AdvanceLoc { .. } | Instruction::SetLoc { .. } => {}
        }
        Ok(())
    }

    fn is_kept(&self, register: Register) -> bool {
        let numbers = self.numbers;
        [numbers.sp, numbers.fp, numbers.ra, u16::from(RBX)].contains(&register.0)
    }

    fn set(&mut self, register: Register, saved: Saved) {
        if register.0 == self.numbers.fp {
            self.state.fp = saved;
        } else if register.0 == self.numbers.ra {
            self.state.ra = saved;
        } else if register.0 == self.numbers.sp {
            self.state.sp = saved;
        } else if register.0 == u16::from(RBX) {
            self.state.rbx = saved;
        }
    }

    fn restore(&mut self, register: Register) -> Result<(), Fault> {
        let initial = self.initial.ok_or(Fault::Malformed)?;
        if register.0 == self.numbers.fp {
            self.state.fp = initial.fp;
        } else if register.0 == self.numbers.ra {
            self.state.ra = initial.ra;
        } else if register.0 == self.numbers.sp {
            self.state.sp = initial.sp;
        } else if register.0 == u16::from(RBX) {
            self.state.rbx = initial.rbx;
        } else if register == gimli::AArch64::RA_SIGN_STATE && self.evaluator.machine == Machine::Aarch64 {
            self.state.signed = initial.signed;
        }
        Ok(())
    }

    fn recognise(&self, expression: UnwindExpression<usize>) -> Option<Known> {
        recognise(expression.get(&self.evaluator.section).ok()?, self.encoding)
    }

    /// The state as a rule of the table.
    fn rule(&self) -> Rule {
        const UNSUPPORTED: Rule = Rule {
            cfa_offset: 0,
            fp_offset: 0,
            ra_offset: 0,
            cfa_kind: CfaKind::Unsupported as u8,
            fp_kind: 0,
            ra_kind: 0,
            arg: 0,
        };
        if self.state.ra == Saved::Undefined {
            return Rule { cfa_kind: CfaKind::End as u8, ..Rule::default() };
        }
        if self.signal {
            return self.signal_rule().unwrap_or(UNSUPPORTED);
        }
        self.ordinary_rule().unwrap_or(UNSUPPORTED)
    }

    fn ordinary_rule(&self) -> Option<Rule> {
        // The caller's stack pointer is the CFA; a rule that says otherwise (a longjmp about to jump) is not expressed.
        if !matches!(self.state.sp, Saved::Unsaid | Saved::Same | Saved::IsCfa(0)) {
            return None;
        }
        let (cfa_kind, cfa_offset, arg) = self.cfa()?;
        let (fp_kind, fp_offset) = self.fp();
        let (ra_kind, ra_offset) = self.ra()?;
        let signed = if self.state.signed { RA_SIGNED } else { 0 };
        Some(Rule {
            cfa_offset,
            fp_offset,
            ra_offset,
            cfa_kind: cfa_kind as u8,
            fp_kind: fp_kind as u8,
            ra_kind: ra_kind as u8 | signed,
            arg,
        })
    }

    fn cfa(&self) -> Option<(CfaKind, i32, u8)> {
        let numbers = self.numbers;
        let Cfa { register, offset, expression } = self.state.cfa;
        let known = match expression {
            None => Known::Register { register: register?, offset },
            Some(known) => known?,
        };
        match known {
            Known::Register { register, offset } => {
                let offset = i32::try_from(offset).ok()?;
                if register == numbers.sp {
                    Some((CfaKind::Sp, offset, self.rbx()))
                } else if register == numbers.fp {
                    Some((CfaKind::Fp, offset, self.rbx()))
                } else {
                    Some((CfaKind::Register, offset, self.general(register)? as u8))
                }
            }
            Known::Deref { register, offset, addend } => {
                let offset = i32::try_from(offset).ok()?;
                let addend = i8::try_from(addend / 8).ok().filter(|_| addend % 8 == 0)?;
                if register == numbers.sp {
                    Some((CfaKind::SpDeref, offset, addend as u8))
                } else if register == numbers.fp {
                    Some((CfaKind::FpDeref, offset, addend as u8))
                } else {
                    None
                }
            }
            Known::Plt { register, offset, ip_register, threshold } => {
                let of_stub = register == numbers.sp && ip_register == 16 && self.evaluator.machine == Machine::X86_64;
                Some((CfaKind::Plt, i32::try_from(offset).ok()?, threshold)).filter(|_| of_stub)
            }
        }
    }

    /// Where the caller's rbx is, in a file that needs it.
    fn rbx(&self) -> u8 {
        match self.state.rbx {
            _ if !self.evaluator.follow_rbx => RBX_LOST,
            Saved::Unsaid | Saved::Same => RBX_UNCHANGED,
            Saved::AtCfa(bytes) if bytes % 8 == 0 => {
                // The return address is right below the CFA, registers are saved below it.
                u8::try_from(-(bytes / 8)).ok().filter(|words| *words > RBX_UNCHANGED).unwrap_or(RBX_LOST)
            }
            _ => RBX_LOST,
        }
    }

    /// A register that a sample's registers hold.
    fn general(&self, register: u16) -> Option<i16> {
        let count = match self.evaluator.machine {
            Machine::X86_64 => 16,
            Machine::Aarch64 => 31,
        };
        (register < count).then_some(register as i16)
    }

    /// A frame pointer that is saved in a way that is not expressed costs the callers that need it, not this frame.
    fn fp(&self) -> (FpKind, i16) {
        let numbers = self.numbers;
        let found = match self.state.fp {
            Saved::Unsaid | Saved::Same => Some((FpKind::Unchanged, 0)),
            Saved::AtCfa(bytes) => words(bytes).map(|words| (FpKind::AtCfa, words)),
            Saved::InRegister(register) if register == numbers.fp => Some((FpKind::Unchanged, 0)),
            Saved::InRegister(register) => self.general(register).map(|number| (FpKind::Register, number)),
            Saved::At(Some(Known::Register { register, offset })) if register == numbers.fp => {
                words(offset).map(|words| (FpKind::AtFp, words))
            }
            Saved::At(Some(Known::Register { register, offset })) if register == numbers.sp => {
                words(offset).map(|words| (FpKind::AtSp, words))
            }
            Saved::Undefined | Saved::IsCfa(_) | Saved::At(_) | Saved::Other => None,
        };
        found.unwrap_or((FpKind::Undefined, 0))
    }

    fn ra(&self) -> Option<(RaKind, i16)> {
        match (self.state.ra, self.evaluator.machine) {
            (Saved::AtCfa(bytes), _) => Some((RaKind::AtCfa, words(bytes)?)),
            (Saved::Unsaid | Saved::Same, Machine::Aarch64) => Some((RaKind::LinkRegister, 0)),
            (Saved::InRegister(register), _) => Some((RaKind::Register, self.general(register)?)),
            _ => None,
        }
    }

    /// The kernel's signal frame, as C libraries describe it: the CFA is the interrupted stack pointer.
    fn signal_rule(&self) -> Option<Rule> {
        let signal = Rule { cfa_kind: CfaKind::Signal as u8, ..Rule::default() };
        if self.evaluator.machine == Machine::Aarch64 {
            // Only the vDSO of older kernels describes its trampoline, by way of the frame pointer.
            return Some(signal);
        }
        let Some(Some(Known::Deref { register, offset, addend: 0 })) = self.state.cfa.expression else { return None };
        let frame = offset.checked_sub(signal_x86_64::SP_BYTES as i64)?;
        let ip = Known::Register { register, offset: frame.checked_add(signal_x86_64::IP_BYTES as i64)? };
        if register != self.numbers.sp || self.state.ra != Saved::At(Some(ip)) {
            return None;
        }
        Some(Rule { cfa_offset: i32::try_from(frame).ok()?, ..signal })
    }
}

fn words(bytes: i64) -> Option<i16> {
    if bytes % 8 == 0 { i16::try_from(bytes / 8).ok() } else { None }
}

//! Decodes the records of the ring buffer.

use std::sync::Arc;

use obs_common::{
    events::process::ProcessSeen,
    limits::{SNAPSHOT_BELOW_BYTES, SNAPSHOT_REGISTERS_MAX},
    stack as wire,
    stack::{RecordKind, SNAPSHOT_HEADER_BYTES},
    wait::{self as wire_wait, WAIT_IS_SHORT, Waker},
};

use crate::model::{
    process::{ProcessEvent, ProcessKey},
    stack::{Stack, StackEnd, StackFrame, StackSnapshot, UserRegisters},
    wait::{Wait, WaitState},
};

/// A record of the ring buffer.
pub(super) enum Decoded {
    Stack { id: u64, stack: Stack },
    Seen(ProcessEvent),
    Snapshot(Box<StackSnapshot>),
    Waker { id: u64, waker: WakerIds },
}

/// Who woke a thread, with its stacks by their ids.
#[derive(Clone, Debug)]
pub(super) struct WakerIds {
    pub(super) process: ProcessKey,
    pub(super) thread_name: Arc<str>,
    pub(super) user_stack: u64,
    pub(super) kernel_stack: u64,
}

/// Reads fields of a record front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_ne_bytes)
    }
}

/// Decodes a record; `None` if it is malformed, which only a mismatch of the two sides can cause.
pub(super) fn decode(bytes: &[u8]) -> Option<Decoded> {
    let mut fields = Fields(bytes);
    let (kind, end) = (fields.u32()?, fields.u32()?);
    if kind == RecordKind::Stack as u32 {
        let (id, frames_count) = (fields.u64()?, fields.u64()?);
        let frames_count = usize::try_from(frames_count).ok().filter(|n| *n <= obs_common::limits::USER_FRAMES_MAX)?;
        let frames = (0..frames_count).map(|index| fields.u64().map(|frame| decode_frame(index, frame)));
        Some(Decoded::Stack { id, stack: Stack { frames: frames.collect::<Option<_>>()?, end: decode_end(end)? } })
    } else if kind == RecordKind::ProcessSeen as u32 {
        const { assert!(size_of::<ProcessSeen>() == 48, "decoded below, field by field") };
        let (started_ns, time_ns) = (fields.u64()?, fields.u64()?);
        let (pid, exec_id) = (fields.u32()?, fields.u32()?);
        let name = text(&fields.bytes::<{ obs_common::limits::COMM_BYTES }>()?);
        Some(Decoded::Seen(ProcessEvent::Seen { key: ProcessKey { pid, started_ns, exec_id }, time_ns, name }))
    } else if kind == RecordKind::Snapshot as u32 {
        const { assert!(SNAPSHOT_HEADER_BYTES == 40 + 8 * SNAPSHOT_REGISTERS_MAX, "decoded below, field by field") };
        let (id, started_ns) = (fields.u64()?, fields.u64()?);
        let (pid, exec_id) = (fields.u32()?, fields.u32()?);
        let mut words = [0; SNAPSHOT_REGISTERS_MAX];
        for word in &mut words {
            *word = fields.u64()?;
        }
        let memory_bytes = usize::try_from(fields.u64()?).ok()?;
        let memory = fields.0.get(..memory_bytes)?.into();
        let process = ProcessKey { pid, started_ns, exec_id };
        let registers = decode_registers(&words);
        let memory_start = registers.sp.wrapping_sub(SNAPSHOT_BELOW_BYTES as u64);
        Some(Decoded::Snapshot(Box::new(StackSnapshot { id, process, registers, memory_start, memory })))
    } else if kind == RecordKind::Waker as u32 {
        const { assert!(size_of::<Waker>() == 64, "decoded below, field by field") };
        let (id, started_ns) = (fields.u64()?, fields.u64()?);
        let (pid, exec_id) = (fields.u32()?, fields.u32()?);
        let (user_stack, kernel_stack) = (fields.u64()?, fields.u64()?);
        let thread_name = text(&fields.bytes::<{ obs_common::limits::COMM_BYTES }>()?);
        let process = ProcessKey { pid, started_ns, exec_id };
        Some(Decoded::Waker { id, waker: WakerIds { process, thread_name, user_stack, kernel_stack } })
    } else {
        None
    }
}

fn decode_frame(index: usize, frame: u64) -> StackFrame {
    // Kernel addresses fill the upper half and carry no marks; only the innermost was being executed.
    let is_kernel = frame > wire::FRAME_ADDRESS && frame >> 56 == 0xff;
    if is_kernel {
        StackFrame { address: frame, exact: index == 0, by_frame_pointer: false }
    } else {
        decode_user_frame(frame)
    }
}

fn decode_user_frame(frame: u64) -> StackFrame {
    StackFrame {
        address: frame & wire::FRAME_ADDRESS,
        exact: frame & wire::FRAME_EXACT != 0,
        by_frame_pointer: frame & wire::FRAME_BY_POINTER != 0,
    }
}

/// The registers of `struct pt_regs`.
#[cfg(target_arch = "x86_64")]
pub(super) fn decode_registers(words: &[u64; SNAPSHOT_REGISTERS_MAX]) -> UserRegisters {
    /// Where each register stands, by its DWARF number: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 … r15.
    const BY_DWARF: [usize; 16] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];
    let mut general = [0; 31];
    for (register, place) in general.iter_mut().zip(BY_DWARF) {
        *register = words[place];
    }
    UserRegisters { ip: words[16], sp: words[19], fp: words[4], lr: 0, general }
}

/// The registers of `struct user_pt_regs`.
#[cfg(target_arch = "aarch64")]
pub(super) fn decode_registers(words: &[u64; SNAPSHOT_REGISTERS_MAX]) -> UserRegisters {
    let mut general = [0; 31];
    general.copy_from_slice(&words[..31]);
    UserRegisters { ip: words[32], sp: words[31], fp: words[29], lr: words[30], general }
}

/// What a key says of a wait; `None` if it says nothing.
pub(super) fn wait(state: u32) -> Option<Wait> {
    use wire_wait::WaitState as Wire;
    const STATES: [(Wire, WaitState); 10] = [
        (Wire::Sleep, WaitState::Sleep),
        (Wire::Lock, WaitState::Lock),
        (Wire::BlockIo, WaitState::BlockIo),
        (Wire::Network, WaitState::Network),
        (Wire::PageFault, WaitState::PageFault),
        (Wire::Kernel, WaitState::Kernel),
        (Wire::RunQueue, WaitState::RunQueue),
        (Wire::Preempted, WaitState::Preempted),
        (Wire::Throttled, WaitState::Throttled),
        (Wire::Running, WaitState::Running),
    ];
    let number = state & !WAIT_IS_SHORT;
    let (_, state_of_model) = STATES.into_iter().find(|(wire, _)| *wire as u32 == number)?;
    Some(Wait { state: state_of_model, is_short: state & WAIT_IS_SHORT != 0 })
}

fn decode_end(end: u32) -> Option<StackEnd> {
    const ENDS: [wire::StackEnd; 14] = [
        wire::StackEnd::Complete,
        wire::StackEnd::FramePointerChain,
        wire::StackEnd::TooDeep,
        wire::StackEnd::NoProcessTable,
        wire::StackEnd::NoMapping,
        wire::StackEnd::NoFileTable,
        wire::StackEnd::NoRow,
        wire::StackEnd::UnsupportedRule,
        wire::StackEnd::ReadFailed,
        wire::StackEnd::NotAscending,
        wire::StackEnd::NoRegisters,
        wire::StackEnd::WalkFailed,
        wire::StackEnd::TableNotReady,
        wire::StackEnd::ReturnAddressZero,
    ];
    ENDS.into_iter().find(|candidate| *candidate as u32 == end).map(stack_end)
}

/// Why a walk ended, in the words of `model`.
fn stack_end(end: wire::StackEnd) -> StackEnd {
    match end {
        wire::StackEnd::Complete => StackEnd::Complete,
        wire::StackEnd::FramePointerChain => StackEnd::FramePointerChain,
        wire::StackEnd::TooDeep => StackEnd::TooDeep,
        wire::StackEnd::NoProcessTable => StackEnd::NoProcessTable,
        wire::StackEnd::NoMapping => StackEnd::NoMapping,
        wire::StackEnd::NoFileTable => StackEnd::NoFileTable,
        wire::StackEnd::NoRow => StackEnd::NoRow,
        wire::StackEnd::UnsupportedRule => StackEnd::UnsupportedRule,
        wire::StackEnd::ReadFailed => StackEnd::ReadFailed,
        wire::StackEnd::NotAscending => StackEnd::NotAscending,
        wire::StackEnd::NoRegisters => StackEnd::NoRegisters,
        wire::StackEnd::WalkFailed => StackEnd::WalkFailed,
        wire::StackEnd::TableNotReady => StackEnd::TableNotReady,
        wire::StackEnd::ReturnAddressZero => StackEnd::ReturnAddressZero,
    }
}

/// A user stack that was walked in user space: frames with the marks of [`obs_common::stack`], innermost first.
pub(crate) fn user_stack(frames: impl IntoIterator<Item = u64>, end: wire::StackEnd) -> Stack {
    Stack { frames: frames.into_iter().map(decode_user_frame).collect(), end: stack_end(end) }
}

/// A NUL-padded name.
pub(super) fn text(bytes: &[u8]) -> Arc<str> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(kind: u32, end: u32, rest: &[u64]) -> Vec<u8> {
        let mut bytes = [kind.to_ne_bytes(), end.to_ne_bytes()].concat();
        bytes.extend(rest.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn decodes_a_stack_and_its_marks() {
        let bytes = words(1, 2, &[77, 3, 0x1000 | wire::FRAME_EXACT, 0x2000, 0x3000 | wire::FRAME_BY_POINTER]);
        let Some(Decoded::Stack { id, stack }) = decode(&bytes) else { panic!("not decoded") };
        assert_eq!((id, stack.end), (77, StackEnd::TooDeep));
        assert_eq!(stack.frames.iter().map(|f| f.address).collect::<Vec<_>>(), [0x1000, 0x2000, 0x3000]);
        assert_eq!(stack.frames.iter().map(|f| f.exact).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(stack.frames.iter().map(|f| f.by_frame_pointer).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn kernel_addresses_carry_no_marks() {
        let bytes = words(1, 0, &[77, 2, 0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000]);
        let Some(Decoded::Stack { stack, .. }) = decode(&bytes) else { panic!("not decoded") };
        assert_eq!(
            stack.frames[0],
            StackFrame { address: 0xffff_ffff_8100_0000, exact: true, by_frame_pointer: false }
        );
        assert_eq!(
            stack.frames[1],
            StackFrame { address: 0xffff_ffff_8200_0000, exact: false, by_frame_pointer: false }
        );
    }

    #[test]
    fn decodes_a_snapshot() {
        let mut rest = vec![7, 1_000, 77 | 3 << 32];
        rest.extend((0..34).map(|register| 1_000 + register));
        rest.extend([SNAPSHOT_BELOW_BYTES as u64 + 16]);
        rest.extend([0xcccc; SNAPSHOT_BELOW_BYTES / 8]);
        rest.extend([0xaaaa, 0xbbbb]);
        let Some(Decoded::Snapshot(snapshot)) = decode(&words(3, 5, &rest)) else { panic!("not decoded") };
        assert_eq!(snapshot.id, 7);
        assert_eq!(snapshot.process, ProcessKey { pid: 77, started_ns: 1_000, exec_id: 3 });
        let registers = snapshot.registers;
        #[cfg(target_arch = "x86_64")]
        assert_eq!((registers.ip, registers.sp, registers.fp, registers.general[3]), (1_016, 1_019, 1_004, 1_005));
        #[cfg(target_arch = "aarch64")]
        assert_eq!((registers.ip, registers.sp, registers.fp, registers.lr), (1_032, 1_031, 1_029, 1_030));
        let sp = registers.sp;
        let words: Vec<_> = [sp, sp + 8, sp + 9, sp + 16, sp - 8, u64::MAX].map(|at| snapshot.word(at)).into();
        assert_eq!(words, [Some(0xaaaa), Some(0xbbbb), None, None, Some(0xcccc), None]);
    }

    #[test]
    fn decodes_a_waker() {
        let name = [u64::from_ne_bytes(*b"redis-se"), u64::from_ne_bytes(*b"rver\0\0\0\0")];
        let bytes = words(4, 0, &[9, 1_000, 77 | 3 << 32, 5, 6, name[0], name[1]]);
        let Some(Decoded::Waker { id, waker }) = decode(&bytes) else { panic!("not decoded") };
        assert_eq!((id, waker.user_stack, waker.kernel_stack, &*waker.thread_name), (9, 5, 6, "redis-server"));
        assert_eq!(waker.process, ProcessKey { pid: 77, started_ns: 1_000, exec_id: 3 });
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for bytes in [
            vec![],
            words(1, 0, &[]),
            words(1, 0, &[77, 2, 1]),
            words(1, 0, &[77, u64::MAX]),
            words(1, 99, &[77, 0]),
            words(9, 0, &[77, 0]),
            words(4, 0, &[9, 1_000, 77, 5, 6, 0]),
            words(2, 0, &[1, 2, 3]),
            words(3, 0, &[0; 37]),
            words(3, 0, &[1; 38]),
        ] {
            assert!(decode(&bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn a_name_ends_at_its_first_nul_and_need_not_be_text() {
        assert_eq!(&*text(b"redis-server\0\0\0\0"), "redis-server");
        assert_eq!(&*text(b"full-length-name"), "full-length-name");
        assert_eq!(&*text(b"\xff\0"), "\u{fffd}");
    }
}

//! Reads counted stacks: what every collector that counts stacks shares in user space.
//!
//! Stacks arrive once through the ring buffer, counts by stack id through two maps that take turns. Both are joined here.

use std::{collections::HashMap, os::fd::AsFd as _, os::fd::BorrowedFd, sync::Arc};

use obs_common::{
    counters::KernelCounter,
    events::process::ProcessSeen,
    stack as wire,
    stack::{LOST_STACK, NO_STACK, RecordKind, StackKey, StackValue},
};

use crate::{
    kernel::{
        load::{KernelError, Object},
        read::{KernelCounters, Ring, StackCounts},
    },
    model::{
        process::{ProcessEvent, ProcessKey},
        record::{Record, StackSample},
        stack::{Stack, StackEnd, StackFrame},
        summary::SampleCounts,
    },
};

/// Most stacks that are remembered by id. The kernel side remembers fewer, so a stack that is forgotten here has long
/// been forgotten there, and is sent again when it is seen again.
const STACKS_MAX: usize = 4 * obs_common::limits::STACKS_SENT_MAX as usize;

/// The user-space half of `obs_ebpf::{stack, counts, process, loss}`.
pub(super) struct StackReader {
    ring: Ring,
    counts: StackCounts,
    counters: KernelCounters,
    stacks: HashMap<u64, Arc<Stack>>,
    malformed_count: u64,
}

impl StackReader {
    /// Takes the maps out of an object.
    pub(super) fn take(object: &mut Object) -> Result<Self, KernelError> {
        Ok(Self {
            ring: Ring::take(object)?,
            counts: StackCounts::take(object)?,
            counters: KernelCounters::take(object)?,
            stacks: HashMap::new(),
            malformed_count: 0,
        })
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Reads the ring buffer: keeps stacks, hands on announcements of processes.
    pub(super) fn poll(&mut self, events: &mut Vec<ProcessEvent>) {
        let Self { ring, stacks, malformed_count, .. } = self;
        ring.drain(|bytes| match decode(bytes) {
            Some(Decoded::Stack { id, stack }) => {
                if stacks.len() >= STACKS_MAX {
                    stacks.clear();
                }
                stacks.insert(id, Arc::new(stack));
            }
            Some(Decoded::Seen(event)) => events.push(event),
            None => *malformed_count += 1,
        });
    }

    /// Takes the counts since the last call and joins them with their stacks.
    pub(super) fn drain(&mut self, records: &mut Vec<Record>) -> Result<(), KernelError> {
        let mut counted = Vec::new();
        self.counts.drain(|key, value| counted.push((*key, *value)))?;
        // After the counts: every stack that they name has been sent by now.
        let mut events = Vec::new();
        self.poll(&mut events);
        let lost = Arc::new(Stack { frames: Box::default(), end: StackEnd::Lost });
        records.extend(counted.iter().map(|(key, value)| Record::StackSample(self.sample(key, value, &lost))));
        Ok(())
    }

    fn sample(&self, key: &StackKey, value: &StackValue, lost: &Arc<Stack>) -> StackSample {
        let stack = |id| match id {
            NO_STACK => None,
            LOST_STACK => Some(lost.clone()),
            id => Some(self.stacks.get(&id).unwrap_or(lost).clone()),
        };
        StackSample {
            process: ProcessKey { pid: key.tgid, started_ns: key.started_ns, exec_id: key.exec_id },
            thread_name: text(&key.comm),
            cgroup_id: key.cgroup_id,
            user: stack(key.user_stack),
            kernel: stack(key.kernel_stack),
            count: value.count,
            weight: value.weight,
        }
    }

    /// What became of the samples.
    pub(super) fn sample_counts(&self) -> Result<SampleCounts, KernelError> {
        let counters = self.counters.read()?;
        let of = |counter: KernelCounter| counters[counter as usize];
        let losses = [
            ("map of counts full", of(KernelCounter::LostCountsFull)),
            ("task could not be examined", of(KernelCounter::LostNoTask)),
            ("children not followed: filter full", of(KernelCounter::LostFilterFull)),
        ];
        Ok(SampleCounts {
            taken: of(KernelCounter::Taken),
            lost: losses.into_iter().filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect(),
            filtered: of(KernelCounter::Filtered),
            idle: of(KernelCounter::Idle),
        })
    }
}

/// A record of the ring buffer.
enum Decoded {
    Stack { id: u64, stack: Stack },
    Seen(ProcessEvent),
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
fn decode(bytes: &[u8]) -> Option<Decoded> {
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
        StackFrame {
            address: frame & wire::FRAME_ADDRESS,
            exact: frame & wire::FRAME_EXACT != 0,
            by_frame_pointer: frame & wire::FRAME_BY_POINTER != 0,
        }
    }
}

fn decode_end(end: u32) -> Option<StackEnd> {
    use wire::StackEnd as Wire;
    const ENDS: [(Wire, StackEnd); 12] = [
        (Wire::Complete, StackEnd::Complete),
        (Wire::FramePointerChain, StackEnd::FramePointerChain),
        (Wire::TooDeep, StackEnd::TooDeep),
        (Wire::NoProcessTable, StackEnd::NoProcessTable),
        (Wire::NoMapping, StackEnd::NoMapping),
        (Wire::NoFileTable, StackEnd::NoFileTable),
        (Wire::NoRow, StackEnd::NoRow),
        (Wire::UnsupportedRule, StackEnd::UnsupportedRule),
        (Wire::ReadFailed, StackEnd::ReadFailed),
        (Wire::NotAscending, StackEnd::NotAscending),
        (Wire::NoRegisters, StackEnd::NoRegisters),
        (Wire::WalkFailed, StackEnd::WalkFailed),
    ];
    ENDS.into_iter().find(|(wire, _)| *wire as u32 == end).map(|(_, end)| end)
}

/// A NUL-padded name.
fn text(bytes: &[u8]) -> Arc<str> {
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
    fn refuses_what_does_not_fit() {
        for bytes in [
            vec![],
            words(1, 0, &[]),
            words(1, 0, &[77, 2, 1]),
            words(1, 0, &[77, u64::MAX]),
            words(1, 99, &[77, 0]),
            words(9, 0, &[77, 0]),
            words(2, 0, &[1, 2, 3]),
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

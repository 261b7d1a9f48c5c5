//! Bytes of a perf record to an event. Pure: every length is doubted, nothing panics.

use aya_obj::generated::perf_event_type;

const MISC_CPU_MODE_MASK: u16 = 7;
const MISC_USER: u16 = 2;
const MISC_EXEC: u16 = 1 << 13;
const MISC_MAPPING_HAS_BUILD_ID: u16 = 1 << 14;
/// `PERF_RECORD_KSYMBOL_FLAGS_UNREGISTER`.
const KSYMBOL_UNREGISTER: u16 = 1;
const PROT_EXEC: u32 = 4;

/// Bytes of a record's header: type, misc, size.
const HEADER_BYTES: usize = 8;
/// What follows every record because of `sample_id_all` with `PERF_SAMPLE_TID | PERF_SAMPLE_TIME`: pid, tid, time.
const TRAILER_BYTES: usize = 16;
/// Longest build id that a record has room for.
const BUILD_ID_BYTES_MAX: usize = 20;

/// Why a record is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record is shorter than what its type promises.
    #[error("a perf record of type {kind} has only {length_bytes} bytes")]
    TooShort {
        /// Its type.
        kind: u32,
        /// Its length.
        length_bytes: usize,
    },
    /// The record contradicts itself.
    #[error("a perf record of type {kind} is malformed: {what}")]
    Malformed {
        /// Its type.
        kind: u32,
        /// What is wrong.
        what: &'static str,
    },
}

/// Which file was mapped. The kernel tells one or the other, never both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileIdentity {
    /// Its build id, read by the kernel when it was mapped.
    BuildId(Box<[u8]>),
    /// Where it is stored. All zero for code that is in no file.
    Inode {
        /// Major number of the device.
        device_major: u32,
        /// Minor number of the device.
        device_minor: u32,
        /// Number of the inode.
        number: u64,
        /// Generation of the inode.
        generation: u64,
    },
}

/// Something that a process did. Times are nanoseconds of the boot-time clock; names and paths are the kernel's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidebandEvent {
    /// A thread was made: a new process if `pid` is `tid`, else one more thread of `pid`.
    Fork {
        /// The process of the new thread.
        pid: u32,
        /// The process that made it.
        parent_pid: u32,
        /// The new thread.
        tid: u32,
        /// When.
        time_ns: u64,
    },
    /// A process runs another program from now on; its other threads and all of its mappings are gone.
    Exec {
        /// The process.
        pid: u32,
        /// Its new name.
        name: Box<[u8]>,
        /// When.
        time_ns: u64,
    },
    /// A thread changed its name.
    Rename {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
        /// The new name.
        name: Box<[u8]>,
        /// When.
        time_ns: u64,
    },
    /// A process mapped code.
    Mapped {
        /// The process.
        pid: u32,
        /// The thread that did it.
        tid: u32,
        /// When.
        time_ns: u64,
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
        /// Where in the file the mapping begins, in bytes.
        file_offset: u64,
        /// The path as obs would see it if it were in the same mount namespace; `//anon`, `[vdso]`, … for what is no file.
        path: Box<[u8]>,
        /// Which file.
        file: FileIdentity,
    },
    /// A thread ended.
    Exited {
        /// Its process.
        pid: u32,
        /// The thread; the process's first if equal to `pid` (others may live on for a while).
        tid: u32,
        /// When.
        time_ns: u64,
    },
    /// Machine code came into the kernel, or left it: a BPF program, a trampoline.
    KernelCode {
        /// First address.
        start: u64,
        /// Bytes of it.
        length_bytes: u32,
        /// The kernel's name for it.
        name: Box<[u8]>,
        /// Whether it came.
        is_loaded: bool,
        /// When.
        time_ns: u64,
    },
    /// A ring was full.
    Lost {
        /// Records that are missing.
        count: u64,
        /// When it was noticed.
        time_ns: u64,
    },
}

impl SidebandEvent {
    /// When it happened, in nanoseconds of the boot-time clock.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Fork { time_ns, .. }
            | Self::Exec { time_ns, .. }
            | Self::Rename { time_ns, .. }
            | Self::Mapped { time_ns, .. }
            | Self::Exited { time_ns, .. }
            | Self::KernelCode { time_ns, .. }
            | Self::Lost { time_ns, .. } => *time_ns,
        }
    }

    /// The process that it happened to.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Fork { pid, .. }
            | Self::Exec { pid, .. }
            | Self::Rename { pid, .. }
            | Self::Mapped { pid, .. }
            | Self::Exited { pid, .. } => Some(*pid),
            Self::KernelCode { .. } | Self::Lost { .. } => None,
        }
    }
}

/// Reads fields in order.
struct Reader<'a> {
    rest: &'a [u8],
    too_short: DecodeError,
}

impl Reader<'_> {
    fn u32(&mut self) -> Result<u32, DecodeError> {
        let (value, rest) = self.rest.split_first_chunk::<4>().ok_or(self.too_short)?;
        self.rest = rest;
        Ok(u32::from_ne_bytes(*value))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        let (value, rest) = self.rest.split_first_chunk::<8>().ok_or(self.too_short)?;
        self.rest = rest;
        Ok(u64::from_ne_bytes(*value))
    }

    /// What is left, up to the first NUL.
    fn text(&self) -> Box<[u8]> {
        self.rest.split(|byte| *byte == 0).next().unwrap_or_default().into()
    }
}

/// Turns one record, header included, of an event opened by [`super::Sideband`] into an event; nothing for records of
/// other types, for mappings that are not code, and for what belongs to the kernel.
///
/// `build_ids` says whether the event asked for build ids. The record's own mark does not: the kernel (6.18 still) leaves
/// it set in records for those who did not ask, after it wrote one for somebody who did.
///
/// # Errors
///
/// The record is too short or contradicts itself.
pub fn decode(record: &[u8], build_ids: bool) -> Result<Option<SidebandEvent>, DecodeError> {
    let too_short = |kind| DecodeError::TooShort { kind, length_bytes: record.len() };
    let (header, body) = record.split_first_chunk::<HEADER_BYTES>().ok_or(too_short(0))?;
    let [a, b, c, d, misc @ .., _, _] = *header;
    let (kind, misc) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes(misc));
    let too_short = too_short(kind);
    let is = |wanted: perf_event_type| kind == wanted as u32;

    let known = is(perf_event_type::PERF_RECORD_FORK)
        || is(perf_event_type::PERF_RECORD_EXIT)
        || is(perf_event_type::PERF_RECORD_COMM)
        || is(perf_event_type::PERF_RECORD_MMAP2)
        || is(perf_event_type::PERF_RECORD_KSYMBOL)
        || is(perf_event_type::PERF_RECORD_LOST);
    if !known {
        return Ok(None);
    }
    let (body, trailer) = body.split_at_checked(body.len().wrapping_sub(TRAILER_BYTES)).ok_or(too_short)?;
    let mut trailer = Reader { rest: &trailer[8..], too_short };
    let time_ns = trailer.u64()?;
    let mut body = Reader { rest: body, too_short };

    if is(perf_event_type::PERF_RECORD_LOST) {
        let _event_id = body.u64()?;
        return Ok(Some(SidebandEvent::Lost { count: body.u64()?, time_ns }));
    }
    if is(perf_event_type::PERF_RECORD_KSYMBOL) {
        let (start, length_bytes, kind_and_flags) = (body.u64()?, body.u32()?, body.u32()?);
        // Two numbers of 16 bits, of which the flags come second.
        let [_, _, flags @ ..] = kind_and_flags.to_ne_bytes();
        let is_loaded = u16::from_ne_bytes(flags) & KSYMBOL_UNREGISTER == 0;
        return Ok(Some(SidebandEvent::KernelCode { start, length_bytes, name: body.text(), is_loaded, time_ns }));
    }
    let pid = body.u32()?;
    if is(perf_event_type::PERF_RECORD_FORK) || is(perf_event_type::PERF_RECORD_EXIT) {
        let (parent_pid, tid, _parent_tid, time_ns) = (body.u32()?, body.u32()?, body.u32()?, body.u64()?);
        return Ok(Some(if is(perf_event_type::PERF_RECORD_FORK) {
            SidebandEvent::Fork { pid, parent_pid, tid, time_ns }
        } else {
            SidebandEvent::Exited { pid, tid, time_ns }
        }));
    }
    let tid = body.u32()?;
    if is(perf_event_type::PERF_RECORD_COMM) {
        let name = body.text();
        let is_exec = misc & MISC_EXEC != 0;
        return Ok(Some(if is_exec {
            SidebandEvent::Exec { pid, name, time_ns }
        } else {
            SidebandEvent::Rename { pid, tid, name, time_ns }
        }));
    }
    let misc = if build_ids { misc } else { misc & !MISC_MAPPING_HAS_BUILD_ID };
    mapping(misc, pid, tid, time_ns, body)
}

fn mapping(
    misc: u16,
    pid: u32,
    tid: u32,
    time_ns: u64,
    mut body: Reader<'_>,
) -> Result<Option<SidebandEvent>, DecodeError> {
    let malformed = |what| DecodeError::Malformed { kind: perf_event_type::PERF_RECORD_MMAP2 as u32, what };
    let (start, length, file_offset) = (body.u64()?, body.u64()?, body.u64()?);
    let file = if misc & MISC_MAPPING_HAS_BUILD_ID != 0 {
        let (id, rest) = body.rest.split_first_chunk::<{ 4 + BUILD_ID_BYTES_MAX }>().ok_or(body.too_short)?;
        body.rest = rest;
        let length = usize::from(id[0]);
        let id = id[4..].get(..length).filter(|id| !id.is_empty());
        FileIdentity::BuildId(id.ok_or(malformed("a build id of an impossible length"))?.into())
    } else {
        FileIdentity::Inode {
            device_major: body.u32()?,
            device_minor: body.u32()?,
            number: body.u64()?,
            generation: body.u64()?,
        }
    };
    let (protection, _flags) = (body.u32()?, body.u32()?);
    if protection & PROT_EXEC == 0 || misc & MISC_CPU_MODE_MASK != MISC_USER {
        return Ok(None);
    }
    let end = start.checked_add(length).ok_or(malformed("a mapping ends after the last address"))?;
    let path = body.text();
    Ok(Some(SidebandEvent::Mapped { pid, tid, time_ns, start, end, file_offset, path, file }))
}

#[cfg(test)]
mod tests;

//! bpf(2): programs, what they cost, and what they are attached to.

use std::{
    ffi::CStr,
    fs::File,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_prog_info, bpf_prog_type};

use super::{
    SysError,
    bpf::{NAME_BYTES, ObjectInfo, address_of, call, call_for_fd, name_bytes, name_text},
};

/// Bytes of the verifier's words that are kept when it rejects a program.
const VERIFIER_LOG_BYTES: usize = 64 << 10;
/// `BPF_STATS_RUN_TIME`.
const STATS_RUN_TIME: u32 = 0;

// Attributes, written without padding, see `bpf`.

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    padding: u32,
}

#[repr(C)]
struct TypesLoad {
    btf: u64,
    log: u64,
    btf_bytes: u32,
    log_bytes: u32,
    log_level: u32,
    padding: u32,
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

#[repr(C)]
struct IteratorCreate {
    link_fd: u32,
    flags: u32,
}

#[repr(C)]
struct EnableStats {
    kind: u32,
}

/// A program to be loaded, as bare instructions.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec<'a> {
    /// Its type.
    pub kind: bpf_prog_type,
    /// Its instructions, in the kernel's own form.
    pub instructions: &'a [u64],
    /// How it will be attached, where its type does not say.
    pub attach_type: Option<bpf_attach_type>,
    /// The number of the kernel's type that it will be attached to, for `tp_btf`, `fentry` and iterators.
    pub attach_btf_id: u32,
    /// Where its functions begin and which types they have; needed if it hands one of them to a helper.
    pub functions: Option<Functions<'a>>,
    /// Its name, cut after 15 bytes.
    pub name: &'a str,
}

/// Describes the functions of a program.
#[derive(Clone, Copy, Debug)]
pub struct Functions<'a> {
    /// Types, loaded by [`load_types`].
    pub types: BorrowedFd<'a>,
    /// The first instruction of each function and the number of its type, in the order of the instructions.
    pub starts: &'a [[u32; 2]],
}

/// Hands type information (BTF) to the kernel, for programs to refer to.
///
/// # Errors
///
/// The kernel refuses.
pub fn load_types(btf: &[u8]) -> Result<OwnedFd, SysError> {
    let mut attributes =
        TypesLoad { btf: address_of(btf), log: 0, btf_bytes: btf.len() as u32, log_bytes: 0, log_level: 0, padding: 0 };
    // SAFETY: `btf` addresses `btf_bytes` bytes that outlive the call, which reads them; the command returns a descriptor.
    let loaded = unsafe { call_for_fd(bpf_cmd::BPF_BTF_LOAD, &mut attributes) };
    loaded.map_err(|source| SysError::new("loading type information (BTF)", source))
}

/// Loads a program under the licence GPL. It is unloaded when the descriptor, and whatever it is attached to, is closed.
///
/// # Errors
///
/// The kernel refuses; if the verifier said why, its last words are part of the error.
pub fn load_program(spec: &ProgramSpec<'_>) -> Result<OwnedFd, SysError> {
    let mut log = Vec::new();
    let source = match load(spec, &mut log) {
        Ok(program) => return Ok(program),
        Err(source) => source,
    };
    let attempted = format!("loading a program of type {:?}", spec.kind);
    if !matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) {
        return Err(SysError::new(attempted, source));
    }
    log.resize(VERIFIER_LOG_BYTES, 0);
    match load(spec, &mut log) {
        Ok(program) => Ok(program),
        Err(source) => {
            let words = name_text(&log);
            let verdict = words.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed "));
            let mut error = SysError::new(attempted, source);
            if let Some(verdict) = verdict {
                error.attempted += &format!(" (verifier: {verdict})");
                error.by_verifier = true;
            }
            Err(error)
        }
    }
}

fn load(spec: &ProgramSpec<'_>, log: &mut [u8]) -> std::io::Result<OwnedFd> {
    let mut attributes = ProgramLoad {
        prog_type: spec.kind as u32,
        insn_cnt: spec.instructions.len() as u32,
        insns: address_of(spec.instructions),
        license: c"GPL".as_ptr() as u64,
        prog_name: name_bytes(spec.name),
        expected_attach_type: spec.attach_type.map_or(0, |kind| kind as u32),
        attach_btf_id: spec.attach_btf_id,
        ..ProgramLoad::default()
    };
    if let Some(functions) = spec.functions {
        attributes.prog_btf_fd = functions.types.as_raw_fd() as u32;
        attributes.func_info_rec_size = size_of::<[u32; 2]>() as u32;
        attributes.func_info = address_of(functions.starts);
        attributes.func_info_cnt = functions.starts.len() as u32;
    }
    if !log.is_empty() {
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buf = log.as_mut_ptr() as u64;
    }
    // SAFETY: `insns` addresses `insn_cnt` instructions, `license` a string, `func_info` nothing or
    // `func_info_cnt` records, `log_buf` nothing or `log_size` writable bytes; all outlive the call.
    unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Bytes of machine code that it was translated to; 0 if it is interpreted, or if this process may not know.
    pub machine_code_bytes: u32,
    /// Time spent in it while [`enable_stats`] held, in nanoseconds.
    pub run_time_ns: u64,
    /// How often it ran while [`enable_stats`] held.
    pub run_count: u64,
    /// How often it was not run because it was running already (0 before Linux 5.12).
    pub recursion_misses: u64,
    /// Instructions that the verifier processed; nothing before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// Asks what a program is and what it has cost.
///
/// # Errors
///
/// The descriptor is none of a program.
pub fn program_info(program: BorrowedFd<'_>) -> Result<ProgramInfo, SysError> {
    // SAFETY: the structure consists of integers and arrays of integers: all zeroes are a value of it.
    let mut raw: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = ObjectInfo {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<bpf_prog_info>() as u32,
        info: &raw mut raw as u64,
    };
    // SAFETY: `info` addresses `info_len` writable bytes that outlive the call, and the addresses and counts in them are
    // zero, so that the kernel writes nowhere else.
    let asked = unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) };
    asked.map_err(|source| SysError::new("asking what a BPF program is", source))?;
    let known = |end: usize| attributes.info_len as usize >= end;
    if !known(std::mem::offset_of!(bpf_prog_info, recursion_misses)) {
        return Err(SysError::invalid("asking what a BPF program is", "the descriptor is none of a program"));
    }
    let verified_end = std::mem::offset_of!(bpf_prog_info, verified_insns) + size_of::<u32>();
    Ok(ProgramInfo {
        id: raw.id,
        name: name_text(&raw.name.map(|byte| byte as u8)),
        machine_code_bytes: raw.jited_prog_len,
        run_time_ns: raw.run_time_ns,
        run_count: raw.run_cnt,
        recursion_misses: raw.recursion_misses,
        verified_instructions: known(verified_end).then_some(raw.verified_insns),
    })
}

/// Attaches a program of type raw tracepoint (with the tracepoint's name) or tracing (without: it is part of the program)
/// for as long as the descriptor is open.
///
/// # Errors
///
/// The kernel refuses.
pub fn open_raw_tracepoint(name: Option<&CStr>, program: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    let mut attributes = RawTracepointOpen {
        name: name.map_or(0, |name| name.as_ptr() as u64),
        prog_fd: program.as_raw_fd() as u32,
        padding: 0,
    };
    // SAFETY: `name` is nothing or addresses a string that outlives the call; the command returns a descriptor.
    let opened = unsafe { call_for_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes) };
    opened.map_err(|source| match name {
        Some(name) => {
            SysError::new(format!("attaching a program to the raw tracepoint {}", name.to_string_lossy()), source)
        }
        None => SysError::new("attaching a program through BTF", source),
    })
}

/// Attaches an iterator's program. Reading what this returns runs it, once for each thing that there is.
///
/// # Errors
///
/// The kernel refuses.
pub fn open_iterator(program: BorrowedFd<'_>) -> Result<File, SysError> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: bpf_attach_type::BPF_TRACE_ITER as u32,
        flags: 0,
        iter_info: 0,
        iter_info_len: 0,
        padding: 0,
    };
    // SAFETY: there are no addresses in these attributes, and the command returns a descriptor.
    let link = unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes) };
    let link = link.map_err(|source| SysError::new("attaching a program to an iterator", source))?;
    let mut attributes = IteratorCreate { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: as above.
    let iterator = unsafe { call_for_fd(bpf_cmd::BPF_ITER_CREATE, &mut attributes) };
    iterator.map(File::from).map_err(|source| SysError::new("opening an iterator", source))
}

/// Has the kernel measure how long every BPF program of the host runs, until the descriptor is closed. It costs each run
/// two readings of the clock.
///
/// # Errors
///
/// The kernel refuses.
pub fn enable_stats() -> Result<OwnedFd, SysError> {
    let mut attributes = EnableStats { kind: STATS_RUN_TIME };
    // SAFETY: there are no addresses in these attributes, and the command returns a descriptor.
    let enabled = unsafe { call_for_fd(bpf_cmd::BPF_ENABLE_STATS, &mut attributes) };
    enabled.map_err(|source| SysError::new("enabling the run-time statistics of BPF programs", source))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn attributes_have_no_padding() {
        assert_eq!(size_of::<ProgramLoad>(), 120);
        assert_eq!(std::mem::offset_of!(ProgramLoad, attach_btf_id), 108);
        assert_eq!(size_of::<TypesLoad>(), 32);
        assert_eq!(size_of::<RawTracepointOpen>(), 16);
    }

    fn load(instructions: &[u64]) -> Result<OwnedFd, SysError> {
        load_program(&ProgramSpec {
            kind: bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
            instructions,
            attach_type: None,
            attach_btf_id: 0,
            functions: None,
            name: "obs_test",
        })
    }

    /// `r0 = 0`, `exit`.
    const RETURN_ZERO: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

    #[test]
    fn a_program_tells_what_it_is_and_what_it_cost() {
        let program = match load(&RETURN_ZERO.map(u64::from_ne_bytes)) {
            Ok(program) => program,
            Err(error) if error.is_permission() => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let before = program_info(program.as_fd()).expect("it is a program");
        assert_eq!((before.name.as_str(), before.run_count, before.run_time_ns), ("obs_test", 0, 0));
        assert!(before.verified_instructions.is_none_or(|count| count == 2), "{before:?}");

        let stats = enable_stats().expect("as permitted as loading");
        let link = open_raw_tracepoint(Some(c"sched_switch"), program.as_fd()).expect("as permitted as loading");
        std::thread::sleep(std::time::Duration::from_millis(5));
        drop(link);
        drop(stats);
        let after = program_info(program.as_fd()).expect("it is a program");
        assert!(after.run_count > 0 && after.run_time_ns > 0, "{after:?}");
    }

    #[test]
    fn the_verifier_s_verdict_is_part_of_the_error() {
        // `exit` without a value in R0.
        let error = load(&RETURN_ZERO.map(u64::from_ne_bytes)[1..]).expect_err("R0 was never written");
        if !error.is_permission() {
            assert!(error.by_verifier && error.attempted.contains("R0 !read_ok"), "{error}");
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let null = File::open("/dev/null").expect("exists");
        assert!(program_info(null.as_fd()).is_err());
    }
}

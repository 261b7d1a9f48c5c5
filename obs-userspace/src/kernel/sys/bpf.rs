//! bpf(2): maps, programs and what the kernel says of them.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_map_type, bpf_prog_info, bpf_prog_type};

use super::SysError;

/// Bytes of an object's name, its NUL included (`BPF_OBJ_NAME_LEN`).
const NAME_BYTES: usize = 16;
/// Bytes of the verifier's words that are kept when it rejects a program.
const VERIFIER_LOG_BYTES: usize = 64 << 10;
/// `BPF_STATS_RUN_TIME`.
const STATS_RUN_TIME: u32 = 0;

// The attributes of the commands used here, each as far as it is used: the kernel takes what is missing as zero. They
// are written without padding, so that no byte of them is undefined.

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
}

#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Batch {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

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
struct ObjectInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

#[repr(C)]
struct EnableStats {
    kind: u32,
}

#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; NAME_BYTES],
}

/// Makes the system call.
///
/// # Safety
///
/// Every address in `attributes` must be valid for what `command` does with it, for the length that it assumes.
pub(super) unsafe fn call<A>(command: bpf_cmd, attributes: &mut A) -> std::io::Result<i32> {
    let attributes: *mut A = attributes;
    // SAFETY: the attributes live for the call and their size is told; the addresses in them are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Makes a system call that answers with a new descriptor.
///
/// # Safety
///
/// That of [`call`]; and `command` must be one that returns a descriptor.
unsafe fn call_for_fd<A>(command: bpf_cmd, attributes: &mut A) -> std::io::Result<OwnedFd> {
    // SAFETY: the caller's promise. The kernel opens BPF descriptors with close-on-exec.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel just opened this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address_of<T: ?Sized>(value: &T) -> u64 {
    (&raw const *value).cast::<u8>() as u64
}

fn name_bytes(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn name_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A map to be created.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec<'a> {
    /// Its type.
    pub kind: bpf_map_type,
    /// Bytes of a key.
    pub key_size_bytes: u32,
    /// Bytes of a value (of one CPU's value, in a per-CPU map).
    pub value_size_bytes: u32,
    /// Most entries; bytes, for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// Its name, cut after 15 bytes.
    pub name: &'a str,
}

/// Creates a map that lives as long as the descriptor, and as the programs that use it.
///
/// # Errors
///
/// The kernel refuses.
pub fn create_map(spec: &MapSpec<'_>) -> Result<OwnedFd, SysError> {
    let mut attributes = MapCreate {
        map_type: spec.kind as u32,
        key_size: spec.key_size_bytes,
        value_size: spec.value_size_bytes,
        max_entries: spec.max_entries,
        map_flags: spec.flags,
        map_name: name_bytes(spec.name),
        ..MapCreate::default()
    };
    // SAFETY: there are no addresses in these attributes, and the command returns a descriptor.
    let created = unsafe { call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes) };
    created.map_err(|source| SysError::new(format!("creating a map of type {:?}", spec.kind), source))
}

/// What the kernel says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// The number of its type (`enum bpf_map_type`).
    pub kind: u32,
    /// Its id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size_bytes: u32,
    /// Bytes of a value (of one CPU's value, in a per-CPU map).
    pub value_size_bytes: u32,
    /// Most entries; bytes, for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// Its name.
    pub name: String,
}

/// Asks what a map is. (Of a program's descriptor this tells nonsense; the kernel refuses whatever follows from it.)
///
/// # Errors
///
/// The descriptor is none of a BPF object.
pub fn map_info(map: BorrowedFd<'_>) -> Result<MapInfo, SysError> {
    let mut raw = RawMapInfo::default();
    let mut attributes = ObjectInfo {
        bpf_fd: map.as_raw_fd() as u32,
        info_len: size_of::<RawMapInfo>() as u32,
        info: &raw mut raw as u64,
    };
    // SAFETY: `info` addresses `info_len` writable bytes that outlive the call; any bytes are a valid `RawMapInfo`.
    let asked = unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) };
    asked.map_err(|source| SysError::new("asking what a BPF map is", source))?;
    Ok(MapInfo {
        kind: raw.map_type,
        id: raw.id,
        key_size_bytes: raw.key_size,
        value_size_bytes: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.map_flags,
        name: name_text(&raw.name),
    })
}

/// The memory that a map takes in the kernel, in bytes (`memlock` in `/proc/self/fdinfo`): all that it can hold for maps
/// that are allocated at once, what it holds now for the others (since Linux 6.4; an estimate before).
///
/// # Errors
///
/// `/proc` cannot be read, or the descriptor is none of a map.
pub fn map_memory_bytes(map: BorrowedFd<'_>) -> Result<u64, SysError> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let attempted = || format!("reading a map's memory from {path}");
    let text = std::fs::read_to_string(&path).map_err(|source| SysError::new(attempted(), source))?;
    memlock(&text)
        .ok_or_else(|| SysError::invalid(attempted(), "there is no line memlock: the descriptor is none of a map"))
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Sets an element of a map whose values are not per CPU.
///
/// # Errors
///
/// The types have other sizes than the map's keys and values, or the kernel refuses.
pub fn update_element<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> Result<(), SysError> {
    update(map, key, std::slice::from_ref(value), false)
}

/// Sets an element of a per-CPU map: one value for each possible CPU.
///
/// # Errors
///
/// As [`update_element`]; values of a size that is no multiple of 8 bytes; another number of values than of CPUs.
pub fn update_element_per_cpu<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    values: &[V],
) -> Result<(), SysError> {
    update(map, key, values, true)
}

fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, values: &[V], per_cpu: bool) -> Result<(), SysError> {
    let shape = MapShape::check::<K, V>(map)?;
    if shape.per_cpu != per_cpu || values.len() != shape.values_per_key {
        return Err(SysError::invalid("setting an element of a map", "another number of values than the map has"));
    }
    let mut attributes = Element {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: address_of(key),
        value: address_of(values),
        flags: 0,
    };
    // SAFETY: key and values have the sizes of this map, checked above, and outlive the call, which reads them.
    let updated = unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) };
    updated.map(drop).map_err(|source| SysError::new("setting an element of a map", source))
}

/// What must be known of a map before the kernel may be given addresses of its keys and values.
pub(super) struct MapShape {
    pub(super) info: MapInfo,
    pub(super) per_cpu: bool,
    pub(super) values_per_key: usize,
}

impl MapShape {
    /// Fails unless `K` and `V` have the sizes that the kernel will read and write.
    pub(super) fn check<K, V>(map: BorrowedFd<'_>) -> Result<Self, SysError> {
        let info = map_info(map)?;
        let attempted = || format!("accessing map {} ({})", info.id, info.name);
        let per_cpu = [
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
        ]
        .iter()
        .any(|kind| *kind as u32 == info.kind);
        if info.key_size_bytes as usize != size_of::<K>() || info.value_size_bytes as usize != size_of::<V>() {
            let sizes = (info.key_size_bytes, info.value_size_bytes, size_of::<K>(), size_of::<V>());
            let why =
                format!("its keys and values have {} and {} bytes, not {} and {}", sizes.0, sizes.1, sizes.2, sizes.3);
            return Err(SysError::invalid(attempted(), why));
        }
        // The kernel rounds each CPU's value up to 8 bytes; a slice of `V` has that stride for such sizes only.
        if per_cpu && !size_of::<V>().is_multiple_of(8) {
            return Err(SysError::invalid(attempted(), "values of per-CPU maps must be multiples of 8 bytes"));
        }
        let values_per_key = if per_cpu { super::possible_cpus()? } else { 1 };
        Ok(Self { info, per_cpu, values_per_key })
    }
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
    /// Its name, cut after 15 bytes.
    pub name: &'a str,
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
            let verdict = verdict.map(|line| format!(" (verifier: {line})")).unwrap_or_default();
            Err(SysError::new(attempted + &verdict, source))
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
    if !log.is_empty() {
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buf = log.as_mut_ptr() as u64;
    }
    // SAFETY: `insns` addresses `insn_cnt` instructions, `license` a string, `log_buf` nothing or `log_size` writable
    // bytes; all outlive the call.
    unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
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

/// Maps the first bytes of an mmapable array into this process and releases them again.
///
/// # Errors
///
/// The map was not created with `BPF_F_MMAPABLE`, or there is no memory.
pub fn try_mmap(map: impl AsFd, length_bytes: usize) -> Result<(), SysError> {
    super::ring::Mapping::new(map.as_fd(), length_bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_memory_of_a_map() {
        assert_eq!(memlock("pos:\t0\nmap_type:\t1\nmemlock:\t8192\nmap_id:\t3\n"), Some(8192));
        assert_eq!(memlock("pos:\t0\nflags:\t02\n"), None);
        assert_eq!(memlock("memlock:\tlots\n"), None);
    }

    #[test]
    fn names_are_cut_and_end_in_a_nul() {
        assert_eq!(&name_bytes("obs"), b"obs\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&name_bytes("a_name_that_is_too_long"), b"a_name_that_is_\0");
        assert_eq!(name_text(&name_bytes("obs")), "obs");
    }

    #[test]
    fn attributes_have_no_padding() {
        assert_eq!(size_of::<MapCreate>(), 28 + NAME_BYTES);
        assert_eq!(size_of::<Element>(), 32);
        assert_eq!(size_of::<Batch>(), 56);
        assert_eq!(size_of::<ProgramLoad>(), 120);
        assert_eq!(std::mem::offset_of!(ProgramLoad, attach_btf_id), 108);
        assert_eq!(size_of::<RawMapInfo>(), 40);
    }
}

//! Brings a BPF object into the kernel: constants first, then maps, then the programs that are wanted.

mod unused;

pub(crate) use self::unused::maps as unused_maps;

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, Map},
    programs::{ProgramError, ProgramType},
    sys::is_helper_supported,
};
use aya_obj::{VerifierLog, generated::bpf_func_id};
use obs_common::{
    filter::{BY_CGROUP, BY_COMM, BY_TGID, BY_TID, CHOSEN, CHOSEN_AT_EXEC, NOT_SELF},
    limits::{CGROUP_DEPTH_MAX, COMM_BYTES, FILTER_ENTRIES_MAX},
    unwind_map::ARENA_BLOCK_WORDS,
};

use super::{
    attach::Attached,
    btf::{self, Btf, BtfError},
    heap,
    offsets::{BITS, BitPlace, OFFSETS, OPTIONAL_OFFSETS, Offset},
};
use crate::config::{filter::Filter, waits::WaitSettings};

/// Size of the ring for diagnostics of BPF programs while nobody asked for them: the least there can be.
const SILENT_LOG_BYTES: u32 = 4_096;

/// Why a BPF object could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused for want of privileges.
    #[error(
        "the kernel does not let this user {what}; run obs as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, \
         CAP_DAC_READ_SEARCH, CAP_SYSLOG and CAP_CHECKPOINT_RESTORE (`obs doctor` says which is missing)"
    )]
    NotPermitted {
        /// What was attempted.
        what: String,
    },
    /// The kernel's type information cannot be used.
    #[error("cannot learn the layout of this kernel's structures from {}: {why}", path.display())]
    Btf {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        why: BtfError,
    },
    /// The object was refused.
    #[error("the kernel refused {what}: {why}")]
    Object {
        /// Which object or program.
        what: String,
        /// What aya says.
        why: String,
    },
    /// A program was refused or could not be attached.
    #[error("the kernel refused to {what}: {why}")]
    Program {
        /// Which program, and what was to be done with it.
        what: String,
        /// What aya says, the verifier's last words included.
        why: String,
    },
    /// A map could not be read or written.
    #[error("cannot use the BPF map {map}: {why}")]
    Map {
        /// Which map.
        map: &'static str,
        /// What went wrong.
        why: String,
    },
    /// An object lacks a program or a map that its collector expects; a mistake of ours.
    #[error("the BPF object {object} has no {part}: this obs was built from parts that do not belong together")]
    Missing {
        /// Which object.
        object: &'static str,
        /// Which part.
        part: &'static str,
    },
    /// The chosen cgroup cannot be filtered by.
    #[error("cannot filter by the cgroup {}: {why}", path.display())]
    Cgroup {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A filter has more entries than the kernel side holds.
    #[error("cannot filter by {count} {kind}: at most {FILTER_ENTRIES_MAX} fit")]
    FilterTooLong {
        /// What of.
        kind: &'static str,
        /// How many were given.
        count: usize,
    },
    /// A system call failed.
    #[error("cannot {what}: {why}")]
    System {
        /// What was attempted.
        what: String,
        /// Why it failed.
        why: io::Error,
    },
}

impl KernelError {
    /// Classifies a failure of a program.
    pub(super) fn program(what: String, source: ProgramError) -> Self {
        let denied = match &source {
            // The verifier, too, answers with EACCES; but it says why.
            ProgramError::LoadError { io_error, verifier_log } => {
                is_denied(io_error) && verifier_log.to_string().trim().is_empty()
            }
            ProgramError::SyscallError(error) => is_denied(&error.io_error),
            _ => false,
        };
        if denied { Self::NotPermitted { what } } else { Self::Program { what, why: whole(&shorten(source)) } }
    }

    /// Classifies a failure of a system call.
    pub(super) fn system(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        if is_denied(&source) { Self::NotPermitted { what } } else { Self::System { what, why: source } }
    }
}

/// An error and its causes in one line. Some errors quote their cause, some do not.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Leaves of the verifier's log, which begins with every instruction that was right, what it ends with.
fn shorten(error: ProgramError) -> ProgramError {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier's whole log");
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(VERIFIER_LINES_SHOWN)..].join("\n");
    ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(format!("…\n{last}")) }
}

/// Whether an error means that the user may not.
fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied)
}

/// Lines of the verifier's log that an error shows.
const VERIFIER_LINES_SHOWN: usize = 24;

/// How to load an object.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Whom to measure.
    pub filter: &'a Filter,
    /// Whether the programs' own diagnostics are wanted.
    pub log: bool,
    /// Memory for unwind tables, in bytes.
    pub unwind_bytes: u32,
    /// What is measured of waits.
    pub waits: WaitSettings,
    /// What else is fixed at load: names of constants and their values.
    pub constants: &'a [(&'static str, u32)],
    /// Maps with another room than usual: their names and how many entries they have.
    pub entries: &'a [(&'static str, u32)],
}

/// A BPF object whose maps are in the kernel. Its programs are loaded when they are attached; dropping it removes all.
pub struct Object {
    pub(super) name: &'static str,
    pub(super) ebpf: Ebpf,
    pub(super) attached: Vec<Attached>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Object").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Creates an object's maps and prepares its programs.
///
/// # Errors
/// See [`KernelError`].
pub fn load(name: &'static str, bytes: &[u8], options: &LoadOptions<'_>) -> Result<Object, KernelError> {
    let constants = layout()?;
    let flags = filter_flags(options.filter);
    let own_pid = std::process::id();
    let log_level = if options.log { u8::MAX } else { 0 };

    let mut loader = EbpfLoader::new();
    for (name, value) in &constants {
        loader.override_global(name, value, false);
    }
    let WaitSettings { threshold, wakers, running } = options.waits;
    let threshold_ns = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
    let (wakers, running) = (u8::from(wakers), u8::from(running));
    loader.override_global("WAIT_THRESHOLD_NS", &threshold_ns, false);
    loader.override_global("NOTES_WAKERS", &wakers, false);
    loader.override_global("COUNTS_RUNNING", &running, false);
    for (name, value) in options.constants {
        loader.override_global(name, value, true);
    }
    loader.override_global("FILTER_FLAGS", &flags, false);
    loader.override_global("SELF_TGID", &own_pid, false);
    loader.override_global(aya_log::LEVEL, &log_level, false);
    if !options.log {
        loader.map_max_entries("AYA_LOGS", SILENT_LOG_BYTES);
    }
    let blocks = options.unwind_bytes.div_ceil(4 * ARENA_BLOCK_WORDS as u32).max(1);
    loader.map_max_entries("UNWIND_ARENA", blocks);
    for (map, entries) in options.entries {
        loader.map_max_entries(map, *entries);
    }
    let unused = unused_maps(bytes);
    for (map, entries) in &unused {
        loader.map_max_entries(map, *entries);
    }
    let has_loop_helper = u8::from(has_loop_helper());
    loader.override_global("HAS_LOOP_HELPER", &has_loop_helper, false);
    let ebpf = loader.load(bytes).map_err(|error| {
        let what = format!("the BPF object {name}");
        match &error {
            EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) if is_denied(io_error) => {
                KernelError::NotPermitted { what: "create BPF maps".to_owned() }
            }
            _ => KernelError::Object { what, why: whole(&error) },
        }
    })?;
    // aya reads all of the kernel's types on the way: 20 MB.
    heap::give_back();
    let mut object = Object { name, ebpf, attached: Vec::new() };
    fill_filter(&mut object, options.filter)?;
    Ok(object)
}

/// Whether the kernel has `bpf_loop` (Linux 5.17).
fn has_loop_helper() -> bool {
    // If it cannot be found out, the program is loaded without: it walks less deep, but it loads everywhere.
    is_helper_supported(ProgramType::PerfEvent, bpf_func_id::BPF_FUNC_loop).unwrap_or(false)
}

/// Where this kernel keeps its fields: the constants' names and their values.
fn layout() -> Result<Vec<(&'static str, u32)>, KernelError> {
    let path = btf::path();
    let wrap = |why| KernelError::Btf { path: path.clone(), why };
    let btf = Btf::open(&path).map_err(wrap)?;
    let required = btf.resolve(&OFFSETS.map(|offset| (offset.structure, offset.field))).map_err(wrap)?;
    let mut constants: Vec<_> = OFFSETS.iter().map(|offset| offset.global).zip(required).collect();
    for Offset { global, structure, field } in OPTIONAL_OFFSETS {
        if let Ok(offset_bytes) = btf.field_offset_bytes(structure, field) {
            constants.push((global, offset_bytes));
        }
    }
    for BitPlace { offset, mask, structure, field } in BITS {
        let bit = btf.bit(structure, field).map_err(wrap)?;
        constants.extend([(offset, bit.offset_bytes), (mask, u32::from(bit.mask))]);
    }
    Ok(constants)
}

fn filter_flags(filter: &Filter) -> u32 {
    let Filter { pids, pids_at_exec, tids, comms, cgroups, follow_children: _, exclude_self } = filter;
    [
        (!pids.is_empty() || !pids_at_exec.is_empty(), BY_TGID),
        (!tids.is_empty(), BY_TID),
        (!comms.is_empty(), BY_COMM),
        (!cgroups.is_empty(), BY_CGROUP),
        (*exclude_self, NOT_SELF),
    ]
    .into_iter()
    .filter_map(|(wanted, flag)| wanted.then_some(flag))
    .sum()
}

fn fill_filter(object: &mut Object, filter: &Filter) -> Result<(), KernelError> {
    fill(object, "FILTER_TGIDS", "processes", CHOSEN, filter.pids.iter().copied())?;
    fill(object, "FILTER_TGIDS", "processes", CHOSEN_AT_EXEC, filter.pids_at_exec.iter().copied())?;
    fill(object, "FILTER_TIDS", "threads", CHOSEN, filter.tids.iter().copied())?;
    fill(object, "FILTER_COMMS", "names", CHOSEN, filter.comms.iter().map(|name| comm(name)))?;
    let ids = filter.cgroups.iter().map(|path| cgroup_id(path)).collect::<Result<Vec<_>, _>>()?;
    fill(object, "FILTER_CGROUPS", "cgroups", CHOSEN, ids.into_iter())
}

fn fill<K: aya::Pod>(
    object: &mut Object,
    map: &'static str,
    kind: &'static str,
    choice: u8,
    keys: impl ExactSizeIterator<Item = K>,
) -> Result<(), KernelError> {
    if keys.len() == 0 {
        return Ok(());
    }
    if keys.len() > FILTER_ENTRIES_MAX as usize {
        return Err(KernelError::FilterTooLong { kind, count: keys.len() });
    }
    let mut entries: HashMap<_, K, u8> = object.map_mut(map)?;
    for key in keys {
        entries.insert(key, choice, 0).map_err(|error| KernelError::Map { map, why: error.to_string() })?;
    }
    Ok(())
}

/// A name as the kernel keeps it: cut to 15 bytes, NUL-padded.
fn comm(name: &str) -> [u8; COMM_BYTES] {
    let mut comm = [0; COMM_BYTES];
    let kept = name.len().min(COMM_BYTES - 1);
    comm[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    comm
}

/// The id by which the kernel knows a folder of the unified cgroup hierarchy: its inode number.
fn cgroup_id(path: &Path) -> Result<u64, KernelError> {
    let fail = |why: String| KernelError::Cgroup { path: path.to_owned(), why };
    let metadata = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    let folder = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let filesystem = rustix::fs::fstatfs(folder.as_fd()).map_err(|error| fail(error.to_string()))?;
    /// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
    const CGROUP2: i64 = 0x6367_7270;
    if !metadata.is_dir() || filesystem.f_type as i64 != CGROUP2 {
        let why = "it is no folder of the unified (version 2) cgroup hierarchy, the only one by which the kernel side \
                   can filter; `findmnt -t cgroup2` shows where it is mounted";
        return Err(fail(why.to_owned()));
    }
    let mount_device = metadata.dev();
    let depth =
        path.ancestors().take_while(|folder| fs::metadata(folder).is_ok_and(|m| m.dev() == mount_device)).count();
    if depth > CGROUP_DEPTH_MAX as usize {
        return Err(fail(format!("it lies deeper than {CGROUP_DEPTH_MAX} levels")));
    }
    Ok(metadata.ino())
}

impl Object {
    /// A map by name, as the type that the caller knows it to be.
    pub(super) fn map_mut<'a, M>(&'a mut self, name: &'static str) -> Result<M, KernelError>
    where
        M: TryFrom<&'a mut Map, Error = aya::maps::MapError>,
    {
        let object = self.name;
        let map = self.ebpf.map_mut(name).ok_or(KernelError::Missing { object, part: name })?;
        M::try_from(map).map_err(|error| KernelError::Map { map: name, why: error.to_string() })
    }

    /// Takes a map out of the object, as the type that the caller knows it to be.
    pub(super) fn take_map<M>(&mut self, name: &'static str) -> Result<M, KernelError>
    where
        M: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let object = self.name;
        let map = self.ebpf.take_map(name).ok_or(KernelError::Missing { object, part: name })?;
        M::try_from(map).map_err(|error| KernelError::Map { map: name, why: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::from_raw_os_error(24);
        let silent = Failed { text: "no map", source: cause() };
        assert_eq!(whole(&silent), "no map: Too many open files (os error 24)");
        let quoting = Failed { text: "no map: Too many open files (os error 24)", source: cause() };
        assert_eq!(whole(&quoting), quoting.text);
    }
}

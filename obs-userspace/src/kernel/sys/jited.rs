//! Where the machine code of loaded BPF programs lies.

use std::{
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_cmd, bpf_prog_info};

use super::{
    SysError,
    bpf::{ObjectInfo, call, call_for_fd},
};

/// Most programs that are looked at; hosts with many have some hundred.
const PROGRAMS_MAX: usize = 16_384;
/// Most functions of one program: the kernel's own bound is lower (`BPF_MAX_SUBPROGS`, 256).
const FUNCTIONS_MAX: u32 = 1_024;

#[repr(C)]
#[derive(Default)]
struct NextId {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The code of every function of every program that is loaded now: first address, and the one behind the last.
///
/// # Errors
/// The privilege to look at other processes' programs is missing (`CAP_SYS_ADMIN`).
pub fn jited_functions() -> Result<Vec<Range<u64>>, SysError> {
    let mut functions = Vec::new();
    let mut id = 0;
    for _ in 0..PROGRAMS_MAX {
        let mut next = NextId { id, ..NextId::default() };
        // SAFETY: the attributes hold no address.
        match unsafe { call(bpf_cmd::BPF_PROG_GET_NEXT_ID, &mut next) } {
            Ok(_) => id = next.next_id,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(source) => return Err(SysError::new("listing BPF programs", source)),
        }
        let mut attributes = NextId { id, ..NextId::default() };
        // SAFETY: the attributes hold no address, and the command returns a descriptor.
        match unsafe { call_for_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes) } {
            Ok(program) => functions.extend(functions_of(&program)?),
            // It was unloaded since.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => return Err(SysError::new("opening a BPF program", source)),
        }
    }
    Ok(functions)
}

fn functions_of(program: &OwnedFd) -> Result<Vec<Range<u64>>, SysError> {
    let ask = |info: &mut bpf_prog_info| {
        let mut attributes = ObjectInfo {
            bpf_fd: program.as_raw_fd() as u32,
            info_len: size_of::<bpf_prog_info>() as u32,
            info: (&raw mut *info) as u64,
        };
        // SAFETY: `info` addresses `info_len` writable bytes; the lists that it names have room for as many elements as it says,
        // and outlive the call.
        let asked = unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) };
        asked.map(drop).map_err(|source| SysError::new("asking where a BPF program's code is", source))
    };
    // SAFETY: the structure is integers only, for which zeroes are valid.
    let mut counts: bpf_prog_info = unsafe { std::mem::zeroed() };
    ask(&mut counts)?;
    let count = counts.nr_jited_ksyms.min(counts.nr_jited_func_lens).min(FUNCTIONS_MAX);
    let (mut starts, mut lengths) = (vec![0_u64; count as usize], vec![0_u32; count as usize]);
    // SAFETY: as above.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_jited_ksyms = count;
    info.jited_ksyms = starts.as_mut_ptr() as u64;
    info.nr_jited_func_lens = count;
    info.jited_func_lens = lengths.as_mut_ptr() as u64;
    ask(&mut info)?;
    // Without the privilege to know kernel addresses they read as zero.
    let known = starts.into_iter().zip(lengths).filter(|(start, _)| *start != 0);
    Ok(known.map(|(start, length)| start..start.saturating_add(length.into())).collect())
}

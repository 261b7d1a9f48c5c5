//! TCP: how long connections take to be made, round-trip times, segments that are sent again.
//!
//! Segments arrive in anybody's context. A socket is its process's who connected it or who reads from it.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};
use obs_common::latency::{ConnectOutcome, LatencyOwner, LatencySource, LatencyStart};

use super::{
    LATENCY_OWNERS, LATENCY_STARTS, add, begin, count, measures, needs_owner, now_ns, owner_of, remember_owner,
};
use crate::{
    filter,
    task::{ABSENT, Task},
};

#[unsafe(no_mangle)]
static OFFSET_SOCK_PROTOCOL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TCP_SOCK_SRTT_US: Global<u32> = Global::new(0);
/// Where a buffer keeps what belongs to the protocol, which is a `tcp_skb_cb` here.
#[unsafe(no_mangle)]
static OFFSET_SK_BUFF_CB: Global<u32> = Global::new(0);
/// [`ABSENT`] in kernels that do not describe the structure.
#[unsafe(no_mangle)]
static OFFSET_TCP_SKB_CB_GSO_SEGS: Global<u32> = Global::new(ABSENT);

/// `IPPROTO_TCP`.
const PROTOCOL: u16 = 6;

// States of net/tcp_states.h.
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const CLOSE: i32 = 7;

/// The kernel keeps the smoothed round-trip time in eighths of a microsecond.
const SRTT_UNIT_NS: u64 = 125;

/// A socket changes its state.
#[inline(always)]
pub fn changes(socket: *const u8, state: i32) {
    let protocol = socket.wrapping_add(OFFSET_SOCK_PROTOCOL.load() as usize).cast::<u16>();
    // SAFETY: the verifier checks this load against the kernel's BTF, or refuses the program.
    if unsafe { protocol.read() } != PROTOCOL {
        return;
    }
    let address = socket as u64;
    // In the context of who connects.
    if state == SYN_SENT {
        if needs_owner() {
            remember_owner(address);
        }
        let task = Task::current();
        if measures(LatencySource::Connect) && filter::admits(task) {
            let start = LatencyStart { owner: owner_of(task), since_ns: now_ns(), other_ns: 0, detail: 0 };
            begin(address, &start);
        }
        return;
    }
    if (state == ESTABLISHED || state == CLOSE)
        && measures(LatencySource::Connect)
        && let Some(known) = LATENCY_STARTS.get_ptr(address)
    {
        // SAFETY: the value stays valid while the program runs.
        let LatencyStart { owner, since_ns, .. } = unsafe { *known };
        let _ = LATENCY_STARTS.remove(address);
        let outcome = if state == ESTABLISHED { ConnectOutcome::Established } else { ConnectOutcome::Failed };
        add(LatencySource::Connect, owner, outcome as u64, now_ns().saturating_sub(since_ns));
    }
    if state == CLOSE && needs_owner() {
        // Its address may be given to another socket.
        let _ = LATENCY_OWNERS.remove(address);
    }
}

/// The current thread reads from a socket.
#[inline(always)]
pub fn read(socket: *const u8) {
    let address = socket as u64;
    if LATENCY_OWNERS.get_ptr(address).is_none() {
        remember_owner(address);
    }
}

/// Whose a socket is; `None` if it is not asked for.
#[inline(always)]
fn owner(socket: *const u8) -> Option<LatencyOwner> {
    if !needs_owner() {
        return Some(LatencyOwner::NOBODY);
    }
    match LATENCY_OWNERS.get_ptr(socket as u64) {
        // SAFETY: the value stays valid while the program runs.
        Some(owner) => Some(unsafe { *owner }),
        None if filter::is_selective() => None,
        None => Some(LatencyOwner::NOBODY),
    }
}

/// A segment arrives on a connection.
#[inline(always)]
pub fn receives(socket: *const u8) {
    let place = socket.wrapping_add(OFFSET_TCP_SOCK_SRTT_US.load() as usize).cast::<u32>();
    // A helper: the verifier knows the socket as less than the TCP socket that it is.
    // SAFETY: the helper checks the address itself.
    let Ok(srtt) = (unsafe { bpf_probe_read_kernel(place) }) else { return };
    // Nothing was measured yet.
    if srtt == 0 {
        return;
    }
    if let Some(owner) = owner(socket) {
        add(LatencySource::RoundTrip, owner, 0, u64::from(srtt) * SRTT_UNIT_NS);
    }
}

/// A buffer is sent again.
#[inline(always)]
pub fn sends_again(socket: *const u8, buffer: *const u8) {
    if let Some(owner) = owner(socket) {
        count(LatencySource::Retransmit, owner, 0, segments(buffer));
    }
}

/// How many segments a buffer is sent as: what the device, or the kernel just before it, makes of it.
#[inline(always)]
fn segments(buffer: *const u8) -> u64 {
    if OFFSET_TCP_SKB_CB_GSO_SEGS.load() == ABSENT {
        return 1;
    }
    let offset = OFFSET_SK_BUFF_CB.load() as usize + OFFSET_TCP_SKB_CB_GSO_SEGS.load() as usize;
    // A helper: BTF knows the place as an array of bytes and refuses wider loads.
    // SAFETY: the helper checks the address itself.
    let segments = unsafe { bpf_probe_read_kernel(buffer.wrapping_add(offset).cast::<u16>()) };
    u64::from(segments.unwrap_or(1).max(1))
}

//! TCP: how long connections take to be made, round-trip times, segments that are sent again.
//!
//! Segments arrive in anybody's context. A socket is its process's who connected it or who reads from it.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};
use obs_common::latency::{ConnectOutcome, LatencySource, LatencyStart};

use super::{
    LATENCY_OWNERS, LATENCY_STARTS, add, begin, count, current_owner, forget_owner, measures, needs_owner, now_ns,
    owner_to_remember, remember_new, remember_owner, remembered_owner,
};
use crate::task::ABSENT;

#[unsafe(no_mangle)]
static OFFSET_SOCK_PROTOCOL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_SOCK_STATE: Global<u32> = Global::new(0);
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
const SYN_RECEIVED: i32 = 3;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;

/// The kernel keeps the smoothed round-trip time in eighths of a microsecond.
const SRTT_UNIT_NS: u64 = 125;

/// A socket changes its state.
#[inline(always)]
pub fn changes(socket: *const u8, from: i32, to: i32) {
    if field::<u16>(socket, &OFFSET_SOCK_PROTOCOL) != PROTOCOL {
        return;
    }
    let address = socket as u64;
    match (from, to) {
        (_, SYN_SENT) => connects(address),
        // A socket for somebody who connected is a copy of the one that listens.
        (LISTEN, SYN_RECEIVED) => is_accepted(address),
        (_, ESTABLISHED | CLOSE) => {
            let outcome = if to == ESTABLISHED { ConnectOutcome::Established } else { ConnectOutcome::Failed };
            ends_connecting(address, outcome);
            if to == CLOSE && needs_owner() {
                // Its address may be given to another socket.
                forget_owner(address);
            }
        }
        _ => {}
    }
}

/// The current thread connects a socket.
#[inline(always)]
fn connects(address: u64) {
    if needs_owner() {
        remember_new(address);
    }
    if !measures(LatencySource::Connect) {
        return;
    }
    match current_owner() {
        Some(owner) => begin(address, &LatencyStart { owner, since_ns: now_ns(), other_ns: 0, detail: 0 }),
        None => forget_start(address),
    }
}

/// A socket is made for somebody who connected to this host.
#[inline(always)]
fn is_accepted(address: u64) {
    if needs_owner() {
        forget_owner(address);
    }
    if measures(LatencySource::Connect) {
        forget_start(address);
    }
}

/// Forgets when a socket began to connect of whose end nobody told, and at whose address there is another one now.
#[inline(always)]
fn forget_start(address: u64) {
    // Not being in the map is usual, not a failure.
    let _ = LATENCY_STARTS.remove(address);
}

/// A socket connects no more, if it did.
#[inline(always)]
fn ends_connecting(address: u64, outcome: ConnectOutcome) {
    if !measures(LatencySource::Connect) {
        return;
    }
    let Some(known) = LATENCY_STARTS.get_ptr(address) else { return };
    // SAFETY: the value stays valid while the program runs.
    let LatencyStart { owner, since_ns, .. } = unsafe { *known };
    let _ = LATENCY_STARTS.remove(address);
    add(LatencySource::Connect, owner, outcome as u64, now_ns().saturating_sub(since_ns));
}

/// The current thread reads from a socket.
#[inline(always)]
pub fn read(socket: *const u8) {
    // What has arrived can still be read when the connection is over. Whose it was is forgotten then, and is not to be remembered
    // again: nobody tells when the socket goes.
    if i32::from(field::<u8>(socket, &OFFSET_SOCK_STATE)) == CLOSE {
        return;
    }
    let address = socket as u64;
    if LATENCY_OWNERS.get_ptr(address).is_none()
        && let Some(owner) = owner_to_remember()
    {
        remember_owner(address, owner);
    }
}

/// Reads a field of a socket.
#[inline(always)]
fn field<T: Copy>(socket: *const u8, offset: &Global<u32>) -> T {
    let place = socket.wrapping_add(offset.load() as usize).cast::<T>();
    // SAFETY: the verifier checks this load against the kernel's BTF, or refuses the program.
    unsafe { place.read() }
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
    if let Some(owner) = remembered_owner(socket as u64) {
        add(LatencySource::RoundTrip, owner, 0, u64::from(srtt) * SRTT_UNIT_NS);
    }
}

/// A buffer is sent again.
#[inline(always)]
pub fn sends_again(socket: *const u8, buffer: *const u8) {
    if let Some(owner) = remembered_owner(socket as u64) {
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

//! How long requests of block devices take: until they are given to the device, and until it is done with them.
//!
//! A request is given to its device, and completed, in anybody's context. Whom it is for is known when it is made (`block_getrq`),
//! and kept by the address of its first bio.

use aya_ebpf::Global;
use obs_common::{
    counters::KernelCounter,
    latency::{BlockPart, LatencySource, LatencyStart, block_detail},
};

use super::{LATENCY_STARTS, add, begin, forget_owner, needs_owner, now_ns, remember_new, remembered_owner};
use crate::loss;

// Offsets in bytes, as in `task`.
#[unsafe(no_mangle)]
static OFFSET_REQUEST_Q: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_REQUEST_CMD_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_REQUEST_DATA_LEN: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_REQUEST_BIO: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_REQUEST_START_TIME_NS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_QUEUE_DISK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_DISK_MAJOR: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_DISK_FIRST_MINOR: Global<u32> = Global::new(0);

/// `REQ_OP_MASK`.
const OPERATION: u32 = 0xff;
/// Bits of the minor number in the kernel's own form of a device number.
const MINOR_BITS: u32 = 20;

/// A `struct request` that a tracepoint passed.
#[derive(Clone, Copy)]
pub struct Request(*const u8);

impl Request {
    /// A request that a tracepoint passed.
    #[inline(always)]
    #[must_use]
    pub fn from_argument(pointer: *const u8) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn field<T: Copy>(self, offset: &Global<u32>) -> T {
        load(self.0, offset)
    }

    /// The disk's number, as the kernel writes it; 0 if it has none.
    #[inline(always)]
    fn device(self) -> u32 {
        let queue: *const u8 = self.field(&OFFSET_REQUEST_Q);
        let disk: *const u8 = load(queue, &OFFSET_QUEUE_DISK);
        if disk.is_null() {
            return 0;
        }
        load::<u32>(disk, &OFFSET_DISK_MAJOR) << MINOR_BITS | load::<u32>(disk, &OFFSET_DISK_FIRST_MINOR)
    }

    #[inline(always)]
    fn operation(self) -> u8 {
        (self.field::<u32>(&OFFSET_REQUEST_CMD_FLAGS) & OPERATION) as u8
    }
}

/// Reads a field of a structure that the verifier knows.
#[inline(always)]
fn load<T: Copy>(structure: *const u8, offset: &Global<u32>) -> T {
    let address = structure.wrapping_add(offset.load() as usize);
    // SAFETY: the verifier checks this load against the kernel's BTF, or refuses the program; where the structure is not there, the
    // kernel reads zeroes.
    unsafe { address.cast::<T>().read() }
}

/// A request is made for a bio of the current thread's.
#[inline(always)]
pub fn made(bio: *const u8) {
    remember_new(bio as u64);
}

/// A request is given to its device.
#[inline(always)]
pub fn issued(request: Request) {
    let now_ns = now_ns();
    let made_ns: u64 = request.field(&OFFSET_REQUEST_START_TIME_NS);
    if let Some(known) = LATENCY_STARTS.get_ptr_mut(request.address()) {
        // SAFETY: the value stays valid while the program runs.
        let is_over = unsafe {
            let was_given_back = (*known).since_ns == 0;
            // Given back to the queue, and to the device again: the time at which it was made tells, where the kernel takes it.
            if if made_ns == 0 { was_given_back } else { (*known).other_ns == made_ns } {
                // Its time in the queue is counted already.
                (*known).since_ns = now_ns;
                return;
            }
            was_given_back
        };
        // Another request in the same memory, of whose completion nobody told, unless it was given up in the queue.
        if !is_over {
            loss::count(KernelCounter::LostEnd);
        }
        // If this one is not asked for, nothing takes the other one's place.
        let _ = LATENCY_STARTS.remove(request.address());
    }
    // A flush of the device's cache has none, and is nobody's.
    let bio = request.field::<*const u8>(&OFFSET_REQUEST_BIO) as u64;
    let owner = remembered_owner(bio);
    if needs_owner() {
        forget_owner(bio);
    }
    let Some(owner) = owner else { return };
    let (device, operation) = (request.device(), request.operation());
    let detail = block_detail(device, BlockPart::Device, operation);
    begin(request.address(), &LatencyStart { owner, since_ns: now_ns, other_ns: made_ns, detail });
    // Where nobody counts the device's requests, the kernel does not take the time.
    if made_ns != 0 && made_ns <= now_ns {
        add(LatencySource::Block, owner, block_detail(device, BlockPart::Queue, operation), now_ns - made_ns);
    }
}

/// A request is given back to the queue: the device could not take it, or not all of it. It will be given to the device again.
#[inline(always)]
pub fn given_back(request: Request) {
    if let Some(known) = LATENCY_STARTS.get_ptr_mut(request.address()) {
        // SAFETY: the value stays valid while the program runs.
        unsafe { (*known).since_ns = 0 };
    }
}

/// A device is done with so many bytes of a request.
#[inline(always)]
pub fn completed(request: Request, bytes: u32) {
    if bytes < request.field::<u32>(&OFFSET_REQUEST_DATA_LEN) {
        return;
    }
    let Some(known) = LATENCY_STARTS.get_ptr(request.address()) else { return };
    // SAFETY: the value stays valid while the program runs.
    let LatencyStart { owner, since_ns, detail, .. } = unsafe { *known };
    let _ = LATENCY_STARTS.remove(request.address());
    // It was given up in the queue: the device does not have it.
    if since_ns == 0 {
        return;
    }
    add(LatencySource::Block, owner, detail, now_ns().saturating_sub(since_ns));
}

//! Announces each process image once, while it lives, so that user space can learn its mappings.

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::map, maps::LruHashMap};
use obs_common::{
    counters::KernelCounter,
    events::process::ProcessSeen,
    limits::PROCESSES_SEEN_MAX,
    stack::{ImageKey, RecordHeader, RecordKind},
};

use crate::{
    loss,
    ring::{self, Wake},
    task::Task,
};

#[map]
static PROCESSES_SEEN: LruHashMap<ImageKey, u8> = LruHashMap::with_max_entries(PROCESSES_SEEN_MAX, 0);

/// Announces the image that a task runs, unless that was done. Whether it was done now.
#[inline(always)]
pub fn announce(task: Task, image: &ImageKey) -> bool {
    if PROCESSES_SEEN.get_ptr(image).is_some() {
        return false;
    }
    let record = ProcessSeen {
        header: RecordHeader { kind: RecordKind::ProcessSeen as u32, end: 0 },
        started_ns: image.started_ns,
        // SAFETY: the helper takes no arguments.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        tgid: image.tgid,
        exec_id: image.exec_id,
        comm: task.leader().comm(),
    };
    if ring::send(&raw const record, size_of::<ProcessSeen>() as u64, Wake::Now) {
        // If this fails the image is announced again, which is harmless.
        let _ = PROCESSES_SEEN.insert(image, 1, 0);
        true
    } else {
        loss::count(KernelCounter::LateProcessRingFull);
        false
    }
}

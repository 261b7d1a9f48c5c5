//! What the kernel module says of processes, in the words of `model`.

use std::sync::Arc;

use crate::{
    enrich::process::clean_path,
    kernel::sideband::{FileIdentity, SidebandEvent},
    model::{
        process::{BuildId, FileId, MappedRegion, ProcessEvent},
        record::Event,
    },
};

/// The event in the ledger's words; `None` for what concerns threads only, or no process.
pub(super) fn process_event(event: SidebandEvent) -> Option<ProcessEvent> {
    match event {
        SidebandEvent::Fork { pid, parent_pid, tid, time_ns } => {
            (pid == tid).then_some(ProcessEvent::Fork { pid, parent_pid, time_ns })
        }
        SidebandEvent::Exec { pid, name, time_ns } => Some(ProcessEvent::Exec { pid, name: text(&name), time_ns }),
        SidebandEvent::Rename { pid, tid, name, time_ns } => {
            Some(ProcessEvent::Rename { pid, tid, name: text(&name), time_ns })
        }
        SidebandEvent::Mapped { pid, tid: _, time_ns, start, end, file_offset, path, file } => {
            let (file, build_id) = match file {
                FileIdentity::BuildId(bytes) => (None, BuildId::new(&bytes)),
                // Memory that no file stands behind.
                FileIdentity::Inode { device_major: 0, device_minor: 0, number: 0, generation: _ } => (None, None),
                FileIdentity::Inode { device_major, device_minor, number, generation: _ } => {
                    (Some(FileId { device_major, device_minor, inode: number }), None)
                }
            };
            let region = MappedRegion { start, end, file_offset, path: clean_path(&path), file, build_id };
            Some(ProcessEvent::Mapped { pid, time_ns, region })
        }
        SidebandEvent::Exited { pid, tid, time_ns } => {
            Some(ProcessEvent::ThreadExited { pid, is_leader: pid == tid, time_ns })
        }
        SidebandEvent::KernelCode { .. } | SidebandEvent::Lost { .. } => None,
    }
}

/// What is worth a line in the history of a host: programs that start and processes that end.
pub(super) fn history_event(event: &SidebandEvent) -> Option<Event> {
    let pid = |pid: &u32| ("process.pid", Arc::from(pid.to_string()));
    match event {
        SidebandEvent::Exec { pid: of, name, time_ns } => Some(Event {
            name: "process.exec",
            time_ns: *time_ns,
            process: None,
            labels: vec![pid(of), ("process.executable.name", text(name))],
        }),
        SidebandEvent::Fork { pid: of, parent_pid, tid, time_ns } if of == tid => Some(Event {
            name: "process.fork",
            time_ns: *time_ns,
            process: None,
            labels: vec![pid(of), ("process.parent_pid", Arc::from(parent_pid.to_string()))],
        }),
        SidebandEvent::Exited { pid: of, tid, time_ns } if of == tid => {
            Some(Event { name: "process.exit", time_ns: *time_ns, process: None, labels: vec![pid(of)] })
        }
        // Of threads, mappings and names there are too many.
        SidebandEvent::Fork { .. }
        | SidebandEvent::Exited { .. }
        | SidebandEvent::Rename { .. }
        | SidebandEvent::Mapped { .. }
        | SidebandEvent::KernelCode { .. }
        | SidebandEvent::Lost { .. } => None,
    }
}

fn text(bytes: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(bytes).into()
}

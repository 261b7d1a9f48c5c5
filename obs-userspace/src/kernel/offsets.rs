//! The constants that BPF programs are loaded with: where the running kernel keeps its fields.

/// A constant of a BPF object that is an offset: its name there, the kernel structure, the field.
pub(super) struct Offset {
    pub(super) global: &'static str,
    pub(super) structure: &'static str,
    pub(super) field: &'static str,
}

/// Every offset that any BPF program of obs knows; an object that lacks one of the names does not use it.
pub(super) const OFFSETS: [Offset; 10] = [
    Offset { global: "OFFSET_TASK_TGID", structure: "task_struct", field: "tgid" },
    Offset { global: "OFFSET_TASK_PID", structure: "task_struct", field: "pid" },
    Offset { global: "OFFSET_TASK_FLAGS", structure: "task_struct", field: "flags" },
    Offset { global: "OFFSET_TASK_COMM", structure: "task_struct", field: "comm" },
    Offset { global: "OFFSET_TASK_GROUP_LEADER", structure: "task_struct", field: "group_leader" },
    Offset { global: "OFFSET_TASK_START_BOOTTIME", structure: "task_struct", field: "start_boottime" },
    Offset { global: "OFFSET_TASK_SELF_EXEC_ID", structure: "task_struct", field: "self_exec_id" },
    Offset { global: "OFFSET_TASK_REAL_PARENT", structure: "task_struct", field: "real_parent" },
    Offset { global: "OFFSET_TASK_SIGNAL", structure: "task_struct", field: "signal" },
    Offset { global: "OFFSET_SIGNAL_LIVE", structure: "signal_struct", field: "live.counter" },
];

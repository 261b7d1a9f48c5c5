//! The constants that BPF programs are loaded with: where the running kernel keeps its fields.

/// A constant of a BPF object that is an offset: its name there, the kernel structure, the field.
pub(super) struct Offset {
    pub(super) global: &'static str,
    pub(super) structure: &'static str,
    pub(super) field: &'static str,
}

/// A constant that is an offset of a field that some kernels lack: then it keeps its value, which says so.
pub(super) const OPTIONAL_OFFSETS: [Offset; 23] = [
    Offset { global: "OFFSET_TASK_CFS_RQ", structure: "task_struct", field: "se.cfs_rq" },
    Offset { global: "OFFSET_CFS_RQ_THROTTLE_COUNT", structure: "cfs_rq", field: "throttle_count" },
    Offset { global: "OFFSET_TASK_RUNS", structure: "task_struct", field: "sched_info.pcount" },
    Offset { global: "OFFSET_TASK_ON_CPU", structure: "task_struct", field: "on_cpu" },
    Offset { global: "OFFSET_TASK_CGROUPS", structure: "task_struct", field: "cgroups" },
    Offset { global: "OFFSET_CSS_SET_DFL_CGRP", structure: "css_set", field: "dfl_cgrp" },
    Offset { global: "OFFSET_CGROUP_KN", structure: "cgroup", field: "kn" },
    Offset { global: "OFFSET_CGROUP_PARENT", structure: "cgroup", field: "self.parent" },
    Offset { global: "OFFSET_CSS_CGROUP", structure: "cgroup_subsys_state", field: "cgroup" },
    Offset { global: "OFFSET_KERNFS_NODE_ID", structure: "kernfs_node", field: "id" },
    // Kernels can be built without block devices and without the internet: then they lack the tracepoints too.
    Offset { global: "OFFSET_REQUEST_Q", structure: "request", field: "q" },
    Offset { global: "OFFSET_REQUEST_CMD_FLAGS", structure: "request", field: "cmd_flags" },
    Offset { global: "OFFSET_REQUEST_DATA_LEN", structure: "request", field: "__data_len" },
    Offset { global: "OFFSET_REQUEST_BIO", structure: "request", field: "bio" },
    Offset { global: "OFFSET_REQUEST_START_TIME_NS", structure: "request", field: "start_time_ns" },
    Offset { global: "OFFSET_QUEUE_DISK", structure: "request_queue", field: "disk" },
    Offset { global: "OFFSET_DISK_MAJOR", structure: "gendisk", field: "major" },
    Offset { global: "OFFSET_DISK_FIRST_MINOR", structure: "gendisk", field: "first_minor" },
    Offset { global: "OFFSET_SOCK_PROTOCOL", structure: "sock", field: "sk_protocol" },
    Offset { global: "OFFSET_SOCK_STATE", structure: "sock", field: "__sk_common.skc_state" },
    Offset { global: "OFFSET_TCP_SOCK_SRTT_US", structure: "tcp_sock", field: "srtt_us" },
    Offset { global: "OFFSET_SK_BUFF_CB", structure: "sk_buff", field: "cb" },
    Offset { global: "OFFSET_TCP_SKB_CB_GSO_SEGS", structure: "tcp_skb_cb", field: "tcp_gso_segs" },
];

/// Constants of a BPF object that say where a single bit is: the names of the byte's offset and of the bit's mask there.
pub(super) struct BitPlace {
    pub(super) offset: &'static str,
    pub(super) mask: &'static str,
    pub(super) structure: &'static str,
    pub(super) field: &'static str,
}

/// Every bit that any BPF program of obs knows.
pub(super) const BITS: [BitPlace; 1] = [BitPlace {
    offset: "OFFSET_TASK_IN_IOWAIT",
    mask: "MASK_TASK_IN_IOWAIT",
    structure: "task_struct",
    field: "in_iowait",
}];

/// Every offset that any BPF program of obs knows; an object that lacks one of the names does not use it.
pub(super) const OFFSETS: [Offset; 20] = [
    Offset { global: "OFFSET_TASK_TGID", structure: "task_struct", field: "tgid" },
    Offset { global: "OFFSET_TASK_PID", structure: "task_struct", field: "pid" },
    Offset { global: "OFFSET_TASK_FLAGS", structure: "task_struct", field: "flags" },
    Offset { global: "OFFSET_TASK_COMM", structure: "task_struct", field: "comm" },
    Offset { global: "OFFSET_TASK_GROUP_LEADER", structure: "task_struct", field: "group_leader" },
    Offset { global: "OFFSET_TASK_START_BOOTTIME", structure: "task_struct", field: "start_boottime" },
    Offset { global: "OFFSET_TASK_SELF_EXEC_ID", structure: "task_struct", field: "self_exec_id" },
    Offset { global: "OFFSET_TASK_REAL_PARENT", structure: "task_struct", field: "real_parent" },
    Offset { global: "OFFSET_TASK_RUN_TIME", structure: "task_struct", field: "se.sum_exec_runtime" },
    Offset { global: "OFFSET_TASK_SIGNAL", structure: "task_struct", field: "signal" },
    Offset { global: "OFFSET_SIGNAL_LIVE", structure: "signal_struct", field: "live.counter" },
    Offset { global: "OFFSET_TASK_STATE", structure: "task_struct", field: "__state" },
    Offset { global: "OFFSET_TASK_JOBCTL", structure: "task_struct", field: "jobctl" },
    Offset { global: "OFFSET_TASK_MM", structure: "task_struct", field: "mm" },
    Offset { global: "OFFSET_TASK_FILES", structure: "task_struct", field: "files" },
    Offset { global: "OFFSET_FILES_FDT", structure: "files_struct", field: "fdt" },
    Offset { global: "OFFSET_FDTABLE_MAX_FDS", structure: "fdtable", field: "max_fds" },
    Offset { global: "OFFSET_FDTABLE_FD", structure: "fdtable", field: "fd" },
    Offset { global: "OFFSET_FILE_INODE", structure: "file", field: "f_inode" },
    Offset { global: "OFFSET_INODE_MODE", structure: "inode", field: "i_mode" },
];

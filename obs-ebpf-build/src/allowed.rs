//! What BPF programs of this project may do: the proof that obs never changes what it watches.
//!
//! A list of what is allowed is stronger than one of what is forbidden: a helper that a later kernel brings is refused
//! until someone has looked at it and written its reason here.

use crate::elf::Reason;
use crate::scan::{self, Callee};

/// Kinds of programs by the first part of their section's name. All of these observe only: the kernel ignores what
/// they return, or, for `perf_event`, uses it for the event itself. Kinds that decide something (`lsm`, `xdp`,
/// `fmod_ret`, `cgroup…`, `struct_ops`) are absent.
const KINDS: [&str; 18] = [
    "fentry",
    "fentry.s",
    "fexit",
    "fexit.s",
    "iter",
    "iter.s",
    "kprobe",
    "kretprobe",
    "perf_event",
    "raw_tp",
    "raw_tracepoint",
    "tp",
    "tp_btf",
    "tracepoint",
    "uprobe",
    "uprobe.s",
    "uretprobe",
    "uretprobe.s",
];

/// Where functions that programs call are kept; it is not a program.
const FUNCTIONS: &str = ".text";

/// Helpers by number and name as in `linux/bpf.h`, and why each changes nothing outside obs.
const HELPERS: [(u32, &str, &str); 58] = [
    (1, "map_lookup_elem", "reads our own maps"),
    (2, "map_update_elem", "writes our own maps"),
    (3, "map_delete_elem", "writes our own maps"),
    (4, "probe_read", "reads memory"),
    (5, "ktime_get_ns", "reads a clock"),
    (7, "get_prandom_u32", "reads the random number generator of BPF"),
    (8, "get_smp_processor_id", "reads the CPU's number"),
    (12, "tail_call", "runs another program of the same object"),
    (14, "get_current_pid_tgid", "reads the task"),
    (15, "get_current_uid_gid", "reads the task"),
    (16, "get_current_comm", "reads the task"),
    (22, "perf_event_read", "reads a counter of ours"),
    (25, "perf_event_output", "writes our own ring"),
    (27, "get_stackid", "reads the stack into our own map"),
    (35, "get_current_task", "reads the task's address"),
    (37, "current_task_under_cgroup", "reads the task"),
    (42, "get_numa_node_id", "reads the CPU's node"),
    (45, "probe_read_str", "reads memory"),
    (46, "get_socket_cookie", "reads a socket's number"),
    (55, "perf_event_read_value", "reads a counter of ours"),
    (56, "perf_prog_read_value", "reads the event that runs the program"),
    (67, "get_stack", "reads the stack"),
    (80, "get_current_cgroup_id", "reads the task"),
    (87, "map_push_elem", "writes our own maps"),
    (88, "map_pop_elem", "writes our own maps"),
    (89, "map_peek_elem", "reads our own maps"),
    (93, "spin_lock", "locks a value in our own map"),
    (94, "spin_unlock", "unlocks a value in our own map"),
    (112, "probe_read_user", "reads memory"),
    (113, "probe_read_kernel", "reads memory"),
    (114, "probe_read_user_str", "reads memory"),
    (115, "probe_read_kernel_str", "reads memory"),
    (118, "jiffies64", "reads a clock"),
    (120, "get_ns_current_pid_tgid", "reads the task"),
    (123, "get_current_ancestor_cgroup_id", "reads the task"),
    (125, "ktime_get_boot_ns", "reads a clock"),
    (126, "seq_printf", "writes to the reader of our own iterator"),
    (127, "seq_write", "writes to the reader of our own iterator"),
    (130, "ringbuf_output", "writes our own ring"),
    (131, "ringbuf_reserve", "writes our own ring"),
    (132, "ringbuf_submit", "writes our own ring"),
    (133, "ringbuf_discard", "writes our own ring"),
    (134, "ringbuf_query", "reads our own ring"),
    (141, "get_task_stack", "reads the stack"),
    (148, "copy_from_user", "reads memory"),
    (153, "per_cpu_ptr", "reads a kernel variable's address"),
    (154, "this_cpu_ptr", "reads a kernel variable's address"),
    (158, "get_current_task_btf", "reads the task's address"),
    (160, "ktime_get_coarse_ns", "reads a clock"),
    (164, "for_each_map_elem", "visits our own map"),
    (173, "get_func_ip", "reads the probe's address"),
    (174, "get_attach_cookie", "reads what we attached with"),
    (175, "task_pt_regs", "reads the task's registers"),
    (180, "find_vma", "reads the task's mappings"),
    (181, "loop", "repeats a function of ours"),
    (183, "get_func_arg", "reads the probed function's arguments"),
    (184, "get_func_ret", "reads the probed function's result"),
    (195, "map_lookup_percpu_elem", "reads our own maps"),
];

/// Kernel functions by name, and why each changes nothing outside obs. None is used yet.
const KERNEL_FUNCTIONS: [(&str, &str); 0] = [];

/// Whether a program may make this call.
#[must_use]
pub fn call_is_allowed(callee: &Callee) -> bool {
    match callee {
        Callee::Helper(number) => HELPERS.binary_search_by_key(number, |(known, ..)| *known).is_ok(),
        Callee::Kernel(name) => KERNEL_FUNCTIONS.iter().any(|(known, _)| known == name),
        Callee::KernelType(_) | Callee::Register => false,
    }
}

/// Whether code may be in a section of this name.
#[must_use]
pub fn section_is_allowed(name: &str) -> bool {
    name == FUNCTIONS || KINDS.contains(&name.split('/').next().unwrap_or_default())
}

/// What an object does that is not on the lists above, one sentence each; empty when there is nothing.
///
/// # Errors
/// When the bytes are not a BPF object, with the reason.
pub fn violations(object: &[u8]) -> Result<Vec<String>, Reason> {
    let contents = scan::contents(object)?;
    let kinds = contents.sections.iter().filter(|name| !section_is_allowed(name));
    let mut found: Vec<String> =
        kinds.map(|name| format!("has code in section `{name}`, a kind of program that is not on the list")).collect();
    let calls = contents.calls.iter().filter(|call| !call_is_allowed(&call.callee));
    found.extend(calls.map(|call| {
        format!("calls {} in `{}` (section `{}`), which is not on the list", call.callee, call.function, call.section)
    }));
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, call, exit};

    #[test]
    fn helpers_are_sorted_so_that_they_can_be_searched() {
        assert!(HELPERS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(HELPERS.iter().all(|(.., reason)| !reason.is_empty()));
    }

    #[test]
    fn what_changes_the_target_or_the_host_is_not_allowed() {
        // probe_write_user, override_return, send_signal, send_signal_thread, skb_store_bytes, clone_redirect,
        // redirect, setsockopt, bind, set_retval, sys_bpf, and a number that no kernel has given out.
        for number in [36, 58, 109, 117, 9, 13, 23, 49, 64, 187, 166, 100_000] {
            assert!(!call_is_allowed(&Callee::Helper(number)), "{number}");
        }
        for kind in ["lsm/file_open", "xdp", "fmod_ret/x", "cgroup/skb", "struct_ops/x", "classifier", "freplace/x"] {
            assert!(!section_is_allowed(kind), "{kind}");
        }
    }

    #[test]
    fn reading_is_allowed() {
        assert!(call_is_allowed(&Callee::Helper(113)));
        for kind in ["tp_btf/sched_switch", "perf_event", "uprobe.s", "iter/task", ".text"] {
            assert!(section_is_allowed(kind), "{kind}");
        }
    }

    #[test]
    fn a_violation_names_the_call_and_the_section() {
        let mut sample = Sample::new();
        sample.section("kprobe/do_exit", 4, &[call(36), exit()].concat());
        sample.section("lsm/file_open", 4, &exit());
        let found = violations(&sample.finish()).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("`lsm/file_open`"));
        assert!(found[1].contains("helper 36") && found[1].contains("`kprobe/do_exit`"));
    }
}

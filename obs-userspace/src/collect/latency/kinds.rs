//! The one list of what latencies are measured of. The command line and its help, the outputs, `obs load-all` and the tests follow it.

use obs_common::latency::LatencySource;

use super::{super::Output, labels::Labels};
use crate::{kernel::attach::PageFaultEvent, model::record::Label};

/// Something of which latencies, or events, are measured.
#[derive(Debug)]
pub struct LatencyKind {
    /// What users call it.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// What it hands on.
    pub output: Output,
    /// Whether things are somebody's: whether it can be filtered, and told apart by process and cgroup.
    pub has_owner: bool,
    /// What the kernel side calls it.
    pub(super) source: LatencySource,
    /// Its programs, in the order in which they are attached: what ends something before what begins it.
    pub(super) hooks: &'static [Hook],
    /// Those that are needed only to know whose things are.
    pub(super) owner_hooks: &'static [Hook],
    /// What a key's detail means.
    pub(super) labels: fn(&mut Labels, u64) -> Vec<Label>,
}

impl LatencyKind {
    /// The name of its output.
    #[must_use]
    pub fn metric(&self) -> &'static str {
        match self.output {
            Output::Counter { name, .. } | Output::Histogram { name, .. } => name,
            Output::Stacks(_) => "",
        }
    }

    /// Whether its events have a duration; otherwise they are counted.
    #[must_use]
    pub fn has_duration(&self) -> bool {
        matches!(self.output, Output::Histogram { .. })
    }
}

/// What makes a program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A tracepoint with typed arguments.
    Tracepoint { program: &'static str, tracepoint: &'static str },
    /// Each page fault.
    PageFault { program: &'static str, kind: PageFaultEvent },
}

impl Hook {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Tracepoint { program, .. } | Self::PageFault { program, .. } => program,
        }
    }
}

const fn on(program: &'static str, tracepoint: &'static str) -> Hook {
    Hook::Tracepoint { program, tracepoint }
}

const fn seconds(name: &'static str) -> Output {
    Output::Histogram { name, unit: "s" }
}

/// Who ends a wait comes first: a wait that nobody could end would seem to last for ever.
const SCHEDULING: &[Hook] = &[
    on("latency_waking", "sched_waking"),
    on("latency_switch", "sched_switch"),
    on("latency_new", "sched_wakeup_new"),
];
const SOCKET_OWNERS: &[Hook] =
    &[on("latency_read", "tcp_rcv_space_adjust"), on("latency_state", "inet_sock_set_state")];

/// Every kind.
pub static LATENCY_KINDS: &[LatencyKind] = &[
    LatencyKind {
        name: "runqueue",
        summary: "how long threads that could run waited for a CPU, by why they had to",
        output: seconds("obs.runqueue.latency"),
        has_owner: true,
        source: LatencySource::RunQueue,
        hooks: SCHEDULING,
        owner_hooks: &[],
        labels: Labels::run_queue,
    },
    LatencyKind {
        name: "offcpu",
        summary: "how long threads did not run, by what they waited for",
        output: seconds("obs.offcpu.duration"),
        has_owner: true,
        source: LatencySource::OffCpu,
        hooks: SCHEDULING,
        owner_hooks: &[],
        labels: Labels::wait,
    },
    LatencyKind {
        name: "block",
        summary: "how long requests of block devices took, by device, operation, and whether in the queue or in the device",
        output: seconds("obs.block.latency"),
        has_owner: true,
        source: LatencySource::Block,
        hooks: &[
            on("latency_complete", "block_rq_complete"),
            on("latency_requeue", "block_rq_requeue"),
            on("latency_issue", "block_rq_issue"),
        ],
        owner_hooks: &[on("latency_request", "block_getrq")],
        labels: Labels::block,
    },
    LatencyKind {
        name: "syscall",
        summary: "how long system calls took, by name",
        output: seconds("obs.syscall.duration"),
        has_owner: true,
        source: LatencySource::SystemCall,
        hooks: &[
            on("latency_exit", "sched_process_exit"),
            on("latency_return", "sys_exit"),
            on("latency_enter", "sys_enter"),
        ],
        owner_hooks: &[],
        labels: Labels::system_call,
    },
    LatencyKind {
        name: "pagefault",
        summary: "how many page faults there were, minor and major (the kernel does not say when one is over)",
        output: Output::Counter { name: "obs.pagefault.count", unit: "{fault}" },
        has_owner: true,
        source: LatencySource::PageFault,
        hooks: &[
            Hook::PageFault { program: "latency_minor_fault", kind: PageFaultEvent::Minor },
            Hook::PageFault { program: "latency_major_fault", kind: PageFaultEvent::Major },
        ],
        owner_hooks: &[],
        labels: Labels::page_fault,
    },
    LatencyKind {
        name: "connect",
        summary: "how long TCP connections took to be made, by outcome",
        output: seconds("obs.tcp.connect.duration"),
        has_owner: true,
        source: LatencySource::Connect,
        hooks: &[on("latency_state", "inet_sock_set_state")],
        owner_hooks: &[],
        labels: Labels::connect,
    },
    LatencyKind {
        name: "rtt",
        summary: "the smoothed round-trip time of TCP connections, at each segment that arrived",
        output: seconds("obs.tcp.rtt"),
        has_owner: true,
        source: LatencySource::RoundTrip,
        hooks: &[on("latency_segment", "tcp_probe")],
        owner_hooks: SOCKET_OWNERS,
        labels: Labels::none,
    },
    LatencyKind {
        name: "retransmit",
        summary: "how many TCP segments were sent again",
        output: Output::Counter { name: "obs.tcp.retransmit.count", unit: "{segment}" },
        has_owner: true,
        source: LatencySource::Retransmit,
        hooks: &[on("latency_again", "tcp_retransmit_skb")],
        owner_hooks: SOCKET_OWNERS,
        labels: Labels::none,
    },
    LatencyKind {
        name: "softirq",
        summary: "how long software interrupts took, by vector",
        output: seconds("obs.softirq.duration"),
        has_owner: false,
        source: LatencySource::SoftIrq,
        hooks: &[on("latency_soft_end", "softirq_exit"), on("latency_soft_begin", "softirq_entry")],
        owner_hooks: &[],
        labels: Labels::soft_interrupt,
    },
    LatencyKind {
        name: "hardirq",
        summary: "how long devices' handlers of interrupts took, by interrupt",
        output: seconds("obs.hardirq.duration"),
        has_owner: false,
        source: LatencySource::HardIrq,
        hooks: &[on("latency_hard_end", "irq_handler_exit"), on("latency_hard_begin", "irq_handler_entry")],
        owner_hooks: &[],
        labels: Labels::hard_interrupt,
    },
];

/// The kind of a name.
#[must_use]
pub fn find_kind(name: &str) -> Option<&'static LatencyKind> {
    LATENCY_KINDS.iter().find(|kind| kind.name == name)
}

/// The kind that the kernel side calls so.
pub(super) fn kind_of(source: u32) -> Option<&'static LatencyKind> {
    LATENCY_KINDS.iter().find(|kind| kind.source as u32 == source)
}

/// What all kinds hand on.
pub(super) const OUTPUTS: [Output; LATENCY_KINDS.len()] = {
    let mut outputs = [Output::Stacks(&[]); LATENCY_KINDS.len()];
    let mut index = 0;
    while index < outputs.len() {
        outputs[index] = LATENCY_KINDS[index].output;
        index += 1;
    }
    outputs
};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn names_metrics_and_sources_are_unique() {
        let count = LATENCY_KINDS.len();
        assert_eq!(LATENCY_KINDS.iter().map(|kind| kind.name).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(LATENCY_KINDS.iter().map(LatencyKind::metric).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(LATENCY_KINDS.iter().map(|kind| kind.source).collect::<BTreeSet<_>>().len(), count);
        assert!(LATENCY_KINDS.iter().all(|kind| kind.metric().starts_with("obs.")));
        assert!(LATENCY_KINDS.iter().all(|kind| kind_of(kind.source as u32).is_some_and(|it| it.name == kind.name)));
    }

    #[test]
    fn a_program_is_attached_to_one_thing() {
        let mut by_program = BTreeMap::new();
        for hook in LATENCY_KINDS.iter().flat_map(|kind| kind.hooks.iter().chain(kind.owner_hooks)) {
            assert_eq!(by_program.insert(hook.program(), *hook).unwrap_or(*hook), *hook);
        }
    }

    #[test]
    fn the_page_has_them_all() {
        let page = include_str!("../../../../docs/collectors/latency.md");
        for kind in LATENCY_KINDS {
            let row = format!("| `{}` | {} | `{}` |", kind.name, kind.summary, kind.metric());
            assert!(page.contains(&row), "docs/collectors/latency.md lacks the row\n{row}");
        }
    }
}

//! The agent under duress: no room, too many processes, no budget, a wrong clock, kills, and clients that mean no good.
//!
//! `OBS_SCENARIOS_KILL_ROUNDS` (10) and `OBS_SCENARIOS_FUZZED_REQUESTS` (20,000) say how often; a release is tried with 100 and
//! 1,000,000.

pub(crate) mod client;
mod clock;
mod crowd;
mod disk;
mod fuzz;
mod governor;
mod http;
mod kill;
pub(crate) mod running;

use crate::harness::{Need, Scenario};

const ROOT: &[Need] = &[Need::Root];
/// An emulated CPU takes many minutes for what makes others busy for seconds, and is busy with itself.
const BUSY: &[Need] = &[Need::Root, Need::RealCpu, Need::Workload("busy")];
const KILL: &[Need] = &[
    Need::Root,
    Need::RealCpu,
    Need::Workload("busy"),
    Need::Workload("short"),
    Need::Workload("spawner"),
    Need::Workload("bpf_ids"),
];
/// A crowd takes memory, and an emulated CPU minutes to make it.
const CROWD: &[Need] = &[Need::Root, Need::RealCpu, Need::Tool("sh"), Need::Workload("sleepers")];
const NEXT_PID: Need = Need::File("/proc/sys/kernel/ns_last_pid");
const REUSE: &[Need] = &[
    Need::Root,
    Need::RealCpu,
    NEXT_PID,
    Need::Workload("pid_reuse"),
    Need::Workload("reuse_alpha"),
    Need::Workload("reuse_beta"),
];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "agent_duress::a_full_disk_costs_the_windows_of_its_time", needs: ROOT, run: disk::full },
    Scenario { name: "agent_duress::a_full_disk_is_no_reason_not_to_start", needs: ROOT, run: disk::full_at_start },
    Scenario { name: "agent_duress::a_folder_that_can_only_be_read_is_refused", needs: ROOT, run: disk::read_only },
    Scenario { name: "agent_duress::what_is_no_folder_is_refused", needs: ROOT, run: disk::no_folder },
    Scenario { name: "agent_duress::a_pid_that_comes_again_is_another_process", needs: REUSE, run: crowd::pid_reused },
    Scenario {
        name: "agent_duress::the_pid_space_goes_round",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("pid_reuse")],
        run: crowd::pid_space_wraps,
    },
    Scenario {
        name: "agent_duress::beside_functions_of_long_names",
        needs: &[Need::Root, Need::RealCpu, Need::Workload("long_names")],
        run: crowd::long_names,
    },
    Scenario { name: "agent_duress::beside_5000_processes", needs: CROWD, run: crowd::processes },
    Scenario { name: "agent_duress::beside_20000_threads", needs: CROWD, run: crowd::threads },
    Scenario { name: "agent_duress::each_step_is_shed_and_taken_back", needs: ROOT, run: governor::ladder },
    Scenario { name: "agent_duress::in_distress_nothing_is_measured", needs: BUSY, run: governor::breaker },
    Scenario {
        name: "agent_duress::the_clock_is_set_back",
        needs: &[Need::Root, Need::OwnClock],
        run: clock::set_back,
    },
    Scenario { name: "agent_duress::killed_at_random_moments", needs: KILL, run: kill::at_random },
    Scenario { name: "agent_duress::slow_clients_keep_nobody_out", needs: BUSY, run: http::slow_clients },
    Scenario { name: "agent_duress::what_is_too_large_or_elsewhere", needs: ROOT, run: http::oversize_and_elsewhere },
    Scenario { name: "agent_duress::a_revoked_token_opens_nothing", needs: ROOT, run: http::revoked },
    Scenario { name: "agent_duress::fuzzed_requests_are_refused", needs: BUSY, run: http::fuzzed },
];

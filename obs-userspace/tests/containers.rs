//! Who processes in containers are, and what containers use, on real runtimes: runc, containerd, containerd for Kubernetes,
//! Podman.
//!
//! Each test brings its own folders, and its own daemon where there is one, runs a container and asks obs about it. They
//! need root and the runtime; what misses them is skipped, and the reason printed.

mod container_runtimes;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use container_runtimes::{Case, containerd, kubernetes, podman, resources, runc};

/// Every test, and what it needs.
const CASES: &[Case] = &[runc::CASE, containerd::CASE, kubernetes::CASE, podman::CASE, resources::CASE];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Runtimes share state in /run.
    arguments.test_threads = Some(1);
    let only_list = arguments.list;
    let trials = CASES.iter().map(|case| match case.missing() {
        Some(reason) => {
            if !only_list {
                println!("SKIPPED {}: {reason}", case.name);
            }
            Trial::test(case.name, move || Err(Failed::from(reason))).with_ignored_flag(true)
        }
        None => Trial::test(case.name, || (case.run)().map_err(|error| Failed::from(format!("{error:#}")))),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

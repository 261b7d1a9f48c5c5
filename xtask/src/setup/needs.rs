//! What the project needs of a machine, how to see whether it is there, and where it comes from.

use std::path::Path;

use obs_ebpf_build::toolchain;

use super::Group;
use crate::host;

/// Something that a machine must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// What a package brings.
    Packages {
        /// Where it shows that it is there: names of programs, or paths. One of them suffices.
        found_as: &'static [&'static str],
        /// The packages of Debian that bring it.
        packages: &'static [&'static str],
        /// What it is for.
        purpose: &'static str,
    },
    /// A Rust compiler with a core library for BPF.
    BpfCompiler,
    /// bpf-linker.
    BpfLinker,
    /// cargo-deny.
    CargoDeny,
}

const fn package(found_as: &'static [&'static str], packages: &'static [&'static str], purpose: &'static str) -> Need {
    Need::Packages { found_as, packages, purpose }
}

/// Everything, in the order in which it is looked for.
pub(crate) fn all() -> Vec<(Group, Need)> {
    use Group::{Bench, Build, Ci, Soak, Test, Vm};
    vec![
        (Build, package(&["gcc", "clang"], &["gcc"], "links Rust programs")),
        (Build, package(&["/usr/include/stdlib.h"], &["libc6-dev"], "the C library's headers")),
        (Build, package(&["g++", "clang++"], &["g++"], "links bpf-linker against LLVM")),
        (Build, Need::BpfCompiler),
        (Build, Need::BpfLinker),
        (Test, package(&["gcc"], &["gcc"], "compiles known-answer programs")),
        (Test, package(&["g++"], &["g++"], "compiles known-answer programs")),
        (Test, package(&["go", "/usr/lib/go-1.19/bin/go"], &["golang-go"], "reads pprof files; compiles a Go program")),
        (Test, package(&["musl-gcc"], &["musl-tools"], "compiles programs that carry musl")),
        (Test, package(&["perf"], &["linux-perf"], "what obs is compared with")),
        (Test, package(&["prometheus"], &["prometheus"], "scrapes the agent's metrics, as text and protobuf")),
        (Test, package(&["promtool"], &["prometheus"], "checks the agent's metrics")),
        (Test, package(&["python3"], &["python3"], "a program to profile")),
        (Test, package(&["xz"], &["xz-utils"], "a program to profile")),
        (Test, package(&["setpriv"], &["util-linux"], "ends what a benchmark started with its starter")),
        (Test, package(&["/bin/busybox", "/usr/bin/busybox"], &["busybox-static"], "what test containers run")),
        (Test, package(&["/usr/sbin/runc", "runc"], &["runc"], "runs containers that obs must recognise")),
        (Test, package(&["containerd"], &["containerd"], "the same")),
        (Test, package(&["podman"], &["podman"], "the same")),
        (Vm, package(&["qemu-system-x86_64"], &["qemu-system-x86"], "boots other kernels")),
        (Vm, package(&["setpriv"], &["util-linux"], "ends the guest with its starter")),
        (Vm, package(&["/bin/busybox", "/usr/bin/busybox"], &["busybox-static"], "the shell of the guest")),
        (Vm, package(&["xz"], &["xz-utils"], "unpacks kernels")),
        (Vm, package(&["zstd"], &["zstd"], "unpacks kernels")),
        (Vm, package(&["lz4"], &["lz4"], "unpacks kernels")),
        (Soak, package(&["redis-server", "redis-check-rdb"], &["redis-tools"], "a server that is kept busy")),
        (Soak, package(&["redis-benchmark"], &["redis-tools"], "keeps it busy")),
        (Soak, package(&["stress-ng"], &["stress-ng"], "starts processes in great number")),
        (Soak, package(&["setpriv"], &["util-linux"], "ends what was started with its starter")),
        (Soak, package(&["xz"], &["xz-utils"], "uses a CPU")),
        (Bench, package(&["bpftrace"], &["bpftrace"], "measures waits, as obs does")),
        (Ci, Need::CargoDeny),
    ]
}

impl Need {
    /// Whether it is not there. Looks for the thing itself, which may have come from anywhere.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Need::Packages { found_as, .. } => !found_as.iter().any(|name| match name.strip_prefix('/') {
                Some(_) => Path::new(name).is_file(),
                None => host::find_program(name).is_some(),
            }),
            Need::BpfCompiler => toolchain::find_compiler().is_err(),
            Need::BpfLinker => toolchain::find_linker().is_err(),
            Need::CargoDeny => {
                let in_home = toolchain::cargo_home().is_some_and(|home| home.join("bin/cargo-deny").is_file());
                !in_home && host::find_program("cargo-deny").is_none()
            }
        }
    }

    /// What it is, and what for.
    pub(crate) fn what(&self) -> String {
        match self {
            Need::Packages { found_as, purpose, .. } => format!("{} ({purpose})", found_as.join(" or ")),
            Need::BpfCompiler => "a Rust compiler with a core library for BPF (compiles the kernel side)".into(),
            Need::BpfLinker => "bpf-linker (links the kernel side)".into(),
            Need::CargoDeny => "cargo-deny (checks licences and advisories)".into(),
        }
    }

    /// How someone gets it without this program.
    pub(crate) fn by_hand(&self) -> String {
        match self {
            Need::Packages { packages, .. } => {
                format!("install what your distribution has for Debian's {}", packages.join(", "))
            }
            Need::BpfCompiler => "rustup toolchain install nightly --component rust-src".into(),
            Need::BpfLinker => "cargo install bpf-linker --locked, with an LLVM no older than the compiler's".into(),
            Need::CargoDeny => "cargo install cargo-deny --locked".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing_and_what_is_not_there_is() {
        assert!(!package(&["no-such-program", "sh"], &["dash"], "a shell").is_missing());
        assert!(!package(&["/proc/self/stat"], &["none"], "a file").is_missing());
        assert!(package(&["no-such-program", "/no/such/file"], &["none"], "nothing").is_missing());
    }

    #[test]
    fn every_need_says_what_it_is_for_and_how_to_get_it() {
        for (_, need) in all() {
            assert!(need.what().contains('('), "{need:?}");
            assert!(!need.by_hand().is_empty(), "{need:?}");
        }
    }
}

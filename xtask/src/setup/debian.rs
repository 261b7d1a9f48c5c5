//! Installing packages on Debian, also where apt was never used before.

use std::process::Stdio;

use anyhow::{Result, bail};

use super::needs::Need;
use crate::host;

/// The compiler that has a prebuilt core for BPF, and that core.
const BPF_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Whether packages can be installed here in this way.
pub(super) fn is_debian() -> bool {
    host::find_program("apt-get").is_some() && host::find_program("dpkg-query").is_some()
}

/// The packages that bring what is missing, without those that are installed.
pub(super) fn packages(missing: &[Need]) -> Vec<&'static str> {
    let mut wanted: Vec<&'static str> = Vec::new();
    for need in missing {
        match need {
            Need::Packages { packages, .. } => wanted.extend(*packages),
            // bpf-linker is built against the LLVM that this compiler brings.
            Need::BpfCompiler | Need::BpfLinker => wanted.extend(BPF_COMPILER),
            Need::CargoDeny => {}
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|package| !is_installed(package));
    wanted
}

/// Installs the packages of what is missing.
///
/// # Errors
/// When apt does not know a package, or fails.
pub(super) fn install(missing: &[Need]) -> Result<()> {
    let packages = packages(missing);
    if packages.is_empty() {
        return Ok(());
    }
    if !packages.iter().all(|package| is_known(package)) {
        update()?;
        if let Some(unknown) = packages.iter().find(|package| !is_known(package)) {
            bail!(
                "apt knows no package `{unknown}`: add the repositories of Debian 12 or later, main and security, or \
                 see `cargo xtask setup --check` and install by hand"
            );
        }
    }
    if install_packages(&packages).is_ok() {
        return Ok(());
    }
    // Most often the lists are old and name versions that the mirror no longer has.
    println!("Trying once more with new package lists.");
    update()?;
    install_packages(&packages)
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let mut apt = host::program("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "-q"]).args(packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    host::run(&mut host::as_root(apt))
}

fn update() -> Result<()> {
    let mut apt = host::program("apt-get");
    apt.args(["update", "-q"]);
    host::run(&mut host::as_root(apt))
}

fn is_installed(package: &str) -> bool {
    let mut query = host::program("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn is_known(package: &str) -> bool {
    let mut query = host::program("apt-cache");
    query.args(["show", "--no-all-versions", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

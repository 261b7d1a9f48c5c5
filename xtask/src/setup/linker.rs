//! Building bpf-linker against the LLVM of the compiler whose output it will link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use obs_ebpf_build::toolchain::{self, Compiler};

use crate::host;

/// The version that this project is tested with.
const VERSION: &str = "0.13.0";

/// Builds and installs bpf-linker where `cargo install` puts things.
///
/// # Errors
/// When the compiler's LLVM cannot be found, or the build fails.
pub(super) fn install() -> Result<()> {
    let compiler = match toolchain::find_compiler()? {
        Compiler::Prebuilt(rustc) => rustc,
        // Debian's is installed with it, see the packages of `Need::BpfLinker`; its LLVM reads what nightly writes
        // as long as nightly's is not newer, which the linker reports.
        Compiler::Nightly => PathBuf::from("/usr/bin/rustc"),
    };
    let major = llvm_major(&host::text(host::program(&compiler).arg("-vV"))?)
        .with_context(|| format!("{} -vV does not name its LLVM", compiler.display()))?;
    let library = llvm_library(&host::text(host::program("ldd").arg(&compiler))?)
        .with_context(|| format!("{} carries its own LLVM: bpf-linker cannot share it", compiler.display()))?;
    let prefix = prefix(&library)?;
    let mut command = host::cargo()?;
    command
        .args(["install", "bpf-linker", "--locked", "--version", VERSION, "--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .env("LLVM_PREFIX", prefix);
    host::run(&mut command)
}

/// A folder that looks to bpf-linker's build like an installed LLVM. Debian's llvm-22-dev would be one, and 400 MB;
/// all that linking needs is the library under its plain name.
fn prefix(library: &Path) -> Result<PathBuf> {
    let prefix = host::target_dir()?.join("llvm-prefix");
    let folder = prefix.join("lib");
    host::make_dir(&folder)?;
    let link = folder.join("libLLVM.so");
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))?;
    Ok(prefix)
}

/// The major version in `LLVM version: 22.1.8`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// The path in `libLLVM.so.22.1 => /usr/lib/…/libLLVM.so.22.1 (0x…)`.
fn llvm_library(ldd: &str) -> Option<PathBuf> {
    let line = ldd.lines().map(str::trim).find(|line| line.starts_with("libLLVM"))?;
    let path = line.split_once("=> ")?.1.split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_llvm_is_read_from_what_it_prints() {
        assert_eq!(llvm_major("rustc 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_library_is_read_from_what_ldd_prints() {
        let ldd = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x2)\n";
        assert_eq!(llvm_library(ldd), Some(PathBuf::from("/usr/lib/libLLVM.so.22.1")));
        assert_eq!(llvm_library("\tlibLLVM.so.22.1 => not found\n"), None);
        assert_eq!(llvm_library("\tstatically linked\n"), None);
    }
}

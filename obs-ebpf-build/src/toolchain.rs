//! Finds the two programs that BPF objects need: a compiler with a core library for BPF, and bpf-linker.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Names a compiler to use instead of searching for one.
pub const ENV_RUSTC: &str = "OBS_BPF_RUSTC";
/// Names a linker to use instead of searching for one.
pub const ENV_LINKER: &str = "OBS_BPF_LINKER";
/// The compiler target of all BPF objects.
pub const TARGET: &str = "bpfel-unknown-none";

/// Debian's build of a new Rust: together with libstd-rust-web-dev-bpf it has a prebuilt core for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build for [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// This `rustc` has a prebuilt core library for BPF in its sysroot.
    Prebuilt(PathBuf),
    /// rustup's nightly, which builds core from the `rust-src` component.
    Nightly,
}

/// Looks for a compiler: `OBS_BPF_RUSTC`, then Debian's, then rustup's nightly.
///
/// # Errors
/// [`Error::NoCompiler`] when there is none, with what each candidate lacks. A compiler that is named by
/// `OBS_BPF_RUSTC` and cannot be used is an error too: another one is not silently taken in its place.
pub fn find_compiler() -> Result<Compiler, Error> {
    if let Some(named) = env::var_os(ENV_RUSTC).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        return match prebuilt_core(&path) {
            Ok(()) => Ok(Compiler::Prebuilt(path)),
            Err(reason) => Err(Error::NoCompiler { tried: format!("{ENV_RUSTC}={}: {reason}", path.display()) }),
        };
    }
    let debian = match prebuilt_core(Path::new(DEBIAN_RUSTC)) {
        Ok(()) => return Ok(Compiler::Prebuilt(DEBIAN_RUSTC.into())),
        Err(reason) => reason,
    };
    match nightly_sources() {
        Ok(()) => Ok(Compiler::Nightly),
        Err(nightly) => Err(Error::NoCompiler { tried: format!("{DEBIAN_RUSTC}: {debian}; nightly: {nightly}") }),
    }
}

/// Looks for bpf-linker: `OBS_BPF_LINKER`, then where `cargo install` puts programs, then `PATH`.
///
/// # Errors
/// [`Error::NoLinker`] when it is in none of them.
pub fn find_linker() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os(ENV_LINKER).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        return if path.is_file() { Ok(path) } else { Err(Error::NoLinker) };
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(env::var_os("CARGO_INSTALL_ROOT").map(|root| Path::new(&root).join("bin")));
    folders.extend(cargo_home().map(|home| home.join("bin")));
    if let Some(path) = env::var_os("PATH") {
        folders.extend(env::split_paths(&path));
    }
    folders.into_iter().map(|folder| folder.join("bpf-linker")).find(|path| path.is_file()).ok_or(Error::NoLinker)
}

/// Cargo's home folder: `CARGO_HOME`, else `~/.cargo`.
#[must_use]
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

/// Whether `rustc` has a prebuilt core library for BPF.
fn prebuilt_core(rustc: &Path) -> Result<(), String> {
    let sysroot = sysroot(clean(&mut Command::new(rustc)))?;
    let core = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    if core.is_dir() { Ok(()) } else { Err(format!("it has no core library for {TARGET}")) }
}

/// Whether rustup's nightly has the sources that `-Zbuild-std=core` needs.
fn nightly_sources() -> Result<(), String> {
    let sysroot = sysroot(clean(&mut Command::new("rustup")).args(["run", "nightly", "rustc"]))?;
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    if core.is_dir() { Ok(()) } else { Err("it has no rust-src component".to_owned()) }
}

fn sysroot(command: &mut Command) -> Result<PathBuf, String> {
    let output =
        command.args(["--print", "sysroot"]).stdin(Stdio::null()).output().map_err(|e| format!("cannot start: {e}"))?;
    if !output.status.success() {
        return Err(format!("`--print sysroot` failed ({})", output.status));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Takes away what an outer cargo, clippy or rustup set for its own compiler, which is not ours.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if is_for_another_compiler(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_for_another_compiler(name: &OsString) -> bool {
    // Per-user settings of cargo itself (network, registries, where its home is) hold for the inner cargo too.
    const OURS_TOO: [&str; 7] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    const FOREIGN: [&str; 6] = ["CARGO", "CLIPPY_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    // What cargo tells a build script about the crate that it belongs to.
    const BUILD_SCRIPT: [&str; 7] = ["DEBUG", "HOST", "NUM_JOBS", "OPT_LEVEL", "OUT_DIR", "PROFILE", "TARGET"];
    let Some(name) = name.to_str() else { return false };
    BUILD_SCRIPT.contains(&name)
        || FOREIGN.iter().any(|prefix| name.starts_with(prefix))
            && !OURS_TOO.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_away_what_cargo_and_clippy_leave_behind() {
        for name in [
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_BPF_DEBUG",
            "CLIPPY_ARGS",
            "HOST",
            "OPT_LEVEL",
        ] {
            assert!(is_for_another_compiler(&OsString::from(name)), "{name}");
        }
    }

    #[test]
    fn keeps_the_users_own_settings() {
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "PATH", "HOME", "HOSTNAME"] {
            assert!(!is_for_another_compiler(&OsString::from(name)), "{name}");
        }
    }

    #[test]
    fn a_host_compiler_without_core_for_bpf_is_refused_with_the_reason() {
        assert!(prebuilt_core(Path::new("/nonexistent/rustc")).is_err_and(|reason| reason.contains("cannot start")));
    }
}

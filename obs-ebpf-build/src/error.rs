//! What can keep the BPF objects from being built, each with what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the objects could not be built, or must not be used.
#[derive(Debug)]
pub enum Error {
    /// No compiler with a core library for the BPF virtual machine was found.
    NoCompiler {
        /// What was looked at, and what was wrong with each.
        tried: String,
    },
    /// `bpf-linker` was not found.
    NoLinker,
    /// `obs-ebpf/src/bin` has a file whose name cannot be an object's name.
    BadName(PathBuf),
    /// Cargo was started and failed; its own messages are on standard error.
    Compile {
        /// The command that failed, as one would type it.
        command: String,
    },
    /// Cargo reported success, but an object that has a source file was not written.
    Missing {
        /// The object's name.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// An object is not an ELF file that this crate can read.
    Elf {
        /// The object's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An object can reach a panic, which the kernel's verifier always rejects.
    Panic {
        /// The object's name.
        name: String,
        /// The symbol or the instruction that gives it away.
        evidence: String,
    },
    /// A file operation failed.
    Io {
        /// What was attempted, as a verb: `read`, `write`, ….
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io { action, path: path.into(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoCompiler { tried } => write!(
                f,
                "no Rust compiler with a core library for BPF was found ({tried}): run `cargo xtask setup`, or install \
                 Debian's rustc-web and libstd-rust-web-dev-bpf, or `rustup toolchain install nightly -c rust-src`"
            ),
            Error::NoLinker => write!(
                f,
                "bpf-linker was not found in OBS_BPF_LINKER, cargo's bin folder or PATH: run `cargo xtask setup`, or \
                 `cargo install bpf-linker --locked`"
            ),
            Error::BadName(path) => write!(
                f,
                "{} cannot name a BPF object: use lower-case letters, digits and `_`, and the ending `.rs`",
                path.display()
            ),
            Error::Compile { command } => {
                write!(f, "the BPF programs do not compile (see cargo's messages above); the command was: {command}")
            }
            Error::Missing { name, path } => write!(
                f,
                "obs-ebpf/src/bin/{name}.rs was built but {} does not exist: check that obs-ebpf/Cargo.toml does not \
                 rename or disable the binary `{name}`",
                path.display()
            ),
            Error::Elf { name, reason } => {
                write!(f, "the BPF object `{name}` cannot be read as a BPF ELF object: {reason}")
            }
            Error::Panic { name, evidence } => write!(
                f,
                "the BPF object `{name}` can reach a panic ({evidence}), which the kernel refuses to load: look for \
                 indexing, slicing, division or unwrap in obs-ebpf/src/bin/{name}.rs, and use get(), masks or `if let`"
            ),
            Error::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::NoCompiler { .. }
            | Error::NoLinker
            | Error::BadName(_)
            | Error::Compile { .. }
            | Error::Missing { .. }
            | Error::Elf { .. }
            | Error::Panic { .. } => None,
        }
    }
}

//! Finds a compiler for the BPF virtual machine and builds `obs-ebpf` with it.
//!
//! Used by obs-userspace's build script, which embeds the objects, and by `cargo xtask`, which checks them. It has no
//! dependencies, so that building it costs next to nothing.

pub mod allowed;
mod elf;
mod error;
#[cfg(test)]
mod sample;
pub mod scan;
pub mod toolchain;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use elf::Elf;
pub use error::Error;
use toolchain::{Compiler, TARGET};

/// The cargo profile that BPF objects are built with.
const PROFILE: &str = "bpf";

/// Environment variables that change what is built.
pub const RERUN_ENV: [&str; 4] = [toolchain::ENV_RUSTC, toolchain::ENV_LINKER, "CARGO_HOME", "CARGO_INSTALL_ROOT"];

/// What to build, and where to put it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The folder of the workspace's `Cargo.toml`.
    pub workspace: &'a Path,
    /// Cargo's target folder; the BPF build gets the folder `bpf` inside it, so that it never waits for the lock of
    /// the build that started it.
    pub target_dir: &'a Path,
    /// Where the finished objects are written, as `NAME.o`.
    pub out_dir: &'a Path,
}

/// One BPF object that was built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// The name of its source file in `obs-ebpf/src/bin`, without the ending.
    pub name: String,
    /// The object: no DWARF, but BTF and BTF line information.
    pub path: PathBuf,
}

/// Builds every object that has a source file in `obs-ebpf/src/bin`, and returns them sorted by name.
///
/// # Errors
/// When a tool is missing, when the programs do not compile, and when an object could reach a panic. On an error
/// nothing in `out_dir` may be used.
pub fn build(request: &Request<'_>) -> Result<Vec<Object>, Error> {
    let names = object_names(request.workspace)?;
    let compiler = toolchain::find_compiler()?;
    let linker = toolchain::find_linker()?;
    let bpf_dir = request.target_dir.join("bpf");
    fs::create_dir_all(&bpf_dir).map_err(|e| Error::io("create", &bpf_dir, e))?;
    fs::create_dir_all(request.out_dir).map_err(|e| Error::io("create", request.out_dir, e))?;

    // Two builds that share a target folder also share the names of the objects: whoever holds this lock may read them.
    let lock_path = bpf_dir.join(".obs-lock");
    let lock = File::create(&lock_path).map_err(|e| Error::io("create", &lock_path, e))?;
    lock.lock().map_err(|e| Error::io("lock", &lock_path, e))?;

    compile(request.workspace, &bpf_dir, &compiler, &linker)?;
    let built_dir = bpf_dir.join(TARGET).join(PROFILE);
    let mut objects = Vec::with_capacity(names.len());
    for name in names {
        let built = built_dir.join(&name);
        if !built.is_file() {
            return Err(Error::Missing { name, path: built });
        }
        let bytes = fs::read(&built).map_err(|e| Error::io("read", &built, e))?;
        let finished = finish(&name, &bytes)?;
        let path = request.out_dir.join(format!("{name}.o"));
        fs::write(&path, finished).map_err(|e| Error::io("write", &path, e))?;
        objects.push(Object { name, path });
    }
    Ok(objects)
}

/// Checks what the linker wrote, and takes the DWARF out of it: that is nine tenths of the bytes, and only BTF's line
/// information reaches the verifier.
fn finish(name: &str, linked: &[u8]) -> Result<Vec<u8>, Error> {
    let unreadable = |reason| Error::Elf { name: name.to_owned(), reason };
    let object = Elf::parse(linked).map_err(unreadable)?;
    if let Some(evidence) = scan::panic_evidence(&object).map_err(unreadable)? {
        return Err(Error::Panic { name: name.to_owned(), evidence });
    }
    object.without_dwarf().map_err(unreadable)
}

/// The files and folders whose change makes the objects old. The tools are among them.
#[must_use]
pub fn inputs(workspace: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        ["Cargo.toml", "Cargo.lock", "obs-ebpf/Cargo.toml", "obs-ebpf/src", "obs-common/Cargo.toml", "obs-common/src"]
            .iter()
            .map(|path| workspace.join(path))
            .collect();
    if let Ok(Compiler::Prebuilt(rustc)) = toolchain::find_compiler() {
        paths.push(rustc);
    }
    paths.extend(toolchain::find_linker());
    paths
}

/// The names of the objects: those of the files in `obs-ebpf/src/bin`. There is no second list.
///
/// # Errors
/// When the folder cannot be read, or a file in it has a name that cannot be an object's.
pub fn object_names(workspace: &Path) -> Result<Vec<String>, Error> {
    let folder = workspace.join("obs-ebpf/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| Error::io("list", &folder, e))? {
        let path = entry.map_err(|e| Error::io("list", &folder, e))?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let plain = stem.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain || stem.is_empty() || path.extension().is_none_or(|e| e != "rs") || !path.is_file() {
            return Err(Error::BadName(path));
        }
        names.push(stem.to_owned());
    }
    names.sort();
    Ok(names)
}

fn compile(workspace: &Path, bpf_dir: &Path, compiler: &Compiler, linker: &Path) -> Result<(), Error> {
    let (mut command, recipe) = match compiler {
        Compiler::Prebuilt(rustc) => {
            let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            toolchain::clean(&mut command);
            // Both use `asm_experimental_arch`; no other crate needs an unstable feature.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "aya_ebpf,obs_ebpf").arg("build");
            (command, format!("RUSTC={} cargo build", rustc.display()))
        }
        Compiler::Nightly => {
            let mut command = Command::new("rustup");
            toolchain::clean(&mut command);
            command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            (command, "cargo +nightly build -Zbuild-std=core".to_owned())
        }
    };
    command
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_INCREMENTAL", "0")
        .args(["--package", "obs-ebpf", "--bins", "--locked", "--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(bpf_dir)
        .stdin(Stdio::null());
    // Standard output belongs to the outer build script's directives; cargo's messages go to standard error.
    let status = command.status().map_err(|e| Error::io("start", command.get_program(), e))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Compile { command: format!("{recipe} -p obs-ebpf --profile {PROFILE} --target {TARGET}") })
}

/// Flags that keep BTF, name the processor, and keep this machine's folders out of the objects.
///
/// The workspace becomes `.` because rustc and the linker run there: LLVM can then still read the source, whose lines
/// it copies into BTF for the verifier's messages, and the bytes are the same wherever the workspace is.
fn rustflags(workspace: &Path) -> OsString {
    // Which registers a program's context holds depends on the machine that it will run on.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"));
    let mut remap = |from: &Path, to: &str| {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    if let Some(home) = toolchain::cargo_home() {
        remap(&home.join("registry/src"), "/cargo");
    }
    remap(workspace, ".");
    flags
}

//! How each known-answer program is compiled: one table.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

/// The known-answer program that cargo builds rather than this table.
pub const RUST_ASYNC: &str = "rust_async";

/// Who turns a source into a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// The system's C compiler.
    C,
    /// The system's C++ compiler.
    Cxx,
    /// The C compiler for programs that carry musl (Debian's musl-tools).
    MuslC,
    /// Go with cgo.
    Go,
}

impl Compiler {
    /// The command, or where it may be; the first that can be run is taken.
    fn candidates(self) -> &'static [&'static str] {
        match self {
            Self::C => &["gcc", "cc"],
            Self::Cxx => &["g++", "c++"],
            Self::MuslC => &["musl-gcc"],
            Self::Go => &["go", "/usr/lib/go-1.19/bin/go"],
        }
    }
}

/// One program (or library) and how it is made.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The file that is made.
    pub name: &'static str,
    /// Its source in `workloads/`.
    pub source: &'static str,
    /// Who compiles it.
    pub compiler: Compiler,
    /// What the compiler is told besides `COMMON_FLAGS`. `{out}` stands for the folder of the programs.
    pub flags: &'static [&'static str],
}

/// What every C and C++ program is compiled with.
const COMMON_FLAGS: &[&str] = &["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// Frame pointers kept, everything in one file: runs in a machine that has neither libraries nor a compiler.
const STATIC_WITH_FRAME_POINTERS: &[&str] = &["-static", "-fno-omit-frame-pointer"];
/// As distributions compile: no frame pointers, libraries shared.
const NO_FRAME_POINTERS: &[&str] = &["-fomit-frame-pointer"];
/// A library without frame pointers.
const LIBRARY: &[&str] = &["-fomit-frame-pointer", "-fPIC", "-shared"];

const fn c(name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Workload {
    Workload { name, source, compiler: Compiler::C, flags }
}

const fn cxx(name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Workload {
    Workload { name, source, compiler: Compiler::Cxx, flags }
}

/// Every program, in an order in which they can be made.
pub const WORKLOADS: &[Workload] = &[
    c("bpf_ids", "bpf_ids.c", &["-static"]),
    c("bpf_program", "bpf_program.c", NO_FRAME_POINTERS),
    c("busy", "busy.c", STATIC_WITH_FRAME_POINTERS),
    c("call_tree", "call_tree.c", STATIC_WITH_FRAME_POINTERS),
    c("crowd", "crowd.c", NO_FRAME_POINTERS),
    c("exit_with", "exit_with.c", &["-static"]),
    c("idle", "idle.c", &["-static"]),
    c("latencies", "latencies.c", &["-static"]),
    c("long_names", "long_names.c", STATIC_WITH_FRAME_POINTERS),
    c("pid_reuse", "pid_reuse.c", &["-static"]),
    c("reuse_alpha", "named_work.c", &["-static", "-fno-omit-frame-pointer", "-DWORK=alpha_work"]),
    c("reuse_beta", "named_work.c", &["-static", "-fno-omit-frame-pointer", "-DWORK=beta_work"]),
    c("short", "short.c", STATIC_WITH_FRAME_POINTERS),
    c("sleepers", "sleepers.c", &["-static"]),
    c("spawner", "spawner.c", &["-static"]),
    c("omit_fp", "omit_fp.c", NO_FRAME_POINTERS),
    c("omit_fp_static", "omit_fp.c", &["-fomit-frame-pointer", "-static"]),
    c("leaderless", "leaderless.c", NO_FRAME_POINTERS),
    c("waits", "waits.c", &["-static", "-fomit-frame-pointer"]),
    c("recursion", "recursion.c", NO_FRAME_POINTERS),
    c("realign", "realign.c", &["-fomit-frame-pointer", "-mstackrealign"]),
    c("signal_altstack", "signal_altstack.c", NO_FRAME_POINTERS),
    c("signal_entry", "signal_entry.c", NO_FRAME_POINTERS),
    // Stripped, and its twin at the same addresses that still has names.
    c("static_pie", "static_pie.c", &["-fomit-frame-pointer", "-static-pie", "-s"]),
    c("static_pie.names", "static_pie.c", &["-fomit-frame-pointer", "-static-pie"]),
    Workload {
        name: "musl_static",
        source: "static_pie.c",
        compiler: Compiler::MuslC,
        flags: &["-fomit-frame-pointer", "-static"],
    },
    c("plugin_code.so", "plugin_code.c", LIBRARY),
    c("plugin_host", "plugin_host.c", NO_FRAME_POINTERS),
    c("vfork_exec", "vfork_exec.c", NO_FRAME_POINTERS),
    // At fixed addresses, so that the two programs' code collides.
    c("exec_first", "exec_first.c", &["-fomit-frame-pointer", "-no-pie"]),
    c("exec_second", "exec_second.c", &["-fomit-frame-pointer", "-no-pie"]),
    // Frame pointers in the program, since its run-time code keeps them and nothing else describes that.
    c("jit", "jit.c", &["-fno-omit-frame-pointer"]),
    cxx("libexceptions_thrower.so", "exceptions_thrower.cpp", LIBRARY),
    cxx(
        "libexceptions_middle.so",
        "exceptions_middle.cpp",
        &["-fomit-frame-pointer", "-fPIC", "-shared", "-L{out}", "-lexceptions_thrower", "-Wl,-rpath,$ORIGIN"],
    ),
    cxx(
        "exceptions",
        "exceptions.cpp",
        &["-fomit-frame-pointer", "-L{out}", "-lexceptions_middle", "-lexceptions_thrower", "-Wl,-rpath,$ORIGIN"],
    ),
    Workload { name: "go_cgo", source: "go_cgo.go", compiler: Compiler::Go, flags: &[] },
];

/// The folder of the sources.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

/// Compiles into `folder` what is not up to date there. A program whose compiler this machine lacks comes back with that
/// as its reason.
///
/// # Errors
///
/// A program that does not compile, and a folder that cannot be written.
pub fn build_all(folder: &Path) -> Result<Vec<(&'static str, Result<PathBuf, String>)>> {
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    WORKLOADS.iter().map(|workload| Ok((workload.name, build(workload, folder)?))).collect()
}

fn build(workload: &Workload, folder: &Path) -> Result<Result<PathBuf, String>> {
    let program = folder.join(workload.name);
    let source = sources().join(workload.source);
    for candidate in workload.compiler.candidates() {
        let mut command = command(workload, candidate, folder, &source, &program);
        // The command line is kept beside the program: a change of flags makes it stale too.
        let made_by = folder.join(format!("{}.made-by", workload.name));
        let line = format!("{command:?}");
        let newest = modified(&source)?.max(modified(&sources().join("burn.h"))?);
        if fs::read_to_string(&made_by).is_ok_and(|made_by| made_by == line)
            && modified(&program).is_ok_and(|made| made > newest)
        {
            return Ok(Ok(program));
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("running {line}")),
        };
        if !output.status.success() {
            bail!("{line} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        fs::write(&made_by, line).with_context(|| format!("writing {}", made_by.display()))?;
        return Ok(Ok(program));
    }
    Ok(Err(format!("no {} on this machine", workload.compiler.candidates()[0])))
}

fn command(workload: &Workload, compiler: &str, folder: &Path, source: &Path, program: &Path) -> Command {
    let mut command = Command::new(compiler);
    match workload.compiler {
        Compiler::C | Compiler::Cxx | Compiler::MuslC => {
            // Libraries are named after the source that needs them: the linker reads from left to right.
            command.args(COMMON_FLAGS).arg(source).arg("-o").arg(program);
            let out = folder.display().to_string();
            command.args(workload.flags.iter().map(|flag| flag.replace("{out}", &out)));
        }
        Compiler::Go => {
            // Nothing is downloaded: the program needs the standard library only.
            command.args(["build", "-o"]).arg(program).args(workload.flags).arg(source);
            command.env("CGO_ENABLED", "1").env("GO111MODULE", "off").env("GOFLAGS", "");
        }
    }
    command
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("looking at {}", path.display()))
}

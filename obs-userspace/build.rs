//! Builds the BPF objects and writes `bpf_objects.rs`, which embeds them.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use obs_ebpf_build::{Object, RERUN_ENV, Request};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The directive makes cargo show the sentence first; standard error keeps it in the build script's log.
            println!("cargo::error={message}");
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(format!("cargo did not set {name}"));
    let out_dir = variable("OUT_DIR")?;
    let package = variable("CARGO_MANIFEST_DIR")?;
    let workspace = package.parent().ok_or("obs-userspace is not inside the workspace's folder")?;

    // Before anything can fail, so that a failed build is tried again when its cause is gone.
    for path in obs_ebpf_build::inputs(workspace) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for name in RERUN_ENV {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let request = Request { workspace, target_dir: target_dir(&out_dir), out_dir: &out_dir.join("bpf") };
    let objects = obs_ebpf_build::build(&request).map_err(|e| e.to_string())?;
    let generated = out_dir.join("bpf_objects.rs");
    let source = embed(&objects).map_err(|e| format!("cannot read the BPF objects just built: {e}"))?;
    fs::write(&generated, source).map_err(|e| format!("cannot write {}: {e}", generated.display()))
}

/// Cargo's target folder, which it marks; it gives build scripts a folder inside only. Without the mark (it is the
/// user's to delete) the objects are built in this script's own folder: slower, never wrong.
fn target_dir(out_dir: &Path) -> &Path {
    out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(out_dir)
}

/// The source of the table of embedded objects. aya reads ELF headers in place, so the bytes must be aligned.
fn embed(objects: &[Object]) -> std::io::Result<String> {
    let mut statics = String::new();
    let mut table = String::new();
    for (index, object) in objects.iter().enumerate() {
        let length = fs::metadata(&object.path)?.len();
        let (name, path) = (&object.name, object.path.display().to_string());
        let _ =
            writeln!(statics, "static OBJECT_{index}: Aligned<[u8; {length}]> = Aligned(*include_bytes!({path:?}));");
        let _ = writeln!(table, "    ({name:?}, &OBJECT_{index}.0),");
    }
    Ok(format!(
        "#[repr(C, align(8))]\nstruct Aligned<T>(T);\n\n{statics}\n\
         /// Every BPF object by its name, sorted by name; each begins at a multiple of 8 bytes.\n\
         pub(crate) static OBJECTS: &[(&str, &[u8])] = &[\n{table}];\n"
    ))
}

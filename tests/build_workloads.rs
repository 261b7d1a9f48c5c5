//! Compiles the known-answer programs into a folder, for a machine that has no compiler: `obs-workloads DIR`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use obs_tests::workloads;

fn main() -> Result<ExitCode> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: obs-workloads DIR");
        return Ok(ExitCode::from(2));
    };
    for (name, outcome) in workloads::build_all(&folder)? {
        match outcome {
            Ok(path) => println!("{}", path.display()),
            Err(reason) => println!("SKIPPED {name}: {reason}"),
        }
    }
    let beside = env::current_exe()?.with_file_name(workloads::RUST_ASYNC);
    if beside.exists() {
        let copy = folder.join(workloads::RUST_ASYNC);
        fs::copy(&beside, &copy).with_context(|| format!("copying {} to {}", beside.display(), copy.display()))?;
        println!("{}", copy.display());
    }
    Ok(ExitCode::SUCCESS)
}

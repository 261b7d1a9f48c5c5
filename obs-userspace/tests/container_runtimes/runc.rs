//! runc by itself: a container with a name of its own, which only runc's state file knows.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use obs_userspace::{enrich::identity::RuntimePaths, model::container::Runtime};
use serde_json::{Value, json};

use super::{Case, Finally, ask, expect, output, root_file_system, run_detached, unique};

pub(crate) const CASE: Case = Case { name: "containers::runc", tools: &["runc"], run };

/// An OCI bundle in a folder that already has a root file system.
pub(super) fn write_bundle(folder: &std::path::Path, arguments: &[&str]) -> Result<()> {
    output(Command::new("runc").args(["spec", "--bundle"]).arg(folder))?;
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(arguments);
    // A host's test may not be allowed to raise limits.
    config["process"]["rlimits"] = json!([]);
    config["annotations"] = json!({"team": "web"});
    fs::write(path, serde_json::to_vec(&config)?)?;
    Ok(())
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    root_file_system(folder.path())?;
    write_bundle(folder.path(), &["/bin/sleep", "100000"])?;
    let name = unique("runc");
    let _remove = Finally(|| {
        let _ = output(Command::new("runc").args(["delete", "--force", &name]));
    });
    run_detached(
        Command::new("runc").args(["run", "--detach", "--bundle"]).arg(folder.path()).arg(&name),
        folder.path(),
    )?;
    let state: Value = serde_json::from_str(&output(Command::new("runc").args(["state", &name]))?)?;
    let pid = u32::try_from(state["pid"].as_u64().context("runc tells no pid")?)?;

    let (identity, container) = ask(&RuntimePaths::default(), pid)?;
    expect("command line", identity.command_line.as_deref(), Some("/bin/sleep 100000"))?;
    expect("executable", identity.executable.as_deref(), Some("/bin/busybox"))?;
    expect("user", identity.user_id, Some(0))?;
    expect("id", &*container.id, &name)?;
    expect("runtime", container.runtime, Some(Runtime::Runc))?;
    expect("name", container.details.name.as_deref(), Some(&*name))?;
    expect("label", container.details.labels.get("team").map(|label| &**label), Some("web"))
}

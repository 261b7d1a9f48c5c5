//! Profiles that `obs record … -o FILE.json` wrote, as windows.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use obs_userspace::model::{
    process::{ProcessInfo, ProcessKey},
    profile::{Frame, FrameKind, Module, Profile, ProfileSample, ValueType},
    stack::StackEnd,
};
use serde_json::Value;

/// Reads every file of a folder, in the order of their names.
pub(crate) fn read(folder: &Path) -> Result<Vec<Profile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")).map(|path| file(path)).collect()
}

fn file(path: &Path) -> Result<Profile> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))?;
    let rows = |name: &str| value[name].as_array().map_or(&[][..], |rows| rows);
    Ok(Profile {
        collector: "cpu".into(),
        value_types: vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
        period: Some((ValueType::new("cpu", "nanoseconds"), number(&value["period"]["value"]))),
        started_unix_ns: number(&value["started_unix_ns"]),
        duration_ns: number(&value["duration_ns"]),
        modules: rows("modules")
            .iter()
            .map(|row| Module { path: text_of(&row["path"]), build_id: optional(&row["build_id"]) })
            .collect(),
        frames: rows("frames").iter().map(frame).collect(),
        processes: rows("processes").iter().map(process).collect(),
        samples: rows("samples").iter().map(sample).collect(),
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn optional(value: &Value) -> Option<Arc<str>> {
    value.as_str().map(Arc::from)
}

fn text_of(value: &Value) -> Arc<str> {
    optional(value).unwrap_or_else(|| "".into())
}

fn frame(row: &Value) -> Frame {
    let kind = match row["kind"].as_str() {
        Some("user-inlined") => FrameKind::UserInlined,
        Some("jit") => FrameKind::Jit,
        Some("kernel") => FrameKind::Kernel,
        Some("kernel-inlined") => FrameKind::KernelInlined,
        Some("wait") => FrameKind::Wait,
        _ => FrameKind::User,
    };
    let address = row["address"].as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    Frame {
        function: optional(&row["function"]),
        kind,
        module: row["module"].as_u64().map(|index| index as u32),
        address: address.unwrap_or_default(),
        source: optional(&row["file"]).map(|file| (file, number(&row["line"]) as u32)),
    }
}

fn process(row: &Value) -> ProcessInfo {
    ProcessInfo {
        key: ProcessKey {
            pid: number(&row["pid"]) as u32,
            started_ns: number(&row["started_ns"]),
            exec_id: number(&row["exec_id"]) as u32,
        },
        name: text_of(&row["name"]),
        executable: optional(&row["executable"]),
        container_id: optional(&row["container_id"]),
        cgroup: optional(&row["cgroup"]),
    }
}

fn sample(row: &Value) -> ProfileSample {
    let numbers = |value: &Value| value.as_array().map_or(Vec::new(), |all| all.iter().map(number).collect());
    ProfileSample {
        process: number(&row["process"]) as u32,
        thread_name: text_of(&row["thread"]),
        stack: numbers(&row["stack"]).into_iter().map(|index| index as u32).collect(),
        // Which reason it was does not change what it costs.
        cut: row["cut"].as_str().map(|_| StackEnd::NoRow),
        values: numbers(&row["values"]),
    }
}

//! The trials on the running kernel: honest about privileges, and gone without a trace.

use std::{
    collections::HashSet,
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use super::*;

/// Set for the copy of this test that does the trials in a process of its own.
const CHILD: &str = "OBS_TEST_TRIALS_IN_CHILD";

#[test]
fn names_are_unique_and_purposes_fit() {
    let names: HashSet<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    assert_eq!(names.len(), Feature::ALL.len());
    for (index, feature) in Feature::ALL.iter().enumerate() {
        assert_eq!(*feature as usize, index, "outcomes are kept by the number of the feature");
        assert!(feature.name().len() <= 17, "{feature} breaks the columns of obs doctor");
        assert!(feature.purpose().len() <= 48, "{feature}'s purpose breaks the columns of obs doctor");
    }
}

#[test]
fn needs_lead_to_an_end() {
    for feature in Feature::ALL {
        let mut needed = feature.needs().to_vec();
        for _ in Feature::ALL {
            needed = needed.iter().flat_map(|needed| needed.needs()).copied().collect();
        }
        assert_eq!(needed, [], "{feature} needs itself");
    }
}

#[test]
fn a_refusal_is_explained() {
    let prober = Prober::new();
    let refused = SysError::new("trying", std::io::Error::from_raw_os_error(libc::EPERM));
    let Outcome::Missing { why, remedy } = prober.judge_or(Err(refused), "another way") else {
        panic!("a privilege that is missing has no fallback")
    };
    assert!(why.starts_with("trying: ") && !remedy.is_empty());
    let unknown = || SysError::new("trying", std::io::Error::from_raw_os_error(libc::EINVAL));
    assert_eq!(prober.judge_or(Err(unknown()), "another way"), Outcome::works_by("another way"));
    assert!(matches!(prober.judge(Err(unknown()), "upgrade"), Outcome::Missing { remedy, .. } if remedy == "upgrade"));
    let verifier =
        SysError { by_verifier: true, ..SysError::new("loading", std::io::Error::from_raw_os_error(libc::EACCES)) };
    assert_eq!(prober.judge_or(Err(verifier), "another way"), Outcome::works_by("another way"));
}

/// The targets of this process's descriptors, and what the kernel says of each.
fn descriptors() -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    let mut found: Vec<(String, String)> = names
        .into_iter()
        .filter_map(|name| {
            let target = std::fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
            Some((name, target.to_string_lossy().into_owned()))
        })
        .collect();
    found.sort();
    found
}

fn mappings_of_events() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    maps.lines().filter(|line| line.contains("perf_event") || line.contains("bpf-map")).count()
}

/// Runs this test again in a process that does nothing else, optionally as an ordinary user.
fn in_child(test: &str, uid: Option<u32>) -> Output {
    // A copy that everybody may execute, wherever the build keeps its own.
    let folder = tempfile::Builder::new().prefix("obs-trials").tempdir().expect("a temporary folder");
    let program = folder.path().join("trials");
    // Copied by another process: a file that this one has open for writing, if only in a fork, cannot be executed.
    let copied = Command::new("cp").arg(std::env::current_exe().expect("procfs")).arg(&program).status();
    assert!(copied.expect("cp exists").success());
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    };
    mode(folder.path());
    mode(&program);
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1").current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.output().expect("the copy runs")
}

fn assert_passed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

#[test]
fn trials_leave_nothing_behind() {
    if std::env::var_os(CHILD).is_none() {
        assert_passed(&in_child("kernel::features::tests::trials_leave_nothing_behind", None));
        return;
    }
    let pinned = || std::fs::read_dir("/sys/fs/bpf").map_or(0, Iterator::count);
    let before = (descriptors(), mappings_of_events(), pinned());
    let prober = Prober::new();
    for feature in Feature::ALL {
        eprintln!("{feature}: {:?}", feature.probe(&prober));
    }
    drop(prober);
    assert_eq!((descriptors(), mappings_of_events(), pinned()), before);
}

#[test]
fn an_ordinary_user_is_told_which_privileges_are_missing() {
    if std::env::var_os(CHILD).is_none() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become an ordinary user");
            return;
        }
        let test = "kernel::features::tests::an_ordinary_user_is_told_which_privileges_are_missing";
        assert_passed(&in_child(test, Some(65_534)));
        return;
    }
    let prober = Prober::new();
    let host = prober.host();
    assert_eq!(host.effective_uid, 65_534);
    assert_eq!(host.capabilities_effective, 0);
    assert!(host.missing_capabilities.iter().any(|capability| capability.name == "CAP_BPF"));
    let (why, remedy) = host.why_refused();
    assert!(why.contains("privileges") && remedy.contains("root"));
    for feature in Feature::ALL {
        // None of them panics, and each that is missing says something.
        if let Outcome::Missing { why, remedy } = feature.probe(&prober) {
            assert!(!why.is_empty() && !remedy.is_empty(), "{feature}");
        }
    }
    assert!(!Feature::ProcessMappings.probe(&prober).is_usable(), "there are processes of root's");
    if host.perf_event_paranoid.is_some_and(|level| level >= 1) {
        assert!(!Feature::CpuClock.probe(&prober).is_usable());
        assert!(!Feature::ProcessRecords.probe(&prober).is_usable());
    }
}

//! Bad use: one clear sentence, the right exit code, nothing left behind.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::harness::{Context, Finished, Need, Scenario};

const ROOT: &[Need] = &[Need::Root];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "misuse::a_process_that_does_not_exist", needs: ROOT, run: unknown_process },
    Scenario { name: "misuse::an_ordinary_user", needs: ROOT, run: ordinary_user },
    Scenario { name: "misuse::an_output_that_cannot_be_written", needs: ROOT, run: unwritable_output },
    Scenario { name: "misuse::a_format_that_does_not_exist", needs: &[], run: unknown_format },
    Scenario { name: "misuse::a_frequency_of_zero", needs: &[], run: zero_frequency },
    Scenario { name: "misuse::a_frequency_beyond_the_kernels", needs: ROOT, run: enormous_frequency },
    Scenario { name: "misuse::a_duration_that_is_none", needs: &[], run: bad_duration },
    Scenario { name: "misuse::a_collector_that_does_not_exist", needs: &[], run: unknown_collector },
    Scenario { name: "misuse::a_command_that_is_missing", needs: &[], run: missing_command },
    Scenario { name: "misuse::a_command_that_does_not_exist", needs: ROOT, run: unknown_command },
    Scenario { name: "misuse::a_cgroup_that_does_not_exist", needs: ROOT, run: unknown_cgroup },
    Scenario { name: "misuse::a_kernel_without_btf", needs: ROOT, run: no_btf },
];

const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;

/// Runs `obs record cpu` in an empty folder with a bad argument. It must end with this exit code, name what is wrong in
/// words that hold each of `words`, write no profile and leave no file.
fn refuses(context: &Context, code: i32, words: &[&str], arguments: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir().context("making an empty folder")?;
    let mut command = context.obs(&["record", "cpu"]);
    command.args(arguments).current_dir(folder.path());
    let finished = context.run(&mut command)?;
    ensure_refused(&finished, code, words)?;
    let left = fs::read_dir(folder.path())?.count();
    ensure!(left == 0, "{} left {left} files behind", finished.line);
    Ok(())
}

fn ensure_refused(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    let (line, stderr) = (&finished.line, &finished.stderr);
    let status = finished.status.code();
    println!("  {}", stderr.lines().next().unwrap_or_default());
    ensure!(status == Some(code), "{line} ended with {}, not {code}; it wrote:\n{stderr}", finished.status);
    ensure!(finished.stdout.is_empty(), "{line} wrote to standard output:\n{}", finished.stdout_text());
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        ensure!(!stderr.contains(word), "{line} broke down:\n{stderr}");
    }
    let first = stderr.lines().next().unwrap_or_default();
    for word in words {
        ensure!(first.to_lowercase().contains(&word.to_lowercase()), "the message does not say {word:?}:\n{stderr}");
    }
    // What failed is said in one sentence. Wrong usage may be followed by a hint at the right one.
    ensure!(code == WRONG_USAGE || stderr.lines().count() == 1, "more than one line:\n{stderr}");
    Ok(())
}

fn unknown_process(context: &Context) -> Result<()> {
    // A process that has just been: its id is well-formed and free.
    let mut gone = Command::new(context.obs_path()).arg("--version").stdout(std::process::Stdio::null()).spawn()?;
    let pid = gone.id().to_string();
    gone.wait()?;
    refuses(context, FAILED, &["process", &pid], &["-p", &pid, "-o", "out.folded"])?;
    refuses(context, FAILED, &["thread", &pid], &["--tid", &pid, "-o", "out.folded"])?;
    refuses(context, WRONG_USAGE, &["0"], &["-p", "0"])?;
    refuses(context, WRONG_USAGE, &["init"], &["-p", "init"])
}

/// An ordinary user is told what is missing. The command is not started.
fn ordinary_user(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    // A copy that an ordinary user can reach, wherever the binary under test is.
    let copy = folder.path().join("obs");
    fs::copy(context.obs_path(), &copy).context("copying obs")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(&copy);
    // Nobody, in no group, with no capabilities.
    command.uid(65_534).gid(65_534).current_dir(folder.path());
    let finished = context.run(command.args(["record", "cpu", "-o", "out.folded", "--", "touch", "command-ran"]))?;
    ensure_refused(&finished, FAILED, &[])?;
    let message = finished.stderr.to_lowercase();
    ensure!(message.contains("root") || message.contains("cap_"), "the message does not say which rights:\n{message}");
    ensure!(!folder.path().join("out.folded").exists(), "a profile was left behind");
    ensure!(!folder.path().join("command-ran").exists(), "the command was run though it could not be measured");
    Ok(())
}

/// Known before anything is measured: the command is not even started.
fn unwritable_output(context: &Context) -> Result<()> {
    let missing = "no-such-folder/out.svg";
    refuses(context, FAILED, &[missing, "no such file"], &["-o", missing, "--", "touch", "command-ran"])?;
    refuses(context, FAILED, &["/proc/out.svg"], &["-o", "/proc/out.svg", "--", "touch", "command-ran"])?;
    refuses(context, FAILED, &["directory"], &["--format", "svg", "-o", ".", "--", "touch", "command-ran"])
}

fn unknown_format(context: &Context) -> Result<()> {
    refuses(context, WRONG_USAGE, &["gif"], &["--format", "gif", "-d", "1s"])?;
    refuses(context, WRONG_USAGE, &["out.gif"], &["-o", "out.gif", "-d", "1s"])
}

fn zero_frequency(context: &Context) -> Result<()> {
    refuses(context, WRONG_USAGE, &["0"], &["-F", "0", "-d", "1s"])?;
    refuses(context, WRONG_USAGE, &["-1"], &["-F", "-1", "-d", "1s"])?;
    refuses(context, WRONG_USAGE, &["often"], &["-F", "often", "-d", "1s"])
}

fn enormous_frequency(context: &Context) -> Result<()> {
    refuses(context, WRONG_USAGE, &["1000000000000"], &["-F", "1000000000000", "-d", "1s"])
}

fn bad_duration(context: &Context) -> Result<()> {
    for duration in ["5parsecs", "0s", "", "99999999999999999999s"] {
        refuses(context, WRONG_USAGE, &[duration], &["-d", duration])?;
    }
    // Taken for an option.
    refuses(context, WRONG_USAGE, &["-1"], &["-d", "-1s"])
}

fn unknown_collector(context: &Context) -> Result<()> {
    let finished = context.run(&mut context.obs(&["record", "gpu", "-d", "1s"]))?;
    ensure_refused(&finished, WRONG_USAGE, &["gpu"])
}

fn missing_command(context: &Context) -> Result<()> {
    refuses(context, WRONG_USAGE, &["command"], &["-o", "out.svg", "--"])
}

fn unknown_command(context: &Context) -> Result<()> {
    refuses(context, FAILED, &["no-such-program", "no such file"], &["-o", "out.svg", "--", "no-such-program"])
}

fn unknown_cgroup(context: &Context) -> Result<()> {
    refuses(
        context,
        FAILED,
        &["/sys/fs/cgroup/no-such-group"],
        &["--cgroup", "/sys/fs/cgroup/no-such-group", "-d", "1s"],
    )?;
    // A folder, but of another file system.
    refuses(context, FAILED, &["/etc", "cgroup"], &["--cgroup", "/etc", "-d", "1s"])
}

/// Simulated: the file from which obs learns the kernel's structures is elsewhere.
fn no_btf(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making an empty folder")?;
    let mut command = context.obs(&["record", "cpu", "-o", "out.folded", "--", "touch", "command-ran"]);
    let finished = context.run(command.env("OBS_KERNEL_BTF", "/nonexistent").current_dir(folder.path()))?;
    ensure_refused(&finished, FAILED, &["BTF", "/nonexistent"])?;
    ensure!(fs::read_dir(folder.path())?.count() == 0, "something was left behind");
    Ok(())
}

//! The machine that xtask runs on: folders, programs, and how they are started.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().context("xtask is not inside the workspace's folder")?;
    Ok(workspace.to_owned())
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let workspace = workspace()?;
    Ok(env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |named| workspace.join(named)))
}

/// The binary that `cargo xtask build` leaves.
pub(crate) fn obs_binary() -> Result<PathBuf> {
    Ok(target_dir()?.join("release/obs"))
}

/// Cargo, in the workspace's folder.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()?);
    // What cargo tells the program that it runs, this one, is not for another cargo: a dependency whose build script looks at it
    // (ring) would be built again, and all that depends on it, whenever both kinds of call take turns.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// A program by its name, without arguments.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    Command::new(name)
}

/// Where a program is, if it is in `PATH`. The folders of the system's administrator are searched too: they are not
/// in an ordinary user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // The owner of a process's own folder in procfs is its effective user.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// How many CPUs this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The same command as the superuser: itself for root, else through sudo.
pub(crate) fn as_root(command: Command) -> Command {
    if is_root() { command } else { through_sudo(&command) }
}

/// sudo starts programs with an environment of its own; variables that are set for the command are handed on by `env`.
fn through_sudo(command: &Command) -> Command {
    let mut sudo = Command::new("sudo");
    let mut variables = command.get_envs().filter_map(|(name, value)| Some((name, value?))).peekable();
    if variables.peek().is_some() {
        sudo.arg("env");
    }
    for (name, value) in variables {
        let mut pair = name.to_owned();
        pair.push("=");
        pair.push(value);
        sudo.arg(pair);
    }
    sudo.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        sudo.current_dir(folder);
    }
    sudo
}

/// How one would type the command.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain = !argument.is_empty() && !argument.contains([' ', '\'', '"', '$', '&', '|', ';', '*']);
        let _ = if plain { write!(line, " {argument}") } else { write!(line, " '{argument}'") };
    }
    line
}

/// Runs a command to its end, its output being ours.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot start `{}`", line(command)))
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command that must succeed, and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    Ok(output.stdout)
}

/// Runs a command that must succeed, and returns its standard output as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let bytes = output(command)?;
    String::from_utf8(bytes).with_context(|| format!("`{}` printed something that is not text", line(command)))
}

/// A program's exit status as our own: its code, or, as shells do it, 128 and the signal's number.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Writes a file, and says which if it cannot.
pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file, and says which if it cannot.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes a folder and those above it, and says which if it cannot.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the folder {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_typed_again() {
        let mut command = program("echo");
        command.args(["a", "two words", ""]);
        assert_eq!(line(&command), "echo a 'two words' ''");
    }

    #[test]
    fn sudo_is_told_the_variables() {
        let mut command = program("obs");
        assert_eq!(line(&through_sudo(command.arg("agent"))), "sudo obs agent");
        command.env("OBS_STATE_DIR", "/a b").env_remove("HOME");
        assert_eq!(line(&through_sudo(&command)), "sudo env 'OBS_STATE_DIR=/a b' obs agent");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-program-has-this-name").is_none());
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(program("false").arg("x")).unwrap_err().to_string();
        assert!(error.contains("`false x` failed"), "{error}");
    }
}

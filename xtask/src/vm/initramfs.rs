//! The guest's only file system: our programs, the libraries that they name, and a shell.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::cpio::Archive;
use crate::host;

/// Where `obs` is in the guest.
pub(super) const OBS: &str = "/obs/obs";
/// Where the scenario tests are in the guest.
pub(super) const SCENARIOS: &str = "/obs/scenarios";
/// Where the known-answer programs are in the guest.
pub(super) const WORKLOADS: &str = "/obs/workloads";

/// Users that programs may be run as, and looked up.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What goes into the guest.
#[derive(Debug)]
pub(super) struct Payload {
    /// The guest's first program.
    pub(super) init: PathBuf,
    /// A statically linked busybox.
    pub(super) busybox: PathBuf,
    /// The binary under test.
    pub(super) obs: PathBuf,
    /// The scenario tests.
    pub(super) scenarios: Option<PathBuf>,
    /// The folder of the known-answer programs.
    pub(super) workloads: Option<PathBuf>,
    /// Programs of this machine that scenarios use and that busybox has, if at all, in another form.
    pub(super) tools: Vec<PathBuf>,
}

/// One thing that the guest does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// What the guest's shell runs.
    pub(super) command: String,
}

/// Writes the compressed archive.
///
/// # Errors
/// When a file cannot be read, a library is missing, or the archive cannot be written.
pub(super) fn write(payload: &Payload, steps: &[Step], to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/sbin", "/usr/bin", "/usr/sbin"] {
        archive.folder(folder);
    }
    archive.program("/init", &host::read(&payload.init)?);
    archive.program("/bin/busybox", &host::read(&payload.busybox)?);
    // /init is a script: its shell must be there before busybox installs the other names.
    archive.link("/bin/sh", "busybox");
    archive.file("/etc/passwd", PASSWD.as_bytes());
    archive.file("/etc/group", GROUP.as_bytes());
    archive.file("/etc/steps", step_list(steps)?.as_bytes());

    let mut libraries = BTreeSet::new();
    let mut add = |path: &Path, name: &str| -> Result<()> {
        let contents = host::read(path)?;
        if contents.starts_with(b"\x7fELF") {
            libraries.extend(libraries_of(path)?);
        }
        let is_program = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        if is_program {
            archive.program(name, &contents);
        } else {
            archive.file(name, &contents);
        }
        Ok(())
    };
    add(&payload.obs, OBS)?;
    if let Some(scenarios) = &payload.scenarios {
        add(scenarios, SCENARIOS)?;
    }
    if let Some(folder) = &payload.workloads {
        for path in files_in(folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).context("a workload has an unusual name")?;
            add(&path, &format!("{WORKLOADS}/{name}"))?;
        }
    }
    for path in &payload.tools {
        let name = path.file_name().and_then(|name| name.to_str()).context("a tool has an unusual name")?;
        add(path, &format!("/usr/bin/{name}"))?;
    }
    for library in libraries {
        let name = library.to_str().context("a library has an unusual name")?;
        archive.program(name, &host::read(&library)?);
    }

    append(archive, &create(to)?, to)
}

/// Writes the same archive with other steps: of a file that comes twice, the guest's kernel keeps the second.
///
/// # Errors
/// When the archive cannot be read, or the other one not be written.
pub(super) fn write_again(archive: &Path, steps: &[Step], to: &Path) -> Result<()> {
    let mut file = create(to)?;
    file.write_all(&host::read(archive)?).with_context(|| format!("cannot write {}", to.display()))?;
    let mut other = Archive::default();
    other.file("/etc/steps", step_list(steps)?.as_bytes());
    append(other, &file, to)
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn append(archive: Archive, mut file: &File, path: &Path) -> Result<()> {
    let mut compressed = GzEncoder::new(&mut file, Compression::fast());
    compressed
        .write_all(&archive.finish())
        .and_then(|()| compressed.finish().map(drop))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The file that /init reads: a name and a command a line.
fn step_list(steps: &[Step]) -> Result<String> {
    let mut list = String::new();
    for step in steps {
        if step.command.contains('\n') || step.name.contains(['|', ' ']) {
            bail!("the step `{}` cannot be written on one line", step.name);
        }
        list.push_str(&format!("{}|{}\n", step.name, step.command));
    }
    Ok(list)
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The shared libraries of a program, its loader among them.
fn libraries_of(path: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut command = host::program("ldd");
    let output = command.arg(path).stdin(Stdio::null()).output().context("cannot start ldd")?;
    // It fails for programs without libraries, which is an answer.
    parse_ldd(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("{} cannot run", path.display()))
}

fn parse_ldd(listed: &str) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for line in listed.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            bail!("the library {name} is missing on this machine");
        }
        let place = place.split(" (").next().unwrap_or_default();
        if place.starts_with('/') {
            libraries.insert(PathBuf::from(place));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x7ff)\n\tlibc.so.6 => /lib/libc.so.6 (0x7fa)\n\t/lib64/ld.so.2 (0x7fb)\n";
        let expected = ["/lib/libc.so.6", "/lib64/ld.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(listed).unwrap(), BTreeSet::from(expected));
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert!(parse_ldd("\tlibx.so => not found\n").unwrap_err().to_string().contains("libx.so"));
    }

    #[test]
    fn steps_are_one_line_each() {
        let step = |name, command: &str| Step { name, command: command.to_owned() };
        assert_eq!(step_list(&[step("a", "b c")]).unwrap(), "a|b c\n");
        assert!(step_list(&[step("a", "b\nc")]).is_err());
    }
}

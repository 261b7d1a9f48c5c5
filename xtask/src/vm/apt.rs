//! Downloads kernels of Debian through a package index of our own: the machine's apt is neither asked nor changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::host;

/// The repositories that carry both kernels, whatever release of Debian this machine runs, from the mirror that this
/// machine's own apt uses.
fn sources() -> Result<String> {
    let files = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let mirror = text.split_whitespace().map(|word| word.trim_end_matches('/')).find(|word| word.ends_with("/debian"));
    let mirror = mirror.with_context(|| format!("no mirror of Debian is named in {}", files.join(" or ")))?;
    let entry = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    Ok(format!("{entry} {mirror} bookworm main\n{entry} {mirror}-security bookworm-security main\n"))
}

/// How old the package index may be: Debian takes old kernels off its mirrors, so an old index names missing files.
const INDEX_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A private apt: index, cache and configuration in one folder.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Opens the private apt in a folder, and brings its index up to date if it is old.
    ///
    /// # Errors
    /// When the index cannot be downloaded and there is no old one to go on with.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        for needed in ["lists/partial", "cache/archives/partial"] {
            host::make_dir(&folder.join(needed))?;
        }
        host::write(&folder.join("sources.list"), &sources()?)?;
        // An empty status file: what is installed on this machine does not matter to the guest.
        host::write(&folder.join("status"), "")?;
        let apt = Apt { folder: folder.to_owned() };
        let stamp = folder.join("updated");
        let is_fresh = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() < INDEX_AGE_MAX);
        if !is_fresh {
            match host::run(apt.command("apt-get").args(["update", "-qq"])) {
                Ok(()) => host::write(&stamp, "")?,
                Err(error) if stamp.exists() => eprintln!("warning: {error:#}; going on with the old package index"),
                Err(error) => return Err(error.context("cannot download Debian's package index")),
            }
        }
        Ok(apt)
    }

    /// The versioned package that a meta-package stands for.
    ///
    /// # Errors
    /// When the index does not have it.
    pub(crate) fn resolve(&self, meta_package: &str) -> Result<String> {
        let listed = host::text(self.command("apt-cache").args(["depends", "--important", meta_package]))?;
        depends_on_kernel(&listed)
            .map(str::to_owned)
            .with_context(|| format!("the package {meta_package} of Debian depends on no kernel"))
    }

    /// Downloads a package into a folder and returns the file.
    ///
    /// # Errors
    /// When the download fails.
    pub(crate) fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        host::make_dir(into)?;
        host::run(self.command("apt-get").args(["download", "-q", package]).current_dir(into))?;
        for entry in fs::read_dir(into).with_context(|| format!("cannot list {}", into.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", into.display()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                return Ok(path);
            }
        }
        bail!("apt-get download {package} left no package in {}", into.display())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = host::program(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            "APT::Architecture=amd64".to_owned(),
            // Downloads go to this folder, which apt's own user may not read.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The image in the output of `apt-cache depends`.
fn depends_on_kernel(listed: &str) -> Option<&str> {
    let dependencies = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    dependencies.map(str::trim).find(|package| package.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versioned_package_is_found() {
        let listed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(depends_on_kernel(listed), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(depends_on_kernel("nothing\n  Depends: <virtual>\n"), None);
    }
}

//! The kernels that are booted: which, from where, and how a bootable image comes out of a package.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::apt::Apt;
use crate::host;

/// A kernel series that obs promises to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// The long-term series of Debian 13, as offered to Debian 12
    #[value(name = "6.12")]
    V6_12,
}

/// All of them, oldest first.
pub(crate) const ALL: [Series; 2] = [Series::V6_1, Series::V6_12];

impl Series {
    /// The version as people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::V6_1 => "6.1",
            Series::V6_12 => "6.12",
        }
    }

    /// The package that always depends on the newest kernel of the series.
    fn meta_package(self) -> &'static str {
        match self {
            Series::V6_1 => "linux-image-cloud-amd64",
            Series::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The package that it came from.
    pub(crate) package: String,
    /// The uncompressed kernel, an ELF file.
    pub(crate) image: PathBuf,
}

/// Provides the newest kernel of a series; downloads it if that was not done before.
///
/// # Errors
/// When it cannot be downloaded or unpacked.
pub(crate) fn provide(series: Series, apt: &Apt, cache: &Path) -> Result<Kernel> {
    let package = apt.resolve(series.meta_package())?;
    if !package.starts_with(&format!("linux-image-{}.", series.name())) {
        bail!("{} stands for {package}, which is no kernel {}", series.meta_package(), series.name());
    }
    let folder = cache.join(&package);
    let image = folder.join("vmlinux");
    if !image.is_file() {
        println!("Downloading {package}.");
        let archive = apt.download(&package, &folder)?;
        let unpacked = folder.join("unpacked");
        host::run(host::program("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
        let release = package.trim_start_matches("linux-image-");
        let bootable = host::read(&unpacked.join("boot").join(format!("vmlinuz-{release}")))?;
        let kernel = extract(&bootable).with_context(|| format!("cannot unpack the kernel of {package}"))?;
        // Written under another name first, so that an interrupted run leaves nothing that looks complete.
        let partial = folder.join("vmlinux.partial");
        host::write(&partial, kernel)?;
        fs::rename(&partial, &image).with_context(|| format!("cannot create {}", image.display()))?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    }
    Ok(Kernel { package, image })
}

/// Takes the ELF kernel out of a bzImage, by the fields of its header (Documentation/arch/x86/boot.rst).
fn extract(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTORS_AT: usize = 0x1f1;
    const MAGIC_AT: usize = 0x202;
    const PAYLOAD_OFFSET_AT: usize = 0x248;
    const PAYLOAD_LENGTH_AT: usize = 0x24c;
    const SECTOR_LEN: usize = 512;
    if image.get(MAGIC_AT..MAGIC_AT + 4) != Some(b"HdrS") {
        bail!("it is not a bzImage");
    }
    // Zero stands for four, by the protocol.
    let sectors = match image.get(SETUP_SECTORS_AT) {
        None | Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let start = (sectors + 1) * SECTOR_LEN + word(image, PAYLOAD_OFFSET_AT)?;
    let end = start + word(image, PAYLOAD_LENGTH_AT)?;
    let payload = image.get(start..end).context("its payload is cut short")?;
    // The kernel's build appends the uncompressed size; gzip already ends with it.
    let (compressed, size) = payload.split_at_checked(payload.len().saturating_sub(4)).context("it has no payload")?;
    let size = word(size, 0)?;
    let kernel = match payload {
        [0x1f, 0x8b, ..] => decompress("gzip", payload)?,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => decompress("xz", compressed)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => decompress("zstd", compressed)?,
        [0x02, 0x21, 0x4c, 0x18, ..] => decompress("lz4", compressed)?,
        _ => bail!("its payload is compressed in a way that this program does not know"),
    };
    if kernel.len() != size || !kernel.starts_with(b"\x7fELF") {
        bail!("its payload is {} bytes, of which the header says {size}, or no ELF file", kernel.len());
    }
    Ok(kernel)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("its header is cut short")?;
    Ok(u32::from_le_bytes(*field) as usize)
}

fn decompress(tool: &str, compressed: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(tool);
    command.args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {tool}"))?;
    let mut stdin = child.stdin.take().context("the child has no standard input")?;
    let output = thread::scope(|scope| {
        // In a thread of its own: the tool stops reading when its output is not read.
        let writer = scope.spawn(move || stdin.write_all(compressed));
        let output = child.wait_with_output();
        let _ = writer.join();
        output
    })
    .with_context(|| format!("cannot read from {tool}"))?;
    if !output.status.success() {
        bail!("{tool} cannot decompress it: {}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector and this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_kernel_is_taken_out_by_the_header() {
        let kernel = b"\x7fELF and the rest of the kernel".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        assert_eq!(extract(&image(&gzip.finish().unwrap())).unwrap(), kernel);
    }

    #[test]
    fn a_wrong_size_and_other_files_are_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"no kernel at all").unwrap();
        assert!(extract(&image(&gzip.finish().unwrap())).is_err());
        assert!(extract(&image(b"plain")).is_err());
        assert!(extract(b"MZ").is_err());
        assert!(extract(&[]).is_err());
    }
}

//! Writes a symbolized profile in the formats that people already have tools for.
//!
//! **Invariant:** pure: a [`Profile`] goes in, bytes come out of the writer that the caller owns. Nothing here opens a
//! file, looks at a clock or asks the system anything, and the same profile gives the same bytes, in whatever order its
//! tables were filled. Only `svg` knows inferno, only `pprof` knows prost.
//!
//! Each format streams: besides the profile itself, memory holds tables of its strings and one index per entry.
//! `docs/formats.md` describes the formats for their readers.

mod check;
mod folded;
mod format;
mod json;
mod lines;
mod names;
mod order;
mod pprof;
mod speedscope;
mod stacks;
mod svg;
#[cfg(test)]
mod test_profile;
#[cfg(test)]
mod tests;

use std::io::{self, BufWriter, Write};

pub use check::Inconsistency;
pub use format::{FORMATS, Format, FormatSpec, UnknownFormat};
pub(crate) use names::clean;

use crate::model::profile::Profile;

/// How much is gathered before the caller's writer is called, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why a profile could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The writer failed. What was written so far is incomplete.
    #[error("cannot write the profile as {format}")]
    Write {
        /// The format that was being written.
        format: Format,
        /// What the writer said.
        source: io::Error,
    },
    /// The profile contradicts itself. Nothing was written.
    #[error("cannot write the profile as {format}: it is inconsistent (a bug in obs, please report it)")]
    Inconsistent {
        /// The format that was asked for.
        format: Format,
        /// What is wrong with the profile.
        source: Inconsistency,
    },
}

/// Writes `profile` to `out` in `format`, and flushes it.
///
/// # Errors
/// [`ExportError::Inconsistent`] before the first byte if an index of the profile points nowhere or its values cannot
/// be summed; [`ExportError::Write`] as soon as `out` fails.
pub fn write(profile: &Profile, format: Format, out: &mut dyn Write) -> Result<(), ExportError> {
    let checked = check::Checked::new(profile).map_err(|source| ExportError::Inconsistent { format, source })?;
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, out);
    let written = match format {
        Format::Folded => folded::write(&checked, &mut buffered),
        Format::Pprof => pprof::write(&checked, &mut buffered),
        Format::Svg => svg::write(&checked, &mut buffered),
        Format::Speedscope => speedscope::write(&checked, &mut buffered),
        Format::Json => json::write(&checked, &mut buffered),
    };
    written.and_then(|()| buffered.flush()).map_err(|source| ExportError::Write { format, source })
}

//! speedscope's file format: what its JSON schema asks of a file with sampled profiles.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A file of sampled profiles.
#[derive(Clone, Debug)]
pub(crate) struct Speedscope {
    /// The names of the frames that samples refer to.
    pub(crate) frames: Vec<String>,
    /// The profiles.
    pub(crate) profiles: Vec<SampledProfile>,
}

/// One profile of a file.
#[derive(Clone, Debug)]
pub(crate) struct SampledProfile {
    /// The unit of the weights.
    pub(crate) unit: String,
    /// Frame indices, root first, and the weight of each sample.
    pub(crate) samples: Vec<(Vec<usize>, f64)>,
}

impl Speedscope {
    /// Reads it, strictly.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let file: Value = serde_json::from_slice(bytes).context("speedscope output that is no JSON")?;
        let schema = file["$schema"].as_str().unwrap_or_default();
        ensure!(schema == "https://www.speedscope.app/file-format-schema.json", "$schema is {schema:?}");
        let frames = file["shared"]["frames"].as_array().context("no shared.frames")?;
        let frames = frames
            .iter()
            .map(|frame| frame["name"].as_str().map(str::to_owned).context("a frame without a name"))
            .collect::<Result<Vec<_>>>()?;
        let profiles = file["profiles"].as_array().context("no profiles")?;
        let profiles =
            profiles.iter().map(|profile| parse_profile(profile, frames.len())).collect::<Result<Vec<_>>>()?;
        ensure!(!profiles.is_empty(), "a file without a profile");
        Ok(Self { frames, profiles })
    }

    /// The sum of all weights.
    pub(crate) fn total(&self) -> f64 {
        self.profiles.iter().flat_map(|profile| &profile.samples).map(|(_, weight)| weight).sum()
    }

    /// The sum of the weights of samples with a frame of this name.
    pub(crate) fn total_with(&self, function: &str) -> f64 {
        let samples = self.profiles.iter().flat_map(|profile| &profile.samples);
        samples.filter(|(stack, _)| stack.iter().any(|&frame| self.frames[frame] == function)).map(|(_, w)| w).sum()
    }
}

fn parse_profile(profile: &Value, frames_count: usize) -> Result<SampledProfile> {
    ensure!(profile["type"] == "sampled", "a profile of type {}", profile["type"]);
    profile["name"].as_str().context("a profile without a name")?;
    let unit = profile["unit"].as_str().context("a profile without a unit")?;
    ensure!(
        ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"].contains(&unit),
        "the unit {unit:?} is not one of the format's"
    );
    let start = profile["startValue"].as_f64().context("no startValue")?;
    let end = profile["endValue"].as_f64().context("no endValue")?;
    let samples = profile["samples"].as_array().context("no samples")?;
    let weights = profile["weights"].as_array().context("no weights")?;
    ensure!(samples.len() == weights.len(), "{} samples but {} weights", samples.len(), weights.len());
    let mut parsed = Vec::new();
    for (stack, weight) in samples.iter().zip(weights) {
        let mut frames = Vec::new();
        for frame in stack.as_array().context("a sample that is no list")? {
            let frame =
                frame.as_u64().and_then(|frame| usize::try_from(frame).ok()).context("a frame that is no index")?;
            ensure!(frame < frames_count, "there is no frame {frame}");
            frames.push(frame);
        }
        parsed.push((frames, weight.as_f64().context("a weight that is no number")?));
    }
    let sum: f64 = parsed.iter().map(|(_, weight)| weight).sum();
    ensure!(
        (end - start - sum).abs() <= 1e-6 * sum.max(1.0),
        "values from {start} to {end}, but the weights sum to {sum}"
    );
    Ok(SampledProfile { unit: unit.to_owned(), samples: parsed })
}

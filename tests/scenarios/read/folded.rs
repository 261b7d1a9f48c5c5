//! Folded stacks: `process;root;…;leaf COUNT`.

use anyhow::{Context as _, Result, ensure};

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct FoldedStack {
    /// The process's name.
    pub(crate) process: String,
    /// The frames, root first, with their marks (`_[k]`, `_[i]`, `_[j]`), without `[cut: …]`.
    pub(crate) frames: Vec<String>,
    /// Why the stack was cut, if it was.
    pub(crate) cut: Option<String>,
    /// Samples.
    pub(crate) count: u64,
}

impl FoldedStack {
    /// The user frames that were called (not inlined), root first.
    pub(crate) fn called_user_frames(&self) -> Vec<&str> {
        self.frames
            .iter()
            .map(String::as_str)
            .filter(|frame| !frame.ends_with("_[k]") && !frame.ends_with("_[i]"))
            .collect()
    }

    /// Whether a frame has this name, whatever its mark.
    pub(crate) fn has(&self, function: &str) -> bool {
        self.frames.iter().any(|frame| bare(frame) == function)
    }
}

/// A frame's name without its mark, without a symbol's version (`@@GLIBC_2.34`), and without what compilers add to the
/// name of a part or a variant (`.cold`, `.part.0`, Go's `.abi0`, …).
pub(crate) fn bare(frame: &str) -> &str {
    let name = ["_[k]", "_[i]", "_[j]"].iter().find_map(|mark| frame.strip_suffix(mark)).unwrap_or(frame);
    let name = name.split("@@").next().unwrap_or(name);
    let parts = [".cold", ".part.0", ".constprop.0", ".isra.0", ".abi0"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded {
    /// Its lines.
    pub(crate) stacks: Vec<FoldedStack>,
}

impl Folded {
    /// Reads it, strictly: every line must be of the form.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("folded output that is not UTF-8")?;
        let stacks = text.lines().map(parse_line).collect::<Result<_>>()?;
        Ok(Self { stacks })
    }

    /// Samples over all lines.
    pub(crate) fn total(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.count).sum()
    }

    /// Samples of lines for which this holds.
    pub(crate) fn count(&self, holds: impl Fn(&FoldedStack) -> bool) -> u64 {
        self.stacks.iter().filter(|stack| holds(stack)).map(|stack| stack.count).sum()
    }

    /// Samples with a frame of this name.
    pub(crate) fn count_with(&self, function: &str) -> u64 {
        self.count(|stack| stack.has(function))
    }

    /// The names of the processes.
    pub(crate) fn processes(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.stacks.iter().map(|stack| stack.process.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn parse_line(line: &str) -> Result<FoldedStack> {
    let (stack, count) = line.rsplit_once(' ').with_context(|| format!("a folded line without a count: {line:?}"))?;
    let count: u64 = count.parse().with_context(|| format!("a folded line whose count is no number: {line:?}"))?;
    ensure!(count > 0, "a folded line that counts nothing: {line:?}");
    let mut frames = stack.split(';').map(str::to_owned);
    let process = frames.next().filter(|name| !name.is_empty()).with_context(|| format!("no process: {line:?}"))?;
    let mut frames: Vec<_> = frames.collect();
    ensure!(frames.iter().all(|frame| !frame.is_empty()), "a frame without a name: {line:?}");
    let cut = frames.first().and_then(|root| root.strip_prefix("[cut: ")?.strip_suffix(']')).map(str::to_owned);
    if cut.is_some() {
        frames.remove(0);
    }
    Ok(FoldedStack { process, frames, cut, count })
}

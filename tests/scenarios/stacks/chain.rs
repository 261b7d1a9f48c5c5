//! Compares the stacks of a profile with the chains that the program is known to have.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::read::folded::{Folded, FoldedStack, bare};

/// The share of samples that must have a true chain.
const TRUE_SHARE_MIN: f64 = 0.999;

/// The share of samples that may lie outside the program's known part, if their stacks are whole: its loader, the start
/// and the end of its runtime.
const OUTSIDE_SHARE_MAX: f64 = 0.02;

/// How many wrong stacks are shown.
const SHOWN_MAX: usize = 10;

/// A chain, root first, and the share of the samples that it must have at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    chain: &'static [&'static str],
    share_min: f64,
}

impl Expectation {
    /// The chain of half the samples or more.
    pub(super) const fn most(chain: &'static [&'static str]) -> Self {
        Self { chain, share_min: 0.5 }
    }

    /// A chain that also occurs.
    pub(super) const fn some(chain: &'static [&'static str]) -> Self {
        Self { chain, share_min: 0.0 }
    }

    /// The chain of at least this share of the samples.
    pub(super) const fn share(chain: &'static [&'static str], share_min: f64) -> Self {
        Self { chain, share_min }
    }

    /// The functions that only this program has: a stack with one of them belongs to a chain.
    fn anchors(&self) -> impl Iterator<Item = &'static str> {
        self.chain.iter().copied().filter(|name| !["*", "**", "_start"].contains(name))
    }
}

/// Checks that 99.9 % of the samples have a true chain, and each chain its share. Stacks that are whole and have none of
/// the chains' functions (the program's start and end) are left out, up to 2 %.
pub(super) fn ensure_chains(folded: &Folded, expected: &[Expectation]) -> Result<()> {
    let total = folded.total();
    ensure!(total > 0, "no samples");
    let mut per_chain = vec![0_u64; expected.len()];
    let mut outside = 0;
    let mut wrong: Vec<&FoldedStack> = Vec::new();
    for stack in &folded.stacks {
        let frames: Vec<&str> = stack.called_user_frames().into_iter().map(bare).collect();
        // The first chain that fits: the longer ones come first.
        let fitting = expected.iter().position(|expectation| begins_with(&frames, expectation.chain));
        let anchored = expected.iter().flat_map(Expectation::anchors).any(|anchor| frames.contains(&anchor));
        match fitting {
            Some(index) if stack.cut.is_none() => per_chain[index] += stack.count,
            None if stack.cut.is_none() && !anchored && is_whole(&frames) => outside += stack.count,
            _ => wrong.push(stack),
        }
    }
    let wrong_count: u64 = wrong.iter().map(|stack| stack.count).sum();
    let judged = total - outside;
    println!("  {} of {judged} samples have a true chain; {outside} more lie outside", judged - wrong_count);
    ensure!(outside as f64 <= OUTSIDE_SHARE_MAX * total as f64, "{outside} of {total} samples are outside every chain");
    ensure!(
        wrong_count as f64 <= (1.0 - TRUE_SHARE_MIN) * judged as f64,
        "{wrong_count} of {judged} samples have none of the true chains:\n{}",
        listed(wrong)
    );
    for (expectation, count) in expected.iter().zip(per_chain) {
        let share = count as f64 / total as f64;
        ensure!(
            share >= expectation.share_min.min(TRUE_SHARE_MIN),
            "{:.1} % of the samples have the chain {}, at least {:.1} % expected",
            100.0 * share,
            expectation.chain.join(";"),
            100.0 * expectation.share_min
        );
    }
    Ok(())
}

/// The stacks for which this holds.
pub(super) fn only(folded: &Folded, holds: impl Fn(&FoldedStack) -> bool) -> Folded {
    Folded { stacks: folded.stacks.iter().filter(|stack| holds(stack)).cloned().collect() }
}

/// A thread's first frame; or the kernel working for a process that is not yet, or no longer, in user space.
fn is_whole(frames: &[&str]) -> bool {
    frames.first().is_none_or(|root| *root == "_start" || root.contains("ld-linux") || *root == "_dl_start_user")
}

/// Whether the frames begin with the chain: `*` is any one frame, `**` any number of them.
fn begins_with(frames: &[&str], chain: &[&str]) -> bool {
    match chain.split_first() {
        None => true,
        Some((&"**", rest)) => (0..=frames.len()).any(|skipped| begins_with(&frames[skipped..], rest)),
        Some((first, rest)) => frames
            .split_first()
            .is_some_and(|(frame, frames)| (*first == "*" || first == frame) && begins_with(frames, rest)),
    }
}

fn listed(mut stacks: Vec<&FoldedStack>) -> String {
    stacks.sort_by_key(|stack| std::cmp::Reverse(stack.count));
    let mut text = String::new();
    for stack in stacks.iter().take(SHOWN_MAX) {
        let cut = stack.cut.as_deref().map(|reason| format!("[cut: {reason}];")).unwrap_or_default();
        let _ = writeln!(text, "{:>6} {};{cut}{}", stack.count, stack.process, stack.frames.join(";"));
    }
    if stacks.len() > SHOWN_MAX {
        let _ = writeln!(text, "       and {} more", stacks.len() - SHOWN_MAX);
    }
    text
}

/// The functions of an ELF file by address, as `nm` lists them.
pub(super) struct Symbols {
    /// Begin, end, name; sorted.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Lists them.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let output = Command::new("nm").args(["--print-size", "--defined-only"]).arg(path).output();
        let output = output.context("running nm")?;
        ensure!(output.status.success(), "nm failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut functions = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut fields = line.split_whitespace();
            let hexadecimal = |field: Option<&str>| u64::from_str_radix(field?, 16).ok();
            if let (Some(begin), Some(size), Some("t" | "T"), Some(name)) =
                (hexadecimal(fields.next()), hexadecimal(fields.next()), fields.next(), fields.next())
            {
                functions.push((begin, begin + size, name.to_owned()));
            }
        }
        ensure!(!functions.is_empty(), "nm lists no functions of {}", path.display());
        functions.sort();
        Ok(Self { functions })
    }

    /// The function at an address.
    pub(super) fn at(&self, address: u64) -> Option<&str> {
        let index = self.functions.partition_point(|(begin, _, _)| *begin <= address).checked_sub(1)?;
        let (_, end, name) = &self.functions[index];
        (address < *end).then_some(name.as_str())
    }
}

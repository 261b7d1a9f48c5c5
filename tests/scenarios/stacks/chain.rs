//! Compares the stacks of a profile with the chains that the program is known to have.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::read::folded::{Folded, FoldedStack, bare};

/// The share of samples that must have a true chain.
const TRUE_SHARE_MIN: f64 = 0.999;

/// The share of samples that may lie outside the program's known part, if their stacks are whole: its loader, the start
/// and the end of its runtime.
pub(super) const OUTSIDE_SHARE_MAX: f64 = 0.02;

/// Why stacks of a process that has just started may be cut: its tables are on their way, and of a large or a second stack
/// only a piece was kept until they came. Said so, that is honest; it is allowed for a few.
pub(super) const EARLY: &[&str] =
    &["no unwind table yet", "unwind table not ready", "stack memory not in its snapshot"];

/// The share of samples that may be cut so, in programs that run for a second and a half.
pub(super) const EARLY_SHARE_MAX: f64 = 0.02;

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

    /// The chain of at least this share of the samples.
    pub(super) const fn share(chain: &'static [&'static str], share_min: f64) -> Self {
        Self { chain, share_min }
    }
}

/// The chains of a program, and which cuts are not obs's fault.
pub(super) struct Chains<'a> {
    expected: &'a [Expectation],
    cuts_allowed: Vec<&'static str>,
    cut_share_max: f64,
    /// The functions of all chains.
    anchors: Vec<&'static str>,
}

/// How a stack compares.
enum Verdict {
    /// It has this chain.
    Has(usize),
    /// It has the beginning of a chain: a sample in one of the chain's outer functions, or in what they call besides.
    HasBeginning,
    /// It is whole and has nothing of the chains.
    Outside,
    /// It is cut, and says so for an allowed reason.
    Cut,
    /// It is not true.
    Wrong,
}

impl<'a> Chains<'a> {
    /// These chains.
    pub(super) fn new(expected: &'a [Expectation]) -> Self {
        let names = expected.iter().flat_map(|expectation| expectation.chain).copied();
        let anchors = names.filter(|name| !["*", "**", "_start"].contains(name)).collect();
        Self { expected, cuts_allowed: EARLY.to_vec(), cut_share_max: EARLY_SHARE_MAX, anchors }
    }

    /// Allows a share of stacks to be cut for one more reason.
    pub(super) fn allow_cut(mut self, reason: &'static str, share_max: f64) -> Self {
        self.cuts_allowed.push(reason);
        self.cut_share_max = share_max;
        self
    }

    /// Checks that 99.9 % of the samples have a true chain, and each chain its share. Whole stacks that have none of the
    /// chains' functions (the program's start and end) and allowed cuts are left out, within their bounds.
    pub(super) fn ensure(&self, folded: &Folded) -> Result<()> {
        let total = folded.total();
        ensure!(total > 0, "no samples");
        let mut per_chain = vec![0_u64; self.expected.len()];
        let (mut beginnings, mut outside, mut cut, mut wrong) = (0, 0, 0, 0);
        let mut rest: Vec<&FoldedStack> = Vec::new();
        for stack in &folded.stacks {
            match self.judge(stack) {
                Verdict::Has(index) => per_chain[index] += stack.count,
                Verdict::HasBeginning => beginnings += stack.count,
                Verdict::Outside => outside += stack.count,
                Verdict::Cut => {
                    cut += stack.count;
                    rest.push(stack);
                }
                Verdict::Wrong => {
                    wrong += stack.count;
                    rest.push(stack);
                }
            }
        }
        let judged = total - outside - cut;
        println!(
            "  {} of {judged} samples have a true chain ({beginnings} of them not all of it); {cut} are cut, {outside} outside",
            judged - wrong
        );
        print!("{}", listed(&mut rest));
        ensure!(
            outside as f64 <= OUTSIDE_SHARE_MAX * total as f64,
            "{outside} of {total} samples are outside every chain"
        );
        let cut_max = self.cut_share_max * total as f64;
        ensure!(
            cut as f64 <= cut_max,
            "{cut} of {total} samples are cut ({cut_max:.0} allowed):\n{}",
            listed(&mut rest)
        );
        ensure!(
            wrong as f64 <= (1.0 - TRUE_SHARE_MIN) * judged as f64,
            "{wrong} of {judged} samples have none of the true chains:\n{}",
            listed(&mut rest)
        );
        for (expectation, count) in self.expected.iter().zip(per_chain) {
            let share = count as f64 / judged as f64;
            ensure!(
                share >= expectation.share_min,
                "{:.1} % of the samples have the chain {}, at least {:.1} % expected",
                100.0 * share,
                expectation.chain.join(";"),
                100.0 * expectation.share_min
            );
        }
        Ok(())
    }

    fn judge(&self, stack: &FoldedStack) -> Verdict {
        let frames: Vec<&str> = stack.called_user_frames().into_iter().map(bare).collect();
        let cut_allowed = stack.cut.as_deref().map(|reason| self.cuts_allowed.contains(&reason));
        let mut has_beginning = false;
        for (index, expectation) in self.expected.iter().enumerate() {
            // A cut stack can only have a chain whose root is open.
            let is_open = expectation.chain.first() == Some(&"**");
            if cut_allowed == Some(false) || (stack.cut.is_some() && !is_open) {
                continue;
            }
            let matched = self.matched(&frames, expectation.chain).unwrap_or(0);
            if matched == expectation.chain.iter().filter(|name| self.anchors.contains(name)).count() {
                return Verdict::Has(index);
            }
            has_beginning |= matched > 0;
        }
        match cut_allowed {
            Some(false) => Verdict::Wrong,
            Some(true) => Verdict::Cut,
            None if has_beginning => Verdict::HasBeginning,
            None if is_whole(&frames) && !frames.iter().any(|frame| self.anchors.contains(frame)) => Verdict::Outside,
            None => Verdict::Wrong,
        }
    }

    /// How many of the chain's functions the frames begin with. None if something contradicts: a frame that is not the
    /// chain's next, or a function of the chains where the chain is already left. `*` is any one frame, `**` any number
    /// of them, but never one of the functions.
    fn matched(&self, frames: &[&str], chain: &[&str]) -> Option<usize> {
        let is_anchor = |name: &str| self.anchors.contains(&name);
        // The chain may be left anywhere, for a sample in one of its outer functions.
        let left = (!frames.iter().any(|frame| is_anchor(frame))).then_some(0);
        let followed = match (chain, frames) {
            (["**", chain_rest @ ..], [frame, frames_rest @ ..]) => {
                let skipped = if is_anchor(frame) { None } else { self.matched(frames_rest, chain) };
                self.matched(frames, chain_rest).max(skipped)
            }
            ([name, chain_rest @ ..], [frame, frames_rest @ ..]) if *name == "*" || name == frame => {
                self.matched(frames_rest, chain_rest).map(|matched| matched + usize::from(is_anchor(name)))
            }
            _ => None,
        };
        followed.max(left)
    }
}

/// The stacks for which this holds.
pub(super) fn only(folded: &Folded, holds: impl Fn(&FoldedStack) -> bool) -> Folded {
    Folded { stacks: folded.stacks.iter().filter(|stack| holds(stack)).cloned().collect() }
}

/// A thread's first frame; or the kernel working for a process that is not yet, or no longer, in user space.
fn is_whole(frames: &[&str]) -> bool {
    frames.first().is_none_or(|root| *root == "_start" || root.contains("ld-linux") || *root == "_dl_start_user")
}

/// The heaviest of these stacks, a line each.
fn listed(stacks: &mut [&FoldedStack]) -> String {
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

//! What is shown for frames, processes and cut stacks, safe to show.
//!
//! Names come from ELF files, perf maps and `prctl` of any process on the host: they are hostile. A name must not break
//! out of its line, its XML element or a terminal, nor pass for two frames or for a count.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use super::check::cut_of;
use crate::model::{
    process::ProcessInfo,
    profile::{Frame, Profile, ProfileSample},
    stack::StackEnd,
};

/// How many bytes of a name are kept where it is written once per stack (folded, SVG).
pub(super) const COMPONENT_BYTES_MAX: usize = 4096;

/// What stands for a character that must not be written.
const REPLACEMENT: char = '\u{fffd}';

/// Where names are going to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between semicolons in a folded line.
    FoldedLine,
    /// On its own.
    Alone,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    User,
    Inlined,
    Jit,
    Kernel,
    Wait,
    Process,
    Cut,
}

/// The different names of a profile in alphabetical order, and which entry has which.
pub(super) struct Names<'a> {
    texts: Vec<(Cow<'a, str>, Role)>,
    of_frame: Vec<u32>,
    of_process: Vec<u32>,
    of_cut: BTreeMap<StackEnd, u32>,
}

impl<'a> Names<'a> {
    /// Names everything in `profile`, frames with the suffix of their kind.
    pub(super) fn new(profile: &'a Profile, place: Place) -> Self {
        let fit = |text: Cow<'a, str>| match place {
            Place::FoldedLine => component(text),
            Place::Alone => clean(text),
        };
        let mut collector = Collector::default();
        let of_frame: Vec<u32> = profile
            .frames
            .iter()
            .map(|frame| {
                let text = fit(frame_text(profile, frame));
                let suffix = frame.kind.suffix();
                let text = if suffix.is_empty() { text } else { Cow::Owned(format!("{text}{suffix}")) };
                collector.add(text, role(frame))
            })
            .collect();
        let of_process: Vec<u32> =
            profile.processes.iter().map(|process| collector.add(fit(process_text(process)), Role::Process)).collect();
        let mut of_cut = BTreeMap::new();
        for end in profile.samples.iter().filter_map(cut_of) {
            of_cut.entry(end).or_insert_with(|| collector.add(Cow::Owned(cut_text(end)), Role::Cut));
        }
        let (texts, rank_of) = collector.ranked();
        let rank = |provisional: u32| rank_of[provisional as usize];
        Self {
            texts,
            of_frame: of_frame.into_iter().map(rank).collect(),
            of_process: of_process.into_iter().map(rank).collect(),
            of_cut: of_cut.into_iter().map(|(end, provisional)| (end, rank(provisional))).collect(),
        }
    }

    /// The text of a name.
    pub(super) fn text(&self, name: u32) -> &str {
        &self.texts[name as usize].0
    }

    /// What a name stands for; if for several things, the first of [`Role`].
    pub(super) fn role(&self, name: u32) -> Role {
        self.texts[name as usize].1
    }

    /// How many different names there are.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The name of the frame with that index.
    pub(super) fn of_frame(&self, frame: u32) -> u32 {
        self.of_frame[frame as usize]
    }

    /// The name of the process with that index.
    pub(super) fn of_process(&self, process: u32) -> u32 {
        self.of_process[process as usize]
    }

    /// The name that stands in the place of the root if the sample's stack was cut.
    pub(super) fn of_cut(&self, sample: &ProfileSample) -> Option<u32> {
        cut_of(sample).and_then(|end| self.of_cut.get(&end)).copied()
    }

    /// The sample as names: the process, `[cut: …]` if it was cut, then the frames from the outermost to the innermost.
    pub(super) fn path(&self, sample: &ProfileSample) -> impl Iterator<Item = u32> {
        std::iter::once(self.of_process(sample.process))
            .chain(self.of_cut(sample))
            .chain(sample.stack.iter().rev().map(|frame| self.of_frame(*frame)))
    }
}

/// Different texts with their roles, in the order of arrival.
#[derive(Default)]
struct Collector<'a> {
    found: HashMap<Cow<'a, str>, (u32, Role)>,
}

impl<'a> Collector<'a> {
    fn add(&mut self, text: Cow<'a, str>, role: Role) -> u32 {
        let next = self.found.len() as u32;
        let entry = self.found.entry(text).or_insert((next, role));
        entry.1 = entry.1.min(role);
        entry.0
    }

    /// The texts in alphabetical order, and the rank of each number that [`add`](Self::add) gave out.
    fn ranked(self) -> (Vec<(Cow<'a, str>, Role)>, Vec<u32>) {
        let mut rows: Vec<_> = self.found.into_iter().collect();
        rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let mut rank_of = vec![0_u32; rows.len()];
        for (rank, (_, (number, _))) in rows.iter().enumerate() {
            rank_of[*number as usize] = rank as u32;
        }
        (rows.into_iter().map(|(text, (_, role))| (text, role)).collect(), rank_of)
    }
}

fn role(frame: &Frame) -> Role {
    use crate::model::profile::FrameKind;
    match frame.kind {
        FrameKind::User => Role::User,
        FrameKind::UserInlined | FrameKind::KernelInlined => Role::Inlined,
        FrameKind::Jit => Role::Jit,
        FrameKind::Kernel => Role::Kernel,
        FrameKind::Wait => Role::Wait,
    }
}

/// The frame's function, else where its code lies; never empty, not yet safe to show.
pub(super) fn frame_text<'a>(profile: &Profile, frame: &'a Frame) -> Cow<'a, str> {
    match &frame.function {
        Some(function) if !function.trim().is_empty() => Cow::Borrowed(function),
        Some(_) => Cow::Owned(profile.label(&Frame { function: None, ..frame.clone() })),
        None => Cow::Owned(profile.label(frame)),
    }
}

/// The process's name; never empty, not yet safe to show.
pub(super) fn process_text(process: &ProcessInfo) -> Cow<'_, str> {
    if process.name.trim().is_empty() {
        Cow::Owned(format!("[pid {}]", process.key.pid))
    } else {
        Cow::Borrowed(&process.name)
    }
}

/// What stands in the place of the root of a stack that was cut.
pub(super) fn cut_text(end: StackEnd) -> String {
    format!("[cut: {}]", end.reason())
}

/// `text` without characters that could do harm in a terminal, a line or an XML document.
pub(crate) fn clean(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return text;
    }
    Cow::Owned(text.chars().map(|c| if is_harmful(c) { REPLACEMENT } else { c }).collect())
}

/// Control characters, line and paragraph separators, marks that change the direction of the text around them, and code
/// points that are no characters (two of which XML forbids).
fn is_harmful(c: char) -> bool {
    match c {
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fdd0}'..='\u{fdef}' => true,
        c => c.is_control() || u32::from(c) & 0xfffe == 0xfffe,
    }
}

/// `text` as one part of a folded line: no semicolon, no end that reads as a count, no start that reads as a comment,
/// no spaces at its ends (readers trim lines), at most about [`COMPONENT_BYTES_MAX`] long.
pub(super) fn component(text: Cow<'_, str>) -> Cow<'_, str> {
    let is_plain = text.len() <= COMPONENT_BYTES_MAX
        && !text.contains(|c| is_harmful(c) || c == ';')
        && text.trim().len() == text.len()
        && !(text == "#" || text.starts_with("# "))
        && count_at_end(&text).is_none();
    if is_plain {
        return text;
    }
    let mut part = String::with_capacity(text.len().min(COMPONENT_BYTES_MAX + 32));
    for c in text.trim().chars() {
        let safe = match c {
            ';' => ':',
            c if is_harmful(c) => REPLACEMENT,
            c => c,
        };
        if part.len() + safe.len_utf8() > COMPONENT_BYTES_MAX {
            // The length tells apart most names that begin alike.
            part.truncate(part.trim_end().len());
            part.push_str(&format!("…({} bytes)", text.len()));
            break;
        }
        part.push(safe);
    }
    if part == "#" || part.starts_with("# ") {
        part.replace_range(1..part.len().min(2), "_");
    }
    if let Some(space) = count_at_end(&part) {
        part.replace_range(space..=space, "_");
    }
    Cow::Owned(part)
}

/// Where the space before a number at the end of `text` stands: a reader may take the number for a count.
fn count_at_end(text: &str) -> Option<usize> {
    let space = text.rfind(' ')?;
    text[space + 1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(space)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> String {
        component(Cow::Borrowed(text)).into_owned()
    }

    #[test]
    fn plain_names_are_kept_as_they_are() {
        for text in ["main", "operator new(unsigned long)", "<T as core::fmt::Debug>::fmt", "ядро", "a b", "v1.2", "#x"]
        {
            assert!(matches!(component(Cow::Borrowed(text)), Cow::Borrowed(kept) if kept == text), "{text}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_line() {
        assert_eq!(part("a;b"), "a:b");
        assert_eq!(part("a\nb\r\t\0\u{1b}[31m"), "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{fffd}[31m");
        assert_eq!(part("\u{202e}x\u{2028}\u{85}\u{ffff}"), "\u{fffd}x\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(part("  padded \u{a0}"), "padded");
        assert_eq!(part("# comment"), "#_comment");
        assert_eq!(part("#"), "#_");
    }

    #[test]
    fn names_cannot_end_in_a_count() {
        assert_eq!(part("anonymous 12"), "anonymous_12");
        assert_eq!(part("at 12.5"), "at_12.5");
        assert_eq!(part("a 1 2"), "a 1_2");
        assert_eq!(part("file.js:10"), "file.js:10");
    }

    #[test]
    fn long_names_are_cut_at_a_character_and_say_so() {
        let kept = part(&"é".repeat(500_000));
        assert_eq!(kept, format!("{}…(1000000 bytes)", "é".repeat(COMPONENT_BYTES_MAX / 2)));
        let kept = part(&format!("{} 5", "x".repeat(COMPONENT_BYTES_MAX)));
        assert_eq!(kept, format!("{}…({} bytes)", "x".repeat(COMPONENT_BYTES_MAX), COMPONENT_BYTES_MAX + 2));
    }
}

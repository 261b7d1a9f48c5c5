//! A flame graph, drawn by inferno.
//!
//! inferno takes folded lines, all in memory. What is too narrow to be drawn is therefore folded into its caller first:
//! the picture stays the same, and the lines stay few however large the profile is.

use std::io::{self, Write};

use inferno::flamegraph::{
    self, Options,
    color::{BackgroundColor, Color, PaletteMap},
};

use super::{
    check::Checked,
    names::{Names, Role},
    stacks::Stacks,
};
use crate::model::profile::ValueType;

/// The narrowest frame that is drawn, in percent of the whole.
const WIDTH_PERCENT_MIN: f64 = 0.01;

/// How much text the folded lines may have. Deep stacks of long names that exceed it lose their narrowest frames.
const TEXT_BYTES_MAX: usize = 32 << 20;

/// What stands for the processes that are too narrow to be drawn.
const REMAINDER: &str = "[too narrow to draw]";

/// Below this total, times are shown in nanoseconds; above it, rounding to microseconds does no harm.
const MICROSECONDS_FROM_NS: u64 = 100_000_000;

pub(super) fn write(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let total = checked.totals[checked.counted()];
    if total == 0 {
        return write_empty(checked, out);
    }
    let stacks = Stacks::new(checked);
    let mut width_percent = WIDTH_PERCENT_MIN;
    let picture = loop {
        let value_min = (width_percent / 100.0 * total as f64).ceil() as u64;
        match Picture::new(&stacks, value_min, TEXT_BYTES_MAX) {
            Some(picture) => break picture,
            // Reaches 100 %, where one line is left, in a few steps.
            None => width_percent *= 2.0,
        }
    };
    let (count_name, factor) = unit(checked, total);
    let mut palette = picture.palette();
    let mut options = Options::default();
    options.title = format!("obs {}", checked.profile.collector);
    options.subtitle = Some(subtitle(checked));
    options.notes = format!("frames narrower than {width_percent} % are part of their callers");
    options.count_name = count_name.to_owned();
    options.factor = factor;
    options.min_width = width_percent;
    options.bgcolors = Some(BackgroundColor::Grey);
    options.palette_map = Some(&mut palette);
    // Takes the lines as they come, last one first. inferno's own order compares whole lines, which tears apart a frame
    // whose name is the beginning of another's (`f`, `f(int)`).
    options.flame_chart = true;
    flamegraph::from_lines(&mut options, picture.lines.iter().map(String::as_str), out)
}

/// What a flame graph of nothing shows: inferno refuses to draw one.
fn write_empty(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (collector, ValueType { name, .. }) =
        (&checked.profile.collector, &checked.profile.value_types[checked.counted()]);
    // Both are plain words, as `Profile` and `ValueType` promise: they need no escapes.
    writeln!(
        out,
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"80\" xmlns=\"http://www.w3.org/2000/svg\">\
         <g text-anchor=\"middle\" font-family=\"monospace\">\
         <text x=\"50%\" y=\"32\" font-size=\"17\">obs {collector}</text>\
         <text x=\"50%\" y=\"56\" font-size=\"12\">no {name} were recorded in {}</text>\
         </g></svg>",
        seconds(checked.profile.duration_ns),
    )
}

/// What counts are called, and what they are multiplied with to be shown.
fn unit<'a>(checked: &Checked<'a>, total: u64) -> (&'a str, f64) {
    let ValueType { name, unit } = &checked.profile.value_types[checked.counted()];
    match &**unit {
        "nanoseconds" if total >= MICROSECONDS_FROM_NS => ("µs", 1e-3),
        "nanoseconds" => ("ns", 1.0),
        "count" => (name, 1.0),
        unit => (unit, 1.0),
    }
}

fn subtitle(checked: &Checked<'_>) -> String {
    let counted = checked.counted();
    let (total, cut) = (checked.totals[counted], checked.cut.values().sum::<u64>());
    let complete = 100.0 * (total - cut) as f64 / total as f64;
    let (count_name, factor) = unit(checked, total);
    format!(
        "{} · {:.0} {count_name} · {} % in complete stacks · \
         red: program, aqua: inlined, green: JIT, orange: kernel, grey: process, missing",
        seconds(checked.profile.duration_ns),
        total as f64 * factor,
        // Rounding must not claim that every stack is complete.
        (complete * 10.0).floor() / 10.0,
    )
}

fn seconds(duration_ns: u64) -> String {
    format!("{:.1} s", duration_ns as f64 / 1e9)
}

/// The folded lines to draw, and the names in them.
struct Picture<'a> {
    names: &'a Names<'a>,
    /// In the order that inferno wants: the rightmost first.
    lines: Vec<String>,
    /// The bytes of `lines`.
    text_bytes: usize,
    /// By name: whether it is drawn.
    is_drawn: Vec<bool>,
    /// What belongs to processes that are not drawn.
    remainder: u64,
}

/// A frame that is open while the stacks pass by in order.
struct Open {
    name: u32,
    /// Its value, its children's included.
    value: u64,
    /// The part that is not in a drawn child.
    own: u64,
}

impl<'a> Picture<'a> {
    /// Folds frames of less than `value_min` into their callers; nothing if the rest has more than `bytes_max` of text.
    fn new(stacks: &'a Stacks<'_>, value_min: u64, bytes_max: usize) -> Option<Self> {
        let names = &stacks.names;
        let is_drawn = vec![false; names.len()];
        let mut picture = Self { names, lines: Vec::new(), text_bytes: 0, is_drawn, remainder: 0 };
        let mut open: Vec<Open> = Vec::new();
        let mut path = Vec::new();
        for (sample, value) in stacks.merged().rev().filter(|(_, value)| *value > 0) {
            path.clear();
            path.extend(names.path(sample));
            let shared = open.iter().zip(&path).take_while(|(open, name)| open.name == **name).count();
            picture.close(&mut open, shared, value_min);
            open.extend(path[shared..].iter().map(|name| Open { name: *name, value: 0, own: 0 }));
            if let Some(leaf) = open.last_mut() {
                leaf.value += value;
                leaf.own += value;
            }
            if picture.text_bytes > bytes_max {
                return None;
            }
        }
        picture.close(&mut open, 0, value_min);
        if picture.remainder > 0 {
            picture.lines.push(format!("{REMAINDER} {}", picture.remainder));
        }
        (picture.text_bytes <= bytes_max).then_some(picture)
    }

    /// Closes the open frames beyond `depth`: the stacks to come don't contain them.
    fn close(&mut self, open: &mut Vec<Open>, depth: usize, value_min: u64) {
        while open.len() > depth {
            let is_wide = open.last().is_some_and(|frame| frame.value >= value_min);
            if is_wide {
                self.add_line(open);
            }
            let Some(Open { value, .. }) = open.pop() else { break };
            match open.last_mut() {
                Some(caller) => {
                    caller.value += value;
                    caller.own += if is_wide { 0 } else { value };
                }
                None => self.remainder += if is_wide { 0 } else { value },
            }
        }
    }

    /// Adds the line of the innermost open frame's own value.
    fn add_line(&mut self, open: &[Open]) {
        for frame in open {
            self.is_drawn[frame.name as usize] = true;
        }
        let own = open.last().map_or(0, |frame| frame.own);
        if own > 0 {
            let path: Vec<&str> = open.iter().map(|frame| self.names.text(frame.name)).collect();
            let line = format!("{} {own}", path.join(";"));
            self.text_bytes += line.len();
            self.lines.push(line);
        }
    }

    /// The colour of each name: its role tells the hue, its letters the shade.
    fn palette(&self) -> PaletteMap {
        let mut palette = PaletteMap::default();
        for (name, _) in (0..).zip(&self.is_drawn).filter(|(_, is_drawn)| **is_drawn) {
            let text = self.names.text(name);
            palette.insert(text, color(self.names.role(name), text));
        }
        // The box of the whole has no name.
        palette.insert("", color(Role::Process, ""));
        palette.insert(REMAINDER, color(Role::Cut, REMAINDER));
        palette
    }
}

/// inferno's palettes guess from a name what it is, and take any capital letter for Java. We know.
fn color(role: Role, name: &str) -> Color {
    let shade = shade(name);
    let vary = |from: u8, by: u8| from + (f64::from(by) * shade) as u8;
    match role {
        Role::User => Color { r: vary(205, 50), g: vary(60, 85), b: vary(60, 70) },
        Role::Inlined => Color { r: vary(60, 60), g: vary(170, 50), b: vary(170, 50) },
        Role::Jit => Color { r: vary(60, 70), g: vary(190, 50), b: vary(60, 60) },
        Role::Kernel => Color { r: vary(225, 25), g: vary(145, 55), b: vary(0, 40) },
        Role::Wait => Color { r: vary(150, 40), g: vary(120, 40), b: vary(200, 40) },
        Role::Process | Role::Cut => {
            let grey = vary(190, 30);
            Color { r: grey, g: grey, b: grey }
        }
    }
}

/// A number from 0 to 1 that is the same for a name in every picture (FNV-1a).
fn shade(name: &str) -> f64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The upper bits of FNV-1a of short names differ little: fold the lower ones in.
    f64::from((hash ^ (hash >> 32)) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::test_profile;

    fn lines(profile: &crate::model::profile::Profile, value_min: u64, bytes_max: usize) -> Option<Vec<String>> {
        let checked = Checked::new(profile).expect("the profile is consistent");
        Picture::new(&Stacks::new(&checked), value_min, bytes_max).map(|picture| picture.lines)
    }

    #[test]
    fn narrow_frames_are_folded_into_their_callers() {
        let profile = test_profile::of_stacks(&[
            ("wide", &["main", "f"], 60),
            ("wide", &["main", "f(int)", "g"], 20),
            ("wide", &["main", "f", "deep"], 4),
            ("wide", &["main", "h"], 3),
            ("small", &["main"], 2),
            ("tiny", &["main"], 1),
        ]);
        let all = lines(&profile, 0, usize::MAX).expect("it fits");
        assert_eq!(
            all,
            [
                "wide;main;h 3",
                "wide;main;f(int);g 20",
                "wide;main;f;deep 4",
                "wide;main;f 60",
                "tiny;main 1",
                "small;main 2"
            ]
        );
        let some = lines(&profile, 5, usize::MAX).expect("it fits");
        assert_eq!(some, ["wide;main;f(int);g 20", "wide;main;f 64", "wide;main 3", "[too narrow to draw] 3"]);
        assert_eq!(lines(&profile, 91, usize::MAX).expect("it fits"), ["[too narrow to draw] 90"]);
        assert_eq!(lines(&profile, 0, 20), None);
    }

    #[test]
    fn every_shade_lies_between_0_and_1() {
        for name in ["", "a", "main", "some::long::name<T>", "é"] {
            assert!((0.0..=1.0).contains(&shade(name)), "{name}");
        }
    }
}

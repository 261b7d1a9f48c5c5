//! Plots of values over time, one above the other, as SVG.

use std::fmt::Write as _;

/// A page of plots that share their horizontal axis, which begins at 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// What the horizontal axis shows, with its unit.
    pub(crate) across: String,
    /// Where the horizontal axis ends at the earliest.
    pub(crate) across_max: f64,
    pub(crate) panels: Vec<Panel>,
    /// Parts of the horizontal axis, from and to, that have a name.
    pub(crate) parts: Vec<(f64, f64, String)>,
}

/// One plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Panel {
    /// What the vertical axis shows, with its unit.
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
    /// A value that is not to be exceeded.
    pub(crate) limit: Option<f64>,
}

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Where on the horizontal axis, and the value there. What is not a number interrupts the line.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 70.0;
/// Legends are to the right.
const RIGHT: f64 = 240.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 50.0;
const PANEL_HEIGHT: f64 = 180.0;
const PANEL_GAP: f64 = 50.0;
const LEGEND_LINE: f64 = 18.0;

/// Ticks on an axis at most, the one at 0 not counted.
const TICKS_MAX: f64 = 6.0;
/// No axis has more, whatever its numbers are.
const TICKS_LIMIT: usize = 100;

/// Colours that also those tell apart who see fewer of them (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const SHADES: [&str; 2] = ["#f4f4f4", "#ffffff"];

/// An axis from 0 to a round number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    /// For values up to this one.
    fn to(max: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let power = 10_f64.powf((max / TICKS_MAX).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        // Rounding may not cost a tick.
        let step = step.into_iter().find(|step| max / step <= TICKS_MAX + 1e-9).unwrap_or(max);
        Self { end: (max / step - 1e-9).ceil() * step, step }
    }

    /// The same, but it ends at this very value, between ticks if need be.
    fn ending_at(max: f64) -> Self {
        let axis = Self::to(max);
        Self { end: if max.is_finite() && max > 0.0 { max } else { axis.end }, ..axis }
    }

    /// Values and what is written at them.
    fn ticks(self) -> Vec<(f64, String)> {
        let decimals = if self.step < 1.0 { (-self.step.log10() - 1e-9).ceil() as usize } else { 0 };
        let count = ((self.end / self.step + 1e-9).floor() as usize).min(TICKS_LIMIT);
        let values = (0..=count).map(|tick| tick as f64 * self.step);
        values.map(|value| (value, format!("{value:.decimals$}"))).collect()
    }

    /// Which part of the axis a value is at, 1 being its end.
    fn part(self, value: f64) -> f64 {
        (value / self.end).clamp(0.0, 1.0)
    }
}

/// The page as a file's contents.
pub(crate) fn render(page: &Page) -> String {
    let Page { title, across, across_max, panels, parts } = page;
    let furthest = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points).map(|(at, _)| *at);
    let horizontal = Axis::ending_at(furthest.fold(*across_max, f64::max));
    let height = TOP + panels.len() as f64 * (PANEL_HEIGHT + PANEL_GAP) - PANEL_GAP + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"18\">{}</text>\n",
        escape(title)
    );
    for (index, panel) in panels.iter().enumerate() {
        let top = TOP + index as f64 * (PANEL_HEIGHT + PANEL_GAP);
        draw_parts(&mut svg, parts, horizontal, top, index == 0);
        draw_panel(&mut svg, panel, horizontal, top);
    }
    let middle = LEFT + plot_width() / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n</svg>",
        height - 10.0,
        escape(across)
    );
    svg
}

fn plot_width() -> f64 {
    WIDTH - LEFT - RIGHT
}

fn across(axis: Axis, value: f64) -> f64 {
    LEFT + axis.part(value) * plot_width()
}

/// Shades the parts; over the first plot they have their names.
fn draw_parts(svg: &mut String, parts: &[(f64, f64, String)], axis: Axis, top: f64, is_named: bool) {
    for (index, (from, to, name)) in parts.iter().enumerate() {
        let (from, to) = (across(axis, *from), across(axis, *to));
        let shade = SHADES[index % SHADES.len()];
        let width = to - from;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{PANEL_HEIGHT}\" fill=\"{shade}\"/>"
        );
        if is_named {
            let (middle, above) = (from.midpoint(to), top - 24.0);
            let name = escape(name);
            let _ = writeln!(
                svg,
                "<text x=\"{middle:.1}\" y=\"{above}\" text-anchor=\"middle\" fill=\"#666\">{name}</text>"
            );
        }
    }
}

fn draw_panel(svg: &mut String, panel: &Panel, horizontal: Axis, top: f64) {
    let Panel { title, lines, limit } = panel;
    let values = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).chain(*limit);
    let vertical = Axis::to(values.filter(|value| value.is_finite()).fold(0.0, f64::max));
    let down = |value: f64| top + (1.0 - vertical.part(value)) * PANEL_HEIGHT;
    let (right, bottom) = (LEFT + plot_width(), top + PANEL_HEIGHT);
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>", top - 8.0, escape(title));
    for (value, text) in vertical.ticks() {
        let y = down(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ccc\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (value, text) in horizontal.ticks() {
        let x = across(horizontal, value);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#222\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 4.0,
            bottom + 16.0
        );
    }
    let _ = writeln!(svg, "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#222\"/>");
    let mut legend = Vec::new();
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let stroke = format!("stroke=\"{colour}\" stroke-width=\"1.6\"");
        let path = path(&line.points, |at| across(horizontal, at), down);
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke-linejoin=\"round\" {stroke}/>");
        legend.push((line.name.clone(), stroke));
    }
    if let Some(limit) = limit {
        let (y, stroke) = (down(*limit), "stroke=\"#c00\" stroke-dasharray=\"6 4\"".to_owned());
        let _ = writeln!(svg, "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" {stroke}/>");
        legend.push((format!("limit: {limit}"), stroke));
    }
    for (index, (name, stroke)) in legend.iter().enumerate() {
        let (x, y) = (right + 12.0, top + 8.0 + index as f64 * LEGEND_LINE);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" {stroke}/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 20.0,
            x + 26.0,
            y + 4.0,
            escape(name)
        );
    }
}

/// A line through the points, with a gap where there is no number.
fn path(points: &[(f64, f64)], across: impl Fn(f64) -> f64, down: impl Fn(f64) -> f64) -> String {
    let (mut path, mut is_drawing) = (String::new(), false);
    for (at, value) in points {
        if !value.is_finite() {
            is_drawing = false;
            continue;
        }
        let step = if is_drawing { 'L' } else { 'M' };
        let _ = write!(path, "{step}{:.1} {:.1}", across(*at), down(*value));
        is_drawing = true;
    }
    path
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_hold_all_values() {
        let texts = |max| Axis::to(max).ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(30.0), ["0", "5", "10", "15", "20", "25", "30"]);
        assert_eq!(texts(101.0), ["0", "20", "40", "60", "80", "100", "120"]);
        assert_eq!(texts(0.034), ["0.00", "0.01", "0.02", "0.03", "0.04"]);
        for odd in [0.0, -3.0, f64::NAN, f64::INFINITY] {
            assert_eq!(texts(odd).last().map(String::as_str), Some("1.0"), "{odd}");
        }
        for max in [0.003, 0.7, 1.01, 6.0, 61.0, 999.0, 123_456.0] {
            let axis = Axis::to(max);
            assert!(axis.end >= max && axis.end <= max * 2.0 && axis.ticks().len() <= 7, "{max}: {axis:?}");
        }
    }

    #[test]
    fn an_axis_can_end_between_ticks() {
        let texts: Vec<String> = Axis::ending_at(2.1).ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["0.0", "0.5", "1.0", "1.5", "2.0"]);
        assert!((Axis::ending_at(2.1).part(2.1) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn values_are_scaled_to_their_axes() {
        let axis = Axis::to(30.0);
        assert!((across(axis, 0.0) - LEFT).abs() < 1e-9);
        assert!((across(axis, 15.0) - (LEFT + plot_width() / 2.0)).abs() < 1e-9);
        assert!((across(axis, 99.0) - (WIDTH - RIGHT)).abs() < 1e-9, "nothing is drawn beyond the axis");
    }

    #[test]
    fn what_is_unknown_is_a_gap() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0)];
        assert_eq!(path(&points, |at| at, |value| value), "M0.0 1.0L1.0 2.0M3.0 4.0");
    }

    #[test]
    fn a_page_has_titles_legends_limits_and_parts() {
        let line = Line { name: "a<b".to_owned(), points: vec![(0.0, 1.0), (10.0, 2.0)] };
        let panel = Panel { title: "CPU (%)".to_owned(), lines: vec![line], limit: Some(4.0) };
        let page = Page {
            title: "Own & all".to_owned(),
            across: "minutes".to_owned(),
            across_max: 10.0,
            panels: vec![panel],
            parts: vec![(0.0, 5.0, "storm".to_owned())],
        };
        let svg = render(&page);
        for text in [">Own &amp; all<", ">CPU (%)<", ">a&lt;b<", ">limit: 4<", ">storm<", ">minutes<", ">10<"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        // The value 2 is half-way up to the limit, which is the end of the axis.
        let middle = format!("{:.1} {:.1}", LEFT + plot_width(), TOP + PANEL_HEIGHT / 2.0);
        assert!(svg.contains(&middle), "{middle} is not in {svg}");
    }
}

//! A line of the log: from an event to text.

use std::{
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};
use tracing::{
    Event, Level,
    field::{Field, Visit},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// Most bytes of a message or of a field's value; the rest is cut.
const TEXT_BYTES_MAX: usize = 4_096;

/// Most fields of a line; the rest is left out.
const FIELDS_MAX: usize = 32;

/// Longest chain of causes below an error that is told.
const SOURCES_MAX: usize = 8;

/// What a cut text ends with.
const CUT: &str = "…";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Human { colour: bool },
    Json,
}

impl Form {
    /// For people; coloured on terminals, unless they say otherwise (no-color.org).
    pub(super) fn human(is_terminal: bool) -> Self {
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::Human { colour: is_terminal && !is_unwanted }
    }
}

/// A line as JSON, with its members in this order.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Fields::is_empty")]
    fields: Fields<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    repeated: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Fields in the order in which they were written.
struct Fields<'a> {
    fields: &'a [(&'static str, Value)],
    cause: Option<(&'static str, Value)>,
}

impl Fields<'_> {
    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.cause.is_none()
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().chain(&self.cause).map(|(name, value)| (name, value)))
    }
}

/// A line.
pub(super) struct Line {
    pub(super) level: Level,
    target: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
    /// What makes it a repetition of others, if its writer says so.
    cause: Option<String>,
    /// How many lines like it were held back before it.
    pub(super) repeated: u64,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut line = Self {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
            cause: None,
            repeated: 0,
        };
        event.record(&mut line);
        line
    }

    /// A line of the log about itself.
    pub(super) fn own(level: Level, message: &str, lines: u64) -> Self {
        Self {
            level,
            target: module_path!().trim_end_matches("::line").to_owned(),
            message: message.to_owned(),
            fields: vec![("lines", Value::from(lines))],
            cause: None,
            repeated: 0,
        }
    }

    /// Hash of what repeats when this line repeats, within its place in the source.
    pub(super) fn cause(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Libraries that use the crate `log` all log from one place: what tells them apart is the target.
        self.target.hash(&mut hasher);
        match &self.cause {
            Some(cause) => cause.hash(&mut hasher),
            None if self.level <= Level::WARN => {}
            None => {
                self.message.hash(&mut hasher);
                for (name, value) in &self.fields {
                    name.hash(&mut hasher);
                    value.hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }

    /// Its text, with the time of now and the closing newline.
    pub(super) fn render(&self, form: Form) -> String {
        let mut time = String::new();
        // Writing to a string cannot fail, and a clock before 1970 is written too.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let mut text = match form {
            Form::Json => self.json(&time),
            Form::Human { colour } => self.human(&time, colour),
        };
        text.push('\n');
        text
    }

    fn json(&self, time: &str) -> String {
        let Self { level, target, message, fields, cause, repeated } = self;
        let cause = cause.as_ref().map(|cause| ("cause", Value::from(cause.as_str())));
        let fields = Fields { fields, cause };
        let line = JsonLine { time, level: level.as_str(), target, message, fields, repeated: *repeated };
        // Text and numbers have no way to fail; a line that says so is better than none.
        serde_json::to_string(&line)
            .unwrap_or_else(|error| format!("{{\"message\":{}}}", Value::from(error.to_string())))
    }

    fn human(&self, time: &str, colour: bool) -> String {
        let Self { level, target, message, fields, cause, repeated } = self;
        let colours = match *level {
            Level::ERROR => ("\u{1b}[31m", "\u{1b}[0m"),
            Level::WARN => ("\u{1b}[33m", "\u{1b}[0m"),
            Level::INFO => ("\u{1b}[32m", "\u{1b}[0m"),
            _ => ("\u{1b}[2m", "\u{1b}[0m"),
        };
        let (on, off) = if colour { colours } else { ("", "") };
        let target = target.trim_start_matches("obs_userspace::");
        let mut text = format!("{time} {on}{level:>5}{off} {target}: ");
        push_visible(&mut text, message, false);
        let cause = cause.as_ref().map(|cause| ("cause", Value::from(cause.as_str())));
        for (name, value) in fields.iter().chain(&cause) {
            text.push(' ');
            text.push_str(name);
            text.push('=');
            match value {
                Value::String(value) => push_visible(&mut text, value, true),
                other => text.push_str(&other.to_string()),
            }
        }
        if *repeated > 0 {
            let _ = write!(text, " (repeated {repeated} times since it was last told)");
        }
        text
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("cause", Value::String(text)) => self.cause = Some(text),
            ("cause", other) => self.cause = Some(other.to_string()),
            // What the bridge from the crate `log` puts in.
            ("log.target", Value::String(text)) => self.target = text,
            ("log.module_path" | "log.file" | "log.line", _) => {}
            (name, value) if self.fields.len() < FIELDS_MAX => self.fields.push((name, value)),
            _ => {}
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded::default();
        // Fails when the text is full, and then it is cut.
        let _ = write!(text, "{value:?}");
        self.put(field, text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Bounded::default();
        let _ = text.write_str(value);
        self.put(field, text.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = Bounded::default();
        let _ = write!(text, "{value}");
        let sources = std::iter::successors(value.source(), |error| error.source());
        for source in sources.take(SOURCES_MAX) {
            let _ = write!(text, ": {source}");
        }
        self.put(field, text.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities.
        self.put(field, Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number));
    }
}

/// Text that stops growing.
#[derive(Default)]
struct Bounded {
    text: String,
    is_cut: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        if more.len() <= room && !self.is_cut {
            self.text.push_str(more);
            return Ok(());
        }
        self.is_cut = true;
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        Err(fmt::Error)
    }
}

impl From<Bounded> for Value {
    fn from(Bounded { mut text, is_cut }: Bounded) -> Self {
        if is_cut {
            text.push_str(CUT);
        }
        Self::from(text)
    }
}

/// Adds foreign text: without line ends and terminal commands in it, and in quotes where it would run into its neighbours.
fn push_visible(text: &mut String, foreign: &str, quote: bool) {
    let quote = quote && (foreign.is_empty() || foreign.contains([' ', '"', '=']));
    if quote {
        text.push('"');
    }
    for c in foreign.chars() {
        match c {
            '"' | '\\' if quote => text.extend(['\\', c]),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    if quote {
        text.push('"');
    }
}

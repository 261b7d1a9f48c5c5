//! The kinds of values that settings have: how each is read, written, and called.

mod units;
mod words;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use self::{
    units::{Bytes, Megabytes, Percent},
    words::{Comm, KeyPart, LogFormat, LogLevel, Pattern, Word},
};
use super::{
    problem::{nearest, shown},
    yaml::{Kind, Node, Place},
};
use crate::config::{duration, sampling::Frequency};

/// Longest value that is looked at, in bytes: a path's greatest length.
const SCALAR_BYTES_MAX: usize = 4_096;
/// Most entries of a list.
const LIST_ENTRIES_MAX: usize = 64;

/// Why a value is refused, and where in it.
pub(super) struct Refused {
    pub(super) place: Place,
    pub(super) why: String,
}

/// A value that a setting can have.
pub(super) trait Value: Clone + PartialEq + PartialOrd {
    /// Whether it is a list.
    const LIST: bool = false;

    /// Reads it.
    fn read(node: &Node) -> Result<Self, Vec<Refused>>;

    /// Writes it as YAML that [`Value::read`] reads back to the same.
    fn write(&self) -> String;

    /// What is allowed, with an example.
    fn allowed() -> String;
}

/// A value of one piece.
pub(super) trait Scalar: Clone + PartialEq + PartialOrd {
    /// Reads it; the error is a reason that follows on the offending text.
    fn parse(text: &str) -> Result<Self, String>;

    fn text(&self) -> String;

    fn example() -> &'static str;
}

impl<T: Scalar> Value for T {
    fn read(node: &Node) -> Result<Self, Vec<Refused>> {
        scalar(node).map_err(|refused| vec![refused])
    }

    fn write(&self) -> String {
        quoted(&self.text())
    }

    fn allowed() -> String {
        T::example().to_owned()
    }
}

/// `null` is none.
impl<T: Scalar> Value for Option<T> {
    fn read(node: &Node) -> Result<Self, Vec<Refused>> {
        match &node.kind {
            Kind::Null => Ok(None),
            Kind::Scalar(_) | Kind::List(_) | Kind::Mapping(_) => T::read(node).map(Some),
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), Value::write)
    }

    fn allowed() -> String {
        format!("{}, or null", T::example())
    }
}

impl<T: Scalar> Value for Vec<T> {
    const LIST: bool = true;

    fn read(node: &Node) -> Result<Self, Vec<Refused>> {
        match &node.kind {
            Kind::List(nodes) if nodes.len() > LIST_ENTRIES_MAX => {
                let why = format!("{} entries are too many: at most {LIST_ENTRIES_MAX}", nodes.len());
                Err(vec![Refused { place: node.place, why }])
            }
            Kind::List(nodes) => {
                let (mut values, mut refused) = (Vec::new(), Vec::new());
                for node in nodes {
                    scalar(node).map_or_else(|error| refused.push(error), |value| values.push(value));
                }
                if refused.is_empty() { Ok(values) } else { Err(refused) }
            }
            Kind::Null | Kind::Scalar(_) | Kind::Mapping(_) => {
                let why = format!("{} was given where a list is wanted, such as [a, b] or []", node.kind.name());
                Err(vec![Refused { place: node.place, why }])
            }
        }
    }

    fn write(&self) -> String {
        format!("[{}]", self.iter().map(Value::write).collect::<Vec<_>>().join(", "))
    }

    fn allowed() -> String {
        format!("a list; each entry {}", T::example())
    }
}

fn scalar<T: Scalar>(node: &Node) -> Result<T, Refused> {
    let refuse = |why| Refused { place: node.place, why };
    let text = match &node.kind {
        Kind::Scalar(text) => text,
        Kind::Null | Kind::List(_) | Kind::Mapping(_) => {
            return Err(refuse(format!("{} was given; wanted is {}", node.kind.name(), T::example())));
        }
    };
    if text.len() > SCALAR_BYTES_MAX {
        return Err(refuse(format!("{} is longer than {SCALAR_BYTES_MAX} bytes", shown(text))));
    }
    T::parse(text).map_err(|why| refuse(format!("{} {why}; write {}", shown(text), T::example())))
}

/// Text as a YAML scalar of flow style, quoted if it could be read as something else.
fn quoted(text: &str) -> String {
    let is_plain_char = |c: char| c.is_ascii_alphanumeric() || "/._-%".contains(c);
    // A colon is plain between other characters only (`127.0.0.1:7373`).
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && text.chars().all(|c| is_plain_char(c) || c == ':');
    let is_word = ["null", "true", "false", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
    if is_plain && (!is_word || matches!(text, "true" | "false")) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' || c == '\u{feff}' => {
                quoted.push_str(&format!("\\U{:08X}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl Scalar for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn example() -> &'static str {
        "true or false"
    }
}

impl Scalar for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().map_err(|_| format!("is too large: at most {}", Self::MAX))
        } else {
            Err("is no whole number".to_owned())
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn example() -> &'static str {
        "a whole number such as 10"
    }
}

/// A finite number that is not negative.
fn number(text: &str) -> Option<f64> {
    let is_decimal =
        text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && text.starts_with(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|value: &f64| is_decimal && value.is_finite())
}

impl Scalar for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        number(text).ok_or_else(|| "is no number".to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn example() -> &'static str {
        "a number such as 1.5"
    }
}

impl Scalar for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("lacks a unit (us, ms, s, m, h, d)".to_owned());
        }
        // The reader's own sentence repeats the text, for command lines.
        let parsed = duration::parse(text).map_err(|sentence| {
            let why = sentence.split_once("is no duration: ").and_then(|(_, why)| why.split_once("; write"));
            format!("is no duration: {}", why.map_or("it cannot be read", |(why, _)| why))
        })?;
        // Parts are added up as floating-point numbers: what they lose is below a microsecond.
        let microseconds = (parsed.as_nanos() + 500) / 1_000;
        u64::try_from(microseconds)
            .ok()
            .filter(|&it| it > 0)
            .map(Self::from_micros)
            .ok_or_else(|| "is too short".to_owned())
    }

    fn text(&self) -> String {
        let microseconds = self.as_micros();
        let units = [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
        let (name, unit) = units
            .into_iter()
            .find(|(_, unit)| microseconds != 0 && microseconds.is_multiple_of(*unit))
            .unwrap_or(("us", 1));
        format!("{}{name}", microseconds / unit)
    }

    fn example() -> &'static str {
        "a duration such as 10s, 500ms, 2h or 7d"
    }
}

impl Scalar for Frequency {
    fn parse(text: &str) -> Result<Self, String> {
        let hertz = text.strip_suffix("Hz").ok_or("lacks the unit Hz")?;
        hertz.trim_end().parse().map_err(|_| format!("is not between 1Hz and {}Hz, and whole", Self::MAX_HERTZ))
    }

    fn text(&self) -> String {
        format!("{self}Hz")
    }

    fn example() -> &'static str {
        "a frequency such as 99Hz"
    }
}

impl PartialOrd for Frequency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.hertz().partial_cmp(&other.hertz())
    }
}

impl Scalar for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is no IP address with a port".to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn example() -> &'static str {
        "an IP address and a port such as 127.0.0.1:7373 or \"[::1]:7373\" (with the quotes)"
    }
}

impl Scalar for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        if text.contains('\0') {
            return Err("holds a zero byte, which no path does".to_owned());
        }
        if path.is_absolute() { Ok(path) } else { Err("does not begin with /".to_owned()) }
    }

    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }

    fn example() -> &'static str {
        "an absolute path such as /var/lib/obs"
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use proptest::prelude::*;

    use super::*;
    use crate::config::agent::yaml;

    fn reads_back<T: Value + fmt::Debug>(value: &T) {
        let text = value.write();
        let node = yaml::parse(&format!("key: {text}\n")).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let Kind::Mapping(entries) = node.kind else { panic!("{text}") };
        let read = T::read(&entries[0].value).unwrap_or_else(|refused| panic!("{text}: {}", refused[0].why));
        assert_eq!(read, *value, "{text}");
    }

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in [
            ("100MB", 100_000_000),
            ("16MiB", 16 << 20),
            ("1.5kB", 1_500),
            ("0B", 0),
            ("2 gb", 2_000_000_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(Bytes::parse(text).unwrap().bytes(), bytes, "{text}");
        }
        for bad in [
            "",
            "100",
            "MB",
            "-1MB",
            "1XB",
            "1e3MB",
            "99999999999999999999B",
            "99999999TB",
            "1..2MB",
            "NaNB",
            "9999999.5TB",
        ] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_want_a_unit() {
        assert_eq!(Duration::parse("1h30m").unwrap(), Duration::from_secs(5_400));
        assert!(Duration::parse("10").unwrap_err().contains("lacks a unit"));
        assert_eq!(Duration::parse("10w").unwrap_err(), "is no duration: its unit is none of us, ms, s, m, h, d");
        assert_eq!(Duration::from_secs(7 * 86_400).text(), "7d");
        assert_eq!(Duration::from_millis(1_500).text(), "1500ms");
    }

    #[test]
    fn other_scalars() {
        assert_eq!(Frequency::parse("99Hz").unwrap().hertz(), 99);
        assert!(Frequency::parse("99").is_err());
        assert!(Frequency::parse("0Hz").is_err());
        assert_eq!(Percent::parse("0.5%").unwrap().share(), 0.005);
        assert_eq!(Percent::parse("1").unwrap().percent(), 1.0);
        assert!(Percent::parse("-1%").is_err());
        assert!(f64::parse("inf").is_err());
        assert!(bool::parse("yes").is_err());
        assert!(SocketAddr::parse("localhost:1").is_err());
        assert!(PathBuf::parse("var/lib").is_err());
        assert!(Comm::parse("a-name-of-16-byte").is_err());
        assert!(LogLevel::parse("warning").is_err());
        assert!(LogLevel::parse("inf").unwrap_err().contains("did you mean info?"));
        assert_eq!(Pattern::parse("token=(\\S+)").unwrap().expression(), "token=(\\S+)");
        assert!(Pattern::parse("(").unwrap_err().contains("unclosed group"));
        assert!(Pattern::parse("a*").unwrap_err().contains("empty text"));
        assert!(Pattern::parse("(\\w{1000}){1000}x").unwrap_err().contains("too large"));
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC{0,40}|[\\x00-\\x7f]{0,20}|(null|true|~|- a|a: b|\\[|#|1e3|007|0x1F|é)") {
            if let Ok(comm) = Comm::parse(&text) {
                reads_back(&comm);
                reads_back(&vec![comm.clone(), comm]);
            }
            if let Ok(path) = PathBuf::parse(&format!("/{text}")) {
                reads_back(&path);
                reads_back(&Some(path));
            }
            reads_back(&None::<PathBuf>);
        }

        #[test]
        fn any_number_reads_back(whole in any::<u64>(), small in 0.0..1e9_f64) {
            reads_back(&Bytes::new(whole));
            reads_back(&Percent::new(small));
            reads_back(&small);
            reads_back(&Duration::from_micros(whole % 31_536_000_000_000 + 1));
        }

        #[test]
        fn garbage_is_refused_or_read(text in "\\PC{0,40}|[0-9.%a-zA-Z]{0,12}") {
            let _ = (Bytes::parse(&text), Percent::parse(&text), Duration::parse(&text), Frequency::parse(&text));
            let _ = (f64::parse(&text), u32::parse(&text), Megabytes::parse(&text), Pattern::parse(&text));
        }
    }
}

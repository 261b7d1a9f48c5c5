//! Values that are words: names, patterns, and words of a closed list.

use std::fmt;

use super::{Scalar, nearest};

/// Most memory for a compiled pattern, in bytes.
const PATTERN_COMPILED_BYTES_MAX: usize = 256 << 10;
/// Longest thread name that the kernel keeps, in bytes.
const COMM_BYTES_MAX: usize = 15;

/// The name of a thread or process, as the kernel keeps it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Comm(String);

impl Comm {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Scalar for Comm {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("is no name".to_owned());
        }
        if text.len() > COMM_BYTES_MAX {
            return Err(format!("is longer than the {COMM_BYTES_MAX} bytes that the kernel keeps of a name"));
        }
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    fn example() -> &'static str {
        "a name as in `ps -o comm`, such as postgres"
    }
}

/// The name of something that obs has, which whoever has it knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(String);

impl Word {
    /// The word.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// One that is known to be one.
    pub(in super::super) fn known(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl Scalar for Word {
    fn parse(text: &str) -> Result<Self, String> {
        let is_word =
            !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_word { Ok(Self(text.to_owned())) } else { Err("is no word".to_owned()) }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    fn example() -> &'static str {
        "a word such as block"
    }
}

/// A regular expression in the syntax of the crate `regex`; it has been compiled once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

impl Pattern {
    /// The expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.0
    }
}

impl Scalar for Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let compiled = regex::RegexBuilder::new(text).size_limit(PATTERN_COMPILED_BYTES_MAX).build();
        match compiled {
            Ok(regex) if regex.is_match("") => Err("matches the empty text, and so would redact everything".to_owned()),
            Ok(_) => Ok(Self(text.to_owned())),
            Err(regex::Error::CompiledTooBig(_)) => Err("is too large once compiled".to_owned()),
            Err(error) => {
                // The last line of the crate's drawing says why.
                let drawing = error.to_string();
                let why = drawing.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err(format!("is no regular expression: {why}"))
            }
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    fn example() -> &'static str {
        "a regular expression such as \"--api-key[= ](\\\\S+)\""
    }
}

/// Implements [`Scalar`] for an enum of words, from the one list of its variants.
macro_rules! words {
    ($type:ident, $example:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// Every variant.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// What users write.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.name())
            }
        }

        impl Scalar for $type {
            fn parse(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|word| word.name() == text).ok_or_else(|| {
                    let meant = nearest(text, Self::ALL.iter().map(|word| word.name()));
                    let meant = meant.map(|word| format!(" (did you mean {word}?)")).unwrap_or_default();
                    format!("is not known here{meant}")
                })
            }

            fn text(&self) -> String {
                self.name().to_owned()
            }

            fn example() -> &'static str {
                $example
            }
        }
    };
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Data was lost, or somebody has to act.
    Error,
    /// Something is not as it should be, but obs copes.
    Warn,
    /// Starts, stops and other larger steps.
    Info,
    /// The smaller steps.
    Debug,
    /// Everything.
    Trace,
}

words!(
    LogLevel,
    "error, warn, info, debug or trace",
    Error = "error",
    Warn = "warn",
    Info = "info",
    Debug = "debug",
    Trace = "trace"
);

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// What distributions are told apart by, besides what each tells apart itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart {
    /// The cgroup, and so the container.
    Cgroup,
    /// The process.
    Process,
}

words!(KeyPart, "cgroup or process", Cgroup = "cgroup", Process = "process");

words!(LogFormat, "auto, human or json", Auto = "auto", Human = "human", Json = "json");

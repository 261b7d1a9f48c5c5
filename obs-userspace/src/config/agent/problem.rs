//! What is wrong with a configuration, said so that it can be put right.

use std::{fmt, path::PathBuf};

use super::yaml::Place;

/// Most problems that are told at once; the rest is counted.
const PROBLEMS_TOLD_MAX: usize = 50;
/// Most characters of somebody else's text that a message repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the file, at a line and a column that count from one; without them the whole file is meant.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Line and column (in characters), each from one.
        line_and_column: Option<(u64, u64)>,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// Nowhere: it has its default.
    Default,
}

impl Source {
    pub(super) fn file(path: &std::path::Path, place: Option<Place>) -> Self {
        let line_and_column = place.map(|Place { line, column }| (line, column));
        Self::File { path: path.to_owned(), line_and_column }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line_and_column: Some((line, column)) } => {
                write!(formatter, "{}:{line}:{column}", path.display())
            }
            Self::File { path, line_and_column: None } => write!(formatter, "{}", path.display()),
            Self::Environment(name) => write!(formatter, "environment variable {name}"),
            Self::Default => formatter.write_str("default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was given.
    pub source: Source,
    /// The setting (`http.listen`), or the part of it that exists; empty if the file as a whole is meant.
    pub setting: String,
    /// What is wrong, with the offending text, what is allowed, and what was probably meant.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, setting, message } = self;
        if setting.is_empty() {
            write!(formatter, "{source}: {message}")
        } else {
            write!(formatter, "{source}: {setting}: {message}")
        }
    }
}

/// Everything that is wrong, in the order of the file and then of the environment. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "problem" } else { "problems" };
        write!(formatter, "the configuration has {count} {plural}:")?;
        for problem in self.problems.iter().take(PROBLEMS_TOLD_MAX) {
            write!(formatter, "\n  {problem}")?;
        }
        if count > PROBLEMS_TOLD_MAX {
            write!(formatter, "\n  and {} more", count - PROBLEMS_TOLD_MAX)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Somebody else's text for a message: on one line, without control characters, and not too long.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("'{shown}'")
}

/// The candidate that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distances cost the product of the lengths.
    if text.len() > 2 * SHOWN_CHARS_MAX {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&text, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(text.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_near() {
        let keys = ["listen", "limits", "tls_cert", "tls_key"];
        assert_eq!(nearest("lisen", keys), Some("listen"));
        assert_eq!(nearest("tls-cert", keys), Some("tls_cert"));
        assert_eq!(nearest("TLS_KEY", keys), Some("tls_key"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"listen".repeat(1_000), keys), None);
    }

    #[test]
    fn foreign_text_stays_on_one_line() {
        assert_eq!(shown("a\n\u{1b}[31mb"), "'a\\n\\u{1b}[31mb'");
        assert_eq!(shown(&"x".repeat(100)), format!("'{}…'", "x".repeat(60)));
    }

    #[test]
    fn many_problems_are_counted() {
        let problem = Problem { source: Source::Default, setting: "a".to_owned(), message: "b".to_owned() };
        let errors = ConfigErrors { problems: vec![problem; 60] };
        let text = errors.to_string();
        assert!(text.starts_with("the configuration has 60 problems:\n  default: a: b\n"));
        assert!(text.ends_with("and 10 more"));
    }
}

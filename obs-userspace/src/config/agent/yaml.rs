//! YAML text to a tree that knows where each node stands.
//!
//! The tree and not derived structures, because a derived reader stops at the first thing that it dislikes: here the whole
//! file is judged, and every problem is told at once. serde-saphyr parses; its budgets bound what hostile text can cost.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Location, Options, Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};

/// Deepest nesting of lists and mappings; settings need four.
const DEPTH_MAX: usize = 16;
/// Most nodes, those that aliases repeat included.
const NODES_MAX: usize = 20_000;
/// Most aliases (`*name`).
const ALIASES_MAX: usize = 100;

/// Where something stands; both count from one, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is. Scalars stay text: only the setting knows whether `10` is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, `null` or `~`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

impl Kind {
    /// What users call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// A key of a mapping, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// Why a text is no YAML, or more than is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) place: Option<Place>,
    pub(super) why: String,
}

/// Reads one document; an empty one is [`Kind::Null`].
///
/// # Errors
/// At the first place that is no YAML, or when the document is deeper or larger than settings can be.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        // Told by whoever reads the mapping, with all other problems.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let options: Options = options;
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(tree) => Ok(node(text, tree)),
        Err(error) => {
            let place = error.location().filter(|location| *location != Location::UNKNOWN).map(Place::from);
            let mut why = error.to_string();
            // The parser ends its sentences with the place, which ours begin with.
            if let Some(Place { line, column }) = place {
                let end = format!(" at line {line}, column {column}");
                why.truncate(why.strip_suffix(&end).map_or(why.len(), str::len));
            }
            Err(SyntaxError { place, why })
        }
    }
}

/// What the parser hands over. `Typed` is a scalar of which it made a number or a truth value: its text is taken from the file.
enum Raw {
    Null,
    Typed(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

/// Gives the parser's tree its texts and places. Its depth is bounded by [`DEPTH_MAX`].
fn node(text: &str, raw: Spanned<Raw>) -> Node {
    let Spanned { value, referenced, defined } = raw;
    let kind = match value {
        Raw::Null => Kind::Null,
        Raw::Text(value) => Kind::Scalar(value),
        Raw::Typed(parsed) => Kind::Scalar(slice(text, defined).unwrap_or(parsed)),
        Raw::List(items) => Kind::List(items.into_iter().map(|item| node(text, item)).collect()),
        Raw::Mapping(entries) => Kind::Mapping(
            entries
                .into_iter()
                .map(|(key, value)| Entry { key: key.value, place: key.referenced.into(), value: node(text, value) })
                .collect(),
        ),
    };
    Node { place: referenced.into(), kind }
}

/// The text at a location, if the parser knows its bytes.
fn slice(text: &str, location: Location) -> Option<String> {
    let span = location.span();
    let begin = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    text.get(begin..begin.checked_add(length)?).map(|slice| slice.trim().to_owned())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value, a list or a mapping")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        // Ends at the parser's budget of nodes.
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(line: u64, column: u64, text: &str) -> Node {
        Node { place: Place { line, column }, kind: Kind::Scalar(text.to_owned()) }
    }

    fn entry(line: u64, key: &str, value: Node) -> Entry {
        Entry { key: key.to_owned(), place: Place { line, column: 1 }, value }
    }

    #[test]
    fn scalars_keep_their_text_and_place() {
        let text = "a: 1_0\nb: 10s\nc: 'x: 1'\nd: 1e400\né: 99999999999999999999999999999999999999999999\nf: on\n";
        let expected = vec![
            entry(1, "a", scalar(1, 4, "1_0")),
            entry(2, "b", scalar(2, 4, "10s")),
            entry(3, "c", scalar(3, 4, "x: 1")),
            entry(4, "d", scalar(4, 4, "1e400")),
            entry(5, "é", scalar(5, 4, "99999999999999999999999999999999999999999999")),
            entry(6, "f", scalar(6, 4, "on")),
        ];
        assert_eq!(parse(text).unwrap().kind, Kind::Mapping(expected));
    }

    #[test]
    fn an_alias_stands_where_it_is_used() {
        let Kind::Mapping(entries) = parse("a: &x 7\nb: *x\n").unwrap().kind else { panic!() };
        assert_eq!(entries[1].value, scalar(2, 4, "7"));
    }

    #[test]
    fn keys_that_come_twice_are_both_there() {
        let Kind::Mapping(entries) = parse("a: 1\na: 2\n").unwrap().kind else { panic!() };
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place() {
        let error = parse("a: 1\nb: {c: 1\n").unwrap_err();
        assert_eq!(error.place.unwrap().line, 2);
        assert!(!error.why.contains("at line"), "{}", error.why);
        assert!(parse("a: 1\n---\nb: 1\n").is_err());
        assert!(parse("a: !ruby/object x").is_err());
        assert!(parse("<<: {a: 1}").is_err());
        assert_eq!(parse("").unwrap().kind, Kind::Null);
    }

    #[test]
    fn bombs_are_refused() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}1{}", "[".repeat(40), "]".repeat(40))).is_err());
        assert!(parse(&"- ".repeat(1_000)).is_err());
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(parse(&laughs).is_err());
        assert!(parse(&"- 1\n".repeat(NODES_MAX + 1)).is_err());
    }
}

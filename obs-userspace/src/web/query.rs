//! The part of an address behind the question mark. Nothing is guessed: what is unknown, doubled or malformed is refused.

use std::{collections::BTreeMap, fmt::Write as _};

use hyper::StatusCode;

use super::refusal::{Refusal, echo};

/// Most parameters of a request.
const PARAMETERS_MAX: usize = 64;
/// Most bytes of a value, decoded.
const VALUE_BYTES_MAX: usize = 1024;

/// A parameter that a route knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// Whether it may come more than once.
    pub(super) repeats: bool,
}

pub(super) const fn once(name: &'static str) -> Parameter {
    Parameter { name, repeats: false }
}

pub(super) const fn repeated(name: &'static str) -> Parameter {
    Parameter { name, repeats: true }
}

/// The parameters of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Query {
    pub(super) fn parse(query: &str, known: &'static [Parameter]) -> Result<Self, Refusal> {
        let mut values: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (number, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if number == PARAMETERS_MAX {
                let why = format!("there are more than {PARAMETERS_MAX} parameters");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "cannot read the address", why, "send fewer"));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).ok_or_else(|| malformed(name))?;
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
                let hint = match names.as_slice() {
                    [] => "there are no parameters here".to_owned(),
                    names => format!("known here: {}", names.join(", ")),
                };
                return Err(Refusal::parameter(&name, "it is not known here", hint));
            };
            let value = decoded(value).ok_or_else(|| malformed(parameter.name))?;
            if value.len() > VALUE_BYTES_MAX {
                let why = format!("it is longer than {VALUE_BYTES_MAX} bytes");
                return Err(Refusal::parameter(parameter.name, why, "shorten it"));
            }
            let known = values.entry(parameter.name).or_default();
            if !parameter.repeats && !known.is_empty() {
                return Err(Refusal::parameter(parameter.name, "it comes twice", "send it once"));
            }
            known.push(value);
        }
        Ok(Self { values })
    }

    /// The value of a parameter; an empty one counts as not sent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }
}

fn malformed(name: &str) -> Refusal {
    Refusal::parameter(&echo(name), "it is not UTF-8 in percent-encoding", "encode it as %XX per byte")
}

/// Undoes percent-encoding; `+` is a space. `None` if it is broken, or no UTF-8, or holds a control character.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                bytes.push((digit()? * 16 + digit()?) as u8);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// Percent-encodes everything but letters, digits and `-_.~`, for names of files in headers.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[Parameter] = &[once("from"), repeated("match")];

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("match=process%3Da%20b+c&from=-15m&&match=", KNOWN).unwrap();
        assert_eq!(query.get("from"), Some("-15m"));
        assert_eq!(query.all("match"), ["process=a b c", ""]);
        assert_eq!(query.get("to"), None);
        assert_eq!(Query::parse("from=", KNOWN).unwrap().get("from"), None);
    }

    #[test]
    fn what_is_unknown_doubled_or_malformed_is_refused() {
        let long = format!("match={}", "x".repeat(2000));
        let many = "match=x&".repeat(65);
        for query in [
            "to=1",
            "from=1&from=2",
            "from=%",
            "from=%4",
            "from=%zz",
            "from=%ff",
            "%66rom%=1",
            "from=%00",
            &long,
            &many,
        ] {
            assert!(Query::parse(query, KNOWN).is_err(), "{query}");
        }
        assert!(Query::parse("%66rom=1", KNOWN).is_ok());
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query: String) {
            let _ = Query::parse(&query, KNOWN);
        }

        #[test]
        fn what_is_encoded_is_decoded(text in "[^\\p{Cc}]*") {
            prop_assert_eq!(decoded(&encoded(&text)), Some(text));
        }
    }
}

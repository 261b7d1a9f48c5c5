//! Parameters that several questions have.

use crate::{
    store::{Limits, MatchOp, Matcher, Range},
    web::{query::Query, refusal::Refusal, time},
};

/// What is asked for if nothing is said.
const RANGE_DEFAULT_NS: u64 = 15 * 60 * 1_000_000_000;
/// Most conditions of a question.
const MATCHERS_MAX: usize = 16;
/// The collector if none is named.
const COLLECTOR_DEFAULT: &str = "cpu";
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 128;

/// `from` and `to`: from 15 minutes before `to`, until now.
pub(super) fn range(query: &Query) -> Result<Range, Refusal> {
    let now = time::now_unix_ns();
    let read = |name: &str| {
        let parse = |text: &str| {
            let why = "it is not a time";
            time::parse(text, now).ok_or_else(|| Refusal::parameter(name, why, time::TIME_FORMS))
        };
        query.get(name).map(parse).transpose()
    };
    let to_unix_ns = read("to")?.unwrap_or(now);
    let from_unix_ns = read("from")?.unwrap_or(to_unix_ns.saturating_sub(RANGE_DEFAULT_NS));
    if from_unix_ns >= to_unix_ns {
        return Err(Refusal::parameter("from", "it is not before `to`", "let the range begin before it ends"));
    }
    Ok(Range { from_unix_ns, to_unix_ns })
}

/// `match`, any number of times: `LABEL=VALUE`, `LABEL!=VALUE`, `LABEL~PATTERN`, `LABEL!~PATTERN`.
pub(super) fn matchers(query: &Query) -> Result<Vec<Matcher>, Refusal> {
    let all = query.all("match");
    if all.len() > MATCHERS_MAX {
        let why = format!("there are more than {MATCHERS_MAX}");
        return Err(Refusal::parameter("match", why, "send fewer conditions"));
    }
    all.iter().map(|text| matcher(text)).collect()
}

fn matcher(text: &str) -> Result<Matcher, Refusal> {
    let wrong = || {
        let hint = "write LABEL=VALUE, LABEL!=VALUE, LABEL~PATTERN or LABEL!~PATTERN (`*` in a pattern is anything)";
        Refusal::parameter("match", "it is not a condition", hint)
    };
    let at = text.find(['=', '~', '!']).ok_or_else(wrong)?;
    let (label, rest) = text.split_at(at);
    let operators = [("!=", MatchOp::NotEqual), ("!~", MatchOp::NotLike), ("=", MatchOp::Equal), ("~", MatchOp::Like)];
    let found = operators.into_iter().find_map(|(sign, op)| rest.strip_prefix(sign).map(|value| (op, value)));
    let (op, value) = found.ok_or_else(wrong)?;
    if label.is_empty() || label.len() > NAME_BYTES_MAX {
        return Err(wrong());
    }
    Ok(Matcher::new(label, op, value))
}

/// `collector`.
pub(super) fn collector(query: &Query) -> Result<String, Refusal> {
    let name = query.get("collector").unwrap_or(COLLECTOR_DEFAULT);
    self::name("collector", name)
}

/// A name, of whatever.
pub(super) fn name(parameter: &str, text: &str) -> Result<String, Refusal> {
    if text.len() <= NAME_BYTES_MAX {
        return Ok(text.to_owned());
    }
    let why = format!("it is longer than {NAME_BYTES_MAX} bytes");
    Err(Refusal::parameter(parameter, why, "send a shorter name"))
}

/// A whole number between 1 and a bound.
pub(super) fn number(query: &Query, name: &str, default: usize, max: usize) -> Result<usize, Refusal> {
    let Some(text) = query.get(name) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number
        .ok_or_else(|| Refusal::parameter(name, "it is out of range", format!("write a whole number from 1 to {max}")))
}

/// The usual limits with a deadline.
pub(super) fn limits(deadline: std::time::Instant) -> Limits {
    Limits { deadline: Some(deadline), ..Limits::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_are_read() {
        for (text, label, op, value) in [
            ("process=nginx", "process", MatchOp::Equal, "nginx"),
            ("process!=a=b", "process", MatchOp::NotEqual, "a=b"),
            ("thread~work*", "thread", MatchOp::Like, "work*"),
            ("cgroup!~/a!~b", "cgroup", MatchOp::NotLike, "/a!~b"),
            ("container=", "container", MatchOp::Equal, ""),
        ] {
            assert_eq!(matcher(text).unwrap(), Matcher::new(label, op, value), "{text}");
        }
        for text in ["", "process", "=x", "a!b", "!", "~"] {
            assert!(matcher(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_condition_is_read_or_refused(text: String) {
            let _ = matcher(&text);
        }
    }
}

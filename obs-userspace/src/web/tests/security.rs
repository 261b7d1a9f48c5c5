//! Who is let in, and what is written down.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use serde_json::Value;

use super::*;

pub(super) const VIEWER: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";
const OPERATOR: &str = "oooooooooooooooooooooooooooooooo";

/// A file with an operator and a viewer, and the operator's token.
pub(super) fn token_file(dir: &Path) -> (PathBuf, String) {
    let path = dir.join("tokens");
    write_tokens(&path, &format!("viewer grafana {VIEWER}\noperator alice {OPERATOR}\n"));
    (path, OPERATOR.to_owned())
}

fn write_tokens(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

pub(super) fn with_tokens() -> (Rig, tempfile::TempDir) {
    with_tokens_and(WebLimits::default())
}

pub(super) fn with_tokens_and(limits: WebLimits) -> (Rig, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = token_file(dir.path());
    (Rig::with(WebOptions { token_file: Some(path), limits, ..local() }), dir)
}

pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn tokens_decide_who_sees_and_who_changes() {
    let (rig, _dir) = with_tokens();
    for path in ["/", "/assets/main.js", "/health", "/live", "/api/v1/openapi.yaml"] {
        assert!(matches!(rig.get(path).status, 200 | 503), "{path}");
    }
    for path in ["/health/detailed", "/metrics", "/api/v1/status", "/api/v1/profile", "/api/v1/log-level"] {
        let nobody = rig.get(path);
        assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, "Bearer realm=\"obs\""), "{path}");
        for wrong in ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", &bearer("wrong"), &bearer(&VIEWER[1..]), VIEWER] {
            assert_eq!(rig.send("GET", path, &[("Authorization", wrong)], b"").status, 401, "{path} {wrong}");
        }
        for right in [VIEWER, OPERATOR] {
            let status = rig.send("GET", path, &[("Authorization", &bearer(right))], b"").status;
            assert!(matches!(status, 200), "{path} {status}");
        }
    }
    let twice = [("Authorization", &*bearer(VIEWER)), ("Authorization", &*bearer(OPERATOR))];
    assert_eq!(rig.send("GET", "/metrics", &twice, b"").status, 401);
    let body = br#"{"level": "debug"}"#;
    let put = |token: &str| rig.send("PUT", "/api/v1/log-level", &[("Authorization", &bearer(token))], body);
    assert_eq!((put("wrong").status, put(VIEWER).status), (401, 403));
    assert!(!rig.audit_log().exists());
    assert_eq!(put(OPERATOR).status, 200);
    assert_eq!(*rig.level.lock().unwrap(), "debug");
}

#[test]
fn changes_are_written_down_with_who_and_what() {
    let (rig, _dir) = with_tokens();
    let token = bearer(OPERATOR);
    let put = |body: &str| rig.send("PUT", "/api/v1/log-level", &[("Authorization", &token)], body.as_bytes());
    for wrong in ["", "{}", "debug", r#"{"level": "loud"}"#, r#"{"level": "debug", "x": 1}"#, r#"{"level": 1}"#] {
        assert_eq!(put(wrong).status, 400, "{wrong}");
    }
    assert!(!rig.audit_log().exists());
    assert_eq!((put(r#"{"level": "debug"}"#).status, put(r#"{"level": "trace"}"#).status), (200, 500));
    let log = fs::read_to_string(rig.audit_log()).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<[&str; 5]> = entries
        .iter()
        .map(|entry| ["actor", "action", "from", "to", "outcome"].map(|key| entry[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        rows,
        [
            ["alice", "set-log-level", "info", "debug", "begun"],
            ["alice", "set-log-level", "info", "debug", "done"],
            ["alice", "set-log-level", "debug", "trace", "begun"],
            ["alice", "set-log-level", "debug", "trace", "failed"],
        ]
    );
    assert_eq!(entries[3]["reason"], "the log does not want to");
    assert!(!log.contains(OPERATOR));
}

/// Answers of one connection, the last of which need not end it.
fn status_on(stream: &mut TcpStream, token: &str) -> u16 {
    let head = format!("GET /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n", bearer(token));
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // Both what it answers and how it refuses end so, and neither has it elsewhere.
    while !bytes.ends_with(b"]}") && !bytes.ends_with(b"}}") {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn tokens_that_are_read_again_hold_at_once_on_open_connections_too() {
    let (rig, dir) = with_tokens();
    let mut stream = rig.connect();
    assert_eq!((status_on(&mut stream, VIEWER), status_on(&mut stream, OPERATOR)), (200, 200));
    let other = "n".repeat(32);
    write_tokens(&dir.path().join("tokens"), &format!("operator alice {other}\nviewer bob {VIEWER}\n"));
    assert_eq!(status_on(&mut stream, OPERATOR), 200, "before they are read again");
    let Reread { changes, refused } = rig.server.reread();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(changes.len(), 1);
    assert_eq!([OPERATOR, VIEWER, &other].map(|token| status_on(&mut stream, token)), [401, 200, 200]);
    assert!(rig.server.reread().changes.is_empty(), "nothing changed since");
    let log = rig.audited();
    let entry: Value = serde_json::from_str(&log).unwrap();
    let texts = ["actor", "action", "from", "to", "outcome"].map(|key| entry[key].as_str().unwrap());
    let (from, to) = ("viewer grafana, operator alice", "operator alice (another token), viewer bob");
    assert_eq!(texts, ["(signal)", "change-tokens", from, to, "done"]);
    assert!(entry["role"].is_null() && entry["peer"].is_null());
    assert!(![VIEWER, OPERATOR, &other].iter().any(|token| log.contains(*token)));
}

#[test]
fn tokens_that_cannot_be_used_leave_the_old_ones() {
    let (rig, dir) = with_tokens();
    let path = dir.path().join("tokens");
    let status = || rig.send("GET", "/metrics", &[("Authorization", &bearer(VIEWER))], b"").status;
    let refused = |why: &str| {
        let Reread { changes, refused } = rig.server.reread();
        assert!(changes.is_empty());
        let [(what, error)] = &refused[..] else { panic!("{refused:?}") };
        assert!(*what == "tokens" && error.to_string().contains(why), "{error}");
        assert_eq!(status(), 200, "{why}");
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod 600");
    write_tokens(&path, "viewer bob short\n");
    refused("tokens:1: the token has not 32 to 512");
    write_tokens(&path, "");
    refused("no token");
    fs::remove_file(&path).unwrap();
    refused("cannot read");
    assert!(!rig.audit_log().exists(), "nothing was changed");
}

/// A disk that is full must not keep a token alive.
#[test]
fn a_token_is_revoked_even_if_that_cannot_be_written_down() {
    let (rig, dir) = with_tokens();
    fs::create_dir(rig.audit_log()).unwrap();
    write_tokens(&dir.path().join("tokens"), &format!("operator alice {OPERATOR}\n"));
    assert_eq!(rig.server.reread().changes.len(), 1);
    assert_eq!(rig.send("GET", "/metrics", &[("Authorization", &bearer(VIEWER))], b"").status, 401);
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let (rig, _dir) = with_tokens();
    fs::create_dir(rig.audit_log()).unwrap();
    let reply = rig.send("PUT", "/api/v1/log-level", &[("Authorization", &bearer(OPERATOR))], br#"{"level": "debug"}"#);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(*rig.level.lock().unwrap(), "info");
}

#[test]
fn without_tokens_everybody_on_the_host_sees_and_nobody_changes() {
    let rig = Rig::new();
    let reply = rig.send("PUT", "/api/v1/log-level", &[], br#"{"level": "debug"}"#);
    assert_eq!(reply.status, 403);
    assert!(reply.error()[2].contains("http.token_file"));
}

#[test]
fn other_names_and_other_sites_are_refused() {
    let (rig, _dir) = with_tokens();
    assert_eq!(rig.send("GET", "/health", &[("Host", "evil.example")], b"").status, 421);
    assert_eq!(rig.send("GET", "http://evil.example/health", &[], b"").status, 421);
    let mut stream = rig.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(Reply::read(&mut stream).status, 421);
    let token = bearer(OPERATOR);
    for (name, value) in [("Origin", "https://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")] {
        let headers = [("Authorization", &*token), (name, value)];
        let reply = rig.send("PUT", "/api/v1/log-level", &headers, br#"{"level": "debug"}"#);
        assert_eq!(reply.status, 403, "{name}: {value}");
    }
    let preflight = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "PUT")];
    let reply = rig.send("OPTIONS", "/api/v1/log-level", &preflight, b"");
    assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD, PUT"));
    assert!(reply.headers.keys().all(|name| !name.starts_with("access-control-")));
}

#[test]
fn every_answer_has_the_headers_that_protect_browsers() {
    let rig = Rig::new();
    for path in ["/", "/assets/main.js", "/health", "/metrics", "/api/v1/status", "/nowhere", "/api/v1/profile?x=1"] {
        let reply = rig.get(path);
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("referrer-policy"), "no-referrer");
        assert_eq!(reply.header("x-frame-options"), "DENY");
        assert_eq!(reply.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(reply.header("access-control-allow-origin"), "");
        assert!(!reply.header("cache-control").is_empty());
    }
}

#[test]
fn paths_lead_nowhere_else() {
    let rig = Rig::new();
    for path in [
        "/../etc/passwd",
        "/assets/../../Cargo.toml",
        "/assets/..%2f..%2fCargo.toml",
        "/assets/%2e%2e",
        "/assets//etc/passwd",
        "/assets/main.js%00",
        "/assets/main.js/",
        "//evil.example/",
        "/./",
        "/%2f",
    ] {
        assert_eq!(rig.get(path).status, 404, "{path}");
    }
}

/// What no library of a client would send.
#[test]
fn bytes_that_are_no_text_are_refused() {
    let (rig, _dir) = with_tokens();
    let send = |target: &[u8], header: &[u8]| {
        let mut stream = rig.connect();
        let head = b"\r\nConnection: close\r\nHost: localhost\r\n\r\n";
        stream.write_all(&[b"GET ", target, b" HTTP/1.1\r\n", header, head].concat()).unwrap();
        Reply::read(&mut stream)
    };
    let bearer = bearer(VIEWER).into_bytes();
    let viewer = [b"Authorization: ", bearer.as_slice()].concat();
    assert_eq!(send(b"/api/v1/status", &viewer).status, 200);
    // In a path, as bytes and encoded: too long, cut short, a surrogate, a zero.
    for name in [
        &b"\xff"[..],
        b"\xc3\x28",
        b"%ff",
        b"%c0%ae%c0%ae",
        b"%e2%82",
        b"%ed%a0%80",
        b"%00",
        b"%0d%0a",
        b"%",
        b"%f",
        b"%zz",
    ] {
        for folder in [&b"/assets/"[..], b"/api/v1/labels/", b"/"] {
            let target = [folder, name].concat();
            let reply = send(&target, &viewer);
            assert!(matches!(reply.status, 400 | 404), "{} {}", target.escape_ascii(), reply.status);
        }
    }
    for query in [
        &b"match=\xff"[..],
        b"match=%ff",
        b"\xff=1",
        b"%ff=1",
        b"from=%00",
        b"from=%e2%80",
        b"name=%ed%a0%80",
        b"match=%0aX",
    ] {
        let target = [b"/api/v1/events?".as_slice(), query].concat();
        let reply = send(&target, &viewer);
        assert_eq!(reply.status, 400, "{}", target.escape_ascii());
        assert!(reply.body.is_ascii(), "{:?}", reply.text());
    }
    // In headers.
    for header in [&b"Host: \xff"[..], b"Host: localhost\xff"] {
        assert_eq!(send(b"/health", header).status, 421, "{}", header.escape_ascii());
    }
    for header in [
        &b"Authorization: Bearer \xff\xfe"[..],
        b"Authorization: \xff",
        b"Authorization: Bearer vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\xff",
    ] {
        assert_eq!(send(b"/metrics", header).status, 401, "{}", header.escape_ascii());
    }
    for header in [&b"Accept: \xff"[..], b"Accept-Encoding: \xc3\x28", b"X: \xf0\x9f"] {
        let both = [viewer.as_slice(), b"\r\n", header].concat();
        assert_eq!(send(b"/metrics", &both).status, 200, "{}", header.escape_ascii());
    }
    for header in [&b"\xff: x"[..], b"X\0: x", b"X: \0", b"X : x", b" folded: x", b"no colon"] {
        let reply = send(b"/health", header);
        assert!(matches!(reply.status, 0 | 400), "{} {}", header.escape_ascii(), reply.status);
    }
}

/// Two ways to say how long a body is are how one request is hidden in another.
#[test]
fn a_request_cannot_hide_in_another() {
    let (rig, _dir) = with_tokens();
    let hidden = format!(
        "PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Length: 18\r\n\r\n{{\"level\": \"debug\"}}",
        bearer(OPERATOR)
    );
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        let mut stream = rig.connect();
        let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n");
        stream.write_all(&[head.as_bytes(), hidden.as_bytes()].concat()).unwrap();
        // One answer, which refuses, and the end.
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let text = String::from_utf8_lossy(&answers);
        assert!(text.matches("HTTP/1.1 ").count() <= 1 && !text.starts_with("HTTP/1.1 2"), "{lengths}: {text}");
    }
    assert_eq!(*rig.level.lock().unwrap(), "info");
}

fn everywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
}

#[test]
fn beyond_loopback_it_does_not_start_unprotected() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, _) = token_file(dir.path());
    let (tls, _) = certificate(dir.path());
    let start = |tls: Option<&TlsFiles>, tokens: Option<&PathBuf>| {
        let options = WebOptions { listen: everywhere(), tls: tls.cloned(), token_file: tokens.cloned(), ..local() };
        Rig::try_with(options).map(drop).map_err(|error| error.to_string())
    };
    assert!(start(None, None).unwrap_err().contains("http.tls_cert, http.tls_key) and a token file"));
    assert!(start(None, Some(&tokens)).unwrap_err().contains("http.tls_cert"));
    assert!(start(Some(&tls), None).unwrap_err().contains("http.token_file"));
    assert_eq!(start(Some(&tls), Some(&tokens)), Ok(()));
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start(Some(&tls), Some(&tokens)).unwrap_err().contains("chmod 600"));
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&tls.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start(Some(&tls), Some(&tokens)).unwrap_err().contains("private key"));
    let swapped = TlsFiles { cert: tls.cert.clone(), key: tls.cert.clone() };
    assert!(start(Some(&swapped), Some(&tokens)).unwrap_err().contains("cannot use"));
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(dir: &Path) -> (TlsFiles, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (files, roots)
}

/// A connection of a client that trusts these.
fn encrypted(rig: &Rig, roots: RootCertStore) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), rig.server.address().port())).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

#[test]
fn a_certificate_that_is_read_again_is_that_of_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, old) = certificate(dir.path());
    let rig = Rig::with(WebOptions { tls: Some(tls.clone()), ..local() });
    let is_trusted = |roots: &RootCertStore| {
        let mut stream = encrypted(&rig, roots.clone());
        let sent = stream.write_all(&request("GET", "/api/v1/log-level", &[], b""));
        sent.is_ok() && Reply::read(&mut stream).status == 200
    };
    assert!(is_trusted(&old) && rig.server.reread().changes.is_empty());
    // Its key is not there yet.
    let former_key = fs::read(&tls.key).unwrap();
    let (_, new) = certificate(dir.path());
    let key = fs::read(&tls.key).unwrap();
    fs::write(&tls.key, former_key).unwrap();
    let Reread { changes, refused } = rig.server.reread();
    assert!(changes.is_empty() && refused.len() == 1, "{refused:?}");
    assert!(refused[0].0 == "certificate" && refused[0].1.to_string().contains("with the key in"), "{refused:?}");
    assert!(is_trusted(&old) && !is_trusted(&new));
    // Others can read it.
    fs::write(&tls.key, key).unwrap();
    fs::set_permissions(&tls.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(rig.server.reread().refused[0].1.to_string().contains("private key"));
    fs::set_permissions(&tls.key, fs::Permissions::from_mode(0o600)).unwrap();
    // A connection that is open stays so.
    let mut open = encrypted(&rig, old.clone());
    open.flush().unwrap();
    let Reread { changes, refused } = rig.server.reread();
    assert!(refused.is_empty() && changes.len() == 1 && changes[0].from.starts_with("sha256:"), "{changes:?}");
    assert!(is_trusted(&new) && !is_trusted(&old));
    open.write_all(&request("GET", "/api/v1/log-level", &[], b"")).unwrap();
    assert_eq!(Reply::read(&mut open).status, 200);
    assert!(rig.audited().contains("change-certificate"));
}

#[test]
fn beyond_loopback_it_talks_tls_and_wants_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (token_file, token) = token_file(dir.path());
    let (tls, roots) = certificate(dir.path());
    let limits = WebLimits { header_timeout: Duration::from_millis(500), ..WebLimits::default() };
    let rig =
        Rig::with(WebOptions { listen: everywhere(), tls: Some(tls), token_file: Some(token_file), limits, ..local() });
    assert!(rig.server.url().starts_with("https://"));
    let get = |path: &str, headers: &[(&str, &str)]| {
        let mut stream = encrypted(&rig, roots.clone());
        stream.write_all(&request("GET", path, headers, b"")).unwrap();
        Reply::read(&mut stream)
    };
    // Here names cannot be rebound: the certificate is for one.
    assert_eq!(get("/health", &[("Host", "agent.example")]).status, 200);
    assert_eq!(get("/metrics", &[]).status, 401);
    let metrics = get("/metrics", &[("Authorization", &bearer(&token))]);
    assert_eq!(metrics.status, 200);
    // It would hold for every port of the host's name.
    assert_eq!(metrics.header("strict-transport-security"), "");
    // Whoever talks plainly, or not at all, is ended.
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.server.address().port())).unwrap();
    plain.write_all(&request("GET", "/health", &[], b"")).unwrap();
    assert_ne!(Reply::read(&mut plain).status, 200);
    let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.server.address().port())).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
}

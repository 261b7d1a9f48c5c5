//! Clients that are slow, many or wrong on purpose.

use std::time::Instant;

use super::*;

fn limited(limits: WebLimits) -> Rig {
    Rig::with(WebOptions { limits, ..local() })
}

/// Whether the other side ends the connection (rather than the test's own timeout).
fn is_ended(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
    }
}

/// Sends a byte now and then until the other side has had enough.
fn drip(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    for byte in bytes.iter().cycle().take(100_000) {
        if stream.write_all(&[*byte]).is_err() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn short_times() -> WebLimits {
    WebLimits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_secs(1),
        ..WebLimits::default()
    }
}

#[test]
fn who_says_nothing_is_ended() {
    let rig = limited(short_times());
    assert!(is_ended(&mut rig.connect()));
    // Also between requests.
    let mut stream = rig.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(is_ended(&mut stream));
}

#[test]
fn slow_heads_are_ended_however_steadily_they_come() {
    let rig = limited(short_times());
    let mut stream = rig.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
    assert!(drip(&mut stream, b"a"));
}

#[test]
fn slow_bodies_are_ended_however_steadily_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let (token_file, token) = security::token_file(dir.path());
    let rig = Rig::with(WebOptions { limits: short_times(), token_file: Some(token_file), ..local() });
    let mut stream = rig.connect();
    let head = format!(
        "PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert!(drip(&mut stream, b" "));
    assert_eq!(*rig.level.lock().unwrap(), "info");
}

#[test]
fn slow_readers_are_ended_and_hold_nobody_up() {
    let limit = Duration::from_secs(8);
    let rig = limited(WebLimits { request_timeout: limit, ..short_times() });
    let begun = Instant::now();
    let mut readers: Vec<TcpStream> = (0..12)
        .map(|_| {
            let mut stream = rig.connect();
            stream.write_all(&request("GET", &format!("/api/v1/profile?{RANGE}&format=long"), &[], b"")).unwrap();
            stream
        })
        .collect();
    // Meanwhile others get their answers.
    for _ in 0..10 {
        assert_eq!(rig.get("/health").status, 200);
        assert_eq!(rig.get("/metrics").status, 200);
        assert_eq!(rig.json(&format!("/api/v1/profile?{RANGE}"))["total"], 100_000_000);
    }
    // And nobody got everything: whoever has not read by then is ended.
    std::thread::sleep((limit + Duration::from_secs(2)).saturating_sub(begun.elapsed()));
    for stream in &mut readers {
        let mut first = [0; 1];
        std::thread::sleep(Duration::from_millis(200));
        let _ = stream.read(&mut first);
    }
    for stream in &mut readers {
        let reply = Reply::read(stream);
        assert!(reply.status == 503 || !reply.is_whole, "{}", reply.status);
    }
}

/// 1,000 connections that send their heads slowly, on a server that takes 64.
#[test]
fn a_thousand_slow_clients_keep_nobody_out() {
    let limits = WebLimits { connections_max: 64, ..WebLimits::default() };
    let rig = limited(limits);
    let mut slow = Vec::new();
    for number in 0..1_000 {
        let mut stream = rig.connect();
        // It may be ended at once.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
        slow.push(stream);
        if number % 100 == 99 {
            assert_eq!(rig.get("/health").status, 200);
        }
    }
    let metrics = rig.get("/metrics").text();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("obs_agent_http_connections ") <= 64.0);
    assert!(value("obs_agent_http_connections_ended_total{reason=\"evicted\"}") >= 900.0);
}

#[test]
fn heads_and_bodies_have_a_size() {
    let rig = limited(WebLimits { header_bytes_max: 1024, body_bytes_max: 100, ..WebLimits::default() });
    assert_eq!(rig.send("GET", "/health", &[("X", &"x".repeat(800))], b"").status, 200);
    assert_eq!(rig.send("GET", "/health", &[("X", &"x".repeat(1100))], b"").status, 431);
    assert_eq!(rig.send("GET", &format!("/health?{}", "x".repeat(1100)), &[], b"").status, 431);
    let much = "x".repeat(1_000_000);
    let mut stream = rig.connect();
    let _ = stream.write_all(&request("GET", "/health", &[("X", &much)], b""));
    let reply = Reply::read(&mut stream);
    assert!(matches!(reply.status, 431 | 0), "{}", reply.status);
    let many: Vec<(String, String)> = (0..100).map(|number| (format!("X-{number}"), "x".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(rig.send("GET", "/health", &many, b"").status, 431);
    let dir = tempfile::tempdir().unwrap();
    let (token_file, token) = security::token_file(dir.path());
    let limits = WebLimits { body_bytes_max: 100, ..WebLimits::default() };
    let rig = Rig::with(WebOptions { limits, token_file: Some(token_file), ..local() });
    let bearer = format!("Bearer {token}");
    let long = format!("{{\"level\": \"debug\"{}}}", " ".repeat(100));
    let reply = rig.send("PUT", "/api/v1/log-level", &[("Authorization", &bearer)], long.as_bytes());
    assert_eq!(reply.status, 413, "{}", reply.text());
    // Without a length as well.
    let mut stream = rig.connect();
    let head = format!(
        "PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(format!("c8\r\n{}\r\n", " ".repeat(200)).as_bytes()).unwrap();
    assert_eq!(Reply::read(&mut stream).status, 413);
}

#[test]
fn what_is_no_http_is_ended() {
    let rig = Rig::new();
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = rig.connect();
        stream.write_all(bytes).unwrap();
        stream.write_all(&[b'x'; 100_000]).unwrap_or_default();
        let reply = Reply::read(&mut stream);
        assert!(matches!(reply.status, 0 | 400 | 505), "{bytes:?} {}", reply.status);
    }
    assert_eq!(rig.get("/health").status, 200);
}

#[test]
fn a_stop_waits_for_requests_until_the_deadline_and_not_for_idlers() {
    let rig = Rig::new();
    let idle = rig.connect();
    rig.get("/health");
    let begun = Instant::now();
    let address = rig.server.address();
    let Rig { server, .. } = rig;
    let ended = server.stop(Duration::from_secs(60));
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for an idle connection");
    assert_eq!(ended, 0);
    drop(idle);
    assert!(TcpStream::connect(address).is_err());
}

/// As of a disk that does not answer. Before, a stop lasted as long as whatever was being worked on.
#[test]
fn a_stop_does_not_wait_for_work_that_hangs() {
    let rig = Rig::new();
    rig.is_hanging.store(true, Ordering::Relaxed);
    let mut stream = rig.connect();
    stream.write_all(&request("GET", "/metrics", &[], b"")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let is_hanging = Arc::clone(&rig.is_hanging);
    // Should the stop wait for it after all, it is not for ever.
    let (stopped, is_stopped) = std::sync::mpsc::channel::<()>();
    let release = std::thread::spawn(move || {
        let _ = is_stopped.recv_timeout(Duration::from_secs(20));
        is_hanging.store(false, Ordering::Relaxed);
    });
    let begun = Instant::now();
    assert_eq!(rig.server.stop(Duration::from_millis(200)), 1);
    assert!(begun.elapsed() < Duration::from_secs(10), "the stop took {:?}", begun.elapsed());
    drop(stopped);
    release.join().unwrap();
}

#[test]
fn a_second_word_to_stop_gives_no_more_time() {
    let rig = Rig::new();
    let mut stream = rig.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    rig.server.begin_stop(Duration::from_millis(100));
    let Rig { server, .. } = rig;
    assert_eq!(server.stop(Duration::from_secs(30)), 1);
    assert!(begun.elapsed() < Duration::from_secs(8), "the stop took {:?}", begun.elapsed());
}

#[test]
fn questions_wait_when_they_have_cost_too_much_and_probes_do_not() {
    let rig = Rig::new();
    rig.is_spent.store(true, Ordering::Relaxed);
    for path in ["profile", "functions", "catalog", "processes", "events", "labels/process"] {
        let reply = rig.get(&format!("/api/v1/{path}?{RANGE}"));
        assert_eq!((reply.status, reply.header("retry-after")), (503, "30"), "{path}: {}", reply.text());
    }
    for path in ["/live", "/health", "/health/detailed", "/metrics", "/api/v1/status", "/"] {
        let reply = rig.get(path);
        assert!(reply.header("retry-after").is_empty(), "{path}: {}", reply.text());
    }
    assert_eq!(rig.get("/metrics").status, 200);
    rig.is_spent.store(false, Ordering::Relaxed);
    assert_eq!(rig.get(&format!("/api/v1/profile?{RANGE}")).status, 200);
}

#[test]
fn many_at_once_are_answered() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| (0..20).map(|_| rig.get(&format!("/api/v1/functions?{RANGE}")).status).max()))
            .collect();
        for handle in handles {
            assert_eq!(handle.join().unwrap(), Some(200));
        }
    });
}

//! The server as its clients see it: over sockets.

mod api;
mod clients;
mod fuzz;
mod openapi;
mod prometheus;
mod security;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::{
    model::{
        process::{ProcessInfo, ProcessKey},
        profile::{Frame, FrameKind, Profile, ProfileSample, ValueType},
        record::{Counter, Event, Gauge, Histogram, Record},
        stack::StackEnd,
    },
    store::{Store, StoreOptions, Window},
};

const SECOND_NS: u64 = 1_000_000_000;
/// When the example's only window began: 2023-11-14T22:13:20Z.
const START_SECONDS: u64 = 1_700_000_000;
/// A range that holds it.
const RANGE: &str = "from=1699999990&to=1700000020";

/// A running server over an example history, and what it was asked to do.
struct Rig {
    server: Server,
    health: Arc<HealthBoard>,
    level: Arc<Mutex<String>>,
    is_spent: Arc<AtomicBool>,
    /// While it is set, who asks for metrics waits.
    is_hanging: Arc<AtomicBool>,
    dir: tempfile::TempDir,
    _store: Store,
}

fn local() -> WebOptions {
    WebOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        token_file: None,
        limits: WebLimits::default(),
        heartbeat_age_max: Duration::from_secs(60),
    }
}

fn window() -> Window {
    let key = ProcessKey { pid: 42, started_ns: 5, exec_id: 1 };
    let info = ProcessInfo {
        key,
        name: "app".into(),
        executable: Some("/bin/app".into()),
        container_id: None,
        cgroup: Some("/system.slice/app.service".into()),
    };
    let frame = |name: &str, kind| Frame { function: Some(name.into()), kind, module: None, address: 0, source: None };
    let sample = |stack: &[u32], cut, count: u64| ProfileSample {
        process: 0,
        thread_name: "worker".into(),
        stack: stack.into(),
        cut,
        values: vec![count, count * 10_000_000],
    };
    let profile = Profile {
        collector: "cpu".into(),
        value_types: vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
        period: Some((ValueType::new("cpu", "nanoseconds"), 10_000_000)),
        started_unix_ns: START_SECONDS * SECOND_NS,
        duration_ns: 10 * SECOND_NS,
        modules: Vec::new(),
        frames: vec![frame("main", FrameKind::User), frame("work", FrameKind::User), frame("read", FrameKind::Kernel)],
        processes: vec![info],
        samples: vec![sample(&[1, 0], None, 6), sample(&[2, 0], None, 3), sample(&[1], Some(StackEnd::NoRow), 1)],
    };
    let labels = vec![("stage", "drain".into())];
    Window {
        started_unix_ns: START_SECONDS * SECOND_NS,
        duration_ns: 10 * SECOND_NS,
        boot_unix_ns: (START_SECONDS - 1000) * SECOND_NS,
        profiles: vec![profile],
        processes: Vec::new(),
        counters: vec![Counter { name: "system.disk.io", labels: Vec::new(), value: 4096.0 }],
        gauges: vec![Gauge { name: "system.cpu.load_average.1m", labels: labels.clone(), value: 0.5 }],
        histograms: vec![Histogram {
            name: "obs.latency",
            labels: Vec::new(),
            first_bucket: -1,
            buckets: vec![1, 2],
            zero_count: 0,
            sum: 2.5,
        }],
        events: vec![Event { name: "process.exec", time_ns: 1005 * SECOND_NS, process: Some(key), labels }],
    }
}

/// What `/metrics` of the example has.
fn records() -> Vec<Record> {
    let labels = vec![("cpu.mode", "user".into())];
    let mut buckets = vec![0; 81];
    (buckets[0], buckets[40], buckets[80]) = (50, 40, 10);
    let (first_bucket, zero_count, sum) = (-80, 0, 11.0);
    vec![
        Record::Counter(Counter { name: "system.cpu.time", labels, value: 12.5 }),
        Record::Histogram(Histogram {
            name: "obs.latency",
            labels: Vec::new(),
            first_bucket,
            buckets,
            zero_count,
            sum,
        }),
    ]
}

/// As many bytes as a name in the profile says, so that a test can ask for a long answer.
fn encode_long(_: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for _ in 0..64 << 10 {
        out.write_all(&[b'x'; 1024])?;
    }
    LONG_ANSWERS_MADE.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

static LONG_ANSWERS_MADE: AtomicUsize = AtomicUsize::new(0);

fn encode_short(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} samples of {}", profile.samples.len(), profile.collector)
}

fn encode_broken(_: &Profile, _: &mut dyn Write) -> io::Result<()> {
    Err(io::Error::other("the encoder is broken"))
}

fn encode_breaks_late(_: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for _ in 0..1 << 10 {
        out.write_all(&[b'x'; 1024])?;
    }
    Err(io::Error::other("the encoder is broken"))
}

fn encoder(name: &'static str, ending: &'static str, encode: EncodeFn) -> Encoder {
    Encoder { name, content_type: "text/plain; charset=utf-8", ending, encode }
}

fn status() -> AgentStatus {
    AgentStatus {
        version: "1.2.3".to_owned(),
        host: Some("host".to_owned()),
        started_unix_ns: START_SECONDS * SECOND_NS,
        window_ns: 10 * SECOND_NS,
        cost: AgentCost { user_cpu_share: Some(0.001), ..AgentCost::default() },
        shed: vec![ShedStep { step: "half-frequency".to_owned(), reason: "CPU".to_owned(), since_unix_ns: Some(1) }],
        paused: None,
        collectors: vec![CollectorStatus {
            name: "cpu".to_owned(),
            summary: "where the CPUs' time goes".to_owned(),
            is_running: true,
            reason: None,
            frequency_hertz: Some(99.0),
        }],
        losses: vec![Loss { source: "cpu".to_owned(), reason: "map full".to_owned(), count: 2 }],
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(local())
    }

    fn with(options: WebOptions) -> Self {
        Self::try_with(options).unwrap()
    }

    fn try_with(options: WebOptions) -> Result<Self, WebError> {
        let dir = tempfile::tempdir().unwrap();
        let mut store =
            Store::open(dir.path(), StoreOptions { retention_seconds: 1 << 40, ..StoreOptions::default() }).unwrap();
        store.append(&window()).unwrap();
        store.flush().unwrap();
        let health = Arc::new(HealthBoard::new());
        health.declare("store", Need::Required);
        let level = Arc::new(Mutex::new("info".to_owned()));
        let is_spent = Arc::new(AtomicBool::new(false));
        let spent = Arc::clone(&is_spent);
        let is_hanging = Arc::new(AtomicBool::new(false));
        let hangs = Arc::clone(&is_hanging);
        let (get, set) = (Arc::clone(&level), Arc::clone(&level));
        let sources = Sources {
            reader: store.reader(),
            metrics: Arc::new(move || {
                while hangs.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                records()
            }),
            metric_infos: vec![
                MetricInfo { name: "system.cpu.time", unit: "s", help: "CPU time." },
                MetricInfo { name: "obs.latency", unit: "s", help: "How long it took." },
            ],
            status: Arc::new(status),
            is_spent: Arc::new(move || spent.load(Ordering::Relaxed)),
            health: Arc::clone(&health),
            encoders: vec![
                encoder("folded", ".folded", encode_short),
                encoder("long", ".txt", encode_long),
                encoder("broken", ".txt", encode_broken),
                encoder("breaks-late", ".txt", encode_breaks_late),
            ],
            log_level: LogLevelControl {
                get: Arc::new(move || get.lock().unwrap().clone()),
                set: Arc::new(move |level| {
                    if level == "trace" {
                        return Err("the log does not want to".to_owned());
                    }
                    level.clone_into(&mut set.lock().unwrap());
                    Ok(())
                }),
                levels: &["error", "info", "debug", "trace"],
            },
            audit: Arc::new(AuditFile::new(&dir.path().join("audit.log"))),
        };
        let server = Server::start(options, sources)?;
        Ok(Self { server, health, level, is_spent, is_hanging, dir, _store: store })
    }

    /// What is in the audit log as soon as there is something: what a signal changed is written by a thread of its own.
    fn audited(&self) -> String {
        let begun = std::time::Instant::now();
        loop {
            let text = std::fs::read_to_string(self.audit_log()).unwrap_or_default();
            if text.ends_with('\n') {
                return text;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing was written down");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        // Only so that a mistake fails a test rather than holding it up for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(&request(method, path, headers, body)).unwrap();
        let reply = Reply::read(&mut stream);
        openapi::check_answer(method, path, &reply);
        reply
    }

    fn json(&self, path: &str) -> serde_json::Value {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// The connection ended where the answer said that it would.
    is_whole: bool,
}

impl Reply {
    fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        // TLS peers may end without a goodbye, and connections may be cut: what came is looked at.
        while let Ok(1..) = stream.read(&mut part).inspect(|count| bytes.extend_from_slice(&part[..*count])) {}
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let rest = &bytes[end..];
        let (body, is_whole) = match (headers.get("transfer-encoding"), headers.get("content-length")) {
            (Some(_), _) => unchunked(rest),
            (None, Some(length)) => (rest.to_vec(), length.parse() == Ok(rest.len())),
            (None, None) => (rest.to_vec(), true),
        };
        Self { status: status.unwrap_or(0), headers, body, is_whole }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The three parts of an error.
    fn error(&self) -> [String; 3] {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        ["what", "why", "hint"].map(|part| value["error"][part].as_str().unwrap_or_default().to_owned())
    }
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(at) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let length = std::str::from_utf8(&rest[..at]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length) = length else { return (body, false) };
        rest = &rest[at + 2..];
        if length == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(..length) else { return (body, false) };
        body.extend_from_slice(chunk);
        let Some(next) = rest.get(length + 2..) else { return (body, false) };
        rest = next;
    }
}

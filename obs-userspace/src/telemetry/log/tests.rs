//! The log from event to bytes.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
};

use serde_json::Value;
use tracing::{debug, error, info, subscriber::with_default, warn};

use super::{sink::Sink, *};

/// Runs `write` with a log of its own, and returns its lines.
fn logged(level: Level, form: Form, write: impl FnOnce(&Log)) -> Vec<String> {
    let sink = Sink::default();
    let (subscriber, log) = build(level, form, Box::new(sink.clone())).unwrap();
    with_default(subscriber, || write(&log));
    drop(log);
    sink.lines()
}

fn json(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_has_one_object_per_line() {
    let lines = logged(Level::Info, Form::Json, |_| {
        warn!(path = "/a b", bytes = 7_u64, share = 0.5, of = f64::INFINITY, done = true, "a \"line\"\nof two");
        let error: Box<dyn std::error::Error> = Box::new(io::Error::other("disk full"));
        error!(error = &*error, shown = %"x", cause = "disk", "lost");
        debug!("not told");
    });
    let objects = json(&lines);
    assert_eq!(objects.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("{\"time\":\"2") && lines[0].contains("\"fields\":{\"path\":\"/a b\",\"bytes\":7,"),
        "{}",
        lines[0]
    );
    let first = &objects[0];
    assert_eq!(first["level"], "WARN");
    assert_eq!(first["message"], "a \"line\"\nof two");
    assert_eq!(first["target"], "obs_userspace::telemetry::log::tests");
    let fields = serde_json::json!({"path": "/a b", "bytes": 7, "share": 0.5, "of": "inf", "done": true});
    assert_eq!(first["fields"], fields);
    assert_eq!(first.get("repeated"), None);
    let time = first["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(), "{time}");
    assert_eq!(objects[1]["fields"], serde_json::json!({"error": "disk full", "shown": "x", "cause": "disk"}));
}

#[test]
fn the_form_for_people_keeps_foreign_text_on_one_line() {
    let lines = logged(Level::Debug, Form::Human { colour: false }, |_| {
        info!(path = "/a b", name = "plain", empty = "", "started\n\u{1b}[31mred");
        debug!(n = 3, "step");
    });
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0]
            .ends_with("  INFO telemetry::log::tests: started\\n\\u{1b}[31mred path=\"/a b\" name=plain empty=\"\""),
        "{}",
        lines[0]
    );
    assert!(lines[1].ends_with(" DEBUG telemetry::log::tests: step n=3"), "{}", lines[1]);
    let coloured = logged(Level::Debug, Form::Human { colour: true }, |_| error!("lost"));
    assert!(coloured[0].contains("\u{1b}[31mERROR\u{1b}[0m"), "{coloured:?}");
}

#[test]
fn repeated_causes_are_held_back() {
    let lines = logged(Level::Debug, Form::Json, |log| {
        for number in 0..100 {
            // One cause, whatever varies in it.
            warn!(number, "cannot write");
            // Two causes.
            error!(cause = if number % 2 == 0 { "even" } else { "odd" }, number, "lost");
            // Not the same line, but from one place: so many are too many.
            info!(number, "step");
            info!("the same");
            debug!("each counts");
        }
        assert_eq!(log.counts().repeated, 99 + 98 + 90 + 99);
        assert!(log.flush(Duration::from_secs(60)));
        assert_eq!(log.counts(), LogCounts { written: 1 + 2 + 10 + 1 + 100, repeated: 386, dropped: 0, failed: 0 });
    });
    let objects = json(&lines);
    let count = |message: &str| objects.iter().filter(|object| object["message"] == message).count();
    assert_eq!(["cannot write", "lost", "step", "the same", "each counts"].map(count), [1, 2, 10, 1, 100]);
    let last = objects.last().unwrap();
    assert_eq!(last["message"], "lines were held back because they repeated others");
    assert_eq!(last["fields"]["lines"], 386);
}

#[test]
fn the_level_can_change() {
    let lines = logged(Level::Warn, Form::Json, |log| {
        info!("first");
        log.set_level(Level::Info);
        info!("second");
        log.set_level(Level::Error);
        info!("third");
        assert_eq!(log.level(), Level::Error);
    });
    assert_eq!(json(&lines).iter().map(|object| object["message"].clone()).collect::<Vec<_>>(), ["second"]);
}

#[test]
fn texts_and_fields_have_bounds() {
    let lines = logged(Level::Info, Form::Json, |_| {
        info!(text = "é".repeat(1 << 20), debug = ?vec![0_u8; 1 << 20], "{}", "x".repeat(1 << 20));
    });
    assert!(lines[0].len() < 20_000);
    let object = &json(&lines)[0];
    assert!(object["message"].as_str().unwrap().ends_with("x…"));
    assert!(object["fields"]["text"].as_str().unwrap().ends_with("é…"));
}

/// Writes when it is told to, and fails when it is told to.
struct Gate {
    orders: Receiver<io::Result<()>>,
    sink: Sink,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // When nobody gives orders any more, everything goes through.
        self.orders.recv().unwrap_or(Ok(()))?;
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated() -> (impl Subscriber, Log, Sender<io::Result<()>>, Sink) {
    let (orders, receiver) = channel();
    let sink = Sink::default();
    let gate = Gate { orders: receiver, sink: sink.clone() };
    let (subscriber, log) = build(Level::Trace, Form::Json, Box::new(gate)).unwrap();
    (subscriber, log, orders, sink)
}

#[test]
fn whoever_logs_never_waits() {
    let (subscriber, log, orders, sink) = gated();
    let text = "x".repeat(4_000);
    with_default(subscriber, || {
        for _ in 0..1_000 {
            debug!(text, "step");
        }
        // Details fill half of the queue only: what matters still fits.
        error!("lost");
    });
    assert!(!log.flush(Duration::from_millis(1)));
    let dropped = log.counts().dropped;
    assert!((800..1_000).contains(&dropped), "{dropped}");
    drop(orders);
    assert!(log.flush(Duration::from_secs(60)));
    drop(log);
    let objects = json(&sink.lines());
    let position = |message: &str| objects.iter().position(|object| object["message"] == message).unwrap();
    assert_eq!(objects.len() as u64, 1_000 - dropped + 2);
    let told = &objects[position("lines were dropped because the log could not be written fast enough")];
    assert_eq!((&told["level"], &told["fields"]["lines"]), (&Value::from("ERROR"), &Value::from(dropped)));
    position("lost");
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_told_of_later() {
    let (subscriber, log, orders, sink) = gated();
    with_default(subscriber, || {
        orders.send(Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
        info!("first");
        assert!(log.flush(Duration::from_secs(60)));
        assert_eq!(log.counts().failed, 1);
        drop(orders);
        info!("second");
    });
    drop(log);
    let objects = json(&sink.lines());
    assert_eq!(objects[0]["message"], "second");
    assert_eq!(objects[1]["message"], "lines could not be written to the log");
    assert_eq!(objects[1]["fields"]["lines"], 1);
}

#[test]
fn the_file_is_the_configured_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("obs.log");
    let file = RotatingFile::open(path.clone(), 1_000, 2).unwrap();
    let (subscriber, log) = build(Level::Info, Form::Json, Box::new(file)).unwrap();
    with_default(subscriber, || (0..9).for_each(|number| info!(number, "step")));
    drop(log);
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let text = read(&folder.path().join("obs.log.1")) + &read(&path);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(
        json(&lines).iter().map(|object| object["fields"]["number"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..9).collect::<Vec<_>>()
    );
}

//! Hands the server of the page, the API and the metrics what it shows.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;

use super::keeper::Shared;
use crate::{
    collect::{Output, latency::LATENCY_KINDS, resources::RESOURCE_METRICS},
    config::agent::{AgentConfig, HttpConfig, HttpLimits},
    export::{self, ExportError, Format},
    model::{profile::Profile, record::Record},
    store::Reader,
    telemetry::{
        Level,
        log::Log,
        self_metrics::{METRICS, Registry},
    },
    web::{
        AgentStatus, AuditFile, Encoder, HealthBoard, LogLevelControl, MetricInfo, Server, Sources, TlsFiles,
        WebLimits, WebOptions,
    },
};

/// How many windows the last heartbeat may be old, and how old at least: it comes every second if nothing is slow.
const HEARTBEAT_WINDOWS: u32 = 3;
const HEARTBEAT_AGE_MIN: Duration = Duration::from_secs(10);

/// The formats of profiles besides the page's own.
const ENCODERS: &[Encoder] = &[
    Encoder { name: "folded", content_type: "text/plain; charset=utf-8", ending: ".folded", encode: folded },
    Encoder { name: "pprof", content_type: "application/octet-stream", ending: ".pb.gz", encode: pprof },
    Encoder { name: "svg", content_type: "image/svg+xml", ending: ".svg", encode: svg },
    Encoder { name: "speedscope", content_type: "application/json", ending: ".speedscope.json", encode: speedscope },
    Encoder { name: "json", content_type: "application/json", ending: ".json", encode: json },
];

const LEVELS: &[(&str, Level)] = &[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];

/// What the server shows, and who it asks.
pub(super) struct Shown {
    pub(super) reader: Reader,
    pub(super) registry: Registry,
    pub(super) shared: Arc<Shared>,
    pub(super) status: Arc<Mutex<AgentStatus>>,
    pub(super) health: Arc<HealthBoard>,
    pub(super) log: Arc<Log>,
}

/// Starts the server.
pub(super) fn start(config: &AgentConfig, shown: Shown) -> anyhow::Result<Server> {
    let Shown { reader, registry, shared, status, health, log } = shown;
    let judged = Arc::clone(&shared);
    let sources = Sources {
        reader,
        metrics: Arc::new(move || {
            let measured = shared.measured.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut records: Vec<Record> = registry.snapshot();
            records.extend(measured.iter().cloned());
            records
        }),
        metric_infos: metric_infos(),
        status: Arc::new(move || status.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        is_spent: Arc::new(move || judged.is_web_spent.load(Ordering::Relaxed)),
        health,
        encoders: ENCODERS.to_vec(),
        log_level: level_control(log),
        audit: Arc::new(AuditFile::new(&config.state_dir.join("audit.log"))),
    };
    Server::start(web_options(&config.http, config.window), sources).context("cannot serve the page and the metrics")
}

/// The log itself is asked, for a reload changes its level too.
fn level_control(log: Arc<Log>) -> LogLevelControl {
    let changed = Arc::clone(&log);
    LogLevelControl {
        get: Arc::new(move || name_of(log.level()).to_owned()),
        set: Arc::new(move |wanted| {
            let found = LEVELS.iter().find(|(name, _)| *name == wanted);
            let (_, level) = found.ok_or_else(|| format!("there is no level {wanted}"))?;
            changed.set_level(*level);
            Ok(())
        }),
        levels: &["error", "warn", "info", "debug", "trace"],
    }
}

pub(super) fn name_of(level: Level) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("info", |(name, _)| name)
}

fn metric_infos() -> Vec<MetricInfo> {
    let own = METRICS.iter().map(|metric| MetricInfo { name: metric.name, unit: metric.unit, help: metric.summary });
    let resources = RESOURCE_METRICS.iter();
    let resources = resources.map(|metric| MetricInfo { name: metric.name, unit: metric.unit, help: metric.summary });
    let latencies = LATENCY_KINDS.iter().filter_map(|kind| match kind.output {
        Output::Counter { name, unit } | Output::Histogram { name, unit } => {
            Some(MetricInfo { name, unit, help: kind.summary })
        }
        Output::Stacks(_) => None,
    });
    own.chain(resources).chain(latencies).collect()
}

fn web_options(config: &HttpConfig, window: Duration) -> WebOptions {
    let HttpConfig { listen, tls_cert, tls_key, token_file, limits } = config;
    let HttpLimits { body, header, header_timeout, request_timeout, idle_timeout, connections } = limits;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    WebOptions {
        listen: *listen,
        tls: tls_cert.clone().zip(tls_key.clone()).map(|(cert, key)| TlsFiles { cert, key }),
        token_file: token_file.clone(),
        limits: WebLimits {
            body_bytes_max: bytes(body.bytes()),
            header_bytes_max: bytes(header.bytes()),
            header_timeout: *header_timeout,
            request_timeout: *request_timeout,
            idle_timeout: *idle_timeout,
            connections_max: *connections as usize,
        },
        heartbeat_age_max: (window * HEARTBEAT_WINDOWS).max(HEARTBEAT_AGE_MIN),
    }
}

fn encode(profile: &Profile, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match export::write(profile, format, out) {
        Ok(()) => Ok(()),
        Err(ExportError::Write { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn folded(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    encode(profile, Format::Folded, out)
}

fn pprof(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    encode(profile, Format::Pprof, out)
}

fn svg(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    encode(profile, Format::Svg, out)
}

fn speedscope(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    encode(profile, Format::Speedscope, out)
}

fn json(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    encode(profile, Format::Json, out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::export::FORMATS;

    #[test]
    fn every_format_of_recordings_can_be_had_of_the_agent() {
        let offered: Vec<_> = ENCODERS.iter().map(|encoder| (encoder.name, encoder.ending)).collect();
        assert_eq!(offered, FORMATS.map(|spec| (spec.name, spec.ending)));
    }

    /// The description's other halves are checked where the routes are; only here is known in which formats profiles come.
    #[test]
    fn the_formats_are_those_that_the_description_names() {
        let root: Value = serde_saphyr::from_str(include_str!("../../../../docs/openapi.yaml")).unwrap();
        let profile = &root["paths"]["/api/v1/profile"]["get"];
        let parameters = profile["parameters"].as_array().unwrap();
        let format = parameters.iter().find(|parameter| parameter["name"] == "format").unwrap();
        let described: Vec<&str> =
            format["schema"]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let offered: Vec<&str> = ["flame"].into_iter().chain(ENCODERS.iter().map(|encoder| encoder.name)).collect();
        assert_eq!(described, offered);
        let contents = profile["responses"]["200"]["content"].as_object().unwrap();
        let described: BTreeSet<&str> = contents.keys().map(String::as_str).collect();
        let offered = ENCODERS.iter().map(|encoder| encoder.content_type);
        let offered: BTreeSet<&str> =
            offered.map(|name| name.split(';').next().unwrap_or_default()).chain(["application/json"]).collect();
        assert_eq!(described, offered);
    }
}

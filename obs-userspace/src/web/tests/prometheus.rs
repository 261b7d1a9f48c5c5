//! A real Prometheus reads our metrics, and a quantile of a known histogram is the right one.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::*;

/// How long Prometheus may take until it has scraped us.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends its process.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts Prometheus on the metrics of a rig; `None`, and why, where it is not installed.
fn prometheus(rig: &Rig, dir: &std::path::Path, more: &[&str]) -> Option<(Running, SocketAddr)> {
    let target = rig.server.address();
    let configuration = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: obs, static_configs: [{{targets: ['{target}']}}]}}]\n"
    );
    fs::write(dir.join("prometheus.yml"), configuration).unwrap();
    // Free a moment ago, so most likely still.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .args(more)
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("log")).unwrap())
        .spawn();
    match started {
        Ok(child) => Some((Running(child), address)),
        Err(error) => {
            eprintln!("skipped: cannot start prometheus ({error}); `cargo xtask setup test` installs it");
            None
        }
    }
}

/// The only value of a query, once there is one.
fn value(address: SocketAddr, query: &str, dir: &std::path::Path) -> f64 {
    let begun = Instant::now();
    let path = format!("/api/v1/query?query={}", query::encoded(query));
    loop {
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.write_all(&request("GET", &path, &[], b"")).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&Reply::read(&mut stream).body).unwrap_or_default();
            if let Some(text) = answer["data"]["result"][0]["value"][1].as_str() {
                return text.parse().unwrap();
            }
        }
        if begun.elapsed() > PATIENCE {
            panic!("no answer to {query}; {}", fs::read_to_string(dir.join("log")).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Half of the events took at most 2^-10 s, another 40 % at most 2^-5 s. The rest lies between 2^-1/8 and 1 s, which classic
/// buckets do not tell from 0.5 to 1 s: there the middle is 0.75.
fn check(more: &[&str], quantile_95: f64) {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let Some((_running, address)) = prometheus(&rig, dir.path(), more) else { return };
    assert_eq!(value(address, "system_cpu_time_seconds_total{cpu_mode=\"user\"}", dir.path()), 12.5);
    let is_native = more.contains(&"--enable-feature=native-histograms");
    let series = if is_native { "obs_latency_seconds" } else { "obs_latency_seconds_bucket" };
    for (quantile, expected) in [(0.5, 1.0 / 1024.0), (0.9, 1.0 / 32.0), (0.95, quantile_95)] {
        let found = value(address, &format!("histogram_quantile({quantile}, {series})"), dir.path());
        assert!((found / expected - 1.0).abs() < 1e-9, "{quantile}: {found} instead of {expected}");
    }
    assert_eq!(value(address, "up", dir.path()), 1.0);
}

#[test]
fn it_reads_text_with_classic_buckets() {
    check(&[], 0.75);
}

#[test]
fn it_reads_protobuf_with_native_histograms() {
    check(&["--enable-feature=native-histograms"], f64::midpoint((-0.125_f64).exp2(), 1.0));
}

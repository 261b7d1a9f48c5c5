//! Latencies that the agent measures, as its history and a real Prometheus tell them.

use std::{fs, io::Write as _, net::TcpListener, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{QUANTILE_ERROR, is_within, numbers};
use crate::{
    agent_duress::{client, running::Running},
    harness::{Background, Context, wait_until},
};

/// Only latencies, of the workload's system calls.
const CONFIG: &str = "collectors: {cpu: {enabled: false}, latency: {kinds: [syscall], by: [process]}}\n\
                      filters: {comms: [latencies]}\ngovernor: {interval: 1s}\n";

const METRIC: &str = "obs_syscall_duration_seconds";
const SLEEPS: &str = "{system_call=\"clock_nanosleep\"}";

/// Nine of ten sleeps are short, as in [`super::two_lengths`]; what is in the kernel's buckets has to come out of Prometheus.
pub(super) fn read_by_prometheus(context: &Context) -> Result<()> {
    let agent = Running::start(context, CONFIG)?;
    agent.wait_for_log(context, "a collector runs")?;
    let text = context.output("latencies", &["bimodal"])?;
    let [median, tail, sum, _] = numbers(&text, "bimodal_seconds")?[..] else { anyhow::bail!("not four numbers") };
    let sleeps = ["clock_nanosleep"];
    wait_until("the metrics have all sleeps", context.limit(), || {
        Ok(agent.metric(&format!("{METRIC}_count"), &sleeps)? == 1_000.0)
    })?;
    is_within("sum", agent.metric(&format!("{METRIC}_sum"), &sleeps)?, sum, 0.02)?;

    let folder = tempfile::tempdir().context("making a folder")?;
    let prometheus = Prometheus::start(&agent, folder.path())?;
    let count = prometheus.value(context, &format!("histogram_count({METRIC}{SLEEPS})"))?;
    ensure!(count == 1_000.0, "Prometheus counts {count} sleeps, but 1000 are true");
    for (quantile, expected) in [(0.5, median), (0.99, tail)] {
        let query = format!("histogram_quantile({quantile}, {METRIC}{SLEEPS})");
        // Within the bucket of the true value, on which side of the middle ever.
        is_within(&query, prometheus.value(context, &query)?, expected, 2.0 * QUANTILE_ERROR)?;
    }

    // The history has them window by window, and as many in all.
    let series =
        agent.json("/api/v1/series?name=obs.syscall.duration&from=-10m&step=10m&match=system_call=clock_nanosleep")?;
    let points = series["series"].as_array().context("no series")?.iter().filter_map(|one| one["points"].as_array());
    let kept: u64 = points.flatten().filter_map(|point| point["count"].as_u64()).sum();
    ensure!(kept == 1_000, "the history has {kept} sleeps, but 1000 are true: {series}");

    // What they cost is accounted for, though nothing else measures.
    wait_until("the kernel side's cost is told", context.limit(), || {
        thread::sleep(Duration::from_millis(500));
        Ok(agent.metric("obs_agent_cpu_time_seconds_total", &["bpf"])? > 0.0)
    })?;
    agent.stop(context).map(drop)
}

/// Obs alone is left out, and a flush is nobody's: it counts.
pub(super) fn flushes_beside_obs(context: &Context) -> Result<()> {
    const CONFIG: &str = "collectors: {cpu: {enabled: false}, latency: {kinds: [block], by: [process]}}\n\
                          filters: {exclude_self: true}\ngovernor: {interval: 1s}\n";
    if fs::read_to_string("/sys/block/vda/queue/write_cache")?.trim() != "write back" {
        println!("  the disk has no cache that could be flushed");
        return Ok(());
    }
    let agent = Running::start(context, CONFIG)?;
    agent.wait_for_log(context, "a collector runs")?;
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).context("making a file")?;
    wait_until("flushes count", context.limit(), || {
        file.write_all(b"to be kept")?;
        file.sync_all()?;
        Ok(agent.metric("obs_block_latency_seconds_count", &["operation=\"flush\"", "~unknown"])? > 0.0)
    })?;
    agent.stop(context).map(drop)
}

/// A Prometheus that scrapes one agent, with native histograms.
struct Prometheus {
    _process: Background,
    address: std::net::SocketAddr,
}

impl Prometheus {
    fn start(agent: &Running, folder: &Path) -> Result<Self> {
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: obs, static_configs: [{{targets: ['{}']}}]}}]\n",
            agent.address()
        );
        fs::write(&config, text).context("writing a configuration")?;
        // Free a moment ago, so most likely still.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).context("finding a port")?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=native-histograms", "--log.level=error"]);
        Ok(Self { _process: Background::start(&mut command)?, address })
    }

    /// The only value of a query, once there is one.
    fn value(&self, context: &Context, query: &str) -> Result<f64> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let target = format!("/api/v1/query?query={encoded}");
        let mut value = None;
        wait_until(&format!("Prometheus answers {query}"), context.limit(), || {
            let Ok(answer) = client::json(self.address, &target) else { return Ok(false) };
            let text = answer.pointer("/data/result/0/value/1").and_then(serde_json::Value::as_str);
            value = text.map(str::parse::<f64>).transpose().context("a value that is no number")?;
            thread::sleep(Duration::from_millis(100));
            Ok(value.is_some())
        })?;
        value.context("no value")
    }
}

//! Clients that are slow, many, greedy or mad, at an agent that has work to do.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::{
    client::{Client, Reply, exchange, get, request},
    fuzz::{self, Expected, Sent},
    running::{Random, Running, repetitions},
};
use crate::harness::{Context, wait_until};

/// How many slow clients there are at a time.
const SLOW_CLIENTS: usize = 1_000;

/// What a probe may take beside them. Kubernetes allows one second; this is for machines that have other work too.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Files that this process has open besides its connections.
const OTHER_FILES: u64 = 200;

/// How many fuzzed requests, unless the environment says otherwise.
const REQUESTS: u64 = 20_000;
const REQUESTS_VARIABLE: &str = "OBS_SCENARIOS_FUZZED_REQUESTS";

/// Clients that send them.
const FUZZERS: u64 = 4;

/// Most that the agent's memory may grow by between the first tenth of the requests and the last, in bytes. It works meanwhile,
/// and answers that wait to be taken may have 16 MiB.
const GROWTH_MAX: u64 = 32 << 20;

/// A file of tokens in this folder.
fn token_file(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("tokens");
    let lines = format!("viewer grafana {}\noperator alice {}\n", fuzz::VIEWER, fuzz::OPERATOR);
    fs::write(&path, lines).context("writing tokens")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("protecting tokens")?;
    Ok(path)
}

/// Lets this process have as many files open as there are slow clients.
fn allow_files() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = SLOW_CLIENTS as u64 + OTHER_FILES;
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .context("raising the limit of open files")?;
    }
    Ok(())
}

fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("listing the agent's files")?.count())
}

/// The probe is answered, and soon.
fn probe(address: SocketAddr, slow_factor: f64) -> Result<Duration> {
    let begun = Instant::now();
    let reply = get(address, "/live")?;
    let took = begun.elapsed();
    ensure!(reply.status == 200, "/live says {}: {}", reply.status, reply.text());
    ensure!(took < PROBE_LIMIT.mul_f64(slow_factor), "/live took {took:?}");
    Ok(took)
}

/// 1,000 connections that send their heads byte by byte, or never read: others are answered all the same.
pub(super) fn slow_clients(context: &Context) -> Result<()> {
    allow_files()?;
    let agent = Running::start(context, "")?;
    agent.wait_for_windows(context, 1)?;
    let (before, _) = agent.memory()?;
    let files = open_files(agent.pid())?;
    let mut slow = Vec::with_capacity(SLOW_CLIENTS);
    let mut longest = Duration::ZERO;
    for number in 0..SLOW_CLIENTS {
        let mut client = Client::connect(agent.address())?;
        // The server may end it at once. Of four, one says nothing, one half a head, one asks and does not read, one sends a body
        // that never ends.
        let _ = match number % 4 {
            0 => Ok(()),
            1 => client.send(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nX: "),
            2 => client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            _ => client.send(b"PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"),
        };
        slow.push(client);
        if number % 100 == 99 {
            // Now and then they say one more byte.
            slow.iter_mut().skip(1).step_by(4).for_each(|client| drop(client.send(b"a")));
            longest = longest.max(probe(agent.address(), context.slow_factor())?);
        }
    }
    let (after, most) = agent.memory()?;
    let now_open = open_files(agent.pid())?;
    println!(
        "  {SLOW_CLIENTS} slow clients: /live took {longest:?} at most; files {files} -> {now_open}; memory {} -> {} kB (at most {} kB)",
        before / 1024,
        after / 1024,
        most / 1024
    );
    // As many connections as the configuration allows, 256, and no more.
    ensure!(now_open <= files + 256 + 32, "the agent has {now_open} files open, and had {files}");
    ensure!(after < before + GROWTH_MAX, "its memory grew from {before} to {after} bytes");
    let evicted = agent.metric("obs_agent_http_connections_ended_total", &["evicted"])?;
    ensure!(evicted > 0.0, "none gave way");
    let kept = agent.windows(context)?;
    agent.wait_for_windows(context, kept + 2)?;
    drop(slow);
    wait_until("their connections are gone", context.limit(), || Ok(open_files(agent.pid())? <= files + 32))?;
    agent.stop(context).map(drop)
}

/// What is too large is refused, and what leads elsewhere leads nowhere.
pub(super) fn oversize_and_elsewhere(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let tokens = token_file(folder.path())?;
    let agent = Running::start(context, &format!("http: {{token_file: {}}}\n", tokens.display()))?;
    let address = agent.address();
    let (before, _) = agent.memory()?;
    let operator = format!("Bearer {}", fuzz::OPERATOR);
    let authorized = ("Authorization", operator.as_str());
    let much = "x".repeat(8 << 20);
    let sent: [(&str, Vec<u8>, &[u16]); 7] = [
        ("a long address", request("GET", &format!("/live?{much}"), &[], b""), &[414, 431]),
        ("a long path", request("GET", &format!("/{much}"), &[], b""), &[414, 431]),
        ("a long header", request("GET", "/live", &[("X", &much)], b""), &[431]),
        ("a long token", request("GET", "/metrics", &[("Authorization", &format!("Bearer {much}"))], b""), &[431]),
        ("a long name of a method", request(&much, "/live", &[], b""), &[400, 414, 431]),
        ("a long body", request("PUT", "/api/v1/log-level", &[authorized], much.as_bytes()), &[413]),
        (
            "a body that says that it is long",
            request("PUT", "/api/v1/log-level", &[authorized, ("Content-Length", "18446744073709551615")], b""),
            &[400, 413, 431],
        ),
    ];
    for (what, bytes, statuses) in &sent {
        for _ in 0..4 {
            // The server may end the connection before all is sent, and then its answer may be lost.
            if let Ok(Some(reply)) = exchange(address, bytes) {
                let status = reply.status;
                ensure!(statuses.contains(&status), "{what} was answered with {status}: {}", reply.text());
            }
        }
    }
    for target in fuzz::ELSEWHERE {
        let mut bytes = b"GET ".to_vec();
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let reply = exchange(address, &bytes)?;
        let shown = String::from_utf8_lossy(target).into_owned();
        let reply = reply.with_context(|| format!("{shown:?} was not answered"))?;
        ensure!(
            matches!(reply.status, 400 | 404 | 421),
            "{shown:?} was answered with {}: {}",
            reply.status,
            reply.text()
        );
        ensure!(!reply.text().contains("root:"), "{shown:?} was answered with a file: {}", reply.text());
    }
    probe(address, context.slow_factor())?;
    let (after, _) = agent.memory()?;
    ensure!(after < before + GROWTH_MAX, "its memory grew from {before} to {after} bytes");
    agent.stop(context).map(drop)
}

/// A token that is taken out of its file opens nothing from the next SIGHUP on, and the audit log says who took whom out.
pub(super) fn revoked(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let tokens = token_file(folder.path())?;
    let agent = Running::start(context, &format!("http: {{token_file: {}}}\n", tokens.display()))?;
    let status_for = |token: &str| -> Result<u16> {
        let asked = request("GET", "/api/v1/status", &[("Authorization", &format!("Bearer {token}"))], b"");
        Ok(exchange(agent.address(), &asked)?.context("no answer")?.status)
    };
    let statuses = || -> Result<[u16; 2]> { Ok([status_for(fuzz::VIEWER)?, status_for(fuzz::OPERATOR)?]) };
    ensure!(statuses()? == [200, 200], "tokens of the file are refused: {:?}", statuses()?);
    fs::write(&tokens, format!("operator alice {}\n", fuzz::OPERATOR)).context("taking a token out")?;
    agent.signal(Signal::HUP)?;
    agent.wait_for_log(context, "the tokens changed")?;
    ensure!(statuses()? == [401, 200], "after one was taken out: {:?}", statuses()?);
    // It is written by the way.
    let audit = || fs::read_to_string(agent.state().join("audit.log")).unwrap_or_default();
    wait_until("the audit log has the change", context.limit(), || {
        Ok(audit().contains("change-tokens") && audit().contains("grafana"))
    })?;
    let audit = audit();
    for token in [fuzz::VIEWER, fuzz::OPERATOR] {
        ensure!(!audit.contains(token) && !agent.log().contains(token), "a token is in a log");
    }
    agent.stop(context).map(drop)
}

/// Requests that nobody would send, by the ten thousand: nobody is let in, nothing breaks, memory stays as it is.
pub(super) fn fuzzed(context: &Context) -> Result<()> {
    let requests = repetitions(REQUESTS_VARIABLE, (REQUESTS as f64 / context.slow_factor()) as u64)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    println!("  seed {seed}");
    let folder = tempfile::tempdir().context("making a folder")?;
    let tokens = token_file(folder.path())?;
    // Neither what it costs nor what the host does may change what is asked of it.
    let config = format!(
        "http: {{token_file: {}, limits: {{header_timeout: 1s}}}}\ngovernor: {{enabled: false, breaker: {{enabled: false}}}}\n",
        tokens.display()
    );
    let agent = Running::start(context, &config)?;
    agent.wait_for_windows(context, 2)?;
    let address = agent.address();
    // An agent grows with what its host does, too. What this one is asked nothing for is not the requests'.
    let other = Running::start(context, &config)?;
    other.wait_for_windows(context, 2)?;

    let begun = Instant::now();
    let counts = Counts::default();
    send(address, requests / 10, seed, &counts)?;
    let (before, other_before) = (agent.memory()?.0, other.memory()?.0);
    send(address, requests - requests / 10, seed.wrapping_add(1), &counts)?;
    let ((after, most), (other_after, _)) = (agent.memory()?, other.memory()?);
    println!(
        "  {requests} requests in {:.0} s: {counts}; memory {} -> {} kB (at most {} kB), of an agent that nobody asked {} -> {} kB",
        begun.elapsed().as_secs_f64(),
        before / 1024,
        after / 1024,
        most / 1024,
        other_before / 1024,
        other_after / 1024
    );
    ensure!(counts.done.load(Ordering::Relaxed) == requests, "not all were sent");
    let allowed = other_after.saturating_sub(other_before) + GROWTH_MAX;
    ensure!(after < before + allowed, "its memory grew from {before} to {after} bytes, and may grow by {allowed}");
    drop(other);
    probe(address, context.slow_factor())?;
    let audit = agent.state().join("audit.log");
    ensure!(!audit.exists(), "something was changed: {}", fs::read_to_string(&audit).unwrap_or_default());
    let log = agent.log();
    ensure!(!log.contains("\"ERROR\""), "it logged an error: {log}");
    let kept = agent.windows(context)?;
    agent.wait_for_windows(context, kept + 2)?;
    agent.stop(context).map(drop)
}

/// What became of the requests.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    unauthorized: AtomicU64,
    ended: AtomicU64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { done: _, answered, refused, unauthorized, ended } = self;
        let [answered, refused, unauthorized, ended] =
            [answered, refused, unauthorized, ended].map(|count| count.load(Ordering::Relaxed));
        write!(
            formatter,
            "{answered} answered, {refused} refused, {unauthorized} of them for want of a token, {ended} ended without an answer"
        )
    }
}

fn send(address: SocketAddr, requests: u64, seed: u64, counts: &Counts) -> Result<()> {
    thread::scope(|scope| {
        let fuzzers: Vec<_> = (0..FUZZERS)
            .map(|number| {
                let share = requests / FUZZERS + u64::from(number < requests % FUZZERS);
                scope.spawn(move || fuzzer(address, share, seed.wrapping_add(number << 32), counts))
            })
            .collect();
        for fuzzer in fuzzers {
            fuzzer.join().map_err(|_| anyhow::anyhow!("a fuzzer panicked"))??;
        }
        Ok(())
    })
}

fn fuzzer(address: SocketAddr, requests: u64, seed: u64, counts: &Counts) -> Result<()> {
    let mut random = Random::new(seed);
    // Proper requests share connections: that is faster, and tries what one leaves for the next.
    let mut client: Option<Client> = None;
    for _ in 0..requests {
        let sent = fuzz::request(&mut random);
        let reply = if sent.expected == Expected::Anything {
            exchange(address, &sent.bytes).unwrap_or(None)
        } else {
            proper(address, &mut client, &sent)?
        };
        counts.done.fetch_add(1, Ordering::Relaxed);
        judge(&sent, reply.as_ref(), counts)
            .with_context(|| format!("of the request {:?}", String::from_utf8_lossy(&sent.bytes)))?;
    }
    Ok(())
}

/// Sends a proper request. A connection that was open may have been ended meanwhile; a new one must not be.
fn proper(address: SocketAddr, client: &mut Option<Client>, sent: &Sent) -> Result<Option<Reply>> {
    if let Some(mut open) = client.take()
        && open.send(&sent.bytes).is_ok()
        && let Ok(Some(reply)) = open.reply()
    {
        *client = (!reply.closes).then_some(open);
        return Ok(Some(reply));
    }
    let mut fresh = Client::connect(address)?;
    fresh.send(&sent.bytes)?;
    let reply = fresh.reply()?;
    *client = reply.as_ref().is_some_and(|reply| !reply.closes).then_some(fresh);
    Ok(reply)
}

/// Whether an answer is one that the request may have.
fn judge(sent: &Sent, reply: Option<&Reply>, counts: &Counts) -> Result<()> {
    let Some(reply) = reply else {
        counts.ended.fetch_add(1, Ordering::Relaxed);
        ensure!(sent.expected == Expected::Anything, "it is proper, and was not answered");
        return Ok(());
    };
    let count = match reply.status {
        200 => &counts.answered,
        401 => &counts.unauthorized,
        _ => &counts.refused,
    };
    count.fetch_add(1, Ordering::Relaxed);
    // 503 is for those who would have to wait too long.
    let is_known =
        matches!(reply.status, 200 | 400 | 401 | 403 | 404 | 405 | 408 | 413 | 414 | 421 | 431 | 501 | 503 | 504 | 505);
    ensure!(is_known, "the answer is {}: {}", reply.status, reply.text());
    let text = reply.text();
    for token in [fuzz::VIEWER, fuzz::OPERATOR] {
        ensure!(!text.contains(token), "the answer holds a token: {text}");
    }
    match sent.expected {
        Expected::AnAnswer => {}
        // What anybody may see is the page, its files, and the probes' one word. All that is measured is JSON, or a list of
        // metrics, or a file in another format.
        Expected::Nothing | Expected::Anything if reply.status == 200 => {
            let is_open =
                ["text/html", "text/css", "text/javascript", "application/javascript", "application/yaml", "image/"]
                    .iter()
                    .any(|kind| reply.content_type.starts_with(kind))
                    || ["healthy\n", "ready\n", "live\n"].contains(&text.as_str());
            ensure!(is_open, "somebody without a token was let in: {} {text}", reply.content_type);
        }
        Expected::Nothing | Expected::Anything => {}
        Expected::Refusal => ensure!(reply.status != 200, "a change was made: {text}"),
    }
    if let (Expected::AnAnswer, 200, true) =
        (sent.expected, reply.status, reply.content_type.starts_with("application/json"))
        && let Err(error) = serde_json::from_slice::<serde_json::Value>(&reply.body)
    {
        bail!("the answer is no JSON: {error}: {text}");
    }
    Ok(())
}

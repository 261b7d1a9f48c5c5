//! What keeps the host busy during a soak.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bench::load::Load;
use crate::guarded::Guarded;
use crate::{host, interrupt};

/// Programs that use a whole CPU each.
const HOGS: usize = 2;
/// Functions in each module of the crate that is built, and its modules.
const FUNCTIONS: usize = 60;
const MODULES: usize = 4;
/// How long redis-server may take until it answers.
const REDIS_START_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// stress-ng starts programs only for those who are not root.
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Everything that runs all the time. Ends when it is dropped.
pub(super) struct Loads {
    builds: Builds,
    redis: [(&'static str, Guarded); 2],
    _hogs: Load,
}

impl Loads {
    /// Starts it all; its files are in the folder, which whoever calls this removes.
    pub(super) fn start(folder: &Path, compressed: &Path) -> Result<Self> {
        Ok(Self {
            redis: redis(&folder.join("redis"))?,
            builds: Builds::start(&folder.join("crate"))?,
            _hogs: Load::start(HOGS, compressed)?,
        })
    }

    /// How often the crate was built so far.
    pub(super) fn builds(&self) -> u64 {
        self.builds.done.load(Ordering::Relaxed)
    }

    /// An error if one of them has ended: the host is not as busy as it should be.
    pub(super) fn check(&mut self) -> Result<()> {
        for (name, guarded) in &mut self.redis {
            if let Some(status) = guarded.ended()? {
                bail!("{name} has ended: {status}");
            }
        }
        if self.builds.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the loop of cargo builds has ended: see above");
        }
        Ok(())
    }
}

/// Processes that start processes, for so long.
pub(super) fn storm(folder: &Path, duration: Duration) -> Result<Guarded> {
    let folder = folder.join("storm");
    host::make_dir(&folder)?;
    // It does not run as root, and writes here.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777))
        .with_context(|| format!("cannot open {} to others", folder.display()))?;
    let mut command = Guarded::command("stress-ng", &NOBODY);
    command.args(["--quiet", "--exec", "1", "--fork", "1", "--temp-path"]).arg(&folder);
    command.args(["--timeout", &format!("{}s", duration.as_secs().max(1))]);
    command.stdout(Stdio::null());
    Guarded::start(command)
}

/// A server on a port of its own, and its client, which asks all the time.
fn redis(folder: &Path) -> Result<[(&'static str, Guarded); 2]> {
    host::make_dir(folder)?;
    // Debian's redis-tools has the server too, as a program that is another by another name; the package redis-server, which
    // only adds the name, would start one on its port for good.
    let server = match host::find_program("redis-server") {
        Some(server) => server,
        None => {
            let tool = host::find_program("redis-check-rdb").context("there is no redis-server")?;
            let server = folder.join("redis-server");
            symlink(&tool, &server).with_context(|| format!("cannot create {}", server.display()))?;
            server
        }
    };
    // Free a moment ago: nobody gets it again so soon.
    let listener = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    let port = listener.local_addr().context("a port has no number")?.port().to_string();
    drop(listener);
    let log = folder.join("redis.log");
    let errors = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Guarded::command(server, &[]);
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    let mut server = Guarded::start({
        command.stdout(errors);
        command
    })?;
    let begin = Instant::now();
    while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        if server.ended()?.is_some() || begin.elapsed() >= REDIS_START_MAX {
            bail!("redis-server does not serve: {}", String::from_utf8_lossy(&host::read(&log)?));
        }
        interrupt::sleep(LOOK_EVERY)?;
    }
    let mut command = Guarded::command("redis-benchmark", &[]);
    command.args(["-p", &port, "-c", "20", "-d", "100", "-r", "100000", "-n", "200000", "-t", "set,get,lpush,lpop"]);
    command.args(["-q", "-l"]).stdout(Stdio::null()).stderr(Stdio::null());
    Ok([("redis-server", server), ("redis-benchmark", Guarded::start(command)?)])
}

/// A crate that is built again and again.
struct Builds {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Builds {
    fn start(folder: &Path) -> Result<Self> {
        write_crate(folder)?;
        let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count, folder) = (Arc::clone(&is_over), Arc::clone(&done), folder.to_owned());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Err(error) = build(&folder, &over) {
                    if !over.load(Ordering::Relaxed) {
                        eprintln!("the crate of the soak cannot be built any more: {error:#}");
                    }
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { is_over, done, thread: Some(thread) })
    }
}

impl Drop for Builds {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

/// As `touch` and `cargo build` do.
fn build(folder: &Path, is_over: &AtomicBool) -> Result<()> {
    let source = folder.join("src/lib.rs");
    host::write(&source, host::read(&source)?)?;
    let cargo = host::cargo()?;
    let mut command = Guarded::command(cargo.get_program(), &[]);
    command.args(["build", "--quiet", "--offline"]).current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target"));
    let mut cargo = Guarded::start(command)?;
    loop {
        if let Some(status) = cargo.ended()? {
            if !status.success() {
                bail!("cargo build: {status}");
            }
            return Ok(());
        }
        if is_over.load(Ordering::Relaxed) {
            cargo.end()?;
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A crate without dependencies that takes a moment to build.
fn write_crate(folder: &Path) -> Result<PathBuf> {
    host::make_dir(&folder.join("src"))?;
    // A workspace of its own, wherever the folder is.
    let manifest = "[package]\nname = \"soaked\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n";
    host::write(&folder.join("Cargo.toml"), manifest)?;
    let (mut library, mut main) = (String::new(), String::from("fn main() {\n    let v = [1, 2, 3];\n"));
    for module in 0..MODULES {
        library.push_str(&format!("pub mod m{module};\n"));
        main.push_str(&format!("    println!(\"{{:?}}\", soaked::m{module}::f0(&v));\n"));
        let function = |number: usize| {
            format!(
                "pub fn f{number}(v: &[u64]) -> Option<String> {{\n    let mut kept: std::collections::BTreeMap<u64, Vec<u64>> = \
                 Default::default();\n    for (at, x) in v.iter().enumerate() {{\n        kept.entry(x % {}).or_default()\
                 .push(at as u64);\n    }}\n    kept.values().map(|v| v.iter().sum::<u64>()).max().map(|m| format!(\"{{m:?}}\"))\n}}\n",
                number + module + 2
            )
        };
        let functions: String = (0..FUNCTIONS).map(function).collect();
        host::write(&folder.join(format!("src/m{module}.rs")), functions)?;
    }
    main.push_str("}\n");
    host::write(&folder.join("src/lib.rs"), library)?;
    host::write(&folder.join("src/main.rs"), main)?;
    Ok(folder.to_owned())
}

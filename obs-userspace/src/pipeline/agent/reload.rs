//! What a SIGHUP has read again: the configuration, and the files of tokens and certificates that it names.

use super::{options, serve};
use crate::{
    config::agent::{self, AgentConfig, ConfigErrors, Loaded},
    telemetry::log::Log,
    web::{Reread, Server},
};

/// Reads everything again and tells what became of it. Returns the new configuration if there is one that can be taken.
pub(super) fn read_again(
    held: &AgentConfig,
    read: &mut dyn FnMut() -> Result<Loaded, ConfigErrors>,
    server: &Server,
    log: &Log,
) -> Option<AgentConfig> {
    // They are files of their own: a token is revoked whatever is wrong with the configuration.
    let has_news = reread_credentials(server);
    let loaded = match read() {
        Ok(loaded) => loaded,
        Err(errors) => {
            tracing::error!("the changed configuration is refused and the old one kept: {errors}");
            return None;
        }
    };
    let changes = match agent::reload(held, &loaded.config) {
        Ok(changes) => changes,
        Err(refused) => {
            tracing::error!("the changed configuration is refused and the old one kept: {refused}");
            return None;
        }
    };
    for change in &changes {
        tracing::info!("{change}");
    }
    let has_news = reset_level(log, &loaded.config) | has_news;
    if !changes.is_empty() {
        return Some(loaded.config);
    }
    if has_news {
        tracing::info!("the configuration was read again: nothing changed in it");
    } else {
        tracing::info!("the configuration was read again: nothing changed");
    }
    None
}

/// Gives the log the level that the configuration has, also where that is no other than before: one that was set over HTTP holds
/// until a reload. Returns whether there was something to tell.
fn reset_level(log: &Log, config: &AgentConfig) -> bool {
    let (from, to) = (log.level(), options::level(config.log.level));
    log.set_level(to);
    if from != to {
        let (from, to) = (serve::name_of(from), serve::name_of(to));
        tracing::info!(from, to, "the log has the level of the configuration");
    }
    from != to
}

/// Returns whether there was something to tell.
fn reread_credentials(server: &Server) -> bool {
    let Reread { changes, refused } = server.reread();
    for change in &changes {
        let what = change.what;
        tracing::info!(from = %change.from, to = %change.to, "the {what} changed");
    }
    for (what, error) in &refused {
        tracing::error!(cause = what, "the {what} cannot be read again, and what was read before holds: {error}");
    }
    !changes.is_empty() || !refused.is_empty()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read as _, Write as _},
        net::TcpStream,
        os::unix::fs::PermissionsExt as _,
        path::{Path, PathBuf},
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        config::agent::LogLevel,
        pipeline::agent::keeper::Shared,
        store::{Store, StoreOptions},
        telemetry::{
            Level,
            log::{Log, sink::Sink},
            self_metrics::Registry,
        },
        web::{AgentStatus, HealthBoard},
    };

    const ALICE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const BOB: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    /// A server as the agent starts it, with a file of tokens.
    struct Rig {
        config: AgentConfig,
        server: Server,
        log: Arc<Log>,
        token_file: PathBuf,
        dir: tempfile::TempDir,
        _store: Store,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let token_file = dir.path().join("tokens");
            write_tokens(&token_file, &format!("operator alice {ALICE}\nviewer bob {BOB}\n"));
            let mut config = AgentConfig { state_dir: dir.path().to_owned(), ..AgentConfig::default() };
            config.http.listen = ([127, 0, 0, 1], 0).into();
            config.http.token_file = Some(token_file.clone());
            let store = Store::open(&dir.path().join("store"), StoreOptions::default()).unwrap();
            let log = Arc::new(Log::unread(Level::Info));
            let shown = serve::Shown {
                reader: store.reader(),
                registry: Registry::default(),
                shared: Arc::new(Shared::default()),
                status: Arc::new(Mutex::new(AgentStatus::default())),
                health: Arc::new(HealthBoard::new()),
                log: Arc::clone(&log),
            };
            let server = serve::start(&config, shown).unwrap();
            Self { config, server, log, token_file, dir, _store: store }
        }

        /// Reloads with this configuration; returns what is taken of it, and what the log says.
        fn reload(&self, new: Result<&AgentConfig, &ConfigErrors>) -> (Option<AgentConfig>, String) {
            let mut read = || {
                let config = new.cloned().map_err(Clone::clone)?;
                Ok(Loaded { config, file: None, warnings: Vec::new() })
            };
            let sink = Sink::default();
            let writer = sink.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
            let taken = tracing::subscriber::with_default(subscriber, || {
                read_again(&self.config, &mut read, &self.server, &self.log)
            });
            let said = sink.text();
            (taken, said)
        }

        fn get(&self, path: &str, token: &str) -> (u16, String) {
            self.send("GET", path, token, "")
        }

        /// The status and the content of the answer.
        fn send(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.server.address()).unwrap();
            let length = body.len();
            let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
            write!(stream, "{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
        }

        /// What is answered of the log's level.
        fn level(&self) -> String {
            let (status, body) = self.get("/api/v1/log-level", ALICE);
            assert_eq!(status, 200, "{body}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body["level"].as_str().unwrap().to_owned()
        }

        fn set_level(&self, level: &str) {
            let (status, body) = self.send("PUT", "/api/v1/log-level", ALICE, &format!(r#"{{"level": "{level}"}}"#));
            assert_eq!(status, 200, "{body}");
        }

        fn statuses(&self) -> [u16; 2] {
            [ALICE, BOB].map(|token| self.get("/api/v1/status", token).0)
        }
    }

    fn write_tokens(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn wrong() -> ConfigErrors {
        ConfigErrors { problems: Vec::new() }
    }

    #[test]
    fn tokens_are_read_again_whatever_becomes_of_the_configuration() {
        let rig = Rig::new();
        assert_eq!(rig.statuses(), [200, 200]);
        let (taken, said) = rig.reload(Ok(&rig.config));
        assert!(taken.is_none() && said.ends_with("read again: nothing changed\n"), "{said}");
        // Only they changed, and the configuration is what it was.
        write_tokens(&rig.token_file, &format!("operator alice {ALICE}\n"));
        let (taken, said) = rig.reload(Ok(&rig.config));
        assert!(taken.is_none() && said.contains("the tokens changed"), "{said}");
        assert!(said.contains("viewer bob") && said.ends_with("nothing changed in it\n"), "{said}");
        assert!(!said.contains(BOB), "{said}");
        assert_eq!(rig.statuses(), [200, 401]);
        // The configuration is wrong, or needs a restart.
        write_tokens(&rig.token_file, &format!("viewer bob {BOB}\n"));
        let (taken, said) = rig.reload(Err(&wrong()));
        assert!(taken.is_none() && said.contains("the tokens changed") && said.contains("refused"), "{said}");
        assert_eq!(rig.statuses(), [401, 200]);
        write_tokens(&rig.token_file, &format!("operator alice {ALICE}\n"));
        let mut elsewhere = rig.config.clone();
        elsewhere.http.token_file = Some(rig.dir.path().join("others"));
        let (taken, said) = rig.reload(Ok(&elsewhere));
        assert!(taken.is_none() && said.contains("http.token_file") && said.contains("restart"), "{said}");
        assert_eq!(rig.statuses(), [200, 401]);
    }

    #[test]
    fn tokens_that_cannot_be_used_leave_the_old_ones_and_are_told_of() {
        let rig = Rig::new();
        fs::set_permissions(&rig.token_file, fs::Permissions::from_mode(0o644)).unwrap();
        let (_, said) = rig.reload(Ok(&rig.config));
        assert!(said.contains("ERROR") && said.contains("0644") && said.contains("before holds"), "{said}");
        assert!(said.ends_with("nothing changed in it\n"), "{said}");
        assert_eq!(rig.statuses(), [200, 200]);
    }

    #[test]
    fn the_level_is_that_of_the_last_who_set_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.level(), "info");
        let mut changed = rig.config.clone();
        changed.log.level = LogLevel::Warn;
        rig.config = rig.reload(Ok(&changed)).0.unwrap();
        assert_eq!((rig.level(), rig.log.level()), ("warn".to_owned(), Level::Warn));
        // A reload takes back what was set meanwhile, also where the file is what it was; one that is refused does not.
        rig.set_level("debug");
        rig.reload(Err(&wrong()));
        assert_eq!((rig.level(), rig.log.level()), ("debug".to_owned(), Level::Debug));
        let (taken, said) = rig.reload(Ok(&rig.config));
        assert!(taken.is_none() && said.contains(r#"from="debug" to="warn""#), "{said}");
        assert_eq!((rig.level(), rig.log.level()), ("warn".to_owned(), Level::Warn));
        rig.set_level("error");
        let audit = fs::read_to_string(rig.dir.path().join("audit.log")).unwrap();
        let last = audit.lines().last().unwrap();
        assert!(last.contains(r#""from":"warn","to":"error""#), "{last}");
    }
}

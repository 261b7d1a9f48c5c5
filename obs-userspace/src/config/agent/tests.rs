//! The configuration as a whole: what it takes, what it refuses and how, and that the documents say the same.

use std::{ffi::OsString, fmt::Write as _, fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::{environment::Environment, *};

const COLLECTORS: &[KnownCollector<'static>] = &[
    KnownCollector { name: "cpu", summary: "where CPU time goes", samples: true, enabled: true, kinds: None },
    KnownCollector {
        name: "latency",
        summary: "how long things take",
        samples: false,
        enabled: true,
        kinds: Some(KnownKinds {
            all: &["runqueue", "offcpu", "block", "connect", "retransmit"],
            default: &["runqueue", "block", "connect", "retransmit"],
        }),
    },
    KnownCollector { name: "off-cpu", summary: "where threads wait", samples: false, enabled: false, kinds: None },
];

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn read_with(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let environment = Environment::new(variables(pairs));
    AgentConfig::from_text(text, Some(PathBuf::from("obs.yaml")), &environment, COLLECTORS)
}

fn read(text: &str) -> AgentConfig {
    read_with(text, &[]).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// The problems of a text, one line each.
fn problems(text: &str) -> Vec<String> {
    read_with(text, &[]).expect_err(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_default_is_the_default_and_names_every_setting() {
    for collectors in [COLLECTORS, &[]] {
        let text = default_config_text(collectors);
        let mut config = AgentConfig::defaults(collectors);
        let (mut origins, mut problems) = (read::Origins::new(), Vec::new());
        read::apply(&text, Path::new("obs.yaml"), &mut config, &mut origins, &mut problems);
        assert_eq!(problems, []);
        assert_eq!(config, AgentConfig::defaults(collectors));
        for setting in config.settings() {
            assert!(origins.contains_key(&setting.path), "the default text lacks {}", setting.path);
        }
    }
    assert!(default_config_text(COLLECTORS).contains("  # where CPU time goes\n  cpu:\n    enabled: true\n"));
    assert_eq!(AgentConfig::default(), AgentConfig::defaults(&[]));
}

#[test]
fn settings_that_need_a_restart_are_marked_in_the_documented_default() {
    let text = default_config_text(COLLECTORS);
    let settings = AgentConfig::defaults(COLLECTORS).settings();
    // The comment above each key, which tls_key shares with the key before it.
    let mut comment = String::new();
    let mut keys = settings.iter();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('#') {
            comment.push_str(line);
        } else if line.is_empty() || line.ends_with(':') {
            comment.clear();
        } else {
            let key = line.split(':').next().unwrap();
            let setting = keys.next().unwrap();
            assert_eq!(setting.path.rsplit('.').next(), Some(key), "the default text has another order");
            let restart = setting.on_reload != OnReload::Takes;
            assert_eq!(comment.ends_with("(restart)"), restart, "{}", setting.path);
            if key != "tls_cert" {
                comment.clear();
            }
        }
    }
    assert_eq!(keys.next(), None);
}

#[test]
fn what_cannot_be_measured_is_refused_where_it_stands() {
    let config = read("collectors: {latency: {kinds: [block, offcpu], by: [cgroup]}}");
    let chosen = config.collectors.by_name["latency"].kinds.clone().unwrap();
    assert_eq!(chosen.kinds.iter().map(Word::name).collect::<Vec<_>>(), ["block", "offcpu"]);
    assert_eq!(chosen.by, [KeyPart::Cgroup]);
    let told = problems("collectors:\n  latency:\n    kinds: [block, ofcpu]\n");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("3:12") && told[0].contains("did you mean 'offcpu'"), "{told:?}");
    assert!(problems("collectors: {latency: {by: [host]}}")[0].contains("cgroup or process"));
    assert!(problems("collectors: {cpu: {kinds: [block]}}")[0].contains("there is no setting"));
}

#[test]
fn variables_are_unique_and_systematic() {
    let settings = AgentConfig::defaults(COLLECTORS).settings();
    let mut names: Vec<_> = settings.iter().map(Setting::variable).collect();
    for expected in ["OBS_STATE_DIR", "OBS_HTTP_LISTEN", "OBS_HTTP_LIMITS_BODY", "OBS_COLLECTORS_OFF_CPU_ENABLED"] {
        assert!(names.iter().any(|name| name == expected), "{expected}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), settings.len());
}

#[test]
fn no_file_is_no_problem() {
    let loaded = AgentConfig::load(None, [], COLLECTORS).unwrap();
    assert_eq!(loaded, Loaded { config: AgentConfig::defaults(COLLECTORS), file: None, warnings: Vec::new() });
    assert_eq!(read(""), AgentConfig::defaults(COLLECTORS));
    assert_eq!(read("# nothing\nhttp:\n"), AgentConfig::defaults(COLLECTORS));
}

#[test]
fn a_file_changes_what_it_names() {
    let config = read(
        "state_dir: /srv/obs\nwindow: 30s\ncollectors:\n  cpu: {frequency: 49Hz}\n  off-cpu: {enabled: true}\nhttp:\n  listen: \"[::1]:80\"\n  \
         limits: {body: 2MB}\ngovernor: {cpu_percent: 0.5, memory_mb: 60}\nlog: {level: debug, file: /var/log/obs.log}\n\
         filters: {comms: [redis-server, 'a b']}\nprivacy: {redact_patterns: ['--licence (\\S+)']}\n",
    );
    assert_eq!(config.state_dir, Path::new("/srv/obs"));
    assert_eq!(config.window, Duration::from_secs(30));
    assert_eq!(config.collectors.by_name["cpu"].frequency.unwrap().hertz(), 49);
    assert!(config.collectors.by_name["off-cpu"].enabled);
    assert_eq!(config.http.listen.to_string(), "[::1]:80");
    assert_eq!(config.http.limits.body.bytes(), 2_000_000);
    assert_eq!(config.governor.cpu_percent.share(), 0.005);
    assert_eq!(config.governor.memory_mb.bytes(), 60_000_000);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.log.file.as_deref(), Some(Path::new("/var/log/obs.log")));
    assert_eq!(config.filters.comms.iter().map(Comm::name).collect::<Vec<_>>(), ["redis-server", "a b"]);
    assert_eq!(config.privacy.redact_patterns[0].expression(), "--licence (\\S+)");
    let settings = [config.store, read("").store];
    assert_eq!(settings[0], settings[1]);
}

#[test]
fn variables_win_over_the_file() {
    let loaded = read_with(
        "window: 30s\nstate_dir: /srv/a\nhttp: {tls_cert: /a, tls_key: /b}\n",
        &[
            ("OBS_STATE_DIR", "/srv/b"),
            ("OBS_COLLECTORS_CPU_FREQUENCY", "19Hz"),
            ("OBS_FILTERS_COMMS", "redis-server, nginx"),
            ("OBS_FILTERS_CGROUPS", "[/sys/fs/cgroup/a, \"/sys/fs/cgroup/b\"]"),
            ("OBS_HTTP_TLS_CERT", ""),
            ("OBS_HTTP_TLS_KEY", "null"),
            ("PATH", "/bin"),
            ("OBS_KERNEL_BTF", "/boot/btf"),
            ("OBS_PORT", "tcp://10.0.0.1:7373"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.state_dir, Path::new("/srv/b"));
    assert_eq!(config.window, Duration::from_secs(30));
    assert_eq!(config.collectors.by_name["cpu"].frequency.unwrap().hertz(), 19);
    assert_eq!(config.filters.comms.iter().map(Comm::name).collect::<Vec<_>>(), ["redis-server", "nginx"]);
    assert_eq!(config.filters.cgroups, [Path::new("/sys/fs/cgroup/a"), Path::new("/sys/fs/cgroup/b")]);
    assert_eq!((config.http.tls_cert, config.http.tls_key), (None, None));
}

#[test]
fn unknown_variables_are_warned_about() {
    let loaded = read_with("", &[("OBS_HTTP_LISEN", "x"), ("OBS_COLOUR", "red")]).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "environment variable OBS_COLOUR: no setting has this variable; it has no effect",
            "environment variable OBS_HTTP_LISEN: no setting has this variable; did you mean OBS_HTTP_LISTEN?; it has no effect",
        ]
    );
}

#[test]
fn wrong_variables_are_refused_by_name() {
    let errors =
        read_with("", &[("OBS_WINDOW", "10"), ("OBS_FILTERS_COMMS", "[a"), ("OBS_LOG_LEVEL", "")]).unwrap_err();
    let text = errors.to_string();
    assert!(text.contains("environment variable OBS_WINDOW: window: '10' lacks a unit"), "{text}");
    assert!(text.contains("OBS_FILTERS_COMMS: filters.comms: '[a' is no list"), "{text}");
    assert!(text.contains("OBS_LOG_LEVEL: log.level: nothing was given; wanted is error, warn"), "{text}");
    use std::os::unix::ffi::OsStringExt as _;
    let broken = vec![(OsString::from("OBS_STATE_DIR"), OsString::from_vec(b"/\xff".to_vec()))];
    let errors = AgentConfig::load(None, broken, COLLECTORS).unwrap_err();
    assert!(errors.to_string().contains("OBS_STATE_DIR: state_dir: '/\u{fffd}' is no valid UTF-8"), "{errors}");
}

#[test]
fn every_problem_is_told_with_its_place_and_what_to_do() {
    let text = "\
windw: 10s
window: 10
store:
  retention_age: 7 days
  retention_bytes: 1kB
  block_length: [2h]
http:
  lisen: 127.0.0.1:80
  listen: localhost:80
collectors:
  cpuu: {}
  off-cpu:
    frequency: 99Hz
  cpu: 7
log: {level: loud}
listen: 1.2.3.4:5
filters:
  comms: [fine, this-name-is-too-long]
window: 20s
governor: {cpu_percent: 101%}
";
    let expected = [
        "obs.yaml:1:1: there is no setting 'windw'; did you mean 'window'? (allowed here: state_dir, window, collectors, \
         filters, store, http, governor, log, privacy, resources, unwind, symbols)",
        "obs.yaml:2:9: window: '10' lacks a unit (us, ms, s, m, h, d); write a duration such as 10s, 500ms, 2h or 7d",
        "obs.yaml:4:18: store.retention_age: '7 days' is no duration: its unit is none of us, ms, s, m, h, d; write a duration \
         such as 10s, 500ms, 2h or 7d",
        "obs.yaml:5:20: store.retention_bytes: '1kB' is too little; write a number of bytes such as 100MB or 16MiB, from 10MB \
         to 1TiB",
        "obs.yaml:6:17: store.block_length: a list was given; wanted is a duration such as 10s, 500ms, 2h or 7d",
        "obs.yaml:8:3: http: there is no setting 'lisen'; did you mean 'listen'? (allowed here: listen, tls_cert, tls_key, \
         token_file, limits)",
        "obs.yaml:9:11: http.listen: 'localhost:80' is no IP address with a port; write an IP address and a port such as \
         127.0.0.1:7373 or \"[::1]:7373\" (with the quotes)",
        "obs.yaml:11:3: collectors: there is no setting 'cpuu'; did you mean 'cpu'? (allowed here: cpu, latency, off-cpu)",
        "obs.yaml:13:5: collectors.off-cpu: there is no setting 'frequency'; did you mean collectors.cpu.frequency? (allowed \
         here: enabled)",
        "obs.yaml:14:8: collectors.cpu: a single value was given where a mapping of settings is wanted",
        "obs.yaml:15:14: log.level: 'loud' is not known here; write error, warn, info, debug or trace",
        "obs.yaml:16:1: there is no setting 'listen'; did you mean http.listen? (allowed here: state_dir, window, collectors, \
         filters, store, http, governor, log, privacy, resources, unwind, symbols)",
        "obs.yaml:18:17: filters.comms: 'this-name-is-too-long' is longer than the 15 bytes that the kernel keeps of a name; \
         write a name as in `ps -o comm`, such as postgres",
        "obs.yaml:19:1: window: is given twice; keep one",
        "obs.yaml:20:25: governor.cpu_percent: '101%' is too much; write a number of percent such as 1% or 0.5%, from 0.05% to \
         100%",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn what_is_no_mapping_and_no_yaml_is_refused() {
    assert_eq!(
        problems("- a\n- b\n"),
        ["obs.yaml:1:1: a list was given where settings are wanted, such as `window: 10s`"]
    );
    assert!(problems("just text")[0].starts_with("obs.yaml:1:1: a single value was given"));
    let broken = problems("window: 10s\nhttp: {listen: 1\n");
    assert!(
        broken[0].starts_with("obs.yaml:2:7: this is no YAML that can be read: unclosed bracket '{'"),
        "{broken:?}"
    );
}

#[test]
fn beyond_loopback_needs_tls_and_tokens() {
    for listen in
        ["0.0.0.0:7373", "\"[::]:7373\"", "192.168.1.1:7373", "\"[2001:db8::1]:1\"", "\"[::ffff:10.0.0.1]:1\""]
    {
        let text = format!("http:\n  listen: {listen}\n  tls_cert: /a\n");
        let found = problems(&text);
        assert!(found[0].starts_with("obs.yaml:2:11: http.listen: "), "{found:?}");
        assert!(found[0].ends_with("set http.tls_key, http.token_file, or listen on 127.0.0.1"), "{found:?}");
        read(&format!("{text}  tls_key: /b\n  token_file: /c\n"));
    }
    for listen in ["127.0.0.1:1", "127.9.9.9:1", "\"[::1]:1\"", "\"[::ffff:127.0.0.1]:1\""] {
        read(&format!("http: {{listen: {listen}}}"));
    }
    let errors = read_with("", &[("OBS_HTTP_LISTEN", "0.0.0.0:80")]).unwrap_err();
    assert!(
        errors.to_string().contains("environment variable OBS_HTTP_LISTEN: http.listen: 0.0.0.0:80 can be reached")
    );
}

#[test]
fn settings_that_do_not_go_together_are_refused_where_they_were_given() {
    assert_eq!(
        problems("window: 10m\nstore: {block_length: 5m}\n"),
        [
            "obs.yaml:2:23: store.block_length: a block of 5m cannot hold a window of 10m; store.block_length must be at least window"
        ]
    );
    assert!(problems("store: {retention_age: 1h}")[0].starts_with("obs.yaml:1:24: store.retention_age: history of 1h"));
    assert!(problems("http: {tls_key: /a}")[0].starts_with("obs.yaml:1:17: http.tls_key: a certificate"));
    let found = problems("http: {limits: {header_timeout: 1m}}");
    assert!(found[0].starts_with("obs.yaml:1:33: http.limits.header_timeout: a request's 30s"), "{found:?}");
}

#[test]
fn a_reload_takes_what_it_can_and_refuses_as_a_whole() {
    let old = read("");
    assert_eq!(reload(&old, &old), Ok(Vec::new()));
    let taken = reload(&old, &read("log: {level: debug}\ngovernor: {cpu_percent: 2%}\n")).unwrap();
    let told: Vec<_> = taken.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["governor.cpu_percent: 1% -> 2%", "log.level: info -> debug"]);
    let refused =
        reload(&old, &read("log: {level: debug}\nstate_dir: /srv\nhttp: {listen: '127.0.0.1:80'}\n")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the new configuration was not taken, and the old one holds; restart obs to change state_dir: /var/lib/obs -> /srv \
         (needs a restart: the folder is locked and open); http.listen: 127.0.0.1:7373 -> 127.0.0.1:80 (needs a restart: the \
         socket is open)"
    );
    assert_eq!(diff(&old, &read("log: {level: debug}\nstate_dir: /srv\n")).len(), 2);
}

#[test]
fn files_are_bounded_and_regular() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str| AgentConfig::load(Some(&folder.path().join(name)), [], COLLECTORS);
    let refused = |name: &str| load(name).unwrap_err().to_string();
    assert!(refused("absent").contains("absent: the configuration file cannot be read: No such file"));
    assert!(refused("").contains("no regular file"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(refused("pipe").contains("no regular file"));
    fs::write(folder.path().join("large"), "#".repeat(2 << 20)).unwrap();
    assert!(refused("large").contains("more than 1048576 bytes"));
    fs::write(folder.path().join("latin1"), b"window: 10s\n# caf\xe9\n").unwrap();
    assert!(refused("latin1").contains("line 2 is no valid UTF-8"));
    let good = folder.path().join("good");
    fs::write(&good, "window: 20s\n").unwrap();
    let loaded = load("good").unwrap();
    assert_eq!((loaded.config.window, loaded.file.as_deref()), (Duration::from_secs(20), Some(good.as_path())));
    let by_variable = AgentConfig::load(None, [(OsString::from("OBS_CONFIG"), good.clone().into())], COLLECTORS);
    assert_eq!(by_variable.unwrap(), loaded);
}

/// The table of `docs/configuration.md`, from the settings themselves.
fn table() -> String {
    let mut table = String::from("| setting | default | allowed | on SIGHUP |\n|---|---|---|---|\n");
    for setting in AgentConfig::defaults(&COLLECTORS[..2]).settings() {
        let path = &setting.path;
        let on_reload = match setting.on_reload {
            OnReload::Takes => "taken".to_owned(),
            OnReload::Restart(why) => format!("restart: {why}"),
        };
        writeln!(table, "| `{path}` | `{}` | {} | {on_reload} |", setting.value, setting.allowed).unwrap();
    }
    table
}

/// `OBS_UPDATE_DOCS=1 cargo test -p obs-userspace --lib config::agent` writes it.
#[test]
fn the_document_has_the_settings() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- settings: written by a test -->\n", "<!-- end of settings -->\n");
    let (before, rest) = text.split_once(begin).unwrap();
    let (documented, after) = rest.split_once(end).unwrap();
    if std::env::var_os("OBS_UPDATE_DOCS").is_some() {
        fs::write(path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
    } else {
        assert_eq!(documented, table(), "docs/configuration.md has other settings than the agent");
    }
}

proptest! {

    #[test]
    fn garbage_is_refused_or_read(text in "\\PC{0,200}|[\\x00-\\x7f]{0,200}|([a-z_]{1,8}: ?[\\[{&*!|>'\"#%@0-9a-zA-Z, ]{0,20}\n {0,4}){0,10}") {
        let _ = read_with(&text, &[]);
    }

    #[test]
    fn a_damaged_default_is_refused_or_read(at in any::<prop::sample::Index>(), byte in any::<char>(), cut in 0_usize..40) {
        let mut text: Vec<char> = default_config_text(COLLECTORS).chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, [byte]);
        let _ = read_with(&text.into_iter().collect::<String>(), &[]);
    }

    #[test]
    fn any_variable_is_refused_or_taken(value in "\\PC{0,60}|[\\[\\],a-z0-9]{0,20}") {
        let variables: Vec<_> = AgentConfig::defaults(COLLECTORS).settings().iter().map(Setting::variable).collect();
        let pairs: Vec<_> = variables.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let _ = read_with("", &pairs);
    }
}

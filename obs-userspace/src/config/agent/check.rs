//! What single values cannot show: settings that do not go together.

use super::{
    KnownCollector,
    problem::{Problem, Source, nearest, shown},
    read::Origins,
    settings::AgentConfig,
    value::{Value as _, Word},
};

/// Finds them all.
pub(super) fn check(
    config: &AgentConfig,
    collectors: &[KnownCollector<'_>],
    origins: &Origins,
    problems: &mut Vec<Problem>,
) {
    let mut conflict = |settings: &[&str], message: String| {
        // At the setting that somebody gave; of defaults alone none is wrong.
        let given = settings.iter().find_map(|path| origins.get(*path).map(|source| (path, source.clone())));
        let (path, source) = given.unwrap_or((&settings[0], Source::Default));
        problems.push(Problem { source, setting: (*path).to_owned(), message });
    };
    for (known, all) in collectors.iter().filter_map(|known| Some((known, known.kinds?.all))) {
        let chosen = config.collectors.by_name.get(known.name).and_then(|collector| collector.kinds.as_ref());
        let unknown = chosen.into_iter().flat_map(|it| &it.kinds).map(Word::name).filter(|name| !all.contains(name));
        for name in unknown {
            let meant = nearest(name, all.iter().copied());
            let meant = meant.map(|word| format!("; did you mean '{word}'?")).unwrap_or_default();
            let message = format!("{} cannot be measured{meant} (there are: {})", shown(name), all.join(", "));
            conflict(&[&format!("collectors.{}.kinds", known.name)], message);
        }
    }
    let AgentConfig { window, store, http, .. } = config;
    if store.block_length < *window {
        let (block, window) = (store.block_length.write(), window.write());
        let message =
            format!("a block of {block} cannot hold a window of {window}; store.block_length must be at least window");
        conflict(&["store.block_length", "window"], message);
    }
    if store.retention_age < store.block_length {
        let (age, block) = (store.retention_age.write(), store.block_length.write());
        let message = format!(
            "history of {age} is shorter than a block of {block}; store.retention_age must be at least store.block_length"
        );
        conflict(&["store.retention_age", "store.block_length"], message);
    }
    if http.limits.request_timeout < http.limits.header_timeout {
        let (request, header) = (http.limits.request_timeout.write(), http.limits.header_timeout.write());
        let message = format!(
            "a request's {request} end before its header's {header}; request_timeout must be at least header_timeout"
        );
        conflict(&["http.limits.request_timeout", "http.limits.header_timeout"], message);
    }
    if !http.listen.ip().to_canonical().is_loopback() {
        let needed =
            [("http.tls_cert", &http.tls_cert), ("http.tls_key", &http.tls_key), ("http.token_file", &http.token_file)];
        let missing: Vec<&str> = needed.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let message = format!(
                "{} can be reached from other machines, and that needs TLS and tokens: set {}, or listen on 127.0.0.1",
                http.listen,
                missing.join(", ")
            );
            conflict(&["http.listen"], message);
        }
    } else if http.tls_cert.is_some() != http.tls_key.is_some() {
        let message = "a certificate and its key go together; set http.tls_cert and http.tls_key, or neither";
        conflict(&["http.tls_cert", "http.tls_key"], message.to_owned());
    }
}

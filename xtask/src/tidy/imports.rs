//! Who may import whom: the table of the design, held by a check rather than by goodwill.

use super::source::{Token, heads, tokens};
use super::{TextFile, Violation};

/// A module of obs-userspace, and what it may name of ours.
struct Row {
    module: &'static str,
    modules: &'static [&'static str],
    crates: &'static [&'static str],
}

const fn row(module: &'static str, modules: &'static [&'static str], crates: &'static [&'static str]) -> Row {
    Row { module, modules, crates }
}

/// Every stage; `pipeline` alone wires them.
const STAGES: &[&str] =
    &["aggregate", "alert", "collect", "config", "enrich", "export", "kernel", "model", "store", "telemetry", "web"];

/// The table. `main` is the binary, which knows the library by its name.
const TABLE: &[Row] = &[
    row("model", &[], &[]),
    row("config", &["model"], &[]),
    row("telemetry", &["model"], &[]),
    row("kernel", &["config"], &["obs_common"]),
    row("collect", &["config", "kernel", "model"], &["obs_common"]),
    row("enrich", &["model"], &["obs_unwind"]),
    row("aggregate", &["model"], &[]),
    row("store", &["model"], &[]),
    row("alert", &["model", "store"], &[]),
    row("export", &["model", "store"], &[]),
    row("web", &["model", "store"], &[]),
    row("pipeline", STAGES, &["obs_common", "obs_unwind"]),
    row("cli", &["collect", "config", "export", "kernel", "model", "pipeline", "store", "telemetry"], &[]),
    row("main", &["cli"], &[]),
];

/// The other crates: their source folder, and which crates they may not name.
const CRATES: [(&str, &[&str]); 3] = [
    ("obs-common/src/", &["obs_unwind", "obs_userspace", "aya", "std", "tokio"]),
    ("obs-ebpf/src/", &["obs_unwind", "obs_userspace", "aya", "std", "tokio"]),
    ("obs-unwind/src/", &["obs_userspace", "aya", "procfs", "tokio"]),
];

const OURS: [&str; 2] = ["obs_common", "obs_unwind"];
const USERSPACE: &str = "obs-userspace/src/";

pub(super) fn check(files: &[TextFile]) -> Vec<Violation> {
    files.iter().filter(|file| file.is_rust()).flat_map(|file| check_file(file, &tokens(&file.text))).collect()
}

fn check_file(file: &TextFile, tokens: &[Token<'_>]) -> Vec<Violation> {
    if let Some((_, forbidden)) = CRATES.iter().find(|(folder, _)| file.path.starts_with(folder)) {
        return named_crates(tokens, forbidden)
            .map(|token| file.violation(token.line, format!("this crate may not name `{}`", token.text)))
            .collect();
    }
    let Some(inside) = file.path.strip_prefix(USERSPACE) else { return Vec::new() };
    // lib.rs declares the modules, and is the only file that belongs to none.
    if inside == "lib.rs" {
        return Vec::new();
    }
    let parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let module = parts.first().copied().unwrap_or_default();
    let Some(row) = TABLE.iter().find(|row| row.module == module) else {
        return vec![file.violation(
            0,
            format!(
                "module `{module}` is not in the import table: add it to the design and to xtask/src/tidy/imports.rs"
            ),
        )];
    };
    let mut found = Vec::new();
    for token in named_modules(tokens, parts.len()) {
        if token.text != module && !row.modules.contains(&token.text) && TABLE.iter().any(|r| r.module == token.text) {
            found.push(file.violation(token.line, format!("`{module}` may not import `{}`", token.text)));
        }
    }
    for token in named_crates(tokens, &OURS).filter(|token| !row.crates.contains(&token.text)) {
        found.push(file.violation(token.line, format!("`{module}` may not import `{}`", token.text)));
    }
    found
}

/// The top-level modules that a file names, through `crate::`, the library's name, or enough `super::`.
fn named_modules<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let mut named = Vec::new();
    let is_path = |at: usize| tokens.get(at).is_some_and(|token| token.text == "::");
    for (at, token) in tokens.iter().enumerate() {
        let is_root = matches!(token.text, "crate" | "obs_userspace") && is_path(at + 1);
        // A chain of `super` from here; the last one leads to the root. Tests in a file are one level deeper.
        let is_last_super =
            token.text == "super" && is_path(at + 1) && tokens.get(at + 2).is_none_or(|t| t.text != "super");
        let chain =
            (0..=at / 2).take_while(|back| tokens.get(at - 2 * back).is_some_and(|t| t.text == "super")).count();
        if is_root || is_last_super && chain >= depth {
            named.extend(heads(tokens, at + 2));
        }
    }
    named
}

/// The crates of a list that a file names, at the start of a path or in `use`.
fn named_crates<'a>(tokens: &[Token<'a>], list: &[&str]) -> impl Iterator<Item = Token<'a>> {
    tokens
        .iter()
        .enumerate()
        .filter_map(move |(at, token)| {
            let before = at.checked_sub(1).and_then(|before| tokens.get(before)).map(|token| token.text);
            let after = tokens.get(at + 1).map(|token| token.text);
            let is_start =
                before != Some("::") || at.checked_sub(2).and_then(|b| tokens.get(b)).is_none_or(|t| !is_word(t.text));
            let is_named = list.contains(&token.text) && is_start && (after == Some("::") || before == Some("use"));
            is_named.then_some(*token)
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&[file(path, text)]).into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn what_the_table_allows_is_allowed() {
        assert_eq!(
            messages(
                "obs-userspace/src/collect/cpu.rs",
                "use crate::kernel::load;\nuse crate::model::{Stack, Unit};\nuse obs_common::X;"
            ),
            [""; 0]
        );
        assert_eq!(
            messages("obs-userspace/src/pipeline.rs", "use crate::{collect, enrich::process, export};"),
            [""; 0]
        );
        assert_eq!(messages("obs-userspace/src/lib.rs", "pub mod model; pub use crate::model::Stack;"), [""; 0]);
        assert_eq!(messages("obs-userspace/src/main.rs", "use obs_userspace::cli;"), [""; 0]);
    }

    #[test]
    fn what_it_does_not_allow_is_found_in_every_spelling() {
        let expected = ["`model` may not import `kernel`"];
        for text in [
            "use crate::kernel::load;",
            "use crate::{model::Stack, kernel};",
            "fn f() { crate::kernel::load() }",
            "use super::kernel::load;",
        ] {
            assert_eq!(messages("obs-userspace/src/model/mod.rs", text), expected, "{text}");
        }
        assert_eq!(messages("obs-userspace/src/model/stack.rs", "use super::super::kernel;"), expected);
        assert_eq!(
            messages("obs-userspace/src/model/stack.rs", "mod tests { use super::super::super::kernel; }"),
            expected
        );
        assert_eq!(messages("obs-userspace/src/model/stack.rs", "use super::super::model;"), [""; 0]);
    }

    #[test]
    fn siblings_with_the_name_of_a_module_are_no_import() {
        assert_eq!(messages("obs-userspace/src/export/pprof.rs", "use super::store;"), [""; 0]);
    }

    #[test]
    fn outputs_do_not_know_each_other() {
        assert_eq!(messages("obs-userspace/src/web/page.rs", "use crate::export;"), ["`web` may not import `export`"]);
    }

    #[test]
    fn our_crates_are_in_the_table_too() {
        assert_eq!(
            messages("obs-userspace/src/export/x.rs", "use obs_unwind::Row;"),
            ["`export` may not import `obs_unwind`"]
        );
        assert_eq!(messages("obs-unwind/src/lib.rs", "use aya::Ebpf;"), ["this crate may not name `aya`"]);
        assert_eq!(messages("obs-common/src/lib.rs", "fn f() -> std::string::String {}").len(), 1);
        assert_eq!(messages("obs-unwind/src/lib.rs", "// aya::Ebpf\nuse std::io;"), [""; 0]);
    }

    #[test]
    fn a_module_that_is_not_in_the_table_is_found() {
        assert!(messages("obs-userspace/src/misc.rs", "")[0].contains("`misc` is not in the import table"));
    }
}

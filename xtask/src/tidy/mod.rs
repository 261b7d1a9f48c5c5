//! `cargo xtask tidy`: holds the rules that no linter knows.
//!
//! A rule is a function from the tree of files to a list of violations, with a test on a good and on a bad sample. It
//! lands together with what it is about.

mod confine;
mod files;
mod imports;
mod objects;
mod registry;
mod source;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::host;

/// Where and what a rule objects to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// The file, as a path from the workspace's folder.
    path: String,
    /// The line, counted from 1; 0 when it is about the file as a whole.
    line: usize,
    /// What is wrong, and what to do.
    message: String,
}

/// One text file of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TextFile {
    /// From the workspace's folder, with `/`.
    path: String,
    text: String,
}

impl TextFile {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn violation(&self, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, message: message.into() }
    }
}

/// What every rule looks like.
type Rule = fn(&[TextFile]) -> Vec<Violation>;

/// Every rule that looks at sources, by the name under which it reports.
const RULES: [(&str, Rule); 8] = [
    ("imports", imports::check),
    ("header", files::headers),
    ("length", files::lengths),
    ("unfinished", files::unfinished),
    ("aya", confine::aya),
    ("unsafe", confine::unsafe_code),
    ("registry", registry::one_registry),
    ("collector pages", registry::pages),
];

/// No tree of ours has more files, or larger ones; more means that a build or a download landed in it.
const FILES_MAX: usize = 20_000;
const FILE_LEN_MAX: u64 = 4 << 20;

pub(crate) fn main() -> Result<ExitCode> {
    let workspace = host::workspace()?;
    let files = read_tree(&workspace)?;
    let mut count = 0;
    let mut report = |rule: &str, violations: Vec<Violation>| {
        count += violations.len();
        for Violation { path, line, message } in violations {
            let place = if line == 0 { path } else { format!("{path}:{line}") };
            eprintln!("{place}: [{rule}] {message}");
        }
    };
    for (name, rule) in RULES {
        report(name, rule(&files));
    }
    report("objects", objects::check(&workspace)?);
    if count == 0 {
        println!("tidy: {} rules hold over {} files", RULES.len() + 1, files.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {count} violations");
    Ok(ExitCode::FAILURE)
}

/// Reads every text file of the tree, sorted by path.
fn read_tree(workspace: &Path) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    let mut folders = vec![workspace.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
            if kind.is_dir() && !["target", ".git", ".cache", "node_modules"].iter().any(|skipped| name == *skipped) {
                folders.push(path);
            } else if kind.is_file() && entry.metadata().is_ok_and(|metadata| metadata.len() <= FILE_LEN_MAX) {
                // What is not text is a fixture or a picture.
                let Ok(text) = String::from_utf8(host::read(&path)?) else { continue };
                let path = path.strip_prefix(workspace).unwrap_or(&path).to_string_lossy().into_owned();
                files.push(TextFile { path, text });
                if files.len() > FILES_MAX {
                    bail!("more than {FILES_MAX} files below {}: is a build among them?", workspace.display());
                }
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
fn file(path: &str, text: &str) -> TextFile {
    TextFile { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read_without_what_was_built() {
        let files = read_tree(&host::workspace().unwrap()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/mod.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/") || file.path.starts_with(".git/")));
    }
}

//! Rules about whole files: they say what they are for, can be read in one sitting, and are finished.

use super::{TextFile, Violation};

/// A file that outgrows this has two jobs.
const LINES_MAX: usize = 600;

/// Words that mark unfinished work, in pieces: this file is looked at as well.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Endings of files that people write here.
const WRITTEN: [&str; 9] = [".rs", ".toml", ".md", ".sh", ".c", ".h", ".cpp", ".go", ".py"];

pub(super) fn headers(files: &[TextFile]) -> Vec<Violation> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//! "))
        .map(|file| file.violation(1, "the first line must be `//! ` and say what the file is for"))
        .collect()
}

pub(super) fn lengths(files: &[TextFile]) -> Vec<Violation> {
    files
        .iter()
        .filter(|file| file.is_rust() && file.text.lines().count() > LINES_MAX)
        .map(|file| {
            file.violation(
                0,
                format!("{} lines, of which {LINES_MAX} are allowed: split it", file.text.lines().count()),
            )
        })
        .collect()
}

pub(super) fn unfinished(files: &[TextFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| WRITTEN.iter().any(|ending| file.path.ends_with(ending))) {
        for (number, line) in file.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
                found.push(file.violation(number + 1, format!("`{word}`: finish it, or open an issue")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn a_header_is_needed_in_rust_files_only() {
        assert_eq!(headers(&[file("a.rs", "//! What it is for.\n"), file("b.sh", "#!/bin/sh\n")]), []);
        assert_eq!(headers(&[file("a.rs", "use std::io;\n"), file("b.rs", "// no\n"), file("c.rs", "")]).len(), 3);
    }

    #[test]
    fn a_file_may_have_600_lines() {
        assert_eq!(lengths(&[file("a.rs", &"\n".repeat(LINES_MAX)), file("b.txt", &"\n".repeat(9999))]), []);
        assert_eq!(lengths(&[file("a.rs", &"\n".repeat(LINES_MAX + 1))]).len(), 1);
    }

    #[test]
    fn unfinished_work_is_found_in_every_kind_of_file() {
        let mark = UNFINISHED[0];
        assert_eq!(unfinished(&[file("a.rs", "fn f() {} // done\nmktemp XXXXXX\n")]), []);
        for path in ["a.rs", "b.md", "c.toml", "d.c"] {
            let found = unfinished(&[file(path, &format!("fine\n// {mark}: later\n"))]);
            assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), [2], "{path}");
        }
    }
}

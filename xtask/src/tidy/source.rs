//! Rust sources as a list of words: enough to see what a file names, without comments and literals.

/// A word or a sign of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// An identifier, a lifetime, a number, `::`, or a single other character. Literals in quotes are `""`.
    pub(super) text: &'a str,
    /// The line, counted from 1.
    pub(super) line: usize,
}

/// Splits a source. Comments and the contents of literals are left out.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, text) = next(rest, first);
        let (taken, after) = rest.split_at(length);
        if let Some(text) = text {
            let text = if text.is_empty() { "\"\"" } else { taken };
            tokens.push(Token { text, line });
        }
        line += taken.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of what comes next, and whether it counts: `None` for blanks and comments, empty for literals.
fn next(rest: &str, first: char) -> (usize, Option<&str>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), None);
    }
    if let Some(length) = literal(rest) {
        return (length, Some(""));
    }
    // A lifetime is one word with its quote, so that `'static` is not taken for `static`.
    let word = rest.strip_prefix('\'').unwrap_or(rest);
    if word.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        let length = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        return (rest.len() - word.len() + length, Some("word"));
    }
    if rest.starts_with("::") {
        return (2, Some("::"));
    }
    (first.len_utf8(), (!first.is_whitespace()).then_some("sign"))
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a string, character or byte literal at the start, with its prefix.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|after| {
            after.starts_with('"')
                || after.starts_with('\'') && matches!(*prefix, "" | "b")
                || after.starts_with('#') && prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"')
        })
    })?;
    let body = rest.strip_prefix(prefix)?;
    let length = if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inner = body.get(hashes + 1..)?;
        hashes + 1 + inner.find(&end).map_or(inner.len(), |at| at + end.len())
    } else if body.starts_with('"') {
        quoted(body, '"')
    } else {
        // A lifetime has no closing quote right after its first character.
        let mut characters = body.chars().skip(1);
        let first = characters.next()?;
        if first != '\\' && characters.next() != Some('\'') {
            return None;
        }
        quoted(body, '\'')
    };
    Some(prefix.len() + length)
}

fn quoted(body: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in body.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// The first words of the paths that begin with `crate::`, `super::` and so on: after the prefix at `at` in the tokens,
/// one word, or those of a group in braces.
pub(super) fn heads<'a>(tokens: &[Token<'a>], at: usize) -> Vec<Token<'a>> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![*first];
    }
    let mut heads = Vec::new();
    let mut depth = 0_u32;
    let mut is_head = false;
    for token in tokens.iter().skip(at) {
        match token.text {
            "{" => {
                depth += 1;
                is_head = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," => is_head = depth == 1,
            _ if is_head => {
                heads.push(*token);
                is_head = false;
            }
            _ => {}
        }
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_left_out() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(
            words(r##"x("un\"safe", r#"a"b"#, b"c", 'd', b'\'')"##).join(" "),
            "x ( \"\" , \"\" , \"\" , \"\" , \"\" )"
        );
    }

    #[test]
    fn lifetimes_are_no_literals() {
        assert_eq!(words("f<'a>(x: &'static T)").join(" "), "f < 'a > ( x : & 'static T )");
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let all = tokens("a\n/* \n */ b \"\n\n\" c");
        assert_eq!(all.iter().map(|token| token.line).collect::<Vec<_>>(), [1, 3, 3, 5]);
    }

    #[test]
    fn unclosed_things_end_with_the_file() {
        assert_eq!(words("a /* b"), ["a"]);
        assert_eq!(words("a \"b"), ["a", "\"\""]);
        assert_eq!(words("a r#\"b"), ["a", "\"\""]);
    }

    #[test]
    fn groups_have_several_heads() {
        let all = tokens("use crate::{model::{A, B}, kernel, store::read as r};");
        let found: Vec<_> = heads(&all, 3).into_iter().map(|token| token.text).collect();
        assert_eq!(found, ["model", "kernel", "store"]);
    }
}

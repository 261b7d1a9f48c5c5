//! From the bytes of `/proc/PID/cmdline` to one line of text: bounded, without secrets, quoted as a shell would need it.

use std::sync::Arc;

use super::redact::Redactor;

/// Most bytes that are read of a command line. The kernel allows a quarter of the stack: 2 MiB.
pub(super) const READ_BYTES_MAX: usize = 16 << 10;

/// Most bytes of a command line that are kept.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// A command line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) text: Arc<str>,
    pub(super) secrets_redacted: u32,
    pub(super) is_cut: bool,
}

/// Makes a line of the arguments; `None` if there are none, as for threads of the kernel.
pub(super) fn from_bytes(bytes: &[u8], redactor: &Redactor) -> Option<CommandLine> {
    // A byte more than is wanted was asked for, to know whether there is more.
    let mut is_cut = bytes.len() > READ_BYTES_MAX;
    let bytes = bytes.get(..READ_BYTES_MAX).unwrap_or(bytes);
    // Programs that write their state over their arguments leave the rest filled with NUL.
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let joined = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    // Before anything is cut: half a secret would not look like one.
    let (redacted, secrets_redacted) = redactor.redact(&joined);
    let mut text = String::with_capacity(redacted.len().min(KEPT_BYTES_MAX));
    for argument in redacted.split('\0') {
        if text.len() > KEPT_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        push_quoted(&mut text, argument);
    }
    if text.len() > KEPT_BYTES_MAX {
        is_cut = true;
        let end = (0..=KEPT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(CommandLine { text: text.into(), secrets_redacted, is_cut })
}

/// Writes an argument so that a shell would read it as one; control characters, which could trick a terminal, are shown.
fn push_quoted(text: &mut String, argument: &str) {
    let is_plain = |character: char| character.is_alphanumeric() || "_-+=./:,@%[]{}~^!#".contains(character);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        text.push_str(argument);
        return;
    }
    // `nginx: worker process` and its like are one argument only because the program wrote it over its own.
    let is_title = text.is_empty() && argument.contains(": ");
    if !is_title {
        text.push('\'');
    }
    for character in argument.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\'' if !is_title => text.push_str("'\\''"),
            character if character.is_control() => text.push('\u{fffd}'),
            character => text.push(character),
        }
    }
    if !is_title {
        text.push('\'');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::enrich::identity::redact::RedactionOptions;

    static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| Redactor::new(&RedactionOptions::default()).unwrap());

    fn line(bytes: &[u8]) -> Option<CommandLine> {
        from_bytes(bytes, &REDACTOR)
    }

    fn text(bytes: &[u8]) -> String {
        line(bytes).map(|line| line.text.to_string()).unwrap_or_default()
    }

    #[test]
    fn arguments_of_all_kinds() {
        assert_eq!(text(b"sleep\x001000\0"), "sleep 1000");
        assert_eq!(text(b"sh\0-c\0echo 'x'; ls\0"), r"sh -c 'echo '\''x'\''; ls'");
        assert_eq!(text(b"a\0\0b\0"), "a '' b");
        assert_eq!(text(b"nginx: worker process\0\0\0\0"), "nginx: worker process");
        assert_eq!(text(b"a\0x\ny\x1b[31m\xff\0"), "a 'x\\ny\u{fffd}[31m\u{fffd}'");
        assert_eq!(line(b""), None);
        assert_eq!(line(b"\0\0\0"), None);
    }

    #[test]
    fn a_long_line_is_cut_and_its_secrets_are_not_shown() {
        let mut bytes = vec![b'x'; KEPT_BYTES_MAX - 10];
        bytes.extend_from_slice(b"\0--password=0123456789012345678901234567890123456789\0");
        let cut = line(&bytes).unwrap();
        assert!(cut.is_cut && cut.secrets_redacted == 1 && !cut.text.contains("0123"), "{}", cut.text);
        assert!(cut.text.len() <= KEPT_BYTES_MAX + 4);
        let mut endless = "é".repeat(READ_BYTES_MAX).into_bytes();
        endless.truncate(READ_BYTES_MAX + 1);
        assert!(line(&endless).unwrap().is_cut);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            if let Some(line) = line(&bytes) {
                prop_assert!(line.text.len() <= KEPT_BYTES_MAX + 4);
                prop_assert!(!line.text.contains(char::is_control));
            }
        }
    }
}

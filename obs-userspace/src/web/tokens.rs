//! Who may do what: tokens and their roles, read from a file that only its owner can read.
//!
//! One token per line: `ROLE NAME TOKEN`. Roles are `viewer` and `operator`; the name stands in the audit log; the token is
//! at least 32 characters long, or `sha256:` and the 64 hexadecimal digits of its SHA-256, so that the file holds no secret.
//! Memory holds hashes only, and all of them are compared with what a client sends, each in constant time.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Serialize;
use subtle::{Choice, ConstantTimeEq as _};

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Most tokens.
const TOKENS_MAX: usize = 256;
/// Fewest characters of a token: 32 hexadecimal digits are 128 bits.
const TOKEN_CHARS_MIN: usize = 32;
/// Most characters of a token, and of what a client sends.
const TOKEN_CHARS_MAX: usize = 512;
/// Most characters of a name.
const NAME_CHARS_MAX: usize = 64;

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Change what can be changed.
    Operator,
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, role } = self;
        let role = match role {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
        };
        write!(formatter, "{role} {name}")
    }
}

/// Why tokens could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The operating system refused.
    #[error("cannot read the tokens in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could read or change it.
    #[error(
        "will not use the tokens in {}: {what}; make it yours alone (chown {} and chmod 600)",
        path.display(), rustix::process::geteuid().as_raw()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// A line is wrong.
    #[error("{}:{line}: {what}; a line is `viewer NAME TOKEN` or `operator NAME TOKEN`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What is wrong with it. Never the token.
        what: &'static str,
    },
    /// There is nothing, or too much, in it.
    #[error("cannot use the tokens in {}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The tokens of a file.
pub(super) struct Tokens {
    entries: Vec<([u8; SHA256_OUTPUT_LEN], Holder)>,
}

impl Tokens {
    /// Reads a file of tokens.
    pub(super) fn read(path: &Path) -> Result<Self, TokenError> {
        let io = |source| TokenError::Io { path: path.to_owned(), source };
        let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let exposed = |what: String| Err(TokenError::Exposed { path: path.to_owned(), what });
        if !metadata.is_file() {
            return Err(TokenError::Content { path: path.to_owned(), what: "it is not a regular file".to_owned() });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return exposed(format!("its mode is {mode:04o}, so that others can reach it"));
        }
        let owner = metadata.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return exposed(format!("it belongs to user {owner}"));
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(io)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, TokenError> {
        let content = |what: String| Err(TokenError::Content { path: path.to_owned(), what });
        if text.len() as u64 > FILE_BYTES_MAX {
            return content(format!("it is longer than {FILE_BYTES_MAX} bytes"));
        }
        let Ok(text) = std::str::from_utf8(text) else { return content("it is no UTF-8 text".to_owned()) };
        let mut entries: Vec<([u8; SHA256_OUTPUT_LEN], Holder)> = Vec::new();
        let mut names = BTreeSet::new();
        for (line, words) in (1..).zip(text.lines()) {
            let words = words.trim();
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            let entry = parse_line(words).map_err(|what| TokenError::Line { path: path.to_owned(), line, what })?;
            let wrong = |what| Err(TokenError::Line { path: path.to_owned(), line, what });
            if entries.len() == TOKENS_MAX {
                return wrong("there are more than 256 tokens");
            }
            if !names.insert(Arc::clone(&entry.1.name)) {
                return wrong("the name was used before");
            }
            if entries.iter().any(|(hash, _)| *hash == entry.0) {
                return wrong("the token was used before");
            }
            entries.push(entry);
        }
        if entries.is_empty() { content("there is no token in it".to_owned()) } else { Ok(Self { entries }) }
    }

    /// Who had a token that others do not take over, and who has one that was not known before; `None` if they are the same.
    pub(super) fn change(&self, new: &Self) -> Option<(String, String)> {
        let gone: Vec<String> = self.beyond(new).map(ToString::to_string).collect();
        let come: Vec<String> = new
            .beyond(self)
            .map(|holder| match self.entries.iter().any(|(_, known)| known == holder) {
                true => format!("{holder} (another token)"),
                false => holder.to_string(),
            })
            .collect();
        let names = |all: Vec<String>| if all.is_empty() { "nobody".to_owned() } else { all.join(", ") };
        (!gone.is_empty() || !come.is_empty()).then(|| (names(gone), names(come)))
    }

    /// Those who have a token and a role that they have not there.
    fn beyond(&self, other: &Self) -> impl Iterator<Item = &Holder> {
        self.entries.iter().filter(|entry| !other.entries.contains(entry)).map(|(_, holder)| holder)
    }

    /// Whose token this is. Takes as long for a wrong one as for a right one, whichever it is.
    pub(super) fn holder(&self, token: &[u8]) -> Option<&Holder> {
        if token.len() > TOKEN_CHARS_MAX {
            return None;
        }
        let hash = digest(&SHA256, token);
        let mut found = None;
        for (known, holder) in &self.entries {
            let is_same: Choice = known.ct_eq(hash.as_ref());
            if bool::from(is_same) {
                found = Some(holder);
            }
        }
        found
    }
}

fn parse_line(line: &str) -> Result<([u8; SHA256_OUTPUT_LEN], Holder), &'static str> {
    let mut words = line.split_ascii_whitespace();
    let (Some(role), Some(name), Some(token), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("it has not three words");
    };
    let role = match role {
        "viewer" => Role::Viewer,
        "operator" => Role::Operator,
        _ => return Err("the role is neither `viewer` nor `operator`"),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    if name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
        return Err("the name has more than 64 characters, or others than letters, digits, `_`, `-`, `.` and `@`");
    }
    let hash = match token.strip_prefix("sha256:") {
        Some(digits) => parse_hash(digits).ok_or("`sha256:` is not followed by 64 hexadecimal digits")?,
        None => {
            let is_allowed = (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&token.len());
            if !is_allowed || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("the token has not 32 to 512 visible ASCII characters (`openssl rand -hex 32` makes one)");
            }
            hash_of(token.as_bytes())
        }
    };
    Ok((hash, Holder { name: name.into(), role }))
}

fn hash_of(token: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

fn parse_hash(digits: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    if digits.len() != 2 * SHA256_OUTPUT_LEN || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; SHA256_OUTPUT_LEN];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use proptest::prelude::*;

    use super::*;

    const VIEWER: &str = "0123456789abcdef0123456789abcdef";
    const OPERATOR: &str = "fedcba9876543210fedcba9876543210";

    fn parse(text: &str) -> Result<Tokens, String> {
        Tokens::parse(Path::new("tokens"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_lead_to_names_and_roles_in_both_forms() {
        let hash: String = hash_of(OPERATOR.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!("# who may look\n\nviewer grafana {VIEWER}\n  operator alice@ops sha256:{hash} \n");
        let tokens = parse(&text).unwrap();
        assert_eq!(tokens.holder(VIEWER.as_bytes()), Some(&Holder { name: "grafana".into(), role: Role::Viewer }));
        assert_eq!(
            tokens.holder(OPERATOR.as_bytes()),
            Some(&Holder { name: "alice@ops".into(), role: Role::Operator })
        );
        for wrong in ["", "0123456789abcdef0123456789abcdee", "0123456789ABCDEF0123456789ABCDEF", &hash] {
            assert_eq!(tokens.holder(wrong.as_bytes()), None);
        }
    }

    #[test]
    fn the_hash_is_sha256() {
        let hash = hash_of(b"abc");
        assert_eq!(hash[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn wrong_lines_are_told_by_number_and_without_the_token() {
        for (line, what) in [
            ("viewer x", "three words"),
            ("viewer x y z", "three words"),
            ("root x 0123456789abcdef0123456789abcdef", "role"),
            ("viewer a/b 0123456789abcdef0123456789abcdef", "name"),
            ("viewer x 0123456789abcdef", "32 to 512"),
            ("viewer x sha256:0123", "hexadecimal"),
            ("operator first ffffffffffffffffffffffffffffffff", "name was used"),
            ("operator second 11111111111111111111111111111111", "token was used"),
        ] {
            let text = format!("viewer first 11111111111111111111111111111111\n{line}\n");
            let error = parse(&text).err().unwrap();
            assert!(error.starts_with("tokens:2: ") && error.contains(what), "{error}");
            assert!(!error.contains("0123456789"), "{error}");
        }
        assert!(parse("# nobody\n").err().unwrap().contains("no token"));
    }

    #[test]
    fn files_that_others_can_reach_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, format!("viewer x {VIEWER}\n")).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Tokens::read(&path).err().unwrap().to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(Tokens::read(&path).is_ok());
        }
        assert!(matches!(Tokens::read(dir.path()), Err(TokenError::Content { .. })));
        assert!(matches!(Tokens::read(&dir.path().join("none")), Err(TokenError::Io { .. })));
    }

    #[test]
    fn the_file_has_bounds() {
        let many: String = (0..=TOKENS_MAX).map(|number| format!("viewer n{number} {number:032}\n")).collect();
        assert!(parse(&many).err().unwrap().contains("tokens:257: "));
        assert!(parse(&"#".repeat(70_000)).err().unwrap().contains("longer"));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text: Vec<u8>) {
            if let Ok(tokens) = Tokens::parse(Path::new("tokens"), &text) {
                prop_assert!(tokens.holder(b"").is_none());
            }
        }
    }
}

//! Replaces what looks like a secret in command lines.
//!
//! Rules are regular expressions, of each match of which a group is replaced. They are applied to all arguments at once, so
//! that a rule sees an option and the argument behind it: joined by NUL bytes (`\0` in a pattern) for the rules that come
//! with obs, which know no classes of Unicode (these would cost ten times the memory), and by blanks for a user's own.
//! The expressions need time in proportion to the text, whatever the text is; the text has a bound.

use std::{borrow::Cow, fmt, ops::Range};

use regex::bytes::{Regex, RegexBuilder};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Stands in the place of a secret while rules are applied: a control character, which no text has afterwards.
const MARK: &str = "\x01";

/// The name of the group that matches the secret in our own rules.
const SECRET: &str = "secret";

/// Most rules; what a configuration has beyond it is refused.
pub const RULES_MAX: usize = 256;

/// Most memory that one rule may compile to, in bytes.
const RULE_BYTES_MAX: usize = 1 << 20;

/// How often a rule is applied: a rule that needs a program's name before an option finds one option each time.
const PASSES_MAX: usize = 8;

/// What the names of options and variables end in whose values are secret.
const SECRET_NAME: &str = r"(?:pass(?:word|wd|phrase|code|wort|wrd)?|pwd|secrets?|token|api[_.-]?key|access[_.-]?key|\
account[_.-]?key|private[_.-]?key|secret[_.-]?key|encryption[_.-]?key|signing[_.-]?key|master[_.-]?key|\
auth[_.-]?key|requirepass|masterauth|auth|authtoken|credentials?|connection[_.-]?string|dsn|jwt|cookie|session[_.-]?id)";

/// A word of a shell's script, of which parts may be quoted.
const WORD: &str = r#"(?:'[^'\x00]*'?|"(?:[^"\\\x00]|\\[^\x00])*"?|\\[^\x00]|[^\s\x00'"\\;&|)])+"#;

/// A rule that comes with obs: what it is for, and its pattern, in which `NAME` stands for the names of secrets and `WORD`
/// for a word of a script.
pub struct DefaultRule {
    /// What it finds.
    pub finds: &'static str,
    pattern: &'static str,
}

impl DefaultRule {
    /// Its regular expression.
    #[must_use]
    pub fn pattern(&self) -> String {
        self.pattern.replace("NAME", &SECRET_NAME.replace("\\\n", "")).replace("WORD", WORD)
    }
}

impl fmt::Debug for DefaultRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DefaultRule").field("finds", &self.finds).finish_non_exhaustive()
    }
}

/// The rules that are on by default, in the order in which they are applied.
pub static DEFAULT_RULES: &[DefaultRule] = &[
    DefaultRule {
        finds: "private keys in PEM form, to their end or the end of what is known",
        pattern: r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?P<secret>(?s:.)*?)(?:-----END|$)",
    },
    DefaultRule {
        finds: "the first word of a script: `sh -c \"PGPASSWORD=… psql\"`",
        pattern: r"(?i)\x00-[a-z]*c\x00[a-z0-9_.-]*NAME=(?P<secret>WORD)",
    },
    DefaultRule {
        finds: "the rest of an argument `--password=…`, `-Dx.password=…`, `DB_PASSWORD=…`, `token=…`",
        pattern: r"(?i)(?:^|\x00)-{0,2}[a-z0-9_.-]*NAME=(?P<secret>[^\x00\x01][^\x00]*)",
    },
    DefaultRule {
        finds: "the argument behind `--password`, `--api-key`, `-token`, …",
        pattern: r"(?i)(?:^|\x00)--?[a-z0-9_.-]*NAME\x00(?P<secret>[^\x00-][^\x00]*|-[^\x00-][^\x00]*)",
    },
    DefaultRule {
        finds: "the same within an argument: `sh -c \"… PGPASSWORD=… psql\"`, `key=…;password=…`, `?token=…&…`",
        pattern: r#"(?i)[\s;&?,|('"\x60][a-z0-9_.-]*NAME=(?P<secret>(?:'[^'\x00]*'?|"[^"\x00]*"?|[^\s\x00'";&,|)])+)"#,
    },
    DefaultRule {
        finds: "the same, separated by blanks: `sh -c \"mysqldump --password …\"`",
        pattern: r#"(?i)[\s;&|('"\x60]--[a-z0-9_.-]*NAME[ \t]+(?P<secret>(?:'[^'\x00]*'?|"[^"\x00]*"?|[^\s\x00'";&|)-])(?:WORD)?)"#,
    },
    DefaultRule {
        finds: "HTTP headers: `Authorization: …`, `Proxy-Authorization: …`, `Cookie: …`, `X-Api-Key: …`, `X-Auth-Token: …`",
        pattern: r#"(?i)(?:authorization|cookie|x-[a-z0-9-]*(?:key|token|auth|secret))["']?\s*:\s*["']?(?:(?:basic|bearer|digest|negotiate|token|apikey)\s+)?(?P<secret>[^\x00"'\r\n]+)"#,
    },
    DefaultRule { finds: "`Bearer …` anywhere", pattern: r"(?i)\bbearer[ \x00]+(?P<secret>[a-z0-9._~+/-]{8,}=*)" },
    DefaultRule {
        finds: "JSON, YAML and the like: `\"password\": \"…\"`",
        pattern: r#"(?i)[a-z0-9_.-]*NAME(?:\\?["']\s*:\s*|:[ \t]+)\\?["']?(?P<secret>[^"'\x00\\,}\]\s][^"'\x00\\,}\]]*)"#,
    },
    DefaultRule {
        finds: "the password in `scheme://user:password@host`",
        pattern: r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#\x00:@'"]*:(?P<secret>[^\s\x00/'"]+)@"#,
    },
    DefaultRule {
        finds: "the same, of a password that holds a slash (and is not a port)",
        pattern: r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#\x00:@'"]*:(?P<secret>[^\s\x00@/'"]*[^\s\x00@/'"0-9][^\s\x00@'"]*)@"#,
    },
    DefaultRule {
        finds: "a token in the place of the user: `https://TOKEN@host`",
        pattern: r"[A-Za-z][A-Za-z0-9+.-]*://(?P<secret>[A-Za-z0-9_-]{20,})@",
    },
    DefaultRule {
        finds: "`mysql -pSECRET`, `mysqldump`, `mariadb`, …, also within `sh -c`",
        pattern: r#"(?:^|[\x00\s/;&|'"(])(?:mysql[a-z_]*|mariadb[a-z-]*)[\x00\s](?:[^|;&]*?[\x00\s])??-p(?P<secret>[^\s\x00'"\x01][^\s\x00'"]*)"#,
    },
    DefaultRule {
        finds: "`sshpass -p SECRET`, `7z -pSECRET`",
        pattern: r#"(?:^|[\x00\s/;&|'"(])(?:sshpass|7z[az]?|7zz|rar|unrar)[\x00\s](?:[^|;&]*?[\x00\s])??-p[\x00\s]?(?P<secret>[^\s\x00\x01][^\s\x00]*)"#,
    },
    DefaultRule {
        finds: "`redis-cli -a SECRET`",
        pattern: r#"(?:^|[\x00\s/;&|'"(])(?:redis-cli|valkey-cli|redis-benchmark)[\x00\s](?:[^|;&]*?[\x00\s])??-a[\x00\s](?P<secret>[^\s\x00\x01][^\s\x00]*)"#,
    },
    DefaultRule {
        finds: "`ldapsearch -w SECRET`, `zip -P SECRET`",
        pattern: r#"(?:^|[\x00\s/;&|'"(])(?:ldap[a-z]+|zip|unzip)[\x00\s](?:[^|;&]*?[\x00\s])??-[wP][\x00\s]?(?P<secret>[^\s\x00\x01][^\s\x00]*)"#,
    },
    DefaultRule {
        finds: "`curl -u user:SECRET`, `wget`, `http -a user:SECRET`",
        pattern: r#"(?:^|[\x00\s/;&|'"(])(?:curl|wget|https?|xh)[\x00\s](?:[^|;&]*?[\x00\s])??(?:-u|-U|-a|--user|--proxy-user|--auth)[\x00\s=]?['"]?[^\s\x00:'"-][^\s\x00:'"]*:(?P<secret>[^\s\x00'"\x01][^\s\x00'"]*)"#,
    },
    DefaultRule { finds: "`smbclient -U user%SECRET`", pattern: r"-U[\x00\s]?[^\s\x00%]+%(?P<secret>[^\s\x00]+)" },
    DefaultRule {
        finds: "`docker login -p SECRET`, `podman login`, `helm registry login`, `az login`, …",
        pattern: r"[\x00\s]login[\x00\s](?:[^|;&]*?[\x00\s])??-p[\x00\s=](?P<secret>[^\s\x00\x01][^\s\x00]*)",
    },
    DefaultRule { finds: "`openssl -passin pass:SECRET`", pattern: r"(?:^|[\x00\s=])pass:(?P<secret>[^\s\x00]+)" },
    DefaultRule {
        finds: "keys of Amazon Web Services",
        pattern: r"\b(?P<secret>(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16})\b",
    },
    DefaultRule {
        finds: "JSON web tokens",
        pattern: r"\b(?P<secret>eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?)",
    },
    DefaultRule {
        finds: "tokens that show what they are by their first letters: GitHub, GitLab, Slack, Stripe, Google, npm, PyPI, Vault, …",
        pattern: r"\b(?P<secret>(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|hv[sb]\.[A-Za-z0-9_-]{20,}|dop_v1_[a-f0-9]{40,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}))",
    },
];

/// Which rules to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactionOptions {
    /// Whether the [`DEFAULT_RULES`] are applied.
    pub defaults: bool,
    /// Further rules: regular expressions, of which the first group is replaced, or all that they match if they have none.
    pub patterns: Vec<String>,
}

impl Default for RedactionOptions {
    fn default() -> Self {
        Self { defaults: true, patterns: Vec::new() }
    }
}

/// Why a rule was refused.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// It is no regular expression, or one that needs too much memory.
    #[error("the redaction pattern {pattern:?} cannot be used: {cause}")]
    Pattern {
        /// The rule.
        pattern: String,
        /// What is wrong with it.
        cause: Box<regex::Error>,
    },
    /// There are too many.
    #[error("there are {count} redaction patterns, of which {RULES_MAX} are allowed: join some with |")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// A compiled rule.
#[derive(Debug)]
struct Rule {
    expression: Regex,
    /// Which group is the secret; 0 is all of the match.
    group: usize,
    /// Whether it sees arguments as people do: with blanks between them.
    sees_blanks: bool,
}

/// The compiled rules.
#[derive(Debug)]
pub struct Redactor {
    rules: Vec<Rule>,
}

impl Redactor {
    /// Compiles the rules.
    ///
    /// # Errors
    /// If a rule cannot be used, or there are too many.
    pub fn new(options: &RedactionOptions) -> Result<Self, RuleError> {
        let RedactionOptions { defaults, patterns } = options;
        if patterns.len() > RULES_MAX {
            return Err(RuleError::TooMany { count: patterns.len() });
        }
        let defaults = DEFAULT_RULES.iter().filter(|_| *defaults).map(|rule| Rule::of_ours(&rule.pattern()));
        let rules = defaults.chain(patterns.iter().map(|pattern| Rule::of_the_user(pattern)));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Replaces the secrets in arguments that are joined by NUL; returns how many they were.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> (Cow<'t, str>, u32) {
        let mut bytes = Cow::Borrowed(text.as_bytes());
        if text.contains(MARK) {
            bytes = Cow::Owned(text.replace(MARK, "\u{fffd}").into_bytes());
        }
        let mut count = 0;
        for rule in &self.rules {
            for _ in 0..PASSES_MAX {
                let secrets = rule.secrets(&bytes);
                if secrets.is_empty() {
                    break;
                }
                count += u32::try_from(secrets.len()).unwrap_or(u32::MAX);
                bytes = Cow::Owned(without(&bytes, &secrets));
            }
        }
        let redacted = match bytes {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A rule may have cut a character in two.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).replace(MARK, REDACTED)),
        };
        (redacted, count)
    }
}

impl Rule {
    fn of_ours(pattern: &str) -> Result<Self, RuleError> {
        let expression = compile(pattern, false)?;
        let group = expression.capture_names().position(|name| name == Some(SECRET)).unwrap_or(0);
        Ok(Self { expression, group, sees_blanks: false })
    }

    fn of_the_user(pattern: &str) -> Result<Self, RuleError> {
        let expression = compile(pattern, true)?;
        let group = usize::from(expression.captures_len() > 1);
        Ok(Self { expression, group, sees_blanks: true })
    }

    /// Where there are secrets that are not replaced yet, in order.
    fn secrets(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let seen: Cow<'_, [u8]> = if self.sees_blanks {
            bytes.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect::<Vec<u8>>().into()
        } else {
            bytes.into()
        };
        let is_open =
            |secret: &[u8]| !secret.is_empty() && ![MARK, REDACTED].iter().any(|done| done.as_bytes() == secret);
        // A rule may match without its group taking part.
        let groups = self.expression.captures_iter(&seen).filter_map(|captures| captures.get(self.group));
        groups.filter(|secret| is_open(secret.as_bytes())).map(|secret| secret.range()).collect()
    }
}

/// Puts the mark in the place of these parts.
fn without(bytes: &[u8], secrets: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for secret in secrets {
        out.extend_from_slice(bytes.get(at..secret.start).unwrap_or_default());
        out.extend_from_slice(MARK.as_bytes());
        at = secret.end;
    }
    out.extend_from_slice(bytes.get(at..).unwrap_or_default());
    out
}

fn compile(pattern: &str, unicode: bool) -> Result<Regex, RuleError> {
    let mut builder = RegexBuilder::new(pattern);
    let built = builder.unicode(unicode).size_limit(RULE_BYTES_MAX).dfa_size_limit(RULE_BYTES_MAX).build();
    built.map_err(|cause| RuleError::Pattern { pattern: pattern.to_owned(), cause: Box::new(cause) })
}

#[cfg(test)]
mod tests;

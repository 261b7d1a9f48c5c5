//! What is a secret and what is not.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// Compiled once: that takes longer than all that it is used for.
static DEFAULTS: LazyLock<Redactor> = LazyLock::new(|| Redactor::new(&RedactionOptions::default()).unwrap());

/// Arguments are separated by `|` here.
fn redact(redactor: &Redactor, line: &str) -> String {
    redactor.redact(&line.replace('|', "\0")).0.replace('\0', "|")
}

/// `S3CR3T` is the secret, in its place must be the mark, and nothing else may change.
#[test]
fn secrets_and_only_they_are_replaced() {
    let redactor = &*DEFAULTS;
    for line in [
        "psql|--password=S3CR3T|-h|db",
        "app|--password|S3CR3T|--port|80",
        "app|--db-password=S3CR3T|x y",
        "app|--api-key|S3CR3T",
        "app|--apikey=S3CR3T",
        "app|-token=S3CR3T",
        "java|-Djavax.net.ssl.keyStorePassword=S3CR3T|-jar|x.jar",
        "env|PGPASSWORD=S3CR3T|psql",
        "env|GITHUB_TOKEN=S3CR3T|AWS_SECRET_ACCESS_KEY=S3CR3T|make",
        "redis-server|--requirepass|S3CR3T",
        "sh|-c|PGPASSWORD=S3CR3T psql -h db",
        "sh|-c|PGPASSWORD='S3CR3T' psql -h db",
        "bash|-lc|PGPASSWORD=S3CR3T psql -h db",
        "sh|-c|PGPASSWORD=S3CR3T'S3CR3T S3CR3T'S3CR3T psql -h db",
        "sh|-c|export API_TOKEN=S3CR3T; run",
        "sh|-c|mysqldump --password S3CR3T db > x",
        "sh|-c|mysql -uroot -pS3CR3T db",
        "mysql|-uroot|-pS3CR3T|db",
        "/usr/bin/mysqldump|-h|db|-pS3CR3T",
        "mariadb-dump|-pS3CR3T",
        "sshpass|-p|S3CR3T|ssh|host",
        "sshpass|-pS3CR3T|ssh|host",
        "redis-cli|-h|x|-a|S3CR3T|ping",
        "ldapsearch|-x|-D|cn=admin|-w|S3CR3T",
        "zip|-P|S3CR3T|a.zip|b",
        "7z|x|-pS3CR3T|a.7z",
        "curl|-u|me:S3CR3T|https://example.org/x",
        "curl|-sSf|--user|me:S3CR3T|https://example.org/x",
        "curl|-H|Authorization: Bearer S3CR3T|https://example.org",
        "curl|-H|authorization: Basic S3CR3T|https://example.org",
        "curl|-H|X-Api-Key: S3CR3T|https://example.org",
        "curl|-H|Cookie: S3CR3T",
        "curl|-d|{\"user\":\"me\",\"password\":\"S3CR3T\"}",
        "curl|https://example.org/?user=me&token=S3CR3T&x=1",
        "psql|postgres://me:S3CR3T@db.example.org:5432/x",
        "app|amqp://guest:S3CR3T@mq//vhost",
        "app|redis://:S3CR3T@cache:6379/0",
        "smbclient|-U|me%S3CR3T|//host/share",
        "docker|login|-u|me|-p|S3CR3T|registry.example.org",
        "openssl|rsa|-passin|pass:S3CR3T|-in|x",
        "dotnet|app.dll|Server=db;User Id=sa;Password=S3CR3T;Encrypt=true",
    ] {
        let whole = line.replace("S3CR3T'S3CR3T S3CR3T'S3CR3T", "S3CR3T").replace("'S3CR3T'", "S3CR3T");
        assert_eq!(redact(redactor, line), whole.replace("S3CR3T", REDACTED), "{line}");
    }
}

/// What shows by itself that it is one.
#[test]
fn secrets_of_known_forms() {
    let redactor = &*DEFAULTS;
    for (before, secret) in [
        ("aws s3 ls ", "AKIAIOSFODNN7EXAMPLE"),
        ("run ", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
        ("git clone https://x/", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
        ("run ", "glpat-0123456789abcdefghij"),
        ("run ", "xoxb-123456789012-abcdefghij"),
        ("run ", "sk_live_0123456789abcdef"),
        ("run ", "hvs.0123456789abcdefghijklmn"),
        ("git clone https://", "0123456789abcdef0123456789abcdef01234567@github.com/x"),
    ] {
        let (secret, after) = secret.split_once('@').map_or((secret, ""), |(secret, _)| (secret, "@github.com/x"));
        assert_eq!(redact(redactor, &format!("{before}{secret}{after}")), format!("{before}{REDACTED}{after}"));
    }
    let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc+/=\n-----END RSA PRIVATE KEY-----";
    let redacted = redact(redactor, &format!("tool|{key}|x"));
    assert_eq!(redacted, format!("tool|-----BEGIN RSA PRIVATE KEY-----{REDACTED}-----END RSA PRIVATE KEY-----|x"));
    // Cut before its end.
    let cut = redact(redactor, "tool|-----BEGIN PRIVATE KEY-----\nMIIEvQ");
    assert_eq!(cut, format!("tool|-----BEGIN PRIVATE KEY-----{REDACTED}"));
}

#[test]
fn what_is_no_secret_stays() {
    let redactor = &*DEFAULTS;
    for line in [
        "app|--password-file=/run/secrets/db|--port=80",
        "app|--token-ttl|3600",
        "app|--tokenizer=bpe|--keyboard=de",
        "mysql|-P3306|-p",
        "mysql|--password|--host=db",
        "mkdir|-p|/a/b",
        "ssh|-p|2222|me@example.org",
        "psql|postgres://me@db:5432/x",
        "curl|http://example.org:8080/x@y",
        "npm|install|https://registry.example.org:443/@scope/x",
        "git|clone|git@github.com:x/y.git",
        "docker|run|-p|80:80|nginx",
        "python3|-m|http.server",
        "nginx: master process /usr/sbin/nginx -g daemon off;",
        "java|-Xmx2g|-cp|/a:/b|Main",
        "rsync|-av|--passive|/a|host:/b",
        "",
    ] {
        assert_eq!(redact(redactor, line), line);
    }
}

#[test]
fn every_password_of_a_line_is_counted() {
    let redactor = &*DEFAULTS;
    let line = "a\0--password=one\0--token\0two\0mysql\0-pthree\0-pfour\0https://u:five@h/";
    let (redacted, count) = redactor.redact(line);
    assert_eq!(count, 5, "{redacted}");
    for secret in ["one", "two", "three", "four", "five"] {
        assert!(!redacted.contains(secret), "{redacted}");
    }
    // What is clean already stays, and counts nothing.
    assert_eq!(redactor.redact(&redacted), (redacted.clone(), 0));
}

#[test]
fn rules_of_the_user() {
    let redactor =
        |pattern: &str| Redactor::new(&RedactionOptions { defaults: false, patterns: vec![pattern.to_owned()] });
    for (pattern, redacted) in [
        // The first group is replaced, and arguments have blanks between them.
        (r"--pin[= ](\d+)", "x|--pin|[redacted]|--password=y é"),
        (r"--(?:pin|code) (?P<secret>\S+)", "x|--pin|[redacted]|--password=y é"),
        // Without a group, all of it.
        (r"--pin \d+", "x|[redacted]|--password=y é"),
        (r"\pL$", "x|--pin|1234|--password=y [redacted]"),
        ("nothing of it", "x|--pin|1234|--password=y é"),
        // A group that takes no part.
        ("(never)?--pin", "x|--pin|1234|--password=y é"),
    ] {
        assert_eq!(redact(&redactor(pattern).unwrap(), "x|--pin|1234|--password=y é"), redacted, "{pattern}");
    }
    assert!(redactor("(").unwrap_err().to_string().contains("cannot be used"));
    assert!(redactor(r"\w{1000}{1000}").unwrap_err().to_string().contains("cannot be used"));
    let many = RedactionOptions { defaults: true, patterns: vec!["x".to_owned(); RULES_MAX + 1] };
    assert!(Redactor::new(&many).unwrap_err().to_string().contains("257"));
}

#[test]
fn every_default_rule_compiles_and_says_what_it_finds() {
    for rule in DEFAULT_RULES {
        let compiled = Rule::of_ours(&rule.pattern());
        assert!(compiled.is_ok_and(|rule| rule.group > 0), "{rule:?}: {}", rule.pattern());
    }
    let page = include_str!("../../../../../docs/identity.md");
    for rule in DEFAULT_RULES {
        assert!(page.contains(rule.finds), "docs/identity.md does not list: {}", rule.finds);
    }
}

proptest! {
    #[test]
    fn a_secret_is_gone_whatever_stands_around_it(
        before in "[ -~\u{0}]{0,60}",
        option in prop_oneof![Just("--password="), Just("--api-token="), Just("DB_PASSWORD=")],
        secret in "[A-Za-z0-9!$%^*+~]{12,40}",
        after in "[ -~\u{0}]{0,60}",
    ) {
        let line = format!("{before}\0{option}{secret}\0{after}");
        prop_assert!(!DEFAULTS.redact(&line).0.contains(&secret), "{line:?}");
    }

    #[test]
    fn any_text_at_all(text in any::<String>()) {
        let _ = DEFAULTS.redact(&text);
    }
}

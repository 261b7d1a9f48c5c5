//! The certificate and the tokens, which can be read again while the server runs: revoking a token and renewing a certificate
//! must not take a restart, which would leave a gap in what is measured.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::ServerConfig;

use super::{
    audit::{AuditEntry, Outcome},
    options::TlsFiles,
    server::WebError,
    time,
    tls::Certificate,
    tokens::Tokens,
};

/// Who a change is made by that no client asked for. No token can have this name.
const BY_SIGNAL: &str = "(signal)";

/// What they are called.
const TOKENS: &str = "tokens";
const CERTIFICATE: &str = "certificate";

/// What was read from files, beside what it was read from.
struct Held<F, T> {
    files: F,
    current: RwLock<Arc<T>>,
}

impl<F, T> Held<F, T> {
    fn new(files: F, value: T) -> Self {
        Self { files, current: RwLock::new(Arc::new(value)) }
    }

    fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, value: T) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

/// What the server proves itself with, and what its clients do. Without files there is neither.
#[derive(Default)]
pub(super) struct Credentials {
    certificate: Option<Held<TlsFiles, Certificate>>,
    tokens: Option<Held<PathBuf, Tokens>>,
}

impl Credentials {
    /// Reads them for the first time.
    pub(super) fn read(tls: Option<TlsFiles>, token_file: Option<PathBuf>) -> Result<Self, WebError> {
        let certificate = match tls {
            Some(files) => Some(Certificate::read(&files).map(|certificate| Held::new(files, certificate))?),
            None => None,
        };
        let tokens = match token_file {
            Some(file) => Some(Tokens::read(&file).map(|tokens| Held::new(file, tokens))?),
            None => None,
        };
        Ok(Self { certificate, tokens })
    }

    /// How a connection that comes now is encrypted.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.certificate.as_ref().map(|held| Arc::clone(&held.current().config))
    }

    /// By what a request that comes now is judged.
    pub(super) fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.as_ref().map(Held::current)
    }

    /// Reads them again. Each goes by itself: a token is revoked even where the certificate cannot be used.
    pub(super) fn reread(&self) -> Reread {
        let mut outcome = Reread::default();
        if let Some(held) = &self.tokens {
            match Tokens::read(&held.files) {
                Ok(new) => {
                    if let Some((from, to)) = held.current().change(&new) {
                        held.set(new);
                        outcome.changes.push(CredentialChange { what: TOKENS, action: "change-tokens", from, to });
                    }
                }
                Err(error) => outcome.refused.push((TOKENS, error.into())),
            }
        }
        if let Some(held) = &self.certificate {
            match Certificate::read(&held.files) {
                Ok(new) => {
                    if let Some((from, to)) = held.current().change(&new) {
                        held.set(new);
                        let (what, action) = (CERTIFICATE, "change-certificate");
                        outcome.changes.push(CredentialChange { what, action, from, to });
                    }
                }
                Err(error) => outcome.refused.push((CERTIFICATE, error.into())),
            }
        }
        outcome
    }
}

/// What became of reading the certificate and the tokens again.
#[derive(Debug, Default)]
pub struct Reread {
    /// What differs from what held before.
    pub changes: Vec<CredentialChange>,
    /// Of what the files cannot be used (`tokens` or `certificate`), and why; what was read before still holds.
    pub refused: Vec<(&'static str, WebError)>,
}

/// Tokens or a certificate that took the place of others. Says nothing that is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialChange {
    /// Of what: `tokens` or `certificate`.
    pub what: &'static str,
    /// As the audit log calls it.
    action: &'static str,
    /// Those that hold no more.
    pub from: String,
    /// Those that hold now.
    pub to: String,
}

impl CredentialChange {
    pub(super) fn audit_entry(&self) -> AuditEntry {
        AuditEntry {
            time: time::rfc3339(time::now_unix_ns()),
            actor: BY_SIGNAL.to_owned(),
            role: None,
            peer: None,
            action: self.action,
            from: self.from.clone(),
            to: self.to.clone(),
            outcome: Outcome::Done,
            reason: None,
        }
    }
}

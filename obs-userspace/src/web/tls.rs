//! Certificates and keys.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::digest::{SHA256, digest};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::options::TlsFiles;

/// Most bytes of a file of certificates or of a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("cannot use {}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Certificate and key do not fit, or are not supported.
    #[error("cannot use the certificate in {} with the key in {}: {source}", cert.display(), key.display())]
    Pair {
        /// The certificates.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate that connections are encrypted with.
pub(super) struct Certificate {
    /// TLS 1.2 and 1.3, HTTP/1.1 only.
    pub(super) config: Arc<ServerConfig>,
    /// The server's own first; never empty.
    chain: Vec<CertificateDer<'static>>,
}

impl Certificate {
    /// Reads certificate and key.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = read_chain(&files.cert)?;
        let config = server_config(files, chain.clone())?;
        Ok(Self { config, chain })
    }

    /// What a new one takes the place of, and what it is; `None` if it is the same. Certificates tell all: a key that differs does
    /// not fit the same certificate.
    pub(super) fn change(&self, new: &Self) -> Option<(String, String)> {
        if self.chain == new.chain {
            return None;
        }
        let (from, mut to) = (self.fingerprint(), new.fingerprint());
        if from == to {
            to += " (with other intermediate certificates)";
        }
        Some((from, to))
    }

    /// As `openssl x509 -fingerprint -sha256` has it, but for the colons.
    fn fingerprint(&self) -> String {
        let own = self.chain.first().map_or(&[][..], |certificate| certificate.as_ref());
        let mut text = "sha256:".to_owned();
        for byte in digest(&SHA256, own).as_ref() {
            text += &format!("{byte:02X}");
        }
        text
    }
}

fn read_chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |what: String| TlsError::Content { path: cert.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert, false)?)
        .collect::<Result<_, _>>()
        .map_err(|error| content(format!("it is no PEM file of certificates: {error}")))?;
    if chain.is_empty() {
        return Err(content("there is no certificate in it; it must be a PEM file".to_owned()));
    }
    Ok(chain)
}

fn server_config(files: &TlsFiles, chain: Vec<CertificateDer<'static>>) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsFiles { cert, key } = files;
    let content = |what: String| TlsError::Content { path: key.clone(), what };
    let private = PrivateKeyDer::from_pem_slice(&read(key, true)?)
        .map_err(|error| content(format!("it is no PEM file of a private key: {error}")))?;
    let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, TlsError> {
    let io = |source| TlsError::Io { path: path.to_owned(), source };
    let content = |what: &str| Err(TlsError::Content { path: path.to_owned(), what: what.to_owned() });
    // Looked at before it is opened, for opening a pipe would wait.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return content("it is not a regular file");
    }
    let file = File::open(path).map_err(io)?;
    if is_secret && file.metadata().map_err(io)?.mode() & 0o007 != 0 {
        return content("everybody can reach this private key; take that away (chmod 600)");
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { content("it is longer than 1 MiB") } else { Ok(bytes) }
}

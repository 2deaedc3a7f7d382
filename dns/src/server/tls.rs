//! The certificate of the encrypted transports.
//!
//! It is read and checked before any socket is bound, and stays the same until the server is
//! started again; a new one is taken by a reload. Keys are never shown or logged.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig, crypto};

/// A chain of certificates with the key of its first.
#[derive(Clone)]
pub struct Certificate {
    config: ServerConfig,
}

/// Why files are no certificate. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the chain of certificates is not PEM: {0}")]
    Chain(pem::Error),
    #[error("there is no certificate in the chain")]
    Empty,
    #[error("the private key is not PEM: {0}")]
    Key(pem::Error),
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// As over TCP (RFC 7858).
    Dns,
    /// RFC 8484.
    Http,
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key, both as PEM.
    ///
    /// # Errors
    /// One of them is not what it should be, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(CertificateError::Chain)?;
        if chain.is_empty() {
            return Err(CertificateError::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self { config })
    }

    pub(super) fn acceptor(&self, inside: Inside) -> TlsAcceptor {
        let mut config = self.config.clone();
        let protocol: &[u8] = match inside {
            Inside::Dns => b"dot",
            Inside::Http => b"h2",
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

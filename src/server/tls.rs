//! TLS on a listener: certificate and key from PEM files, replaceable while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::settings::TlsSettings;

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {error}: check the path and that this user may read it", .path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{}: no {what} in PEM form in it: {error}", .path.display())]
    NotPem {
        path: PathBuf,
        what: &'static str,
        error: String,
    },
    #[error("{} and {} do not work together: {error}", .cert.display(), .key.display())]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        error: rustls::Error,
    },
}

/// The TLS side of one listener.
pub(crate) struct Tls {
    settings: TlsSettings,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub(crate) fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let config = RwLock::new(load(settings)?);
        Ok(Self {
            settings: settings.clone(),
            config,
        })
    }

    /// Reads the files again, for connections to come. What cannot be read changes nothing.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = load(&self.settings)?;
        *self.config.write() = config;
        Ok(())
    }

    /// The handshake with a client.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.config.read().clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsSettings { cert, key } = settings;
    let certificate = |error| broken(cert, "certificate", error);
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(certificate)?;
    if chain.is_empty() {
        return Err(certificate(pem::Error::NoItemsFound));
    }
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| broken(key, "private key", error))?;
    let unusable = |error| TlsError::Unusable {
        cert: cert.clone(),
        key: key.clone(),
        error,
    };
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn broken(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(error) => TlsError::Unreadable { path, error },
        other => TlsError::NotPem {
            path,
            what,
            error: other.to_string(),
        },
    }
}

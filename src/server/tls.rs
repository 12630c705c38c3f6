//! TLS on a listener: certificate and key from PEM files, replaceable while it runs; whom clients' certificates name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::settings::{ClientCertificates, TlsSettings};

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {error}: check the path and that this user may read it", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
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
    #[error("{}: clients' certificates cannot be checked with it: {error}", .path.display())]
    ClientCa { path: PathBuf, error: String },
}

/// A client's certificate, signed by one of the listener's `client_ca` and valid when the connection began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The first `CN` of the subject.
    pub common_name: Option<String>,
    /// The subject's alternative names, as far as they are of a kind we know.
    pub names: Vec<AlternativeName>,
    /// SHA-256 of the whole certificate (DER), in lower-case hex.
    pub fingerprint: String,
}

/// One more name of a certificate's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlternativeName {
    Dns(String),
    Email(String),
    Uri(String),
    Ip(IpAddr),
}

impl ClientCertificate {
    /// What `der` says of its subject; `None`: nobody can read it.
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common_name = certificate.subject().iter_common_name().next();
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        Some(Self {
            common_name: common_name.and_then(|name| Some(name.as_str().ok()?.to_owned())),
            names: names.iter().filter_map(alternative_name).collect(),
            fingerprint: format!("{:x}", Sha256::digest(der)),
        })
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<AlternativeName> {
    match *name {
        GeneralName::DNSName(name) => Some(AlternativeName::Dns(name.to_owned())),
        GeneralName::RFC822Name(name) => Some(AlternativeName::Email(name.to_owned())),
        GeneralName::URI(name) => Some(AlternativeName::Uri(name.to_owned())),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
            address.ok().map(AlternativeName::Ip)
        }
        _ => None,
    }
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

    /// The handshake with a client, and the certificate it showed.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        let config = self.config.read().clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let certificate = match shown.and_then(<[_]>::first) {
            None => None,
            Some(leaf) => Some(ClientCertificate::read(leaf).ok_or_else(|| {
                let text = "the client's certificate names its subject in a way we cannot read";
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?),
        };
        Ok((stream, certificate.map(Arc::new)))
    }
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsSettings { cert, key, client } = settings;
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
    let builder = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => builder.with_client_cert_verifier(verifier(client)?),
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks the certificates of clients.
fn verifier(client: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let ClientCertificates { ca, optional } = client;
    let broken = |error| broken(ca, "CA certificate", error);
    let unusable = |error: &dyn fmt::Display| TlsError::ClientCa {
        path: ca.clone(),
        error: error.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).map_err(broken)? {
        roots
            .add(root.map_err(broken)?)
            .map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(broken(pem::Error::NoItemsFound));
    }
    let provider = ring::default_provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.into());
    let verifier = match optional {
        true => verifier.allow_unauthenticated(),
        false => verifier,
    };
    verifier.build().map_err(|error| unusable(&error))
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

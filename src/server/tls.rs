//! TLS on a listener: certificate and key from PEM files, replaceable while it runs; whom clients' certificates name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::info;
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
    /// Its `notAfter`; `None`: beyond what the clock can count.
    pub expires: Option<SystemTime>,
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
            expires: u64::try_from(certificate.validity().not_after.timestamp())
                .ok()
                .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))),
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
    current: Mutex<Loaded>,
}

/// What the files say, and what they held then.
struct Loaded {
    config: Arc<ServerConfig>,
    digest: [u8; 32],
}

impl Tls {
    pub(crate) fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let current = Mutex::new(Files::read(settings)?.load(settings)?);
        Ok(Self {
            settings: settings.clone(),
            current,
        })
    }

    /// Reads the files again, for connections to come. What cannot be read changes nothing.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let files = Files::read(&self.settings)?;
        if files.digest() == self.current.lock().digest {
            return Ok(());
        }
        let loaded = files.load(&self.settings)?;
        *self.current.lock() = loaded;
        info!(cert = %self.settings.cert.display(), "certificates of TLS reloaded: new connections get them");
        Ok(())
    }

    /// The handshake with a client, and the certificate it showed.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        let config = self.current.lock().config.clone();
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

/// Whether a listener could begin with these files.
pub fn check_tls(settings: &TlsSettings) -> Result<(), TlsError> {
    Files::read(settings)?.load(settings).map(|_| ())
}

/// The contents of all files, read before any is looked into.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    /// Of clients: whoever signed them, and the lists of revoked ones.
    client: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| TlsError::Unreadable {
                path: path.to_owned(),
                error,
            })
        };
        let client = settings.client.as_ref().map(|client| {
            let revoked = client.revoked.as_deref().map(read).transpose()?;
            Ok((read(&client.ca)?, revoked))
        });
        Ok(Self {
            cert: read(&settings.cert)?,
            key: read(&settings.key)?,
            client: client.transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let client = self.client.iter();
        let client = client.flat_map(|(ca, revoked)| [Some(ca), revoked.as_ref()]);
        for file in [&self.cert, &self.key].into_iter().chain(client.flatten()) {
            digest.update(Sha256::digest(file));
        }
        digest.finalize().into()
    }

    fn load(&self, settings: &TlsSettings) -> Result<Loaded, TlsError> {
        let TlsSettings { cert, key, client } = settings;
        let chain = certificates(cert, &self.cert, "certificate")?;
        let secret = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| broken(key, "private key", &error))?;
        let unusable = |error| TlsError::Unusable {
            cert: cert.clone(),
            key: key.clone(),
            error,
        };
        let builder = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match (client, &self.client) {
            (Some(client), Some((ca, revoked))) => {
                builder.with_client_cert_verifier(verifier(client, ca, revoked.as_deref())?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Loaded {
            config: Arc::new(config),
            digest: self.digest(),
        })
    }
}

/// The certificates of a PEM file, of which there must be one.
fn certificates(
    path: &Path,
    pem: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(broken(path, what, &pem::Error::NoItemsFound)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(broken(path, what, &error)),
    }
}

/// Checks the certificates of clients.
fn verifier(
    client: &ClientCertificates,
    ca: &[u8],
    revoked: Option<&[u8]>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |path: &Path, error: &dyn fmt::Display| TlsError::ClientCa {
        path: path.to_owned(),
        error: error.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&client.ca, ca, "CA certificate")? {
        roots
            .add(root)
            .map_err(|error| unusable(&client.ca, &error))?;
    }
    let provider = ring::default_provider();
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.into());
    if let (Some(path), Some(revoked)) = (&client.revoked, revoked) {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(revoked).collect();
        let lists = lists.map_err(|error| broken(path, "revocation list", &error))?;
        if lists.is_empty() {
            return Err(broken(path, "revocation list", &pem::Error::NoItemsFound));
        }
        verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
    }
    if client.optional {
        verifier = verifier.allow_unauthenticated();
    }
    let path = client.revoked.as_ref().unwrap_or(&client.ca);
    verifier.build().map_err(|error| unusable(path, &error))
}

fn broken(path: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    TlsError::NotPem {
        path: path.to_owned(),
        what,
        error: error.to_string(),
    }
}

//! Certificates that are renewed while the router runs, with nobody there to send it a signal.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

use crate::support::program::{Program, app, perilune};
use crate::support::{soon, tcp};

/// Signs certificates of the router, and of one client.
struct Authority {
    pem: String,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Self {
            pem: made.pem(),
            root: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for `localhost`, with its key.
    fn sign(&self, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn revocation_list(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A new certificate of the router's, in files of their own that `live` names, as certbot does it.
    fn renew(&self, folder: &Path, number: u64) {
        let (cert, key) = self.sign(number);
        let write = |name: &str, text: String| {
            let file = format!("{number}.{name}");
            std::fs::write(folder.join(&file), text).unwrap();
            let beside = folder.join(format!("{name}.new"));
            std::os::unix::fs::symlink(&file, &beside).unwrap();
            std::fs::rename(beside, folder.join(format!("live.{name}"))).unwrap();
        };
        write("crt", cert.pem());
        write("key", key.serialize_pem());
    }

    /// Shakes hands, with a client's certificate or without one, and hears that the router goes on.
    async fn connect(
        &self,
        address: SocketAddr,
        shown: Option<&(rcgen::Certificate, KeyPair)>,
    ) -> std::io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let builder = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let chain = vec![cert.der().clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), tcp(address).await);
        let mut stream = soon(stream).await?;
        // In TLS 1.3 a client hears only behind its own handshake that it is not wanted.
        stream.write_all(b"\x7f\xf1\0\0").await?;
        soon(stream.read_exact(&mut [0; 4])).await.map(drop)
    }
}

/// An application with a TLS listener, and a router that watches it.
async fn serve(tls: &str, prepare: impl Fn(&Path)) -> (TempDir, Program, SocketAddr) {
    let config = format!(
        "return {{ listen = {{ addr = '127.0.0.1:0', tls = {{ cert = 'live.crt', key = 'live.key'{tls} }} }},\n\
         realms = {{ realm1 = {{}} }} }}\n"
    );
    let app = app(&[("perilune.lua", &config)]);
    prepare(app.path());
    let mut command = perilune();
    command.arg("serve").arg(app.path());
    let program = Program::start(command);
    let line = program.out.with(&["listening on wss://"]).await;
    let rest = line.trim_start_matches("listening on wss://");
    let address = rest.split('/').next().unwrap().parse().unwrap();
    (app, program, address)
}

const RELOADED: &str = "certificates of TLS reloaded";

#[tokio::test]
async fn d02_a_renewed_certificate_is_served_without_a_signal() {
    let (old, new) = (Authority::new(), Authority::new());
    let (app, program, address) = serve("", |folder| old.renew(folder, 1)).await;
    old.connect(address, None).await.unwrap();

    new.renew(app.path(), 2);
    program.log.with(&[RELOADED]).await;
    new.connect(address, None).await.unwrap();
    assert!(old.connect(address, None).await.is_err());
}

#[tokio::test]
async fn d02_a_broken_renewal_is_told_and_the_old_pair_stays() {
    let (old, new) = (Authority::new(), Authority::new());
    let (app, program, address) = serve("", |folder| old.renew(folder, 1)).await;
    let key = app.path().join("live.key");
    for broken in [
        "nonsense".to_owned(),
        KeyPair::generate().unwrap().serialize_pem(),
    ] {
        let seen = program.log.count();
        std::fs::write(&key, broken).unwrap();
        let told = ["certificate not reloaded, the old one holds", "live.key"];
        program.log.with_after(seen, &told).await;
        old.connect(address, None).await.unwrap();
    }
    new.renew(app.path(), 2);
    program.log.with(&[RELOADED]).await;
    new.connect(address, None).await.unwrap();
}

#[tokio::test]
async fn d02_new_authorities_and_revocation_lists_of_clients_hold_without_a_signal() {
    let (router, clients) = (Authority::new(), Authority::new());
    let revoke = |folder: &Path, serials: &[u64]| {
        std::fs::write(folder.join("crl.pem"), clients.revocation_list(serials)).unwrap();
    };
    let keys = ", client_ca = 'ca.pem', client_crl = 'crl.pem'";
    let (app, program, address) = serve(keys, |folder| {
        router.renew(folder, 1);
        std::fs::write(folder.join("ca.pem"), &clients.pem).unwrap();
        revoke(folder, &[7]);
    })
    .await;
    let (seven, eight) = (clients.sign(7), clients.sign(8));
    assert!(router.connect(address, Some(&seven)).await.is_err());
    router.connect(address, Some(&eight)).await.unwrap();

    revoke(app.path(), &[8]);
    program.log.with(&[RELOADED]).await;
    router.connect(address, Some(&seven)).await.unwrap();
    assert!(router.connect(address, Some(&eight)).await.is_err());

    let seen = program.log.count();
    let others = Authority::new();
    std::fs::write(app.path().join("ca.pem"), &others.pem).unwrap();
    std::fs::write(app.path().join("crl.pem"), others.revocation_list(&[])).unwrap();
    program.log.with_after(seen, &[RELOADED]).await;
    assert!(router.connect(address, Some(&seven)).await.is_err());
    router
        .connect(address, Some(&others.sign(7)))
        .await
        .unwrap();
}

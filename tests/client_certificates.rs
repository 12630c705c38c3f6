//! Clients that show a certificate: who is let in, what logins learn of it, and new files without dropping anybody.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use perilune::wire::{Message, Serializer};
use perilune::words::{Dict, Value};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use support::program::Program;
use support::{BoxedIo, Client, Kind, soon, tcp};
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

const APP: &str = r#"return {
  listen = { addr = "127.0.0.1:0", tls = { cert = "cert.pem", key = "key.pem", client_ca = "ca.pem", CERT } },
  realms = { realm1 = { scripts = { "door.lua" }, roles = { guest = { { uri = "", match = "prefix", allow = { "call" } } } } } },
}"#;

const DOOR: &str = r#"
local p = require "perilune"
p.authenticate("anonymous", function(login)
  local shown = login.transport.certificate
  local names = {}
  for _, name in ipairs(shown and shown.names or {}) do names[#names + 1] = name.kind .. ":" .. name.name end
  return { role = "guest", authid = shown and shown.common_name or "nobody",
    extra = { fingerprint = shown and shown.fingerprint, names = table.concat(names, " ") } }
end)
p.register("com.echo", function(call) return call.args[1] end)
"#;

/// Signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pems: (String, String),
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let email = SanType::Rfc822Name("hub@example.com".try_into().unwrap());
        params.subject_alt_names.push(email);
        params
            .subject_alt_names
            .push(SanType::IpAddress([192, 0, 2, 7].into()));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            pems: (cert.pem(), key.serialize_pem()),
            chain: vec![cert.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    fn client(&self, name: &str) -> Identity {
        self.sign(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Writes the files of a router whose clients this signs.
    fn install(&self, folder: &Path) {
        let server = self.sign("router", ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::write(folder.join("cert.pem"), &server.pems.0).unwrap();
        std::fs::write(folder.join("key.pem"), &server.pems.1).unwrap();
        std::fs::write(folder.join("ca.pem"), &self.pem).unwrap();
    }

    /// A connection of somebody who trusts this.
    async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> std::io::Result<BoxedIo> {
        use rustls::pki_types::pem::PemObject;
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(
            rustls::crypto::ring::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(shown) => builder
                .with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())
                .unwrap(),
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), tcp(address).await);
        Ok(Box::new(soon(stream).await?))
    }

    /// Whether the router closes this one. (In TLS 1.3 a client hears of it only after its own handshake.)
    async fn is_closed(&self, address: SocketAddr, identity: Option<&Identity>) -> bool {
        match self.connect(address, identity).await {
            Err(_) => true,
            Ok(mut io) => {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut io, b"\x7f\xf1\0\0").await;
                soon(io.read_exact(&mut [0; 4])).await.is_err()
            }
        }
    }
}

/// Logs in by the method `tls`: `authid authrole authmethod authprovider`, or the reason of ABORT.
async fn by_certificate(
    authority: &Authority,
    address: SocketAddr,
    shown: Option<&Identity>,
) -> String {
    let io = authority.connect(address, shown).await.unwrap();
    let mut client = Client::open(io, Kind::WebSocket, Serializer::Cbor).await;
    let Message::Hello(mut hello) = support::hello(support::REALM) else {
        unreachable!("hello() makes HELLO")
    };
    hello.authmethods = vec!["tls".to_owned()];
    client.send(&Message::Hello(hello)).await;
    match client.message().await {
        Message::Welcome(welcome) => ["authid", "authrole", "authmethod", "authprovider"]
            .map(|key| welcome.details.text(key).unwrap_or_default())
            .join(" "),
        Message::Abort(abort) => abort.reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn auth_13_a_certificate_is_a_login() {
    let config = APP.replace("CERT", "client_cert = \"optional\"").replace(
        "scripts = { \"door.lua\" },",
        "auth = { tls = { users = { door = { cn = \"hub-7\", email = \"HUB@example.com\", role = \"guest\" } } } },",
    );
    let app = support::program::app(&[("perilune.lua", &config)]);
    let authority = Authority::new();
    authority.install(app.path());
    let (_program, address) = serve(app.path()).await;
    let log_in = async |shown| by_certificate(&authority, address, shown).await;
    let hub = authority.client("hub-7");
    assert_eq!(log_in(Some(&hub)).await, "door guest tls static");
    let other = authority.client("hub-8");
    assert_eq!(
        log_in(Some(&other)).await,
        "wamp.error.authentication_denied"
    );
    assert_eq!(log_in(None).await, "wamp.error.no_matching_auth_method");
}

const JUDGES: &str = r#"
local p = require "perilune"
local function judge(shown)
  if shown and shown.common_name == "hub-7" then return { role = "guest", authid = "judged " .. shown.common_name } end
end
p.authenticate("tls", function(login) return judge(login.transport.certificate) end)
p.register("com.auth", function(call)
  return judge(call.args[3].transport.certificate) or p.error("com.error.unknown")
end)
"#;

/// A function and a procedure decide about certificates, too.
#[tokio::test]
async fn auth_13_dyn_01_functions_and_procedures_judge_certificates() {
    let script = "scripts = { \"door.lua\" },";
    let procedure = "auth = { tls = { procedure = \"com.auth\", realm = \"desk\" } },";
    for (provider, auth, refused) in [
        ("lua", script.to_owned(), "wamp.error.authentication_denied"),
        ("dynamic", procedure.to_owned(), "com.error.unknown"),
    ] {
        let config = APP
            .replace("CERT", "client_cert = \"optional\"")
            .replace(script, &auth)
            .replace(
                "realms = {",
                "realms = { desk = { scripts = { \"desk.lua\" } },",
            );
        let files = [
            ("perilune.lua", config.as_str()),
            ("door.lua", JUDGES),
            ("desk.lua", JUDGES),
        ];
        let app = support::program::app(&files);
        let authority = Authority::new();
        authority.install(app.path());
        let (_program, address) = serve(app.path()).await;
        let hub = authority.client("hub-7");
        let outcome = by_certificate(&authority, address, Some(&hub)).await;
        assert_eq!(outcome, format!("judged hub-7 guest tls {provider}"));
        let other = authority.client("hub-8");
        let outcome = by_certificate(&authority, address, Some(&other)).await;
        assert_eq!(outcome, refused);
        let outcome = by_certificate(&authority, address, None).await;
        assert_eq!(outcome, "wamp.error.no_matching_auth_method");
    }
}

fn app(certificates: &str) -> tempfile::TempDir {
    let config = APP.replace("CERT", certificates);
    support::program::app(&[("perilune.lua", &config), ("door.lua", DOOR)])
}

/// A router of this application, and where it is.
async fn serve(app: &Path) -> (Program, SocketAddr) {
    let mut command = support::program::perilune();
    command.arg("serve").arg(app).arg("--no-watch");
    let program = Program::start(command);
    let line = program.out.with(&["listening on wss://"]).await;
    let rest = line.trim_start_matches("listening on wss://");
    let address = rest.split('/').next().unwrap_or_default();
    (program, address.parse().expect("an address"))
}

fn found<'d>(dict: &'d Dict, key: &str) -> Option<&'d Value> {
    let mut entries = dict.0.iter();
    entries.find(|entry| entry.0 == key).map(|entry| &entry.1)
}

/// Logs in anonymously: the authid, and what the script said of the certificate.
async fn log_in(io: BoxedIo) -> (Client, String, Vec<Option<String>>) {
    let mut client = Client::open(io, Kind::WebSocket, Serializer::Json).await;
    client.send(&support::hello("realm1")).await;
    match client.message().await {
        Message::Welcome(welcome) => {
            let text = |dict: &Dict, key: &str| match found(dict, key) {
                Some(Value::Str(text)) => Some(text.clone()),
                _ => None,
            };
            let Some(Value::Map(extra)) = found(&welcome.details, "authextra") else {
                panic!("authextra")
            };
            let extra = ["fingerprint", "names"].map(|key| text(extra, key));
            let authid = text(&welcome.details, "authid").unwrap_or_default();
            (client, authid, extra.to_vec())
        }
        other => panic!("expected WELCOME, got {other:?}"),
    }
}

#[tokio::test]
async fn the_verified_certificate_reaches_the_login() {
    use sha2::Digest;
    let (app, authority) = (app(""), Authority::new());
    authority.install(app.path());
    let (_program, address) = serve(app.path()).await;
    let hub = authority.client("hub-7");
    let io = authority.connect(address, Some(&hub)).await.unwrap();
    let (_client, authid, extra) = log_in(io).await;
    assert_eq!(authid, "hub-7");
    let fingerprint = format!("{:x}", sha2::Sha256::digest(&hub.chain[0]));
    let names = "dns:localhost email:hub@example.com ip:192.0.2.7";
    assert_eq!(extra, [Some(fingerprint), Some(names.to_owned())]);

    // Required unless the configuration says otherwise; from this authority, and for clients.
    assert!(authority.is_closed(address, None).await);
    let stranger = Authority::new().client("hub-7");
    assert!(authority.is_closed(address, Some(&stranger)).await);
    let server = authority.sign("hub-7", ExtendedKeyUsagePurpose::ServerAuth);
    assert!(authority.is_closed(address, Some(&server)).await);
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let (app, authority) = (app("client_cert = 'optional'"), Authority::new());
    authority.install(app.path());
    let (_program, address) = serve(app.path()).await;
    let io = authority.connect(address, None).await.unwrap();
    let (_client, authid, extra) = log_in(io).await;
    assert_eq!((authid.as_str(), &extra[0]), ("nobody", &None));
    let stranger = Authority::new().client("hub-7");
    assert!(authority.is_closed(address, Some(&stranger)).await);
}

#[tokio::test]
async fn new_certificates_of_all_kinds_keep_open_connections() {
    let (app, old, new) = (app(""), Authority::new(), Authority::new());
    old.install(app.path());
    let (program, address) = serve(app.path()).await;
    let io = old
        .connect(address, Some(&old.client("early")))
        .await
        .unwrap();
    let (mut early, ..) = log_in(io).await;

    new.install(app.path());
    program.signal("-HUP");
    // The hand-over has no moment that a client could see but this one.
    soon(async {
        while new
            .connect(address, Some(&new.client("late")))
            .await
            .is_err()
        {}
    })
    .await;
    let io = new
        .connect(address, Some(&new.client("late")))
        .await
        .unwrap();
    assert_eq!(log_in(io).await.1, "late");
    assert!(new.is_closed(address, Some(&old.client("early"))).await);
    assert_eq!(
        early.ask("com.echo", &[Value::Int(7)]).await,
        [Value::Int(7)]
    );

    // Broken files change nothing.
    std::fs::write(app.path().join("ca.pem"), "nonsense").unwrap();
    program.signal("-HUP");
    program.log.with(&["ca.pem"]).await;
    let io = new
        .connect(address, Some(&new.client("later")))
        .await
        .unwrap();
    assert_eq!(log_in(io).await.1, "later");
    assert_eq!(
        early.ask("com.echo", &[Value::Int(8)]).await,
        [Value::Int(8)]
    );
}

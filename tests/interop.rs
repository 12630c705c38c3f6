//! Clients that nobody here wrote, against the built binary.
//!
//! Each test starts `perilune serve tests/interop/app` on a port of its own and runs one client program of
//! `tests/interop/clients` with one transport and serializer; the program holds the steps and the assertions.
//! Over TLS the router has a certificate of a CA that the clients are told to trust by the environment.
//!
//! What is not here because no client can: wampy.js knows WebSocket only; autobahn-js has RawSocket and long-poll with
//! JSON only, and RawSocket without TLS; only autobahn-python batches and knows SCRAM. Its `json.batched`
//! ends messages with 0x18 (an octal 30) where the protocol says 0x1E, and its UBJSON and FlatBuffers are not Perilune's.
//! Without the clients the tests fail and say how to install them: a skipped test would look like a passed one.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// For a whole client program; it takes a few seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const INSTALL: &str = "the clients of tests/interop are not installed (or not these versions): run tests/interop/install.sh \
                       (needs python3 with venv and node with npm)";

#[derive(Clone, Copy)]
enum Client {
    AutobahnPython,
    AutobahnTwisted,
    AutobahnJs,
    Wampy,
}

macro_rules! clients {
    ($($name:ident: $client:ident over $scheme:literal with $serializer:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            converse(Client::$client, $scheme, $serializer).await;
        }
    )*};
}

clients! {
    autobahn_python_websocket_json: AutobahnPython over "ws" with "json";
    autobahn_python_websocket_msgpack: AutobahnPython over "ws" with "msgpack";
    autobahn_python_websocket_cbor: AutobahnPython over "ws" with "cbor";
    autobahn_python_websocket_msgpack_batched: AutobahnPython over "ws" with "msgpack.batched";
    autobahn_python_websocket_cbor_batched: AutobahnPython over "ws" with "cbor.batched";
    autobahn_python_rawsocket_json: AutobahnPython over "rs" with "json";
    autobahn_python_rawsocket_msgpack: AutobahnPython over "rs" with "msgpack";
    autobahn_python_rawsocket_cbor: AutobahnPython over "rs" with "cbor";
    autobahn_python_tls_websocket_cbor: AutobahnPython over "wss" with "cbor";
    autobahn_python_tls_rawsocket_msgpack: AutobahnPython over "rss" with "msgpack";
    autobahn_twisted_rawsocket_msgpack: AutobahnTwisted over "rs" with "msgpack";
    autobahn_twisted_websocket_json: AutobahnTwisted over "ws" with "json";
    autobahn_js_websocket_json: AutobahnJs over "ws" with "json";
    autobahn_js_websocket_msgpack: AutobahnJs over "ws" with "msgpack";
    autobahn_js_websocket_cbor: AutobahnJs over "ws" with "cbor";
    autobahn_js_rawsocket_json: AutobahnJs over "rs" with "json";
    autobahn_js_longpoll_json: AutobahnJs over "http" with "json";
    autobahn_js_tls_websocket_msgpack: AutobahnJs over "wss" with "msgpack";
    autobahn_js_tls_longpoll_json: AutobahnJs over "https" with "json";
    wampy_websocket_json: Wampy over "ws" with "json";
    wampy_websocket_msgpack: Wampy over "ws" with "msgpack";
    wampy_websocket_cbor: Wampy over "ws" with "cbor";
    wampy_tls_websocket_json: Wampy over "wss" with "json";
}

/// Where `install.sh` puts the clients: `interop` in cargo's target directory.
fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop")
}

/// `install.sh` leaves a copy of each list of versions when it is done, and a link to the programs of this checkout.
fn assert_installed() {
    for (list, copy) in [
        (include_str!("interop/requirements.txt"), "requirements.txt"),
        (include_str!("interop/package.json"), "installed.json"),
    ] {
        let installed = std::fs::read_to_string(home().join(copy)).unwrap_or_default();
        assert!(installed == list, "{INSTALL}");
    }
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/clients");
    let linked = home().join("clients").canonicalize().ok();
    assert!(linked == ours.canonicalize().ok(), "{INSTALL}");
}

fn program(client: Client) -> Command {
    let clients = home().join("clients");
    let (mut command, file) = match client {
        Client::AutobahnPython => (
            Command::new(home().join("venv/bin/python")),
            "autobahn_python.py",
        ),
        Client::AutobahnTwisted => (
            Command::new(home().join("venv/bin/python")),
            "autobahn_twisted.py",
        ),
        Client::AutobahnJs => (Command::new("node"), "autobahn_js.mjs"),
        Client::Wampy => (Command::new("node"), "wampy_js.mjs"),
    };
    let python = matches!(client, Client::AutobahnPython | Client::AutobahnTwisted);
    if !python {
        // The programs are seen through a link that lies beside node_modules; resolving it would lose them.
        command.args(["--preserve-symlinks", "--preserve-symlinks-main"]);
    }
    if python {
        command.arg("-B"); // no __pycache__ among the sources
    }
    command.arg(clients.join(file));
    command
}

async fn converse(client: Client, scheme: &str, serializer: &str) {
    assert_installed();
    let certified = matches!(scheme, "wss" | "rss" | "https").then(certificate);
    let router = Router::start(certified.as_ref().map(|folder| folder.path())).await;
    let path = match scheme {
        "ws" | "wss" => "/ws",
        "http" | "https" => "/lp",
        _ => "",
    };
    let url = format!("{scheme}://{}{path}", router.address);
    let mut command = program(client);
    if let Some(folder) = &certified {
        let ca = folder.path().join("ca.pem");
        command
            .env("SSL_CERT_FILE", &ca)
            .env("NODE_EXTRA_CA_CERTS", &ca);
    }
    command
        .args([&url, serializer])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{error}; {INSTALL}"));
    let output = Log::default();
    output.follow(child.stdout.take().expect("stdout is piped"));
    output.follow(child.stderr.take().expect("stderr is piped"));
    let ended = match timeout(PATIENCE, child.wait()).await {
        Ok(status) => status.expect("the client can be waited for").to_string(),
        Err(_) => format!("not over after {PATIENCE:?}"),
    };
    let (said, logged) = (output.settled().await, router.log.text());
    assert!(
        ended == "exit status: 0" && said.contains(" 0 failed"),
        "{url} {serializer}: {ended}\n--- client\n{said}\n--- router\n{logged}"
    );
}

/// A folder with `ca.pem`, and with `cert.pem` and `key.pem` for 127.0.0.1, signed by that CA.
fn certificate() -> TempDir {
    let mut ca = CertificateParams::new([]).expect("no names");
    ca.distinguished_name.push(DnType::CommonName, "interop CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().expect("a key");
    let ca_cert = ca.self_signed(&ca_key).expect("a CA");
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let cert = leaf.signed_by(&key, &issuer).expect("a certificate");
    let folder = TempDir::new().expect("a temporary folder");
    for (file, text) in [
        ("ca.pem", ca_cert.pem()),
        ("cert.pem", cert.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(folder.path().join(file), text).expect("the folder is writable");
    }
    folder
}

/// The built binary, serving `tests/interop/app`; killed when dropped.
struct Router {
    _child: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    log: Log,
}

impl Router {
    /// With TLS if there is a folder with `cert.pem` and `key.pem`.
    async fn start(certified: Option<&Path>) -> Self {
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/app");
        let mut command = Command::new(env!("CARGO_BIN_EXE_perilune"));
        match certified {
            Some(folder) => command.env("INTEROP_TLS", folder),
            None => command.env_remove("INTEROP_TLS"),
        };
        let mut child = command
            .arg("serve")
            .arg(app)
            .arg("--no-watch")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the built binary starts");
        let log = Log::default();
        log.follow(child.stderr.take().expect("stderr is piped"));
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let announced = line
            .strip_prefix("listening on ws")
            .map(|rest| rest.trim_start_matches("s"))
            .and_then(|rest| rest.strip_prefix("://"))
            .and_then(|rest| rest.split('/').next());
        let Some(address) = announced.map(str::to_owned) else {
            panic!(
                "no `listening on ws://…` but {line:?} ({read:?})\n--- router\n{}",
                log.settled().await
            );
        };
        log.follow(stdout);
        Self {
            _child: child,
            address,
            log,
        }
    }
}

/// What a process prints, gathered while it runs so that its pipe never fills.
#[derive(Clone, Default)]
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    readers: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Log {
    fn follow(&self, mut from: impl AsyncRead + Unpin + Send + 'static) {
        let text = Arc::clone(&self.text);
        let reader = tokio::spawn(async move {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut chunk).await {
                text.lock()
                    .expect("no reader panics")
                    .extend_from_slice(&chunk[..read]);
            }
        });
        self.readers.lock().expect("no reader panics").push(reader);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no reader panics")).into_owned()
    }

    /// All of it: waits for the ends of the pipes, but not for a process that holds them open.
    async fn settled(&self) -> String {
        let readers = std::mem::take(&mut *self.readers.lock().expect("no reader panics"));
        for reader in readers {
            let _ = timeout(Duration::from_secs(1), reader).await;
        }
        self.text()
    }
}

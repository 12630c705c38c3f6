//! Behind a proxy: listeners whose connections begin with a PROXY header.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use perilune::core::credentials::AuthMethod;
use perilune::core::{AuthFailure, AuthorizeRequest, Granted, Login};
use perilune::server::settings::{Address, ListenerSettings, Settings, SocketFile, TlsSettings};
use perilune::server::{Hooks, RealmHandle, Router, SessionChange, TransportInfo};
use perilune::wire::{Message, Serializer};
use support::{BoxedIo, Client, Kind, REALM, settings, soon, start, tcp, unix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

/// Admits everybody who shows a ticket, and remembers where from.
#[derive(Default)]
struct Door(Mutex<Vec<Arc<TransportInfo>>>);

impl Hooks for Door {
    fn authorize(&self, _: &Arc<RealmHandle>, _: AuthorizeRequest) {}

    fn authenticate(
        &self,
        _: Login,
        transport: Arc<TransportInfo>,
    ) -> oneshot::Receiver<Result<Granted, AuthFailure>> {
        self.0.lock().push(transport);
        let (answer, receiver) = oneshot::channel();
        let _ = answer.send(Err(AuthFailure::Refused { reason: None }));
        receiver
    }

    fn session_changed(&self, _: &Arc<RealmHandle>, _: &SessionChange) {}
}

fn proxied() -> Settings {
    let mut settings = settings();
    settings.listeners[0].proxy = true;
    let realm = settings.realms.get_mut(REALM).expect("realm1");
    realm.policy.auth.hooks = [AuthMethod::Anonymous].into();
    realm.policy.auth.anonymous = None;
    settings
}

/// Version 2, of a connection from this address.
fn header(peer: &str) -> Vec<u8> {
    let SocketAddr::V4(peer) = peer.parse().unwrap() else {
        panic!("IPv4")
    };
    let mut octets = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    octets.extend(peer.ip().octets());
    octets.extend([10, 0, 0, 1]);
    octets.extend(peer.port().to_be_bytes());
    octets.extend([0, 80]);
    octets
}

async fn through(mut io: BoxedIo, header: &[u8]) -> BoxedIo {
    io.write_all(header).await.unwrap();
    io
}

/// Where the router thinks that these log-ins come from.
async fn seen(door: &Door, io: BoxedIo, kind: Kind) -> Option<SocketAddr> {
    let mut client = Client::open(io, kind, Serializer::Json).await;
    client.send(&support::hello(REALM)).await;
    client.reason().await;
    door.0.lock().pop().expect("was asked").peer
}

fn watched(router: &Router) -> Arc<Door> {
    let door = Arc::new(Door::default());
    router.install_hooks(door.clone());
    door
}

#[tokio::test]
async fn the_conveyed_address_is_the_peers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let mut settings = proxied();
    let address = Address::Unix {
        path: path.clone(),
        file: SocketFile::default(),
    };
    settings.listeners.push(ListenerSettings {
        proxy: true,
        ..ListenerSettings::at(address)
    });
    let (router, address) = start(&settings).await;
    let door = watched(&router);
    let expected = Some("192.0.2.7:4660".parse().unwrap());
    for header in [
        header("192.0.2.7:4660"),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n".to_vec(),
    ] {
        for kind in [Kind::WebSocket, Kind::RawSocket] {
            let io = through(tcp(address).await, &header).await;
            assert_eq!(seen(&door, io, kind).await, expected);
            let io = through(unix(&path).await, &header).await;
            assert_eq!(seen(&door, io, kind).await, expected);
        }
    }
    // A health check of the proxy's own.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let io = through(tcp(address).await, local).await;
    let own = seen(&door, io, Kind::RawSocket).await.unwrap();
    assert!(own.ip().is_loopback());
}

/// What comes back before the end.
async fn answer(mut io: BoxedIo) -> Vec<u8> {
    let mut answer = Vec::new();
    // The end may be a reset, where octets were left unread.
    let _ = soon(io.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn without_a_header_nobody_is_served() {
    let mut settings = proxied();
    settings.limits.handshake = std::time::Duration::from_millis(200);
    let (_router, address) = start(&settings).await;
    for first in [
        &b"\x7f\xf1\0\0"[..],
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROXY TCP4 nonsense\r\n\x7f\xf1\0\0",
        b"PROXY TCP4 192.0.2.7",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0\x7f\xf1\0\0",
    ] {
        let io = through(tcp(address).await, first).await;
        assert_eq!(answer(io).await, b"", "{first:?}");
    }
}

#[tokio::test]
async fn where_none_is_expected_a_header_is_refused() {
    let (_router, address) = start(&settings()).await;
    let binary = [header("192.0.2.7:1"), b"\x7f\xf1\0\0".to_vec()].concat();
    let io = through(tcp(address).await, &binary).await;
    assert_eq!(answer(io).await, b"");
    let text = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n\r\n";
    let io = through(tcp(address).await, text).await;
    assert!(answer(io).await.starts_with(b"HTTP/1.1 400"));
}

#[tokio::test]
async fn limits_per_address_count_whom_the_proxy_names() {
    let mut settings = settings();
    settings.listeners[0].proxy = true;
    settings.limits.connections_per_address = 2;
    let (_router, address) = start(&settings).await;
    let open = async |peer: &str| through(tcp(address).await, &header(peer)).await;
    let mut kept = Vec::new();
    for port in 1..=2 {
        let io = open(&format!("192.0.2.7:{port}")).await;
        kept.push(Client::join_on(io, Kind::WebSocket, Serializer::Json).await);
    }
    let third = through(open("192.0.2.7:3").await, b"\x7f\xf1\0\0").await;
    assert_eq!(answer(third).await, [0x7F, 0x40, 0, 0]);
    Client::join_on(open("192.0.2.8:1").await, Kind::RawSocket, Serializer::Cbor).await;
    drop(kept.pop());
    // Its place is free as soon as the router has noticed.
    soon(async {
        loop {
            let io = open("192.0.2.7:4").await;
            let mut io = through(io, b"\x7f\xf1\0\0").await;
            let mut reply = [0; 4];
            if io.read_exact(&mut reply).await.is_ok() && reply[1] & 0x0F != 0 {
                break;
            }
        }
    })
    .await;
    assert!(matches!(kept[0].next_answer().await, Message::Error(_)));
}

impl Client {
    async fn next_answer(&mut self) -> Message {
        self.call("com.nobody", &[]).await;
        self.message().await
    }
}

#[tokio::test]
async fn tls_comes_behind_the_header() {
    use tokio_rustls::rustls::{self, pki_types::ServerName};
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut settings = proxied();
    settings.listeners[0].tls = Some(TlsSettings {
        cert,
        key,
        client: None,
    });
    let (router, address) = start(&settings).await;
    let door = watched(&router);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let io = through(tcp(address).await, &header("192.0.2.7:4660")).await;
    let io = connector.connect(ServerName::try_from("localhost").unwrap(), io);
    let io = Box::new(soon(io).await.unwrap());
    let peer = seen(&door, io, Kind::WebSocket).await;
    assert_eq!(peer, Some("192.0.2.7:4660".parse().unwrap()));
}

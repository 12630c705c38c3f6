//! What those are told who knock at the wrong door, or say too much.

use perilune::server::settings::TlsSettings;
use perilune::wire::Serializer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::program::{Program, app, open_realm, perilune};
use crate::support::{Client, Kind, Transport, settings, soon, start, tcp};

/// Says these octets, and reads the answer to its end.
async fn answer(address: std::net::SocketAddr, octets: &[u8]) -> Vec<u8> {
    let mut io = tcp(address).await;
    io.write_all(octets).await.unwrap();
    let mut answer = Vec::new();
    soon(io.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn f04_a_tls_port_spoken_to_in_plain_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut settings = settings();
    settings.listeners[0].tls = Some(TlsSettings {
        cert,
        key,
        client: None,
    });
    let (_router, address) = start(&settings).await;
    let said = answer(address, b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    assert!(said.contains("This port speaks TLS"), "{said}");
    assert_eq!(answer(address, &[0x7F, 0xF1, 0, 0]).await, b"");
}

#[tokio::test]
async fn f04_a_plain_port_spoken_to_in_tls_says_so() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    let url = format!("wss://{address}/ws");
    let output = perilune()
        .args(["call", "--url", &url, "wamp.session.count"])
        .output();
    let said = soon(output).await.unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("a port without TLS takes ws://"), "{said}");
    assert!(said.contains("HandshakeFailure"), "{said}");
    program
        .log
        .with(&["speaks TLS, which this port does not"])
        .await;
}

#[tokio::test]
async fn f04_a_close_for_too_much_says_how_much() {
    let mut settings = settings();
    settings.listeners[0].message = 1000;
    let (_router, address) = start(&settings).await;
    let mut client = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    client.call("com.echo", &["x".repeat(2000).into()]).await;
    let Transport::WebSocket(stream) = &mut client.transport else {
        unreachable!()
    };
    let frame = soon(futures_util::StreamExt::next(stream.as_mut())).await;
    let Some(Ok(Frame::Close(Some(close)))) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(u16::from(close.code), 1009);
    assert!(close.reason.contains("the limit is 1000"), "{close}");
}

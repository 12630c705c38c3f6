//! The WebSocket opening handshake (RFC 6455, section 4), both sides, reduced to what the bench needs.
//!
//! Done by hand because whatever follows the handshake in the same segment must not be lost, and because a relay
//! connection has to be in its room before its peer can see the 101.

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A longer head is not a WebSocket handshake.
const MAX_HEAD: usize = 16 * 1024;

/// Connects to `ws://host:port/path` and upgrades, asking for `subprotocol` if given. Returns the stream and the
/// bytes that came right behind the response.
pub(super) async fn connect(url: &str, subprotocol: Option<&str>) -> Result<(TcpStream, BytesMut)> {
    let rest = url
        .strip_prefix("ws://")
        .with_context(|| format!("`{url}`: the bench speaks ws:// only"))?;
    let (host, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let mut stream = TcpStream::connect(host)
        .await
        .with_context(|| format!("cannot connect to {host}"))?;
    stream.set_nodelay(true)?;
    let key = generate_key();
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    );
    if let Some(subprotocol) = subprotocol {
        request.push_str(&format!("Sec-WebSocket-Protocol: {subprotocol}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;

    let (head, tail) = read_head(&mut stream).await?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("101"),
        "{url} refused the upgrade: {status}"
    );
    ensure!(
        header(&head, "sec-websocket-accept") == Some(derive_accept_key(key.as_bytes()).as_str()),
        "{url} answered the upgrade with a wrong Sec-WebSocket-Accept"
    );
    ensure!(
        header(&head, "sec-websocket-protocol") == subprotocol,
        "{url} did not choose the subprotocol {subprotocol:?}"
    );
    Ok((stream, tail))
}

/// What a client asked for in its upgrade request.
pub(super) struct Request {
    pub(super) path: String,
    key: String,
    /// Bytes the client sent behind the request.
    pub(super) tail: BytesMut,
}

/// Reads an upgrade request. The connection is a WebSocket after [`respond`].
pub(super) async fn read_request(stream: &mut TcpStream) -> Result<Request> {
    let (head, tail) = read_head(stream).await?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (Some("GET"), Some(path)) = (words.next(), words.next()) else {
        bail!("not a GET request");
    };
    let key = header(&head, "sec-websocket-key").context("no Sec-WebSocket-Key")?;
    Ok(Request {
        path: path.to_owned(),
        key: key.to_owned(),
        tail,
    })
}

/// Accepts the upgrade.
pub(super) async fn respond(stream: &mut TcpStream, request: &Request) -> Result<()> {
    let accept = derive_accept_key(request.key.as_bytes());
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(stream.write_all(response.as_bytes()).await?)
}

/// Refuses the upgrade with 404.
pub(super) async fn refuse(stream: &mut TcpStream) -> Result<()> {
    let response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    Ok(stream.write_all(response).await?)
}

/// Reads up to and including the empty line that ends an HTTP head; returns it and what lies behind it.
async fn read_head(stream: &mut TcpStream) -> Result<(String, BytesMut)> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = bytes.split_to(at + 4);
            return Ok((String::from_utf8(head.to_vec())?, bytes));
        }
        ensure!(bytes.len() < MAX_HEAD, "HTTP head too long");
        ensure!(
            stream.read_buf(&mut bytes).await? > 0,
            "connection closed during the upgrade"
        );
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

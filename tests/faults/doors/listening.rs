//! Where the router listens, and what holds there.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use perilune::server::settings::{Address, ListenerSettings, SocketFile};
use perilune::server::{ListenError, Listener};
use perilune::wire::{Message, Serializer};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::program::{Program, app, open_realm, perilune};
use crate::support::{Client, Kind, settings, soon, start, tcp, unix};

/// The built-in application on these addresses.
fn built_in(folder: &Path, addresses: &[&str]) -> Program {
    let mut command = perilune();
    command.current_dir(folder).arg("serve");
    for address in addresses {
        command.args(["--listen", address]);
    }
    Program::start(command)
}

#[tokio::test]
async fn b08_the_built_in_application_is_for_this_machine_only() {
    let folder = app(&[]);
    for open in ["0.0.0.0:0", ":0", "[::]:0"] {
        let mut program = built_in(folder.path(), &["127.0.0.1:0", open]);
        assert_eq!(program.ended().await.code(), Some(3), "{open}");
        let said = program.log.with(&["ERROR", "built-in application"]).await;
        assert!(said.contains("write a perilune.lua"), "{said}");
        assert_eq!(program.out.text(), "", "{open}");
    }
    for local in ["127.0.0.2:0", "unix:here.sock", "unix:@perilune-b08"] {
        let program = built_in(folder.path(), &[local]);
        program.out.with(&["listening on"]).await;
    }
}

/// Publishes so many octets; false if the router ends the session for it.
async fn takes(program: &Program, octets: usize) -> bool {
    let mut client = program.join().await;
    client
        .publish("com.topic", &["x".repeat(octets).into()])
        .await;
    client.call("wamp.session.count", &[]).await;
    matches!(client.next().await, Ok(Message::Result(_)))
}

#[tokio::test]
async fn d04_what_limits_say_holds_where_listen_is_given_on_the_command_line() {
    for (config, message) in [
        ("limits = { message = '4 MB' },", 3_000_000),
        (
            "listen = { addr = '127.0.0.1:1', message = '4 MB' },",
            3_000_000,
        ),
        ("limits = { message = 2000 },", 1500),
    ] {
        let config = open_realm("").replacen("  limits = { goodbye = \"500ms\" },", config, 1);
        let folder = app(&[("perilune.lua", &config)]);
        let program = Program::serve(folder.path(), &[]);
        assert!(takes(&program, message).await, "{config}");
        assert!(!takes(&program, 2 * message).await, "{config}");
    }
}

/// The first line of the answer to an upgrade.
async fn asked_for(program: &Program, path: &str, origin: &str) -> String {
    let mut io = tcp(program.address().await).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: wamp.2.json\r\n\r\n"
    );
    soon(io.write_all(request.as_bytes())).await.unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(soon(io.read_u8()).await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn d04_paths_and_origins_hold_where_listen_is_given_on_the_command_line() {
    let config = open_realm("").replacen(
        "return {",
        "return { listen = { addr = '127.0.0.1:1', path = '/only', origins = { 'https://a.example' } },",
        1,
    );
    let folder = app(&[("perilune.lua", &config)]);
    let program = Program::serve(folder.path(), &[]);
    for (path, origin, status) in [
        ("/only", "https://a.example", "101"),
        ("/ws", "https://a.example", "404"),
        ("/only", "https://b.example", "403"),
    ] {
        let line = asked_for(&program, path, origin).await;
        assert!(line.contains(status), "{path} {origin}: {line}");
    }
}

#[tokio::test]
async fn d09_a_name_stands_for_all_its_addresses() {
    let places: Vec<_> = tokio::net::lookup_host("localhost:0")
        .await
        .unwrap()
        .collect();
    let mut listening = Vec::new();
    for place in places {
        // What this machine does not speak is left out.
        if tokio::net::TcpListener::bind(place).await.is_ok() && !listening.contains(&place.ip()) {
            listening.push(place.ip());
        }
    }
    let mut named = settings();
    named.listeners = vec![ListenerSettings::at(Address::Tcp("localhost:0".into()))];
    let (_router, first) = start(&named).await;
    for ip in listening {
        let address = SocketAddr::new(ip, first.port());
        Client::join(address, Kind::WebSocket, Serializer::Json).await;
    }
}

/// A unix socket's listener.
fn at(path: &Path) -> ListenerSettings {
    ListenerSettings::at(Address::Unix {
        path: path.to_owned(),
        file: SocketFile::default(),
    })
}

#[tokio::test]
async fn d09_a_router_that_stops_leaves_its_successors_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let old = Listener::bind(&at(&path)).await.unwrap();
    // The successor was started after somebody had cleared the place.
    std::fs::remove_file(&path).unwrap();
    let new = Listener::bind(&at(&path)).await.unwrap();
    drop(old);
    assert!(path.exists());
    drop(new);
    assert!(!path.exists());
}

#[tokio::test]
async fn d09_a_path_too_long_for_a_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(120));
    let refused = Listener::bind(&at(&path)).await.err();
    assert!(matches!(refused, Some(ListenError::TooLong { .. })));
    // The longest that can be connected to.
    let room = 107 - folder.path().as_os_str().len() - 1;
    let path = folder.path().join("x".repeat(room));
    let mut named = settings();
    named.listeners.push(at(&path));
    let (_router, _) = start(&named).await;
    Client::join_on(unix(&path).await, Kind::RawSocket, Serializer::Json).await;
}

#[tokio::test]
async fn a_unix_socket_belongs_to_whom_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    // One's own user and group can be set by anybody.
    let own = std::fs::metadata(folder.path()).unwrap();
    let (owner, group) = (own.uid(), own.gid());
    let config = open_realm("").replacen(
        "return {",
        &format!(
            "return {{ listen = {{ addr = 'unix:{}', mode = '0660', owner = {owner}, group = {group} }},",
            path.display()
        ),
        1,
    );
    std::fs::write(folder.path().join("perilune.lua"), config).unwrap();
    let mut command = perilune();
    command.arg("serve").arg(folder.path());
    let program = Program::start(command);
    program.out.with(&["listening on unix:"]).await;
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    assert_eq!((found.uid(), found.gid()), (owner, group));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_abstract_socket_is_told_and_reached_by_its_name() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let name = format!("unix:@perilune-test-{}", std::process::id());
    let program = Program::serve(folder.path(), &["--listen", &name]);
    program.out.with(&[&format!("listening on {name}")]).await;
    let output = perilune()
        .args(["call", "--url", &name, "wamp.session.count"])
        .output();
    let output = soon(output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "1", "{output:?}");
}

#[tokio::test]
async fn a07_the_timers_thread_is_there_before_anybody_connects() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let program = Program::serve(folder.path(), &[]);
    program.address().await;
    let pid = program.child.id().unwrap();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = threads.filter_map(|thread| {
        let path = thread.ok()?.path().join("comm");
        std::fs::read_to_string(path).ok()
    });
    assert!(names.into_iter().any(|name| name.trim() == "timers"));
}

#[tokio::test]
async fn clients_without_a_subprotocol_speak_what_the_listener_names() {
    use tokio_tungstenite::tungstenite::Message as Frame;
    let config = open_realm("").replacen(
        "return {",
        "return { listen = { addr = '127.0.0.1:0', no_subprotocol = 'json' },",
        1,
    );
    let folder = app(&[("perilune.lua", &config)]);
    let program = Program::serve(folder.path(), &[]);
    let address = program.address().await;
    let io = tcp(address).await;
    let url = format!("ws://{address}/ws");
    let (mut client, _) = soon(tokio_tungstenite::client_async(url, io))
        .await
        .unwrap();
    let hello = r#"[1,"realm1",{"roles":{"caller":{}}}]"#;
    let sent = futures_util::SinkExt::send(&mut client, Frame::text(hello));
    soon(sent).await.unwrap();
    let welcome = soon(futures_util::StreamExt::next(&mut client)).await;
    let Some(Ok(Frame::Text(text))) = welcome else {
        panic!("{welcome:?}")
    };
    assert!(text.starts_with("[2,"), "{text}");
}

//! What is logged, and what becomes of it: it is lost at worst, and never waited for, never forged.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use perilune::wire::{Message, Serializer};
use perilune::words::{Id, Value, is_hidden};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::support::app::App;
use crate::support::program::{app, open_realm, perilune};
use crate::support::{Client, Kind, hello, soon, tcp};

/// `serve` with stderr to somewhere; where it listens.
async fn serve(app: &Path, stderr: impl Into<Stdio>, arguments: &[&str]) -> (Child, SocketAddr) {
    let mut command = perilune();
    command.arg("serve").arg(app).stderr(stderr);
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    let mut child = command.spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = soon(lines.next_line()).await.expect("readable");
    let line = line.expect("listens");
    let address = line
        .trim_start_matches("listening on ws://")
        .split(['/', ' '])
        .next();
    (child, address.unwrap().parse().expect("an address"))
}

async fn join(address: SocketAddr) -> Client {
    Client::join(address, Kind::WebSocket, Serializer::Json).await
}

/// Each call writes some 16 KB.
const CHATTERBOX: &str = r#"
local p = require "perilune"
p.register("chat", function() for i = 1, 100 do p.log.warn(("x"):rep(16000)) end end)
"#;

#[tokio::test]
async fn a04_a_log_that_nobody_reads_costs_lines_and_not_service() {
    let app = app(&[
        ("perilune.lua", &open_realm("\"s.lua\"")),
        ("s.lua", CHATTERBOX),
    ]);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let (mut child, address) = serve(app.path(), writer, &[]).await;
    let mut client = join(address).await;
    // More than a pipe holds.
    client.ask("chat", &[]).await;
    for _ in 0..20 {
        let mut other = join(address).await;
        other.ask("chat", &[]).await;
    }
    // Read at last: it goes on from there, and the end is not waited for.
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("UTF-8");
        text
    });
    let pid = child.id().expect("runs").to_string();
    std::process::Command::new("kill")
        .arg(&pid)
        .status()
        .expect("kill");
    assert!(soon(child.wait()).await.expect("ends").success());
    let text = soon(read).await.expect("read");
    assert!(
        text.contains(r#"more="#) && text.contains("more like: xxx"),
        "{:.3000}",
        text
    );
    assert!(text.contains("stopped"), "the last line is there");
}

#[tokio::test]
async fn a04_a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let app = app(&[
        ("perilune.lua", &open_realm("\"s.lua\"")),
        ("s.lua", CHATTERBOX),
    ]);
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let (mut child, address) = serve(app.path(), writer, &[]).await;
    join(address).await.ask("chat", &[]).await;
    let pid = child.id().expect("runs").to_string();
    std::process::Command::new("kill")
        .arg(&pid)
        .status()
        .expect("kill");
    assert!(soon(child.wait()).await.expect("ends").success());
}

#[tokio::test]
async fn a04_a_log_whose_reader_is_gone_ends_nothing() {
    let app = app(&[("perilune.lua", &open_realm(""))]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (child, address) = serve(app.path(), writer, &[]).await;
    join(address).await;
    drop(reader);
    for _ in 0..10 {
        join(address).await;
    }
    // Nobody is left behind.
    let mut last = join(address).await;
    loop {
        let count = last.ask("wamp.session.count", &[]).await;
        if count == [Value::Int(1)] {
            break;
        }
    }
    drop(child);
}

#[tokio::test]
async fn a04_a_full_log_device_does_not_prevent_the_start() {
    let app = app(&[("perilune.lua", &open_realm(""))]);
    let full = || {
        let open = std::fs::OpenOptions::new().write(true).open("/dev/full");
        open.expect("/dev/full")
    };
    let (_child, address) = serve(app.path(), full(), &[]).await;
    join(address).await;
    // The same for what is said on stdout, and for a program that has only an error to tell.
    let mut command = perilune();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg(app.path());
    let mut child = command.stdout(full()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    loop {
        let line = soon(lines.next_line()).await.expect("readable");
        if line.expect("serves").contains("listening") {
            break;
        }
    }
    let mut command = perilune();
    command.args(["serve", "/nowhere"]).stderr(full());
    let mut child = command.spawn().expect("starts");
    assert_eq!(soon(child.wait()).await.expect("ends").code(), Some(3));
}

#[tokio::test]
async fn c09_trace_tells_of_the_router_and_not_of_its_libraries() {
    let script = |version: u32| {
        format!(
            "local p = require 'perilune'\np.register('version', function() return {version} end)\n"
        )
    };
    let app = app(&[
        ("perilune.lua", &open_realm("\"s.lua\"")),
        ("s.lua", &script(1)),
    ]);
    // In the folder that is watched.
    let log = app.path().join("trace.log");
    let file = std::fs::File::create(&log).expect("a file");
    let (mut child, address) = serve(app.path(), file, &["--log-level", "trace"]).await;
    let mut client = join(address).await;
    std::fs::write(app.path().join("s.lua"), script(2)).expect("writes");
    let reloaded = async { while client.ask("version", &[]).await != [Value::Int(2)] {} };
    soon(reloaded).await;
    soon(child.kill()).await.expect("ends");
    let text = std::fs::read_to_string(&log).expect("readable");
    for library in ["inotify", "notify", "mio", "tungstenite", "hyper", "rustls"] {
        assert!(!text.contains(library), "{library}:\n{text:.2000}");
    }
    assert!(text.lines().count() < 100, "{text:.5000}");
}

#[tokio::test]
async fn c09_one_call_cannot_fill_the_log() {
    let router = App::of(
        r#"
        local p = require "perilune"
        p.register("chat", function(call)
          local kind = call.args[1]
          for i = 1, 3000 do
            if kind == "print" then print("said", i) else p.log.info("said") end
          end
        end)
        p.register("lines", function() p.log.warn(("line\n"):rep(3000)) end)
        p.register("last", function() p.log.error("the last word") end)
        "#,
    )
    .start()
    .await;
    let mut peer = router.join().await;
    for kind in ["print", "log"] {
        peer.client.ask("chat", &[kind.into()]).await;
        router.log.says("more like: said").await;
    }
    peer.client.ask("lines", &[]).await;
    // Another kind of line is told all the same.
    peer.client.ask("last", &[]).await;
    router.log.says("the last word").await;
    let lines = router.log.text().lines().count();
    assert!(lines < 1_500, "{lines} lines");
    assert!(
        router.log.text().contains("more lines"),
        "a message of 3,000 lines is cut"
    );
}

#[tokio::test]
async fn c09_what_fails_each_time_is_told_now_and_then() {
    let router = App::of(
        r#"
        local p = require "perilune"
        p.subscribe("tick", function() error("the sensor is not there") end)
        p.register("done", function() end)
        "#,
    )
    .start()
    .await;
    let mut peer = router.join().await;
    for number in 0..500 {
        peer.client.publish("tick", &[Value::Int(number)]).await;
    }
    peer.client.ask("done", &[]).await;
    router
        .log
        .says("more like: a.lua:3: the sensor is not there")
        .await;
    let lines = router.log.count("the sensor is not there");
    assert!(lines < 250, "{lines} lines");
}

#[tokio::test]
async fn c09_strangers_cannot_fill_the_log() {
    let router = App::new()
        .config(
            r#"return {
              limits = { connections = 3, unauthenticated = false },
              realms = { realm1 = { auth = { anonymous = { role = "guest" } }, roles = { guest = {} } } },
            }"#,
        )
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(tcp(router.address).await);
    }
    router.log.says("more like: connection refused").await;
    let lines = router.log.count("connection refused");
    assert!(lines < 250, "{lines} lines");
}

#[tokio::test]
async fn c09_nobody_forges_a_line() {
    for format in ["text", "json"] {
        let router = App::of(
            r#"
            local p = require "perilune"
            p.register("say", function(call)
              local text = call.args[1]
              p.log.warn(text, { [text] = text })
              print(text)
              error(text)
            end)
            "#,
        )
        .flag("--log-format")
        .flag(format)
        .start()
        .await;
        let evil = "a\n2026-11-30T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}";
        let mut stranger = router.open().await.client;
        stranger.send(&hello(evil)).await;
        assert!(matches!(stranger.next().await, Ok(Message::Abort(_))));
        let mut peer = router.join().await.client;
        peer.refused("say", &[evil.into()]).await;
        peer.refused(evil, &[]).await;
        let goodbye = Message::Goodbye(perilune::wire::Goodbye {
            message: Some(evil.to_owned()),
            reason: evil.into(),
        });
        peer.send(&goodbye).await;
        router.log.says("procedure say").await;
        assert!(router.log.count("forged") >= 3, "all of them are told");
        router.log.lines_are_whole(format);
    }
}

trait Whole {
    fn lines_are_whole(&self, format: &str);
}

impl Whole for crate::support::app::Log {
    /// Every line is one that the router began.
    fn lines_are_whole(&self, format: &str) {
        for line in self.text().lines() {
            assert!(!line.contains(is_hidden), "{line:?}");
            match format {
                "json" => {
                    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                    assert!(value["timestamp"].is_string(), "{line}");
                }
                _ => assert!(!line.starts_with("2026-11-30T00:00:00Z"), "{line:?}"),
            }
        }
    }
}

#[tokio::test]
async fn f03_the_json_log_has_values_and_numbers() {
    let router = App::of(
        r#"
        local p = require "perilune"
        p.register("say", function() p.log.warn("fan on", { room = "bath", level = 2.5, on = true }) end)
        "#,
    )
    .flag("--log-format")
    .flag("json")
    .start()
    .await;
    let mut peer = router.join().await.client;
    let session = peer.session.expect("joined").value();
    peer.ask("say", &[]).await;
    let parse = |line: String| serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
    let line = parse(router.log.says("login").await);
    assert_eq!(line["fields"]["session"], session);
    let line = parse(router.log.says("fan on").await);
    assert_eq!(line["fields"]["message"], "fan on");
    assert_eq!(line["fields"]["script"], "a.lua");
    let fields = serde_json::json!({ "room": "bath", "level": 2.5, "on": true });
    assert_eq!(line["fields"]["fields"], fields);
}

#[tokio::test]
async fn f03_the_fields_stand_before_a_traceback() {
    let router = App::of(
        r#"
        local p = require "perilune"
        p.register("fails", function() error("it is broken") end)
        "#,
    )
    .start()
    .await;
    let mut peer = router.join().await.client;
    peer.refused("fails", &[]).await;
    let first = router.log.says("it is broken").await;
    assert!(
        first.contains("script=a.lua") && first.contains("handler=procedure fails"),
        "{first}"
    );
    let below = router.log.says("stack traceback").await;
    assert!(below.starts_with("    "), "{below:?}");
}

#[tokio::test]
async fn b10_the_client_prints_nothing_that_a_terminal_obeys() {
    let router = App::of(
        r#"
        local p = require "perilune"
        local evil = "a\27[2J\194\155" .. "2J\226\128\174"
        p.register("evil", function() return evil, { [evil] = 1 } end)
        p.register("fails", function() p.error("com.evil.\194\155" .. "2J\127", evil) end)
        "#,
    )
    .start()
    .await;
    for (procedure, code) in [("evil", 0), ("fails", 1)] {
        let mut command = perilune();
        let url = format!("ws://{}/ws", router.address);
        command.args(["call", procedure, "--url", &url]);
        let output = soon(command.output()).await.expect("runs");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        let shown = said.trim_end_matches('\n');
        assert!(!shown.is_empty() && !shown.contains(is_hidden), "{shown:?}");
    }
}

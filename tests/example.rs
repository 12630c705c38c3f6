//! The smart home of `scripts/`, served by the built binary and visited by clients: what README.md promises of it.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use perilune::wire::*;
use perilune::words::{Dict, Value};
use support::{Client, Kind, hello, soon, tcp, uri};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// A copy of the example in a folder of its own, being served.
struct Home {
    process: Child,
    address: SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
    /// Held, or the process ends by a broken pipe.
    _stdout: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Home {
    /// As the README says: `perilune serve`, with the example under `scripts/`.
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/smart-home"),
            &home_in(folder.path()),
        );
        let mut process = Command::new(env!("CARGO_BIN_EXE_perilune"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("perilune starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped")).lines();
        let log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let line = soon(stdout.next_line())
            .await
            .expect("text")
            .expect("a line before it ends");
        let address = line
            .strip_prefix("listening on ws://")
            .and_then(|rest| rest.split('/').next());
        let address = address
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("it said {line:?}"));
        Self {
            process,
            address,
            log,
            _stdout: stdout,
            folder,
        }
    }

    /// Waits for a line of the log.
    async fn logged(&mut self, part: &str) -> String {
        loop {
            let line = soon(self.log.next_line()).await.expect("text");
            let line = line.unwrap_or_else(|| panic!("the log ended without {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        home_in(self.folder.path()).join(name)
    }

    fn edit(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.file(name)).expect("reads");
        assert!(text.contains(old), "{name} has no {old:?}");
        fs::write(self.file(name), text.replace(old, new)).expect("writes");
    }

    async fn visit(&self) -> Client {
        Client::open(tcp(self.address).await, Kind::WebSocket, Serializer::Json).await
    }

    /// Anonymous.
    async fn guest(&self) -> Client {
        let mut client = self.visit().await;
        client.send(&hello("home")).await;
        assert_eq!(
            welcomed(&mut client).await,
            ("guest".into(), "anonymous".into())
        );
        client
    }

    /// Joe, by ticket.
    async fn resident(&self) -> Client {
        let mut client = self.visit().await;
        claim(&mut client, "ticket", "joe").await;
        challenged(&mut client, "ticket").await;
        answer(&mut client, "joe's ticket").await;
        assert_eq!(
            welcomed(&mut client).await,
            ("resident".into(), "ticket".into())
        );
        client
    }
}

fn home_in(folder: &Path) -> PathBuf {
    folder.join("scripts/smart-home")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists") {
        let path = entry.expect("lists").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
    }
}

async fn claim(client: &mut Client, method: &str, authid: &str) {
    let Message::Hello(hello) = hello("home") else {
        unreachable!("it says HELLO")
    };
    let (authmethods, authid) = (vec![method.to_owned()], Some(authid.to_owned()));
    client
        .send(&Message::Hello(Box::new(Hello {
            authmethods,
            authid,
            ..*hello
        })))
        .await;
}

async fn challenged(client: &mut Client, method: &str) -> Dict {
    match client.message().await {
        Message::Challenge(challenge) if challenge.method == method => challenge.extra,
        other => panic!("expected CHALLENGE {method}, got {other:?}"),
    }
}

async fn answer(client: &mut Client, signature: &str) {
    let authenticate = Authenticate {
        signature: signature.to_owned(),
        extra: Dict::new(),
    };
    client.send(&Message::Authenticate(authenticate)).await;
}

/// Role and method of the session.
async fn welcomed(client: &mut Client) -> (String, String) {
    match client.message().await {
        Message::Welcome(welcome) => {
            let text = |key| {
                welcome
                    .details
                    .lookup(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("authrole"), text("authmethod"))
        }
        other => panic!("expected WELCOME, got {other:?}"),
    }
}

/// WAMP-CRA from its text, not from our code.
fn sign(secret: &str, challenge: &str) -> String {
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("keys of any length");
    BASE64.encode(mac.chain_update(challenge).finalize().into_bytes())
}

/// URI and arguments of the next ERROR.
async fn error(client: &mut Client) -> (String, Vec<Value>, Dict) {
    loop {
        match client.message().await {
            Message::Error(Error { error, payload, .. }) => {
                let (args, kwargs) = payload.values().expect("values");
                return (error.to_string(), args, kwargs);
            }
            // The home goes on living meanwhile.
            Message::Event(_) => {}
            other => panic!("expected ERROR, got {other:?}"),
        }
    }
}

async fn answered(client: &mut Client, procedure: &str, args: &[Value]) -> (Vec<Value>, Dict) {
    client.call(procedure, args).await;
    match client.message().await {
        Message::Result(result) => result.payload.values().expect("values"),
        other => panic!("expected RESULT of {procedure}, got {other:?}"),
    }
}

/// Arguments of the next EVENT.
async fn event(client: &mut Client) -> (Vec<Value>, Dict) {
    match client.message().await {
        Message::Event(event) => event.payload.values().expect("values"),
        other => panic!("expected EVENT, got {other:?}"),
    }
}

fn text(kwargs: &Dict, key: &str) -> String {
    kwargs
        .lookup(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn guests_may_look_and_nothing_else() {
    let home = Home::start().await;
    let mut guest = home.guest().await;
    guest.subscribe("status.change").await;

    guest.call("get.time", &[]).await;
    assert_eq!(error(&mut guest).await.0, "wamp.error.not_authorized");

    let request = guest.request();
    let options = PublishOptions {
        acknowledge: true,
        ..PublishOptions::default()
    };
    let payload = Payload::none();
    guest
        .send(&Message::Publish(Publish {
            request,
            options,
            topic: uri("sensor.events"),
            payload,
        }))
        .await;
    assert_eq!(error(&mut guest).await.0, "wamp.error.not_authorized");

    let (request, options) = (guest.request(), RegisterOptions::default());
    guest
        .send(&Message::Register(Register {
            request,
            options,
            procedure: uri("get.rich"),
        }))
        .await;
    assert_eq!(error(&mut guest).await.0, "wamp.error.not_authorized");

    let (request, options) = (guest.request(), SubscribeOptions::default());
    guest
        .send(&Message::Subscribe(Subscribe {
            request,
            options,
            topic: uri("family.secrets"),
        }))
        .await;
    assert_eq!(error(&mut guest).await.0, "wamp.error.not_authorized");
}

#[tokio::test]
async fn residents_log_in_by_ticket_and_by_wampcra() {
    let mut home = Home::start().await;
    home.resident().await;
    home.logged("joe came in as resident").await;

    let mut ann = home.visit().await;
    claim(&mut ann, "wampcra", "ann").await;
    let extra = challenged(&mut ann, "wampcra").await;
    answer(&mut ann, &sign("ann's secret", &text(&extra, "challenge"))).await;
    assert_eq!(
        welcomed(&mut ann).await,
        ("resident".into(), "wampcra".into())
    );
}

#[tokio::test]
async fn strangers_stay_outside() {
    let home = Home::start().await;
    for (authid, ticket) in [
        ("joe", "a guess"),
        ("eve", "joe's ticket"),
        ("ann", "ann's secret"),
    ] {
        let mut client = home.visit().await;
        claim(&mut client, "ticket", authid).await;
        challenged(&mut client, "ticket").await;
        answer(&mut client, ticket).await;
        assert_eq!(
            client.reason().await,
            "wamp.error.authentication_denied",
            "{authid}"
        );
    }
    for (authid, secret) in [("ann", "a guess"), ("joe", "joe's ticket")] {
        let mut client = home.visit().await;
        claim(&mut client, "wampcra", authid).await;
        let extra = challenged(&mut client, "wampcra").await;
        answer(&mut client, &sign(secret, &text(&extra, "challenge"))).await;
        assert_eq!(
            client.reason().await,
            "wamp.error.authentication_denied",
            "{authid}"
        );
    }
}

#[tokio::test]
async fn both_rooms_tell_temperature_and_humidity() {
    let home = Home::start().await;
    let mut guest = home.guest().await;
    guest.subscribe("sensor.events").await;
    let mut missing = vec![
        ("living room", "temperature", "°C"),
        ("living room", "humidity", "%"),
        ("bath room", "temperature", "°C"),
        ("bath room", "humidity", "%"),
    ];
    while !missing.is_empty() {
        let (args, reading) = event(&mut guest).await;
        assert_eq!(args, []);
        let Some(Value::Float(value)) = reading.lookup("value") else {
            // Tenths may be none.
            assert!(
                matches!(reading.lookup("value"), Some(Value::Int(_))),
                "{reading:?}"
            );
            continue;
        };
        assert!((0.0..=100.0).contains(value), "{reading:?}");
        let reading = [
            text(&reading, "room"),
            text(&reading, "sensor"),
            text(&reading, "unit"),
        ];
        missing.retain(|(room, sensor, unit)| reading != [*room, *sensor, *unit]);
    }
}

#[tokio::test]
async fn the_fan_of_the_bath_room_obeys_and_the_living_room_has_none() {
    let home = Home::start().await;
    let mut joe = home.resident().await;
    let on: [Value; 2] = ["bath room".into(), Value::Bool(true)];
    assert_eq!(
        answered(&mut joe, "dcs.fan.control", &on).await.0,
        [Value::Bool(true)]
    );

    joe.call(
        "dcs.fan.control",
        &["living room".into(), Value::Bool(true)],
    )
    .await;
    let (uri, args, kwargs) = error(&mut joe).await;
    assert_eq!(uri, "homeapp.error.hardware_not_found");
    assert_eq!(args, ["there is no fan in the living room".into()]);
    assert_eq!(text(&kwargs, "room"), "living room");

    joe.call("dcs.fan.control", &["bath room".into(), "please".into()])
        .await;
    assert_eq!(error(&mut joe).await.0, "wamp.error.invalid_argument");
}

#[tokio::test]
async fn the_rule_airs_the_bath_room() {
    let home = Home::start().await;
    let mut guest = home.guest().await;
    guest.subscribe("status.change").await;
    loop {
        let (args, kwargs) = event(&mut guest).await;
        if args == ["airing".into()] {
            assert_eq!(text(&kwargs, "room"), "bath room");
            break;
        }
    }
}

#[tokio::test]
async fn health_tells_status_and_time() {
    let home = Home::start().await;
    let mut joe = home.resident().await;
    let (args, kwargs) = answered(&mut joe, "get.status", &[]).await;
    assert!(
        args == ["fine".into()] || args == ["airing".into()],
        "{args:?}"
    );
    assert!(
        matches!(kwargs.lookup("rooms"), Some(Value::Map(_))),
        "{kwargs:?}"
    );

    let (args, _) = answered(&mut joe, "get.time", &[]).await;
    let time = args[0].as_str().expect("text");
    chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H:%M:%SZ").expect("a time");
}

#[tokio::test]
async fn an_edited_script_answers_at_once() {
    let home = Home::start().await;
    let mut joe = home.resident().await;
    let mut watcher = home.resident().await;
    watcher.subscribe("perilune.script.on_reload").await;

    home.edit(
        "fans.lua",
        r#"{ ["bath room"] = true }"#,
        r#"{ ["bath room"] = true, ["living room"] = true }"#,
    );
    let (args, _) = event(&mut watcher).await;
    let Some(Value::Map(reload)) = args.first() else {
        panic!("expected a dict, got {args:?}")
    };
    assert_eq!(text(reload, "script"), "fans.lua");
    let on: [Value; 2] = ["living room".into(), Value::Bool(true)];
    assert_eq!(
        answered(&mut joe, "dcs.fan.control", &on).await.0,
        [Value::Bool(true)]
    );

    // A module counts as well: who moves out cannot log in any more.
    home.edit("residents.lua", "joe's ticket", "another ticket");
    event(&mut watcher).await;
    let mut late = home.visit().await;
    claim(&mut late, "ticket", "joe").await;
    challenged(&mut late, "ticket").await;
    answer(&mut late, "joe's ticket").await;
    assert_eq!(late.reason().await, "wamp.error.authentication_denied");
}

#[tokio::test]
async fn a_broken_edit_changes_nothing() {
    let mut home = Home::start().await;
    let mut joe = home.resident().await;
    home.edit("fans.lua", "local FANS =", "local FANS ==");
    let line = home.logged("fans.lua:").await;
    assert!(line.contains("fans.lua:6:"), "{line}");
    let on: [Value; 2] = ["bath room".into(), Value::Bool(true)];
    assert_eq!(
        answered(&mut joe, "dcs.fan.control", &on).await.0,
        [Value::Bool(true)]
    );
}

#[tokio::test]
async fn the_line_to_try_next_works() {
    let mut home = Home::start().await;
    home.logged("fans start above 65 %").await;
    let line = home.logged("sed -i").await;
    let start = line.find("sed -i").expect("just seen");
    let end = line.find("rules.lua").expect("it edits the rules") + "rules.lua".len();
    let done = Command::new("sh")
        .arg("-c")
        .arg(&line[start..end])
        .current_dir(home.folder.path())
        .status();
    assert!(soon(done).await.expect("runs").success(), "{line}");
    home.logged("fans start above 50 %").await;
}

/// Without an argument, inside the folder of the application.
#[tokio::test]
async fn it_is_found_in_the_working_folder() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/smart-home");
    let mut check = Command::new(env!("CARGO_BIN_EXE_perilune"));
    let output = soon(check.arg("check").current_dir(example).output())
        .await
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
async fn ctrl_c_says_goodbye_and_exits_with_0() {
    let mut home = Home::start().await;
    let mut guest = home.guest().await;
    let pid = home.process.id().expect("it runs").to_string();
    let killed = soon(Command::new("kill").args(["-INT", &pid]).status())
        .await
        .expect("kill runs");
    assert!(killed.success());
    assert_eq!(guest.reason().await, "wamp.close.system_shutdown");
    guest.goodbye("wamp.close.goodbye_and_out").await;
    let status = soon(home.process.wait()).await.expect("ends");
    assert_eq!(status.code(), Some(0));
}

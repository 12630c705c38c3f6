//! `perilune call`, `publish`, `subscribe`, `register` and `keygen` as a shell has them: the built program against the
//! built router, over real sockets.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::program::{Program, app, perilune};
use support::soon;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

const CONFIG: &str = r#"return {
  limits = { goodbye = "500ms", drain = "500ms" },
  realms = { realm1 = {
    auth = {
      anonymous = { role = "guest" },
      ticket = { users = { joe = { secret = "joe's ticket", role = "member" } } },
      wampcra = { users = {
        ann = { secret = "ann's secret", role = "member" },
        eve = { password = "eve's password", salt = "sea salt", role = "member" },
      } },
    },
    roles = {
      guest = {
        { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } },
        { uri = "members.", match = "prefix", allow = {} },
      },
      member = { { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" },
                   disclose = { caller = true, publisher = true } } },
    },
    scripts = { "a.lua" },
  } },
}"#;

const SCRIPT: &str = r#"local p = require "perilune"
p.register("echo", function(call) return p.result(call.args, call.kwargs) end)
p.register("nothing", function() end)
p.register("fails", function() p.error("app.error.no", { "because", 1 }, { code = 7 }) end)
p.register("whoami", function(call) return call.details.caller_authid end)
p.register("count", function(call)
  for i = 1, 3 do call:progress({ i }) end
  return "done"
end)
p.register("members.only", function() return true end)
p.register("sleeps", function(call)
  p.publish("sleeping")
  p.sleep(60)
end)
"#;

/// A router with the application above.
async fn router() -> (Program, tempfile::TempDir, String) {
    let folder = app(&[("perilune.lua", CONFIG), ("a.lua", SCRIPT)]);
    let program = Program::serve(folder.path(), &[]);
    let url = format!("ws://{}/ws", program.address().await);
    (program, folder, url)
}

/// A client command that has not been started; nothing of this environment reaches it.
fn command(url: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = perilune();
    command.args(arguments).env("PERILUNE_URL", url);
    for name in [
        "REALM", "AUTHID", "AUTHROLE", "TICKET", "SECRET", "PASSWORD", "KEY",
    ] {
        command.env_remove(format!("PERILUNE_{name}"));
        command.env_remove(format!("WICK_{name}"));
    }
    command
}

async fn run(url: &str, arguments: &[&str]) -> Output {
    soon(command(url, arguments).output()).await.expect("runs")
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).expect("text")
}

/// The lines of a command that ended well, as JSON.
fn lines(output: &Output) -> Vec<Value> {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

#[tokio::test]
async fn calls_take_and_print_json() {
    let (_router, _folder, url) = router().await;
    for (arguments, printed) in [
        (&["echo", "1"][..], "1"),
        (&["echo", "living room"], "\"living room\""),
        (&["echo", "\"1\""], "\"1\""),
        (&["echo", "-1.5"], "-1.5"),
        (&["echo", "9007199254740993"], "9007199254740993"),
        (&["echo", "18446744073709551615"], "18446744073709551615"),
        (&["echo", r#""\u0000AAH/""#], r#""\u0000AAH/""#),
        (&["echo", r#"{"a":[1,{}]}"#], r#"{"a":[1,{}]}"#),
        (&["nothing"], "null"),
        (&["echo", "1", "2"], r#"{"args":[1,2],"kwargs":{}}"#),
        (
            &["echo", "-k", "on=true"],
            r#"{"args":[],"kwargs":{"on":true}}"#,
        ),
        (&["echo", "1", "--full"], r#"{"args":[1],"kwargs":{}}"#),
        (&["echo", "a b", "--raw"], "a b"),
        (&["echo", "--args-json", "[[1]]"], "[1]"),
    ] {
        for serializer in ["json", "msgpack", "cbor"] {
            let flags = ["--serializer", serializer];
            let output = run(&url, &[&["call"], arguments, &flags].concat()).await;
            assert_eq!(
                text(&output.stdout),
                format!("{printed}\n"),
                "{arguments:?} {serializer} {}",
                text(&output.stderr)
            );
            assert_eq!(output.status.code(), Some(0));
        }
    }
    let output = run(&url, &["call", "count", "--progress"]).await;
    assert_eq!(
        lines(&output),
        [json!(1), json!(2), json!(3), json!("done")]
    );
    let output = run(&url, &["call", "count"]).await;
    assert_eq!(lines(&output), [json!("done")], "nobody asked for more");
    let output = run(&url, &["call", "echo", "1", "--repeat", "3"]).await;
    assert_eq!(lines(&output), [json!(1), json!(1), json!(1)]);

    let mut piped = command(&url, &["call", "echo", "--args-json", "-"]);
    let mut child = piped.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"[\"from a pipe\"]").await.expect("writes");
    drop(stdin);
    let output = soon(child.wait_with_output()).await.expect("ends");
    assert_eq!(lines(&output), [json!("from a pipe")]);
}

#[tokio::test]
async fn failures_have_their_exit_codes() {
    let (router, _folder, url) = router().await;
    for (arguments, code, said) in [
        (
            &["call", "fails"][..],
            1,
            "app.error.no [\"because\",1] {\"code\":7}\n",
        ),
        (&["call", "no.such"], 1, "wamp.error.no_such_procedure"),
        (&["call", "members.only"], 1, "wamp.error.not_authorized"),
        (
            &["publish", "members.topic"],
            1,
            "wamp.error.not_authorized",
        ),
        (
            &["subscribe", "members.topic"],
            1,
            "wamp.error.not_authorized",
        ),
        (
            &["register", "echo", "--echo"],
            1,
            "wamp.error.procedure_already_exists",
        ),
        (&["call"], 2, "error: "),
        (&["call", "echo", "--kw", "on"], 2, "error: "),
        (&["call", "echo", "--url", "http://a"], 2, "perilune: --url"),
        (
            &["call", "echo", "--args-json", "1"],
            2,
            "perilune: --args-json",
        ),
        (
            &["call", "echo", "--realm", "nowhere"],
            3,
            "perilune: cannot log in: wamp.error.no_such_realm",
        ),
        (
            &["call", "echo", "--authid", "joe", "--ticket", "wrong"],
            3,
            "perilune: cannot log in: wamp.error.authentication_denied",
        ),
        (
            &["call", "echo", "--url", "unix:/no/such/socket"],
            3,
            "perilune: cannot connect to /no/such/socket",
        ),
    ] {
        let output = run(&url, arguments).await;
        let (stderr, stdout) = (text(&output.stderr), text(&output.stdout));
        assert!(stderr.starts_with(said), "{arguments:?}: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
    let elsewhere = url.replace("/ws", "/elsewhere");
    let output = run(&elsewhere, &["call", "echo"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("404"), "{output:?}");
    drop(router);
}

#[tokio::test]
async fn every_login_the_router_offers_works() {
    let (_router, folder, url) = router().await;
    for (authid, flag, proof) in [
        ("joe", "--ticket", "joe's ticket"),
        ("ann", "--secret", "ann's secret"),
        ("eve", "--secret", "eve's password"),
    ] {
        let who = ["call", "whoami", "--authid", authid, flag, proof];
        assert_eq!(lines(&run(&url, &who).await), [json!(authid)]);
        let name = &flag[2..].to_uppercase();
        for tool in ["PERILUNE", "WICK"] {
            let mut by_env = command(&url, &["call", "whoami"]);
            by_env.env(format!("{tool}_AUTHID"), authid);
            by_env.env(format!("{tool}_{name}"), proof);
            let output = soon(by_env.output()).await.expect("runs");
            assert_eq!(lines(&output), [json!(authid)], "{tool}");
        }
        let wrong = ["call", "whoami", "--authid", authid, flag, "wrong"];
        assert_eq!(run(&url, &wrong).await.status.code(), Some(3));
    }
    drop(folder);
}

/// Somebody who speaks just enough RawSocket and JSON to admit anybody at once.
async fn admit_anybody(listener: TcpListener) -> Value {
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let mut handshake = [0; 4];
    stream.read_exact(&mut handshake).await.expect("reads");
    stream.write_all(&handshake).await.expect("writes");
    let length = stream.read_u32().await.expect("reads");
    let mut hello = vec![0; length as usize];
    stream.read_exact(&mut hello).await.expect("reads");
    let welcome = json!([2, 1, { "roles": {} }]).to_string();
    stream
        .write_u32(welcome.len() as u32)
        .await
        .expect("writes");
    stream.write_all(welcome.as_bytes()).await.expect("writes");
    serde_json::from_slice(&hello).expect("a HELLO")
}

#[tokio::test]
async fn scr_08_a_router_that_cannot_prove_itself_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("tcp://{}", listener.local_addr().expect("an address"));
    let router = tokio::spawn(admit_anybody(listener));
    let call = ["call", "echo", "--authid", "joe", "--password", "pencil"];
    let output = run(&url, &call).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("prove"), "{output:?}");
    let hello = soon(router).await.expect("ends");
    assert_eq!(hello[2]["authmethods"], json!(["wamp-scram"]));
    assert_eq!(hello[2]["authid"], "joe");
    assert_eq!(hello[2]["authextra"]["channel_binding"], Value::Null);
    assert!(!hello.to_string().contains("pencil"), "{hello}");
}

#[tokio::test]
async fn events_are_published_and_printed() {
    let (router, _folder, url) = router().await;
    let mut subscriber = Program::start(command(
        &url,
        &[
            "subscribe",
            "sensor.",
            "--match",
            "prefix",
            "--count",
            "2",
            "--details",
        ],
    ));
    subscriber.log.with(&["subscribed to sensor."]).await;
    let publish = [
        "publish",
        "sensor.temperature",
        "21.5",
        "-k",
        "room=bath room",
    ];
    assert_eq!(lines(&run(&url, &publish).await), [] as [Value; 0]);
    let joe = ["--authid", "joe", "--ticket", "joe's ticket"];
    let publish = ["publish", "sensor.door", "-o", "acknowledge=false"];
    let output = run(&url, &[&publish[..], &joe].concat()).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(subscriber.ended().await.code(), Some(0));

    let events: Vec<Value> = subscriber
        .out
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["topic"], "sensor.temperature");
    assert_eq!(events[0]["args"], json!([21.5]));
    assert_eq!(events[0]["kwargs"], json!({ "room": "bath room" }));
    assert!(events[0]["publication"].is_u64());
    assert_eq!(events[1]["topic"], "sensor.door");
    assert_eq!(events[1]["args"], json!([]));
    assert_eq!(events[1]["details"]["publisher_authid"], "joe");
    drop(router);
}

#[tokio::test]
async fn ctrl_c_leaves_politely() {
    let (router, _folder, url) = router().await;
    for arguments in [
        &["subscribe", "a.topic"][..],
        &["register", "a.procedure", "--echo"],
    ] {
        let mut program = Program::start(command(&url, arguments));
        program.log.with(&["perilune: "]).await;
        program.signal("-INT");
        assert_eq!(program.ended().await.code(), Some(0), "{arguments:?}");
    }
    let mut subscriber = Program::start(command(&url, &["subscribe", "sleeping"]));
    subscriber.log.with(&["subscribed"]).await;
    let mut caller = Program::start(command(&url, &["call", "sleeps"]));
    subscriber.out.with(&["sleeping"]).await;
    caller.signal("-INT");
    assert_eq!(caller.ended().await.code(), Some(130));
    assert_eq!(router.log.text().matches("ERROR").count(), 0);

    router.signal("-TERM");
    assert_eq!(subscriber.ended().await.code(), Some(3));
    subscriber.log.with(&["wamp.close.system_shutdown"]).await;
}

#[tokio::test]
async fn procedures_are_registered_and_answer() {
    let (_router, _folder, url) = router().await;
    for (answer, call, expected) in [
        (
            &["--echo"][..],
            &["1", "-k", "a=2"][..],
            json!({ "args": [1], "kwargs": { "a": 2 } }),
        ),
        (&["--reply", "[42]"], &[], json!([42])),
        (&[], &[], json!(null)),
        (
            &["--command", "cat"],
            &["x"],
            json!({ "args": ["x"], "kwargs": {} }),
        ),
        (&["echo several words"], &[], json!("several words")),
        (&["true"], &[], json!(null)),
    ] {
        let register = [&["register", "my.procedure", "--count", "1"], answer].concat();
        let mut callee = Program::start(command(&url, &register));
        callee.log.with(&["registered my.procedure"]).await;
        let output = run(&url, &[&["call", "my.procedure"], call].concat()).await;
        assert_eq!(lines(&output), [expected], "{answer:?}");
        assert_eq!(callee.ended().await.code(), Some(0));
        let line: Value = serde_json::from_str(&callee.out.text()).expect("a line of JSON");
        assert_eq!(line["procedure"], "my.procedure");
    }
    let mut callee = Program::start(command(&url, &["register", "bad", "exit 3"]));
    callee.log.with(&["registered"]).await;
    let output = run(&url, &["call", "bad"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("perilune.error.command_failed [\"exit status: 3\"]"),
        "{said}"
    );
    callee.signal("-TERM");
    assert_eq!(callee.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_cancelled_call_stops_its_command() {
    let (_router, folder, url) = router().await;
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let shell = format!("exec > '{}'; echo began; exec sleep 600", pipe.display());
    let register = ["register", "slow", &shell, "--count", "1"];
    let mut callee = Program::start(command(&url, &register));
    callee.log.with(&["registered"]).await;
    let mut caller = Program::start(command(&url, &["call", "slow"]));
    // Opens once the command writes, and ends once it is gone.
    let mut said = BufReader::new(soon(File::open(&pipe)).await.expect("opens")).lines();
    let began = soon(said.next_line()).await.expect("reads");
    assert_eq!(began.as_deref(), Some("began"));
    caller.signal("-INT");
    assert_eq!(caller.ended().await.code(), Some(130));
    assert_eq!(soon(said.next_line()).await.expect("reads"), None);
    assert_eq!(callee.ended().await.code(), Some(0));

    let output = run(&url, &["call", "sleeps", "--timeout", "0.1"]).await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.starts_with("wamp.error.timeout"), "{told}");
}

#[tokio::test]
async fn every_transport_is_spoken() {
    let folder = app(&[
        ("a.lua", SCRIPT),
        (
            "perilune.lua",
            &CONFIG.replace(
                "return {",
                r#"return { listen = { "127.0.0.1:0", "unix:p.sock",
                   { addr = "127.0.0.1:0", tls = { cert = "cert.pem", key = "key.pem" } } },"#,
            ),
        ),
    ]);
    certificate(folder.path());
    let mut serve = perilune();
    serve.arg("serve").arg(folder.path());
    let router = Program::start(serve);
    let plain = router.out.with(&["listening on ws://"]).await;
    let plain = plain.trim_start_matches("listening on ");
    let secure = router.out.with(&["listening on wss://"]).await;
    let port = secure
        .trim_end_matches("/ws")
        .rsplit(':')
        .next()
        .expect("a port");
    let socket = folder.path().join("p.sock");
    let socket = socket.display();
    let ca = folder.path().join("cert.pem");
    let ca = ca.to_str().expect("a path");
    for url in [
        plain.to_owned(),
        plain.replace("ws://", "tcp://").replace("/ws", ""),
        format!("unix:{socket}"),
        format!("ws+unix:{socket}"),
        format!("wss://localhost:{port}/ws"),
        format!("rss://localhost:{port}"),
    ] {
        for serializer in ["json", "cbor"] {
            let call = ["call", "echo", "1", "--ca", ca, "--serializer", serializer];
            assert_eq!(lines(&run(&url, &call).await), [json!(1)], "{url}");
        }
    }
    let url = format!("wss://localhost:{port}/ws");
    let mut unknown = command(&url, &["call", "echo", "1"]);
    let output = soon(
        unknown
            .env("SSL_CERT_FILE", other_ca(folder.path()))
            .output(),
    )
    .await;
    let output = output.expect("runs");
    assert_eq!(
        output.status.code(),
        Some(3),
        "a certificate nobody vouches for"
    );
    assert!(text(&output.stderr).contains("--ca"), "{output:?}");
    let url = format!("wss://127.0.0.1:{port}/ws");
    let output = run(&url, &["call", "echo", "1", "--ca", ca]).await;
    assert_eq!(
        output.status.code(),
        Some(3),
        "another name than the certificate's"
    );
}

/// Certificate and key for `localhost`.
fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = made.signing_key.serialize_pem();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("writes");
    std::fs::write(folder.join("key.pem"), key).expect("writes");
}

/// An authority that did not sign the router's certificate.
fn other_ca(folder: &Path) -> std::path::PathBuf {
    let made = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate");
    let path = folder.join("other.pem");
    std::fs::write(&path, made.cert.pem()).expect("writes");
    path
}

#[tokio::test]
async fn keygen_writes_a_private_key_and_prints_the_public_one() {
    let folder = app(&[]);
    let key = folder.path().join("hub.key");
    let arguments = ["keygen", "--out", key.to_str().expect("a path")];
    let output = run("ws://nowhere", &arguments).await;
    assert_eq!(output.status.code(), Some(0));
    let digits = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(digits(text(&output.stdout).trim_end()), "{output:?}");
    let private = std::fs::read_to_string(&key).expect("the key");
    assert!(digits(private.trim_end()));
    let mode = std::fs::metadata(&key)
        .expect("the key")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = run("ws://nowhere", &arguments).await;
    assert_ne!(again.status.code(), Some(0), "no key is overwritten");
    assert_eq!(std::fs::read_to_string(&key).expect("the key"), private);

    let both = run("ws://nowhere", &["keygen"]).await;
    let lines: Vec<&str> = text(&both.stdout).lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .all(|line| digits(line.rsplit(' ').next().expect("a word")))
    );
}

#[tokio::test]
async fn keygen_scram_derives_keys_of_a_password() {
    let mut keygen = command("ws://nowhere", &["keygen", "scram", "--kdf", "pbkdf2"]);
    let output = soon(keygen.env("PERILUNE_PASSWORD", "pencil").output()).await;
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    for key in [
        "kdf = \"pbkdf2\"",
        "iterations = 15000",
        "salt = ",
        "stored_key = ",
        "server_key = ",
    ] {
        assert!(printed.contains(key), "{printed}");
    }
    assert!(!printed.contains("pencil"));
    let mut keygen = command("ws://nowhere", &["keygen", "scram"]);
    let output = soon(keygen.env("PERILUNE_PASSWORD", "").output()).await;
    assert_ne!(
        output.expect("runs").status.code(),
        Some(0),
        "an empty password"
    );
}

#[tokio::test]
async fn keys_made_by_keygen_log_in() {
    let folder = app(&[]);
    let key = folder.path().join("hub.key");
    let key = key.to_str().expect("a path");
    let keygen = run("ws://nowhere", &["keygen", "--out", key]).await;
    let public = text(&keygen.stdout).trim_end().to_owned();
    let mut scram = Vec::new();
    for kdf in ["argon2id13", "pbkdf2"] {
        let mut keygen = command("ws://nowhere", &["keygen", "scram", "--kdf", kdf]);
        let output = soon(keygen.env("PERILUNE_PASSWORD", "p\u{e4}ssword").output()).await;
        let output = output.expect("runs");
        let keys = text(&output.stdout)
            .trim_end()
            .trim_end_matches('}')
            .to_owned();
        scram.push(format!("[\"{kdf}\"] = {keys} role = \"member\" }}"));
    }
    let config = CONFIG.replace(
        "auth = {",
        &format!(
            "auth = {{ cryptosign = {{ keys = {{ [\"{public}\"] = {{ authid = \"hub\", role = \"member\" }} }} }},\n\
             scram = {{ users = {{ {} }} }},",
            scram.join(", ")
        ),
    );
    let folder = app(&[("perilune.lua", &config), ("a.lua", SCRIPT)]);
    let router = Program::serve(folder.path(), &[]);
    let url = format!("ws://{}/ws", router.address().await);
    // Whose key it is, the router knows.
    let output = run(&url, &["call", "whoami", "--key", key]).await;
    assert_eq!(lines(&output), [json!("hub")]);
    for authid in ["argon2id13", "pbkdf2"] {
        let login = ["call", "whoami", "--authid", authid, "--password"];
        let output = run(&url, &[&login[..], &["p\u{e4}ssword"]].concat()).await;
        assert_eq!(lines(&output), [json!(authid)]);
        let output = run(&url, &[&login[..], &["wrong"]].concat()).await;
        assert_eq!(output.status.code(), Some(3));
    }
    let other = "07".repeat(32);
    let output = run(&url, &["call", "whoami", "--key", &other]).await;
    assert_eq!(output.status.code(), Some(3));
}

//! `perilune serve` and `perilune check` from the outside: exit codes, what they print, how they end.

mod support;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use perilune::wire::{Message, Serializer};
use perilune::words::Value;
use support::program::{Program, app, open_realm, perilune};
use support::{Client, Kind, hello, tcp, unix};

const GOOD: &str = r#"local p = require "perilune"
p.register("good.echo", function(call) return call.args[1] end)
"#;

/// Runs a command to its end.
async fn run(arguments: &[&str], folder: &Path) -> Output {
    let mut command = perilune();
    command.args(arguments).current_dir(folder);
    // A main chunk has two seconds of CPU time, which take longer on a busy machine.
    let patience = Duration::from_secs(60);
    let output = tokio::time::timeout(patience, command.output()).await;
    output.expect("in time").expect("runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn exit_codes_tell_what_kind_of_failure() {
    let folder = app(&[
        ("perilune.lua", &open_realm(r#""good.lua""#)),
        ("good.lua", GOOD),
    ]);
    let here = folder.path();
    let check = run(&["check"], here).await;
    assert_eq!(check.status.code(), Some(0), "{}", log(&check));
    assert_eq!(out(&check), "");

    let help = run(&[], here).await;
    assert_eq!(help.status.code(), Some(2));
    assert!(log(&help).contains("serve") && log(&help).contains("check"));
    for wrong in [
        &["serve", "--no-such-option"][..],
        &["serve", "--listen", "nowhere"],
        &["serve", "--log-level", "loud"],
        &["no-such-command"],
    ] {
        let output = run(wrong, here).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(!log(&output).is_empty());
    }
    let nothing = run(&["check", "no-such-folder"], here).await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        out(&nothing).contains("no-such-folder"),
        "{}",
        out(&nothing)
    );
    let nothing = run(&["serve", "no-such-folder"], here).await;
    assert_eq!(nothing.status.code(), Some(3));
    assert!(
        log(&nothing).contains("no-such-folder"),
        "{}",
        log(&nothing)
    );
}

#[tokio::test]
async fn d03_check_of_nothing_is_no_success() {
    let folder = app(&[]);
    let check = run(&["check"], folder.path()).await;
    assert_eq!(check.status.code(), Some(1));
    assert!(
        log(&check).contains("no perilune.lua here"),
        "{}",
        log(&check)
    );
}

#[tokio::test]
async fn d03_what_configuration_and_scripts_print_while_loading_is_shown() {
    let config = format!("print('rooms:', 3)\n{}", open_realm(r#""good.lua""#));
    let script = format!("print('good', true)\n{GOOD}");
    let folder = app(&[("perilune.lua", &config), ("good.lua", &script)]);
    let check = run(&["check"], folder.path()).await;
    assert_eq!(check.status.code(), Some(0), "{}", log(&check));
    let said = log(&check);
    for line in ["rooms:\t3", "good\ttrue", "perilune.lua", "good.lua"] {
        assert!(
            said.contains(line) || said.contains(&line.replace('\t', "\\t")),
            "{line}: {said}"
        );
    }
}

#[tokio::test]
async fn d03_a_description_that_says_nothing_is_an_error_of_its_line() {
    for (description, expected) in [
        (
            "{ type = 'proc' }",
            "type must be procedure, topic or error",
        ),
        (
            "{ type = 'procedure', args = { { type = 'bool' } } }",
            "no JSON Schema at args/",
        ),
        (
            "{ type = 'topic', args = 'x' }",
            "args must be a JSON Schema",
        ),
        ("{ 1, 2 }", "a description must be a table with keys"),
    ] {
        let script =
            format!("local p = require 'perilune'\n\np.describe('good.echo', {description})");
        let folder = app(&[
            ("perilune.lua", &open_realm(r#""good.lua""#)),
            ("good.lua", &script),
        ]);
        let check = run(&["check"], folder.path()).await;
        assert_eq!(check.status.code(), Some(1), "{}", log(&check));
        let found = out(&check);
        assert!(
            found.contains("good.lua:3: ") && found.contains(expected),
            "{found}"
        );
    }
}

#[tokio::test]
async fn version_tells_what_a_bug_report_needs() {
    let folder = app(&[]);
    let version = run(&["--version"], folder.path()).await;
    assert_eq!(version.status.code(), Some(0));
    let text = out(&version);
    let lines: Vec<&str> = text.lines().collect();
    let commit = lines[0]
        .strip_prefix(concat!("perilune ", env!("CARGO_PKG_VERSION"), " ("))
        .and_then(|rest| rest.strip_suffix(")"))
        .expect("version and commit");
    assert!(commit.len() >= 7, "{text}");
    assert!(lines[1].contains("LuaJIT"), "{text}");
    assert!(lines[2].starts_with("guard: "), "{text}");
}

#[tokio::test]
async fn a_misspelt_key_is_shown_with_the_nearest() {
    let configuration = "return {\n  relams = { realm1 = {} },\n}\n";
    let folder = app(&[("perilune.lua", configuration)]);
    let expected = "perilune.lua:2: ";
    let check = run(&["check"], folder.path()).await;
    let (found, code) = (out(&check), check.status.code());
    assert_eq!(code, Some(1));
    assert!(
        found.contains(expected) && found.contains("relams"),
        "{found}"
    );
    assert!(
        found.contains("did you mean \"realms\"") || found.contains("did you mean `realms`"),
        "{found}"
    );
    let serve = run(&["serve", "--listen", "127.0.0.1:0"], folder.path()).await;
    assert_eq!(serve.status.code(), Some(3));
    assert!(
        log(&serve).contains(expected) && log(&serve).contains("realms"),
        "{}",
        log(&serve)
    );
    assert_eq!(out(&serve), "", "nothing listens");
}

const BROKEN: &[(&str, &str)] = &[
    (
        "local p = require \"perilune\"\nlocal = 1\n",
        "scripted.lua:2: ",
    ),
    (
        "local p = require \"perilune\"\n\np.regster(\"a\", print)\n",
        "scripted.lua:3: ",
    ),
    ("require \"nothing.like.it\"\n", "scripted.lua:1: "),
    (
        "local p = require \"perilune\"\np.call(\"a.b\")\n",
        "scripted.lua:2: ",
    ),
    ("while true do end\n", "scripted.lua:1: "),
];

#[tokio::test]
async fn a_broken_script_does_not_start() {
    for (source, expected) in BROKEN {
        let folder = app(&[
            ("perilune.lua", &open_realm(r#""scripted.lua""#)),
            ("scripted.lua", source),
        ]);
        let serve = run(&["serve", "--listen", "127.0.0.1:0"], folder.path()).await;
        assert_eq!(serve.status.code(), Some(3), "{source}");
        assert!(log(&serve).contains(expected), "{source}: {}", log(&serve));
        assert_eq!(out(&serve), "", "nothing listens");
        let check = run(&["check"], folder.path()).await;
        assert_eq!(check.status.code(), Some(1), "{source}");
        assert!(out(&check).contains(expected), "{source}: {}", out(&check));
    }
}

#[tokio::test]
async fn dev_starts_with_a_broken_script_and_admits_nobody_until_it_loads() {
    let configuration = r#"return { realms = {
      realm1 = { auth = { anonymous = { role = "guest" } },
        roles = { guest = { { uri = "", match = "prefix", allow = { "call" } } } },
        scripts = { "scripted.lua" } },
      fine = { auth = { anonymous = { role = "guest" } }, roles = { guest = {} } },
    } }"#;
    let folder = app(&[
        ("perilune.lua", configuration),
        ("scripted.lua", "local = 1"),
    ]);
    let program = Program::serve(folder.path(), &["--dev"]);
    let address = program.address().await;
    program.log.with(&["scripted.lua:1: "]).await;
    let mut client = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    client.send(&hello("realm1")).await;
    let reason = client.reason().await;
    assert!(reason.starts_with("wamp.error."), "{reason}");
    let mut client = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    client.send(&hello("fine")).await;
    assert!(
        matches!(client.message().await, Message::Welcome(_)),
        "another realm"
    );

    std::fs::write(folder.path().join("scripted.lua"), GOOD).expect("repaired");
    program.log.with(&["script reloaded"]).await;
    let mut client = program.join().await;
    assert_eq!(
        client.ask("good.echo", &[Value::Int(1)]).await,
        [Value::Int(1)]
    );
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let first = Program::serve(folder.path(), &[]);
    let address = first.address().await.to_string();
    let second = run(&["serve", "--listen", &address], folder.path()).await;
    assert_eq!(second.status.code(), Some(3));
    let text = log(&second);
    assert!(
        text.contains(&address) && text.contains("--listen"),
        "{text}"
    );
    assert_eq!(out(&second), "");
    // The first one has not noticed.
    first.join().await;
}

#[tokio::test]
async fn an_unreadable_certificate_is_named() {
    let listen = |cert: &str| {
        open_realm("").replacen(
            "return {",
            &format!(
                r#"return {{ listen = {{ {{ addr = "127.0.0.1:0", tls = {{ cert = "{cert}", key = "key.pem" }} }} }},"#
            ),
            1,
        )
    };
    for (cert, others) in [
        ("missing.pem", &[][..]),
        ("garbage.pem", &[("garbage.pem", "no pem")]),
    ] {
        let folder = app(others);
        std::fs::write(folder.path().join("key.pem"), "no key").expect("a file");
        std::fs::write(folder.path().join("perilune.lua"), listen(cert)).expect("a file");
        let serve = run(&["serve"], folder.path()).await;
        assert_eq!(serve.status.code(), Some(3), "{}", log(&serve));
        assert!(log(&serve).contains(cert), "{}", log(&serve));
        assert_eq!(out(&serve), "");
    }
}

#[tokio::test]
async fn listen_replaces_and_repeats() {
    let configuration = open_realm(r#""good.lua""#).replacen(
        "return {",
        r#"return { listen = { "127.0.0.1:1" },"#,
        1,
    );
    let folder = app(&[("perilune.lua", &configuration), ("good.lua", GOOD)]);
    let socket = folder.path().join("router.sock");
    let path = format!("unix:{}", socket.display());
    let program = Program::serve(
        folder.path(),
        &["--listen", "127.0.0.1:0", "--listen", &path],
    );
    program.out.with(&[&format!("listening on {path}")]).await;
    let text = program.out.text();
    assert_eq!(
        text.matches("listening on ws://127.0.0.1:").count(),
        2,
        "{text}"
    );
    assert!(!text.contains("127.0.0.1:1/"), "{text}");
    for line in text.lines().filter(|line| line.contains("ws://")) {
        let address = line.trim_start_matches("listening on ws://");
        let address = address.split(['/', ' ']).next().expect("an address");
        let address = address.parse().expect("an address");
        Client::join(address, Kind::WebSocket, Serializer::Json).await;
    }
    let mut client =
        Client::join_on(unix(&socket).await, Kind::RawSocket, Serializer::MsgPack).await;
    assert_eq!(
        client.ask("good.echo", &["unix".into()]).await,
        ["unix".into()]
    );
}

#[tokio::test]
async fn it_says_goodbye_and_ends() {
    for signal in ["-TERM", "-INT"] {
        let folder = app(&[
            ("perilune.lua", &open_realm(r#""good.lua""#)),
            ("good.lua", GOOD),
        ]);
        let mut program = Program::serve(folder.path(), &[]);
        let address = program.address().await;
        let mut polite = program.join().await;
        let mut raw = Client::join(address, Kind::RawSocket, Serializer::Cbor).await;
        // This one never answers and never closes.
        let mut silent = program.join().await;
        let mut early = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
        program.signal(signal);
        let began = Instant::now();
        for client in [&mut polite, &mut raw] {
            assert_eq!(client.reason().await, "wamp.close.system_shutdown");
            client.goodbye("wamp.close.goodbye_and_out").await;
        }
        assert_eq!(silent.reason().await, "wamp.close.system_shutdown");
        // It has said nothing yet. (Now it need not try: a HELLO into a closed connection may cost it the ABORT.)
        assert_eq!(early.reason().await, "wamp.close.system_shutdown");
        assert_eq!(program.ended().await.code(), Some(0), "{signal}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        program.log.with(&["stopped"]).await;
    }
}

#[tokio::test]
async fn handlers_in_flight_are_answered_before_the_end() {
    let slow = r#"local p = require "perilune"
p.register("slow.gate", function() return p.call("client.gate").args[1] end)
p.on("shutdown", function() p.log.info("the script goes to bed") end)
"#;
    let folder = app(&[
        ("perilune.lua", &open_realm(r#""slow.lua""#)),
        ("slow.lua", slow),
    ]);
    let mut program = Program::serve(folder.path(), &[]);
    let mut gate = program.join().await;
    gate.register("client.gate").await;
    let mut caller = program.join().await;
    let mut early = Client::open(
        tcp(program.address().await).await,
        Kind::WebSocket,
        Serializer::Json,
    )
    .await;
    let request = caller.call("slow.gate", &[]).await;
    let Message::Invocation(held) = gate.message().await else {
        panic!("INVOCATION")
    };
    program.signal("-TERM");
    // Nobody is admitted any more, while those who are in still get their answers.
    assert_eq!(early.reason().await, "wamp.close.system_shutdown");
    gate.yields(held.request, &["done".into()]).await;
    assert_eq!(caller.result(request).await, ["done".into()]);
    assert_eq!(caller.reason().await, "wamp.close.system_shutdown");
    drop((caller, gate));
    assert_eq!(program.ended().await.code(), Some(0));
    program.log.with(&["the script goes to bed"]).await;
}

#[tokio::test]
async fn without_an_app_a_built_in_one_serves_loopback() {
    let folder = app(&[]);
    let mut command = perilune();
    command.current_dir(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let program = Program::start(command);
    program.log.with(&["WARN", "built-in", "realm1"]).await;
    let mut callee = program.join().await;
    callee.register("com.echo").await;
    let mut caller = program.join().await;
    let request = caller.call("com.echo", &[Value::Int(1)]).await;
    callee.echo().await;
    assert_eq!(caller.result(request).await, [Value::Int(1)]);
}

#[tokio::test]
async fn the_log_can_be_json() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let mut program = Program::serve(folder.path(), &["--log-format", "json"]);
    program.join().await;
    program.log.with(&["login"]).await;
    program.signal("-INT");
    program.ended().await;
    program.log.with(&["stopped"]).await;
    for line in program.log.text().lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(
            line["level"].is_string() && line["timestamp"].is_string(),
            "{line}"
        );
    }
}

const SECRETS: &str = r#"return { realms = { realm1 = {
  auth = {
    ticket = { users = { joe = { secret = "configured-ticket", role = "guest" } } },
    wampcra = { users = { ann = { secret = "configured-secret", role = "guest" } } },
  },
  roles = { guest = {} },
  scripts = { "auth.lua" },
} } }"#;

/// Nothing that somebody could log in with is written down, however much is.
#[tokio::test]
async fn the_log_keeps_secrets() {
    let script = r#"local p = require "perilune"
p.authenticate("ticket", function(login) return login.ticket == "scripted-ticket" and { role = "guest" } end)
"#;
    let folder = app(&[("perilune.lua", SECRETS), ("auth.lua", script)]);
    let program = Program::serve(folder.path(), &["--log-level", "trace"]);
    let address = program.address().await;
    for kind in [Kind::WebSocket, Kind::RawSocket] {
        for (authid, method, signature, good) in [
            ("joe", "ticket", "configured-ticket", true),
            ("joe", "ticket", "mistaken-ticket", false),
            ("sue", "ticket", "scripted-ticket", true),
            ("sue", "ticket", "mistaken-ticket", false),
            ("ann", "wampcra", "mistaken-signature", false),
        ] {
            let mut client = Client::open(tcp(address).await, kind, Serializer::Json).await;
            client.hello_as(authid, method).await;
            assert!(matches!(client.message().await, Message::Challenge(_)));
            client.authenticate(signature).await;
            let answer = client.message().await;
            assert_eq!(matches!(answer, Message::Welcome(_)), good, "{answer:?}");
        }
    }
    program.log.with(&["refused", "ann"]).await;
    let text = program.log.text();
    for secret in ["configured-", "scripted-ticket", "mistaken-"] {
        assert!(!text.contains(secret), "{secret} in:\n{text}");
    }
}

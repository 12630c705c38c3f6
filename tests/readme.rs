//! What README.md shows is what there is: the reference of the configuration word for word, and Lua that loads.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const README: &str = include_str!("../README.md");
const BEGIN: &str =
    "<!-- begin of the reference: written by `UPDATE=1 cargo test --test readme` -->\n";
const END: &str = "<!-- end of the reference -->\n";

#[test]
fn the_reference_is_what_the_configuration_reads() {
    let reference = format!("\n{}\n", perilune::lua::config::reference());
    let (before, rest) = README
        .split_once(BEGIN)
        .expect("README.md has the beginning");
    let (shown, after) = rest.split_once(END).expect("README.md has the end");
    if shown == reference {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        fs::write(path, format!("{before}{BEGIN}{reference}{END}{after}")).expect("writes");
        return;
    }
    panic!("the reference in README.md is old: UPDATE=1 cargo test --test readme");
}

/// The Lua blocks of README.md.
fn blocks() -> Vec<&'static str> {
    let starts = README
        .match_indices("```lua\n")
        .map(|(at, fence)| &README[at + fence.len()..]);
    starts
        .map(|rest| rest.split_once("```").expect("the block ends").0)
        .collect()
}

/// Runs `perilune check` on an application; panics with its findings.
fn check(config: &str, scripts: &[(&str, &str)]) {
    let app = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("perilune.lua", config)].iter().chain(scripts) {
        fs::write(app.path().join(name), text).expect("writes");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .arg("check")
        .arg(app.path())
        .output()
        .expect("perilune starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\nin\n{config}\n{scripts:?}");
}

#[test]
fn configurations_shown_load() {
    let configurations: Vec<_> = blocks()
        .into_iter()
        .filter(|block| block.contains("return {\n"))
        .collect();
    assert!(!configurations.is_empty());
    for config in configurations {
        check(config, &[("rooms.lua", ""), ("alarm.lua", "")]);
    }
}

#[test]
fn scripts_shown_load() {
    let scripts: Vec<_> = blocks()
        .into_iter()
        .filter(|block| !block.contains("return {\n"))
        .collect();
    assert!(scripts.len() > 2);
    let config = r#"return { realms = { home = { scripts = { "shown.lua" } } } }"#;
    for script in scripts {
        let script = if script.contains("require") {
            script.into()
        } else {
            with_module(script)
        };
        check(config, &[("shown.lua", &script)]);
    }
}

/// Later blocks of the tour leave the first line out.
fn with_module(script: &str) -> String {
    format!("local p = require \"perilune\"\n{script}")
}

/// The configurations that a block of shell lines with a client follows, each with that block.
fn configurations_and_clients() -> Vec<(&'static str, &'static str)> {
    let after = |text: &'static str| text.split_once("```sh\n")?.1.split_once("```");
    let mut found = Vec::new();
    for rest in README.split("```lua\n").skip(1) {
        let (block, rest) = rest.split_once("```").expect("the block ends");
        let client = after(rest).map(|(client, _)| client);
        match client.filter(|client| client.contains("perilune call")) {
            Some(client) if block.contains("return {\n") => found.push((block, client)),
            _ => {}
        }
    }
    found
}

/// A process that ends with its test.
struct Router(Child);

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has told by then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs an application on a free port; its address.
fn serve(app: &Path) -> (Router, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg(app)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("perilune starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let address = line.trim().trim_start_matches("listening on ws://");
    let address = address.trim_end_matches("/ws").to_owned();
    (Router(child), address)
}

#[test]
fn f05_the_client_lines_behind_a_configuration_log_in_there() {
    let shown = configurations_and_clients();
    let bin = Path::new(env!("CARGO_BIN_EXE_perilune")).parent();
    let bin = bin.expect("a folder").display();
    assert_eq!(shown.len(), 4, "{shown:?}");
    for (config, client) in shown {
        let app = tempfile::tempdir().expect("a temporary folder");
        fs::write(app.path().join("perilune.lua"), config).expect("writes");
        let (_router, address) = serve(app.path());
        let client: Vec<_> = client
            .lines()
            .filter(|line| !line.starts_with("perilune serve"))
            .collect();
        let client = client.join("\n").replace("127.0.0.1:8081", &address);
        let client = client.replace("/tmp", &app.path().display().to_string());
        // What it starts in the background ends with the router, which is what `wait` would wait for.
        let output = Command::new("bash")
            .args(["-euc", &format!("export PATH={bin}:$PATH\n{client}")])
            .env("PERILUNE_URL", format!("ws://{address}/ws"))
            .env("PERILUNE_REALM", "home")
            .stdin(Stdio::null())
            .stdout(Stdio::from(
                fs::File::create(app.path().join("out")).expect("a file"),
            ))
            .stderr(Stdio::null())
            .status()
            .expect("bash starts");
        let said = fs::read_to_string(app.path().join("out")).expect("the output");
        assert!(output.success(), "{said}\nof\n{client}");
        let sessions = said.lines().filter(|line| *line == "1").count();
        let asked = client.lines().filter(|line| {
            line.starts_with("perilune call wamp.session.count") && !line.contains("|| true")
        });
        assert_eq!(sessions, asked.count(), "{said}\nof\n{client}");
    }
}

#[test]
fn f05_the_description_shown_fits_the_procedure_of_the_home() {
    let describe = blocks()
        .into_iter()
        .find(|block| block.contains("p.describe(\"dcs.fan.control\""))
        .expect("it is shown");
    let app = tempfile::tempdir().expect("a temporary folder");
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/smart-home");
    for entry in fs::read_dir(home).expect("the home") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), app.path().join(entry.file_name())).expect("copies");
    }
    let within = |name: &str, from: &str, to: &str| {
        let path = app.path().join(name);
        let text = fs::read_to_string(&path).expect("reads");
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(path, text.replacen(from, to, 1)).expect("writes");
    };
    within(
        "perilune.lua",
        "roles = {",
        "validate = \"enforce\", roles = {",
    );
    // Descriptions are of who serves the procedure.
    let line = describe.lines().find(|line| line.starts_with("p.describe"));
    within(
        "fans.lua",
        "p.register(\"dcs.fan.control\"",
        &format!("{}\np.register(\"dcs.fan.control\"", line.expect("a line")),
    );
    let (_router, address) = serve(app.path());
    let call = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
            .args([
                "call",
                "--url",
                &format!("ws://{address}/ws"),
                "--realm",
                "home",
            ])
            .args([
                "--authid",
                "joe",
                "--ticket",
                "joe's ticket",
                "dcs.fan.control",
            ])
            .args(arguments)
            .output()
            .expect("perilune starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(call(&["bath room", "true"]).trim(), "true");
    let refused = call(&["true"]);
    assert!(refused.contains("wamp.error.invalid_argument"), "{refused}");
}

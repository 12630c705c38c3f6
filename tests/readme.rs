//! What README.md shows is what there is: the reference of the configuration word for word, and Lua that loads.

use std::fs;
use std::path::Path;
use std::process::Command;

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

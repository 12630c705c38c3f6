//! `perilune authz explain`: which rule or function decides.

use std::process::Command;

const CONFIG: &str = r#"return { realms = { home = {
  auth = { anonymous = { role = "guest" } },
  roles = {
    guest = { { uri = "a.", match = "prefix", allow = { "call" } },
              { uri = "own.{authid}.", match = "prefix", allow = { "publish" }, disclose = { publisher = true } } },
    by_function = function(session, action, uri)
      return { uri = "x.", match = "prefix", allow = { "call" }, cache = 5 }
    end,
    by_script = {},
    script = { { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } } },
  },
  scripts = { "rules.lua" },
} } }
"#;

const RULES: &str = r#"local p = require "perilune"
p.on("start", function() error("explaining starts nothing") end)
p.authorize(function(session, action, uri)
  return { allow = session.authid == "joe", cache = true }
end)
"#;

/// Exit code and output.
fn explain(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("perilune.lua"), CONFIG).unwrap();
    std::fs::write(folder.path().join("rules.lua"), RULES).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .args(["authz", "explain"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    let said = said.replace(&format!("{}/", folder.path().display()), "");
    (output.status.code().unwrap(), said)
}

#[track_caller]
fn says(arguments: &str, code: i32, expected: &[&str]) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let (status, said) = explain(&arguments);
    assert_eq!(status, code, "{said}");
    for part in expected {
        assert!(said.contains(part), "{said}: expected {part:?}");
    }
}

#[test]
fn a_rule_is_shown_with_its_line() {
    says(
        "call a.b --role guest",
        0,
        &[
            "allowed",
            "rule 1 of the role, perilune.lua:4: { uri = \"a.\"",
        ],
    );
    says(
        "publish a.b --role guest",
        1,
        &["refused", "perilune.lua:4"],
    );
    says(
        "publish own.joe.x --role guest --authid joe",
        0,
        &["rule 2", "perilune.lua:5", "own.joe.", "publisher always"],
    );
    says(
        "publish own.joe.x --role guest --authid ann",
        1,
        &["refused"],
    );
    says(
        "subscribe a. --match prefix --role guest",
        1,
        &["subscribe prefix \"a.\"", "perilune.lua:4"],
    );
}

#[test]
fn a_function_is_run_and_shown_with_its_line() {
    says(
        "call x.y --role by_function",
        0,
        &[
            "perilune.lua:6",
            "the rule { uri = \"x.\"",
            "; remembered for 5 s",
        ],
    );
    says("call y --role by_function", 1, &["does not cover this"]);
    says(
        "call q --role by_script --authid joe",
        0,
        &[
            "p.authorize of rules.lua, rules.lua:3",
            "yes; remembered for the session",
        ],
    );
    says(
        "call q --role by_script",
        1,
        &["rules.lua:3", "no; remembered for the session"],
    );
}

#[test]
fn what_makes_no_sense_is_said() {
    says(
        "dance a.b --role guest",
        2,
        &["call, register, publish, subscribe"],
    );
    says("call a..b --role guest", 1, &["not a valid URI"]);
    says(
        "call a --role guest --realm other",
        3,
        &["there is no realm \"other\"", "home"],
    );
}

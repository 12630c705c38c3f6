//! The editor stubs in `lua/meta/perilune.lua` and the module scripts really get name the same things, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const STUBS: &str = include_str!("../lua/meta/perilune.lua");
const MODULE: &str = include_str!("../lua/perilune.lua");
const DICTIONARIES: &str = include_str!("../src/lua/lib/shared.rs");

/// How a script gets an object of each class that has methods. Calls and replies do not exist while loading: see
/// [`methods_in_lua_have_stubs`].
const OBJECTS: [(&str, &str); 4] = [
    (
        "registration",
        r#"p.register("stubs.procedure", function() end)"#,
    ),
    (
        "subscription",
        r#"p.subscribe("stubs.topic", function() end)"#,
    ),
    ("timer", "p.after(1, function() end)"),
    ("dictionary", r#"p.shared("stubs")"#),
];

/// Walks the module and says what it found in the only way a main chunk has: by failing.
const WALK: &str = r#"
local p = require "perilune"
local found = {}
local function walk(path, t)
  for name, value in pairs(t) do
    found[#found + 1] = path .. name .. "=" .. type(value)
    if type(value) == "table" and path .. name ~= "p.state" then
      walk(path .. name .. ".", value)
    end
  end
end
walk("p.", p)
local objects = { OBJECTS }
for class, object in pairs(objects) do
  for name in ("METHODS"):gmatch(class .. ":(%w+)") do
    found[#found + 1] = class .. ":" .. name .. "=" .. type(object[name])
  end
end
error("found " .. table.concat(found, " "), 0)
"#;

/// `function p.json.encode(…)` and `function call:progress(…)`: names with `.` and `:` as they stand, and the comment
/// above each.
fn stub_functions() -> BTreeMap<&'static str, String> {
    let mut functions = BTreeMap::new();
    let mut comment = String::new();
    for line in STUBS.lines() {
        if let Some(text) = line.strip_prefix("---") {
            comment.push_str(text);
            comment.push('\n');
        } else {
            if let Some((name, _)) = line
                .strip_prefix("function ")
                .and_then(|rest| rest.split_once('('))
            {
                functions.insert(name, comment.clone());
            }
            comment.clear();
        }
    }
    functions
}

/// `p.state = …`: everything of the module that is no function.
fn stub_values() -> BTreeSet<&'static str> {
    let assigned = STUBS
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0));
    assigned.filter(|name| name.starts_with("p.")).collect()
}

/// What a script finds: name and Lua type.
fn found() -> BTreeMap<String, String> {
    let app = tempfile::tempdir().expect("a temporary folder");
    let config = r#"return { realms = { stubs = { scripts = { "walk.lua" } } } }"#;
    let objects = OBJECTS
        .map(|(class, object)| format!("{class} = {object}"))
        .join(", ");
    let methods: Vec<&str> = stub_functions()
        .into_keys()
        .filter(|name| name.contains(':'))
        .collect();
    let walk = WALK
        .replace("OBJECTS", &objects)
        .replace("METHODS", &methods.join(" "));
    write(app.path(), "perilune.lua", config);
    write(app.path(), "walk.lua", &walk);
    let (code, said) = check(app.path());
    let list = said
        .lines()
        .find_map(|line| Some(line.split_once("found ")?.1));
    let list = list.unwrap_or_else(|| panic!("check said {said:?} and exits with {code:?}"));
    list.split(' ')
        .map(|entry| entry.split_once('=').expect("name=type"))
        .map(|(n, t)| (n.into(), t.into()))
        .collect()
}

/// Exit code and output of `perilune check`.
fn check(app: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .arg("check")
        .arg(app)
        .output()
        .expect("perilune starts");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("writes");
}

#[test]
fn every_function_has_a_stub_and_every_stub_a_function() {
    let functions = stub_functions();
    let values = stub_values();
    let found = found();
    let mut wrong = Vec::new();
    for (name, kind) in &found {
        let known = match kind.as_str() {
            "function" => functions.contains_key(name.as_str()),
            _ => values.contains(name.as_str()),
        };
        if !known {
            wrong.push(format!("{name} is a {kind} of the module and has no stub"));
        }
    }
    let later = |name: &&&str| name.starts_with("call:") || name.starts_with("reply:");
    for name in functions.keys().filter(|name| !later(name)) {
        if found.get(*name).is_none_or(|kind| kind != "function") {
            wrong.push(format!(
                "{name} has a stub and is no function: {:?}",
                found.get(*name)
            ));
        }
    }
    for name in values {
        if !found.contains_key(name) {
            wrong.push(format!("{name} has a stub and is not there"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Wrong uses of the module, each in the third line of a script.
const MISUSES: [&str; 14] = [
    "p.call('x')",
    "p.sleep(1)",
    "p.publish('wamp.x')",
    "p.register('x y', print)",
    "p.register('x', 1)",
    "p.register('x', print, { invoke = 'all' })",
    "p.register('x', print):unregister()",
    "p.subscribe('x', print, { match = 'suffix' })",
    "p.authenticate('telepathy', print)",
    "p.on('strat', print)",
    "p.every(0, print)",
    "p.cron('x', print)",
    "p.crypto.sha256({})",
    "p.json.encode(print)",
];

#[test]
fn misuse_is_blamed_on_the_line_of_the_script() {
    let app = tempfile::tempdir().expect("a temporary folder");
    let names: Vec<String> = (0..MISUSES.len())
        .map(|n| format!("misuse_{n}.lua"))
        .collect();
    for (name, misuse) in names.iter().zip(MISUSES) {
        write(
            app.path(),
            name,
            &format!("local p = require \"perilune\"\n\n{misuse}\n"),
        );
    }
    let scripts = names
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    write(
        app.path(),
        "perilune.lua",
        &format!("return {{ realms = {{ stubs = {{ scripts = {{ {scripts} }} }} }} }}"),
    );
    let (_, said) = check(app.path());
    for (name, misuse) in names.iter().zip(MISUSES) {
        let place = format!("{name}:3: ");
        assert!(
            said.lines().any(|line| line.starts_with(&place)),
            "{misuse} is not blamed on {place}\n{said}"
        );
    }
}

#[test]
fn methods_in_lua_have_stubs() {
    let functions = stub_functions();
    let stubs: BTreeSet<&str> = functions
        .keys()
        .filter_map(|name| Some(name.split_once(':')?.1))
        .collect();
    let named = |text: &'static str, before: &str, after: &str| -> Vec<&'static str> {
        let lines = text.lines().map(str::trim);
        lines
            .filter_map(|line| line.strip_prefix(before)?.split_once(after))
            .map(|(name, _)| name)
            .collect()
    };
    let of_dictionaries = named(DICTIONARIES, "add(\"", "\",");
    let of_objects = named(MODULE, "", " = function(self");
    assert!(
        of_dictionaries.contains(&"incr") && of_objects.contains(&"progress"),
        "the sources look different now"
    );
    for method in of_dictionaries.iter().chain(&of_objects) {
        assert!(stubs.contains(method), "the method {method} has no stub");
    }
    // And the classes no script can get hold of while loading.
    let later = functions.keys().filter_map(|name| name.split_once(':'));
    for (class, method) in later.filter(|(class, _)| ["call", "reply"].contains(class)) {
        assert!(
            of_objects.contains(&method),
            "{class}:{method} has a stub and is not in lua/perilune.lua"
        );
    }
}

#[test]
fn every_stub_says_where_it_may_be_called() {
    for (name, comment) in stub_functions() {
        let says = [
            "Anywhere.",
            "In handlers",
            "In procedures.",
            "While loading only",
        ];
        let says = says.iter().any(|phrase| comment.contains(phrase))
            || comment.contains("in handlers it waits");
        assert!(
            says,
            "{name} does not say where it may be called:\n{comment}"
        );
    }
}

#[test]
fn every_option_names_its_default() {
    let mut class = "";
    for line in STUBS.lines() {
        if let Some(name) = line.strip_prefix("---@class ") {
            class = name.split(':').next().unwrap_or_default();
        } else if class.ends_with(".options") && line.starts_with("---@field") && line.contains('?')
        {
            assert!(line.contains("default: "), "{class}: {line}");
        }
    }
}

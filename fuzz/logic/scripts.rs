//! Random programs over the whole API of scripts, under small limits.
//!
//! What must hold: the process lives, its memory is bounded, and a neighbour script goes on answering.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::node::{Node, assert_calm, folder};

const CONFIG: &str = r#"return {
  listen = "unix:HERE/s.sock",
  http = { call = { ["/call"] = { realm = "realm1", auth = "anonymous", timeout = "500ms" } } },
  realms = { realm1 = {
    auth = { anonymous = { role = "guest" } },
    roles = { guest = { { uri = "", match = "prefix", allow = { "call" } } } },
    limits = { hook = "200ms" },
    scripts = { { "s.lua", memory = "8MB", cpu = "20ms", deadline = "300ms", handlers = 20 }, "neighbour.lua" },
  } },
}"#;

const NEIGHBOUR: &str =
    "local p = require 'perilune'\np.register('n.echo', function() return 'here' end)";
const PROGRAM: &str = include_str!("program.lua");

/// How long the neighbour may take. A router that hangs takes for ever; `FUZZ_NEIGHBOUR_MS=100` on a machine of one's own.
fn patience() -> Duration {
    let told = std::env::var("FUZZ_NEIGHBOUR_MS").ok();
    Duration::from_millis(told.and_then(|text| text.parse().ok()).unwrap_or(5_000))
}

/// What the process may come to hold beside what the first program left.
const MEMORY: u64 = 600 << 20;

pub fn scripts(octets: &[u8]) {
    if octets.is_empty() {
        return;
    }
    let mut literal = String::from("\"");
    for octet in &octets[..octets.len().min(2_000)] {
        write!(literal, "\\{octet:03}").expect("a String takes all");
    }
    literal.push('"');
    let program = PROGRAM.replacen("OCTETS", &literal, 1);
    let folder = folder(&[
        ("s.lua", program.as_bytes()),
        ("neighbour.lua", NEIGHBOUR.as_bytes()),
    ]);
    let config = CONFIG.replace("HERE", &folder.path().display().to_string());
    std::fs::write(folder.path().join("perilune.lua"), config).expect("writes");
    let (node, problems) = Node::start(folder).expect("starts");
    assert!(
        problems.iter().all(|problem| problem.contains("s.lua")),
        "{problems:?}"
    );
    for procedure in ["s.go", "s.again"] {
        let answered = node.call("s.sock", procedure);
        assert!(answered.starts_with("HTTP/1.1 "), "{procedure}: {answered}");
        let begun = Instant::now();
        let answer = node.call("s.sock", "n.echo");
        let taken = begun.elapsed();
        // A program that authorizes decides about the neighbour's callers, too.
        let fine = answer.starts_with("HTTP/1.1 200") || answer.contains("authoriz");
        assert!(fine, "{answer}");
        assert!(taken < patience(), "the neighbour took {taken:?}");
    }
    drop(node);
    assert_calm();
    let resident = resident();
    static FIRST: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let first = *FIRST.get_or_init(|| resident);
    assert!(
        resident < first + MEMORY,
        "{first} octets resident have become {resident}"
    );
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

//! Configuration files: those of the examples, damaged.
//!
//! What must hold: each is an error that names the file, or a router that runs; nothing panics.

use std::path::Path;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};

use perilune::server::settings::Address;

use super::node::{Node, assert_calm, count_panics, folder, load};

/// The configurations of `scripts/` and of README.md.
fn examples() -> &'static [String] {
    static EXAMPLES: OnceLock<Vec<String>> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = if root.ends_with("fuzz") {
            root.parent().expect("a parent")
        } else {
            root
        };
        let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("readable");
        let readme = read("README.md");
        let blocks = readme
            .split("```lua\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next());
        let mut found: Vec<String> = blocks
            .filter(|text| text.contains("return {\n"))
            .map(Into::into)
            .collect();
        found.push(read("scripts/smart-home/perilune.lua"));
        found.push(read("tests/interop/app/perilune.lua"));
        // Addresses that a running router takes would be those of others; the paths of `listen` go out of the way.
        for text in &mut found {
            *text = text
                .replace("127.0.0.1:8080", "127.0.0.1:0")
                .replace("unix:perilune.sock", "127.0.0.1:0");
        }
        found
    })
}

/// What a damaged place may hold.
const VALUES: [&str; 24] = [
    "nil",
    "true",
    "false",
    "{}",
    "0",
    "-1",
    "1e308",
    "0/0",
    "\"\"",
    "\"x\"",
    "\"wamp.\"",
    "\"{authid}.\"",
    "{ {} }",
    "{ 1, nil, 3 }",
    "function() end",
    "\"64MB\"",
    "\"10years\"",
    "\"../..\"",
    "print",
    "undefined",
    "env \"NO\"",
    "{ [1.5] = true }",
    "(\"x\"):rep(3000)",
    "setmetatable({}, { __index = error })",
];

pub fn configuration(octets: &[u8]) {
    count_panics();
    let mut input = Unstructured::new(octets);
    let Ok(text) = damaged(&mut input) else {
        return;
    };
    let files: &[(&str, &[u8])] = &[
        ("perilune.lua", &text),
        (
            "rooms.lua",
            b"local p = require 'perilune'\np.register('a.b', print)",
        ),
        ("alarm.lua", b""),
    ];
    let folder = folder(files);
    match load(folder.path()) {
        Err(error) => assert!(
            error.contains("perilune.lua"),
            "{error}\nof\n{}",
            String::from_utf8_lossy(&text)
        ),
        // What would touch other folders is not run.
        Ok(configuration) if configuration.settings.data.is_none() => {
            let listens = configuration.settings.listeners.iter().all(|listener| {
                matches!(&listener.address, Address::Tcp(address) if address.ends_with(":0"))
            });
            if listens && let Ok((node, _)) = Node::start(folder) {
                drop(node);
            }
        }
        Ok(_) => {}
    }
    assert_calm();
}

fn damaged(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let examples = examples();
    let mut text = examples[usize::from(u8::arbitrary(input)?) % examples.len()]
        .clone()
        .into_bytes();
    for _ in 0..u8::arbitrary(input)? % 4 {
        // Where a value stands.
        let places: Vec<usize> = (1..text.len()).filter(|at| text[at - 1] == b'=').collect();
        let at = match places.len() {
            0 => 0,
            many => places[usize::from(u16::arbitrary(input)?) % many],
        };
        let end = (at..text.len())
            .find(|at| b",}\n".contains(&text[*at]))
            .unwrap_or(text.len());
        match u8::arbitrary(input)? {
            kind @ 0..160 => {
                let value = format!(" {}", VALUES[usize::from(kind) % VALUES.len()]);
                text.splice(at..end, value.into_bytes());
            }
            160..190 => drop(text.drain(at..end)),
            190..220 => {
                let length = usize::from(u8::arbitrary(input)? % 20);
                let some = input.bytes(length.min(input.len()))?.to_vec();
                text.splice(at..at, some);
            }
            _ if at < text.len() => {
                let place = usize::from(u16::arbitrary(input)?) % text.len();
                text[place] = u8::arbitrary(input)?;
            }
            _ => {}
        }
    }
    Ok(text)
}

//! The house rules a compiler cannot hold in one crate: which layer may name which, where `unsafe` may stand, and
//! what the core does without.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first; a file may name its own layer and those before it.
const LAYERS: [&str; 6] = ["words", "wire", "core", "server", "lua", "cli"];

/// Layers without I/O, clock, tasks, Lua or randomness of their own.
const PURE: [&str; 3] = ["words", "wire", "core"];

/// What [`PURE`] layers do without. Types that only carry values (`SystemTime`, `Duration`) are fine, reading them off
/// a clock is not; `std::io::Write` into memory is no I/O.
const IMPURE: [&str; 12] = [
    "tokio",
    "mlua",
    "notify",
    "socket2",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime::now",
    "rand::rng",
];

/// Where `unsafe` may stand, and why.
const UNSAFE: [(&str, &str); 2] = [
    (
        "src/lua/raw/",
        "the Lua C API under mlua: coroutines, hooks, strings and payloads without copies",
    ),
    (
        "src/cli/bench/process.rs",
        "sched_setaffinity has no safe wrapper among our dependencies",
    ),
];

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    /// The file without comments.
    code: String,
}

impl Source {
    /// The folder or file under `src/`: `src/core/realm.rs` is of `core`.
    fn layer(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split(['/', '.']).next().unwrap_or(inside)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be listed") {
            let path: PathBuf = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                let path = path
                    .strip_prefix(root)
                    .expect("under the root")
                    .to_string_lossy()
                    .replace('\\', "/");
                sources.push(Source {
                    path,
                    code: without_comments(&text),
                });
            }
        }
    }
    assert!(sources.len() > 50, "found {} sources only", sources.len());
    sources
}

/// Line comments only: the house writes no others. What follows `//` in a string goes too, which hides nothing here.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The layers a text names: `crate::wire::…`, and each of `crate::{words::…, wire::…}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `other_crate::` are other things.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(heads(group)),
            None => names.extend(head(rest)),
        }
    }
    names
}

/// The identifier a path begins with.
fn head(path: &str) -> Option<String> {
    let end = path
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// The same for each path of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                heads.extend(head(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

/// Whether `word` stands in `code` as a whole.
fn mentions(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)
    })
}

#[test]
fn no_layer_names_a_higher_one() {
    let mut offences = Vec::new();
    for source in sources() {
        if matches!(
            source.path.as_str(),
            "src/lib.rs" | "src/main.rs" | "src/build.rs"
        ) {
            continue;
        }
        let rank = |layer: &str| LAYERS.iter().position(|known| *known == layer);
        let Some(own) = rank(source.layer()) else {
            offences.push(format!("{} belongs to no layer", source.path));
            continue;
        };
        for name in named(&source.code) {
            match rank(&name) {
                Some(other) if other <= own => {}
                Some(_) => offences.push(format!(
                    "{}: {} may not name {name}",
                    source.path,
                    source.layer()
                )),
                None => offences.push(format!("{}: crate::{name} is no layer", source.path)),
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_has_a_reason() {
    let mut seen = BTreeSet::new();
    for source in sources() {
        if !mentions(&source.code, "unsafe") && !mentions(&source.code, "unsafe_code") {
            continue;
        }
        let place = UNSAFE
            .iter()
            .find(|(place, _)| source.path.starts_with(place));
        let Some((place, _)) = place else {
            panic!("{} uses `unsafe`", source.path)
        };
        seen.insert(*place);
    }
    let listed: BTreeSet<&str> = UNSAFE.iter().map(|(place, _)| *place).collect();
    assert_eq!(
        seen, listed,
        "the list of places names one that needs it no more"
    );
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    let mut offences = Vec::new();
    for source in sources() {
        if PURE.contains(&source.layer()) {
            let found = IMPURE.iter().filter(|word| mentions(&source.code, word));
            offences.extend(found.map(|word| format!("{} mentions {word}", source.path)));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_reading_of_paths_is_right() {
    let named = |code| named(code).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(named("use crate::wire::{Message, words};"), "wire");
    assert_eq!(
        named("use crate::{core::{io, realm}, words::Uri};\nfn f() -> crate::wire::Id {}"),
        "core wire words"
    );
    assert_eq!(named("other_crate::lua::x"), "");
    assert_eq!(
        named(&without_comments(
            "//! [`crate::lua`]\nlet x = 1; // crate::cli"
        )),
        ""
    );
    assert!(mentions("use tokio::sync;", "tokio") && !mentions("let tokio_like = 1;", "tokio"));
    assert!(mentions("Instant::now()", "Instant") && !mentions("Instantly", "Instant"));
}

//! The fuzz targets of `fuzz/` without a fuzzer: every input of `fuzz/corpus`, and some that nobody has chosen.
//!
//! `FUZZ_INPUTS=100000 cargo test --test fuzz_corpus` goes on for longer. What `cargo +nightly fuzz run TARGET` finds
//! belongs into the corpus of its target.

#[path = "../fuzz/logic/mod.rs"]
mod logic;

use std::path::{Path, PathBuf};

use perilune::wire::{NESTING, Serializer, decode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Inputs per target beside its corpus, unless the environment asks for more.
const INPUTS: usize = 3_000;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = std::fs::read_dir(folder.join(target)).expect("a corpus");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("readable"));
    paths.into_iter().map(read).collect()
}

/// Says which input it was, should the target panic.
fn run(name: &str, target: logic::Target, octets: &[u8], origin: &str) {
    let outcome = std::panic::catch_unwind(|| target(octets));
    if outcome.is_err() {
        panic!("{name}, {origin}: {}", octets.escape_ascii());
    }
}

/// An input that nobody has chosen: random octets, or one of the corpus with some damage.
fn invent(random: &mut StdRng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    if corpus.is_empty() || random.random_ratio(1, 4) {
        let mut octets = vec![0; random.random_range(0..400)];
        random.fill(octets.as_mut_slice());
        return octets;
    }
    let mut octets = corpus[random.random_range(0..corpus.len())].1.clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=octets.len());
        match random.random_range(0..5) {
            0 => octets.truncate(at),
            1 => octets.insert(at, random.random()),
            2 if at < octets.len() => octets[at] ^= 1 << random.random_range(0..8),
            3 if at < octets.len() => octets[at] = random.random(),
            _ => {
                let other = &corpus[random.random_range(0..corpus.len())].1;
                let from = random.random_range(0..=other.len());
                octets.truncate(at);
                octets.extend_from_slice(&other[from..]);
            }
        }
    }
    octets
}

fn replay(name: &str) {
    let (_, target) = logic::TARGETS
        .into_iter()
        .find(|target| target.0 == name)
        .expect("a target");
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
    for (path, octets) in &corpus {
        run(name, target, octets, &path.display().to_string());
    }
    let more = std::env::var("FUZZ_INPUTS").ok();
    let inputs = more.map_or(INPUTS, |more| more.parse().expect("a number"));
    // Whole conversations take longer than messages.
    let inputs = match name {
        "realm" | "login" | "http" | "lua_values" => inputs / 10,
        "configuration" | "scripts" => inputs / 100,
        _ => inputs,
    };
    let seed = u64::from(name.len() as u32);
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..inputs {
        run(name, target, &invent(&mut random, &corpus), "invented");
    }
}

/// Else the decoders' targets would only ever see what they refuse.
#[test]
fn corpora_of_decoders_hold_messages() {
    for serializer in Serializer::ALL {
        let corpus = corpus(&format!("decode_{}", serializer.name()));
        let whole = corpus
            .iter()
            .filter(|(_, octets)| decode(serializer, &octets.clone().into(), NESTING).is_ok());
        assert!(whole.count() >= 20, "{serializer:?}");
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        /// Every target is replayed, and has a program of its own.
        #[test]
        fn all_of_them() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(logic::TARGETS.map(|target| target.0), replayed);
            let manifest = std::fs::read_to_string("fuzz/Cargo.toml").expect("fuzz/Cargo.toml");
            for name in replayed {
                assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
                assert!(Path::new("fuzz/fuzz_targets").join(format!("{name}.rs")).exists());
            }
        }
    };
}

targets! { decode_json decode_msgpack decode_cbor rawsocket websocket batched patterns realm login keys http configuration scripts lua_values rows }

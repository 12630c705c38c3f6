#![no_main]

#[path = "../logic/mod.rs"]
mod logic;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| logic::configuration(octets));

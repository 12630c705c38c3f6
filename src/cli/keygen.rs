//! `perilune keygen`: a key pair for logins with cryptosign, and what a router keeps of a password for SCRAM.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use rand::RngCore;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::core::hex;
use crate::core::scram::{
    ARGON2_ITERATIONS, ARGON2_MEMORY, Derivation, Kdf, PBKDF2_ITERATIONS, ScramCredential,
};

const EXAMPLES: &str = concat!(
    r#"Examples:
  perilune keygen --out hub.key             writes the private key, prints the public one
  perilune keygen                           prints both
  perilune keygen scram                     asks for a password, prints its keys for the configuration

"#,
    "The public key goes into the router's configuration, under auth.cryptosign of the realm; the private key stays \
     with whoever logs in: perilune call get.time --key hub.key"
);

/// Make a key pair (Ed25519) to log in with, instead of a password
#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct KeygenArgs {
    /// Write the private key into this new file, which only its owner may read
    #[arg(long, short = 'O', value_name = "FILE", alias = "output-file")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Subcommand)]
enum Other {
    /// Derive the keys of a password (SCRAM) for the router's configuration, so that the password is not in it
    Scram(ScramArgs),
}

/// Reads the password from PERILUNE_PASSWORD, else one line from standard input.
#[derive(Args)]
struct ScramArgs {
    #[arg(long, value_enum, default_value = "argon2id13")]
    kdf: KdfName,
    /// Rounds of the derivation [default: 2 of argon2id13, 15000 of pbkdf2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: Option<u32>,
    /// KiB of memory that argon2id13 takes
    #[arg(long, value_name = "KIB", default_value_t = ARGON2_MEMORY, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    memory: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum KdfName {
    Argon2id13,
    Pbkdf2,
}

pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    match &args.other {
        Some(Other::Scram(scram)) => credential(scram)?,
        None => pair(args.out.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pair(out: Option<&Path>) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| anyhow!("{error}"))?;
    let (private, public) = (hex::encode(&seed), hex::encode(pair.public_key().as_ref()));
    let mut stdout = io::stdout().lock();
    match out {
        Some(path) => {
            save(path, &private).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(stdout, "{public}")?;
        }
        None => writeln!(stdout, "public key:  {public}\nprivate key: {private}")?,
    }
    Ok(())
}

/// Never over a key that is there already.
fn save(path: &Path, private: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{private}")?;
    file.sync_all()
}

/// A user's entry under `auth.scram.users`, lacking the role.
fn credential(args: &ScramArgs) -> anyhow::Result<()> {
    let password = password()?;
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let (kdf, iterations, parameters) = match args.kdf {
        KdfName::Argon2id13 => {
            let (iterations, memory) = (args.iterations.unwrap_or(ARGON2_ITERATIONS), args.memory);
            (
                Kdf::Argon2id13 { memory },
                iterations,
                format!(r#"kdf = "argon2id13", iterations = {iterations}, memory = {memory}"#),
            )
        }
        KdfName::Pbkdf2 => {
            let iterations = args.iterations.unwrap_or(PBKDF2_ITERATIONS);
            (
                Kdf::Pbkdf2,
                iterations,
                format!(r#"kdf = "pbkdf2", iterations = {iterations}"#),
            )
        }
    };
    let derivation = Derivation {
        kdf,
        salt: salt.to_vec(),
        iterations,
    };
    let keys = ScramCredential::derive(&password, derivation)?.keys;
    writeln!(
        io::stdout(),
        "{{\n  {parameters},\n  salt = \"{}\",\n  stored_key = \"{}\",\n  server_key = \"{}\",\n}}",
        STANDARD.encode(salt),
        hex::encode(keys.stored.expose()),
        hex::encode(keys.server.expose()),
    )?;
    Ok(())
}

fn password() -> anyhow::Result<String> {
    let password = match env::var("PERILUNE_PASSWORD") {
        Ok(password) => password,
        Err(_) => {
            if io::stdin().is_terminal() {
                let _ = write!(io::stderr(), "password: ");
            }
            let mut line = String::new();
            io::stdin().read_line(&mut line)?;
            line.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    ensure!(!password.is_empty(), "an empty password");
    Ok(password)
}

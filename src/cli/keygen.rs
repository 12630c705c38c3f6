//! `perilune keygen`: a key pair for logins with cryptosign.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use rand::RngCore;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::client::hex;

const EXAMPLES: &str = r#"Examples:
  perilune keygen --out hub.key             writes the private key, prints the public one
  perilune keygen                           prints both

The public key goes into the router's configuration, under auth.cryptosign of the realm; the private key stays with
whoever logs in:
  perilune call get.time --key hub.key"#;

/// Make a key pair (Ed25519) to log in with, instead of a password
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeygenArgs {
    /// Write the private key into this new file, which only its owner may read
    #[arg(long, short = 'O', value_name = "FILE", alias = "output-file")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| anyhow!("{error}"))?;
    let (private, public) = (hex(&seed), hex(pair.public_key().as_ref()));
    let mut stdout = io::stdout().lock();
    match &args.out {
        Some(path) => {
            save(path, &private).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(stdout, "{public}")?;
        }
        None => writeln!(stdout, "public key:  {public}\nprivate key: {private}")?,
    }
    Ok(ExitCode::SUCCESS)
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

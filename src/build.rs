//! Tells the program which commit it was built from (`perilune --version`), and the linker whose functions write numbers.

use std::process::Command;

fn main() {
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    let commit = match commit {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        // A source archive has no repository.
        _ => "no commit".to_owned(),
    };
    println!("cargo::rustc-env=PERILUNE_COMMIT={commit}");
    // `src/lua/raw/numbers.rs`; other linkers than those of Linux do not know it.
    for function in ["lj_strfmt_num", "lj_strfmt_putfnum"] {
        println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
    }
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/index");
}

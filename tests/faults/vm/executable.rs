//! Systems that do not let written memory become executable: systemd's `MemoryDenyWriteExecute`, SELinux without `execmem`.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    reason = "what a child forbids itself before it becomes the program has no safe form"
)]

use perilune::words::Value;
use tokio::process::Command;

use crate::support::program::{Program, app, open_realm, perilune};
use crate::support::soon;

/// `perilune`, under `PR_SET_MDWE` (Linux 6.3): the kernel's own form of such a rule, kept across `exec`.
fn forbidden() -> Command {
    let forbid = || {
        let (no_exec_gain, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
        // SAFETY: it takes numbers only.
        match unsafe { libc::prctl(libc::PR_SET_MDWE, no_exec_gain, unused, unused, unused) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let mut command = perilune();
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(forbid) };
    command
}

/// Hot enough for a compiler, and a trusted script that insists.
const HOT: &str = r#"local p = require "perilune"
if jit then jit.on() end
local function sum(n) local s = 0 for i = 1, n do s = s + i % 7 end return s end
p.register("hot.sum", function(call) return sum(call.args[1]) end)
p.register("hot.spin", function() while true do sum(1000) end end)
"#;

fn hot_app() -> tempfile::TempDir {
    let scripts = open_realm(r#""plain.lua", { "trusted.lua", trusted = true }"#);
    let trusted = HOT.replace("hot.", "trusted.");
    app(&[
        ("perilune.lua", &scripts),
        ("plain.lua", HOT),
        ("trusted.lua", &trusted),
    ])
}

#[tokio::test]
async fn d10_the_version_is_told_and_why_scripts_are_interpreted() {
    let output = soon(forbidden().arg("--version").output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{} {text}", output.status);
    let guard = text.lines().last().unwrap();
    let expected = "guard: interpreted scripts, watchdog works: this system does not let written memory \
                    become executable";
    assert!(guard.starts_with(expected), "{text}");
    let output = soon(perilune().arg("--version").output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("guard: compiled scripts"), "{text}");
}

#[tokio::test]
async fn d10_an_application_is_checked() {
    let folder = hot_app();
    let loops = "local n = 0 for i = 1, 1e6 do n = n + i end\n";
    let configuration = std::fs::read_to_string(folder.path().join("perilune.lua")).unwrap();
    std::fs::write(
        folder.path().join("perilune.lua"),
        loops.to_owned() + &configuration,
    )
    .unwrap();
    let output = soon(forbidden().arg("check").arg(folder.path()).output())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{} {text}", output.status);
}

#[tokio::test]
async fn d10_scripts_run_interpreted_and_are_still_stopped() {
    let folder = hot_app();
    let mut command = forbidden();
    command
        .arg("serve")
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0"]);
    let mut program = Program::start(command);
    soon(
        program
            .log
            .with(&["WARN", "scripts run interpreted", "MemoryDenyWriteExecute"]),
    )
    .await;
    let mut client = program.join().await;
    for kind in ["hot", "trusted"] {
        let sum = client
            .ask(&format!("{kind}.sum"), &[Value::Int(100_000)])
            .await;
        assert_eq!(sum, [Value::Int(300_000)], "{kind}");
        let error = client.refused(&format!("{kind}.spin"), &[]).await;
        assert!(error.ends_with("time_limit"), "{kind}: {error}");
    }
    program.signal("-TERM");
    assert!(program.ended().await.success());
}

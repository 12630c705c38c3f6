//! What people are told when something does not go: each line names what, where and what would do.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::app::{App, args};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    folder
}

/// What `perilune check` finds.
fn findings(app: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .arg("check")
        .arg(app)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn realm(keys: &str) -> String {
    format!(
        "return {{ realms = {{ home = {{ auth = {{ anonymous = {{ role = 'guest' }} }},\n{keys} }} }} }}"
    )
}

#[test]
fn f04_a_wrong_rule_is_shown_as_it_is_written() {
    for (rules, expected) in [
        (
            "{ { uri = 'device.{authid}.', allow = { 'call' } } }",
            "\"device.{authid}.\" is not a valid URI",
        ),
        (
            "{ uri = 'a.', match = 'prefix', allow = { 'call' } }",
            "is one rule; a role is a list of rules: { { uri = ",
        ),
        ("'all'", "must be a list of rules or a function"),
    ] {
        let config = realm(&format!("roles = {{ guest = {rules} }}"));
        let said = findings(folder(&[("perilune.lua", &config)]).path());
        assert!(
            said.contains("perilune.lua:2: ") && said.contains(expected),
            "{said}"
        );
        assert!(!said.contains(".x."), "{said}");
    }
}

#[test]
fn f04_a_wrong_schedule_says_what_its_fields_are() {
    for (schedule, reason) in [
        ("", "it is empty"),
        ("* * *", "Pattern must have"),
        ("61 * * * *", "61"),
        ("a b c d e", "illegal character"),
    ] {
        let script = format!("local p = require 'perilune'\np.cron('{schedule}', print)");
        let config = realm("roles = { guest = {} }, scripts = { 'a.lua' }");
        let said = findings(folder(&[("perilune.lua", &config), ("a.lua", &script)]).path());
        let fields = "fields: minute hour day month weekday";
        for part in ["a.lua:2: ", "is no schedule", reason, fields] {
            assert!(said.contains(part), "{said}: expected {part:?}");
        }
        assert!(!said.contains("Component error"), "{said}");
    }
}

#[test]
fn f04_a_link_that_leads_out_is_named_with_where_it_leads() {
    let outside = folder(&[("stolen.lua", "return {}")]);
    let app = folder(&[
        (
            "perilune.lua",
            &realm("roles = { guest = {} }, scripts = { 'a.lua' }"),
        ),
        ("a.lua", "require 'linked'"),
    ]);
    let target = outside.path().join("stolen.lua");
    std::os::unix::fs::symlink(&target, app.path().join("linked.lua")).unwrap();
    let said = findings(app.path());
    let real = target.canonicalize().unwrap();
    for part in [
        "a.lua:1: ",
        "'linked.lua'",
        "symbolic link",
        &real.display().to_string(),
    ] {
        assert!(said.contains(part), "{said}: expected {part:?}");
    }
}

#[test]
fn f04_a_script_that_its_role_refuses_hears_which_role() {
    let config = realm(
        "roles = { guest = {}, script = { { uri = 'a.', match = 'prefix', allow = { 'call' } } } }, scripts = { 'a.lua' }",
    );
    let script = "local p = require 'perilune'\np.register('a.echo', print)";
    let said = findings(folder(&[("perilune.lua", &config), ("a.lua", script)]).path());
    for part in [
        "a.lua",
        "not allowed to register \"a.echo\"",
        "roles.script",
    ] {
        assert!(said.contains(part), "{said}: expected {part:?}");
    }
}

#[test]
fn f04_a_script_hears_which_script_holds_its_procedure() {
    let config = realm("roles = { guest = {} }, scripts = { 'a.lua', 'b.lua' }");
    let script = "local p = require 'perilune'\np.register('a.echo', print)";
    let said = findings(
        folder(&[
            ("perilune.lua", &config),
            ("a.lua", script),
            ("b.lua", script),
        ])
        .path(),
    );
    let part = "\"a.echo\" is registered already by the script \"a.lua\", with invoke=\"single\"";
    assert!(said.contains(part), "{said}");
}

#[tokio::test]
async fn f04_who_holds_a_registration_is_told_to_scripts_and_not_to_peers() {
    let script = "local p = require 'perilune'\np.register('a.echo', print)\np.register('a.try', function()\n p.register('b.held', print)\nend)";
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    peer.try_register("b.held").await.unwrap();
    let told = format!("{:?}", peer.call_fails("a.try", &[]).await);
    assert!(told.contains("is registered already by session "), "{told}");
    let refused = format!("{:?}", peer.try_register("a.echo").await.unwrap_err());
    assert!(
        refused.contains("procedure_already_exists") && !refused.contains(" by "),
        "{refused}"
    );
}

/// Found by the fuzz target `scripts`: it ended the script's thread.
#[tokio::test]
async fn an_id_that_is_none_is_an_error_at_its_line() {
    let script = "local p = require 'perilune'\np.register('a.purge', function(call)\n  return select(2, pcall(p.purge, { session = call.args[1] }))\nend)";
    let router = App::of(script).start().await;
    let mut peer = router.join().await;
    for id in ["[0]", "[1e300]", "[-1]", "[0.5]"] {
        let said = format!("{:?}", peer.call("a.purge", &args(id)).await);
        assert!(
            said.contains("session must be a session id"),
            "{id}: {said}"
        );
    }
}

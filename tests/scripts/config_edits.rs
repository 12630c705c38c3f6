//! Edits of the configuration while sessions are open: nobody is sent away for a script's sake.

use crate::support::app::{App, args};

/// A realm whose only role is the business of `guard.lua`.
fn config(scripts: &str, limits: &str) -> String {
    format!(
        "return {{ realms = {{ realm1 = {{\n\
         auth = {{ anonymous = {{ role = \"visitor\" }} }},\n\
         scripts = {{ {scripts} }}, limits = {{ {limits} }},\n}} }} }}\n"
    )
}

const GUARD: &str = r#"
local p = require "perilune"
p.authorize(function() return true end)
p.register("a.hello", function() return "hello" end)
"#;

fn app() -> App {
    App::new()
        .config(&config("\"guard.lua\"", ""))
        .file("guard.lua", GUARD)
}

#[tokio::test]
async fn sessions_of_an_authorizers_role_outlive_another_edit() {
    let router = app().start().await;
    let mut peer = router.join().await;
    router.save(
        "perilune.lua",
        &config("\"guard.lua\"", "subscriptions = 7"),
    );
    router.log.says("configuration reloaded").await;
    assert_eq!(peer.call("a.hello", &[]).await, args(r#"["hello"]"#));
}

#[tokio::test]
async fn a_configuration_whose_new_script_does_not_load_changes_nothing() {
    let router = app().start().await;
    let mut peer = router.join().await;
    router.save("more.lua", "this is no Lua");
    router.save("perilune.lua", &config("\"guard.lua\", \"more.lua\"", ""));
    router
        .log
        .says("configuration not reloaded, the old one holds: more.lua:1:")
        .await;
    assert_eq!(peer.call("a.hello", &[]).await, args(r#"["hello"]"#));
    let mut late = router.join().await;
    assert_eq!(late.call("a.hello", &[]).await, args(r#"["hello"]"#));

    let more = "require('perilune').register('a.more', function() return 'more' end)";
    router.save("more.lua", more);
    router.log.says("configuration reloaded").await;
    assert_eq!(peer.call("a.more", &[]).await, args(r#"["more"]"#));
}

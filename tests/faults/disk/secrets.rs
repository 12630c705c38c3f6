//! What a script need not know.

use crate::support::app::App;

#[tokio::test]
async fn b10_a_script_reads_the_variables_that_its_entry_names() {
    let script = r#"
        local p = require "perilune"
        p.register("read", function(call) return p.env(call.args[1]) ~= nil end)
    "#;
    let router = App::new()
        .configured_script(r#"{ "named.lua", env = { "PATH" } }"#, "named.lua", script)
        .configured_script(
            r#"{ "closed.lua", env = {} }"#,
            "closed.lua",
            &script.replace("\"read\"", "\"closed\""),
        )
        .script("open.lua", &script.replace("\"read\"", "\"open\""))
        .start()
        .await;
    let mut peer = router.join().await;
    for procedure in ["read", "open"] {
        assert_eq!(peer.call(procedure, &["PATH".into()]).await, [true.into()]);
    }
    peer.call("open", &["HOME".into()]).await;
    for (procedure, name) in [("read", "HOME"), ("closed", "PATH")] {
        peer.call_fails(procedure, &[name.into()]).await;
        let line = router
            .log
            .says("is not in the script's `env` in perilune.lua")
            .await;
        assert!(line.contains(name) && line.contains(".lua:3: "), "{line}");
    }
}

#[tokio::test]
async fn b10_env_is_a_list_of_names() {
    let said = App::new()
        .configured_script(r#"{ "a.lua", env = true }"#, "a.lua", "")
        .refused()
        .await;
    assert!(
        said.contains("env` must be a string or a list of strings"),
        "{said}"
    );
}

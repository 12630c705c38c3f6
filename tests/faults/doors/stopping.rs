//! The end of the router: what is owed comes before GOODBYE.

use perilune::wire::Message;

use crate::support::program::{Program, app, open_realm};
use crate::support::{Client, soon};

/// A caller, its callee, and the call between them that is open.
async fn in_flight(program: &Program) -> (Client, Client, Message) {
    let (mut callee, mut caller) = (program.join().await, program.join().await);
    callee.register("com.slow").await;
    caller.call("com.slow", &[]).await;
    let invocation = callee.message().await;
    (caller, callee, invocation)
}

#[tokio::test]
async fn d11_calls_between_clients_are_answered_before_the_end() {
    let folder = app(&[("perilune.lua", &open_realm(""))]);
    let mut program = Program::serve(folder.path(), &[]);
    let (mut caller, mut callee, invocation) = in_flight(&program).await;
    let Message::Invocation(invocation) = invocation else {
        panic!("INVOCATION")
    };
    program.signal("-TERM");
    program.log.with(&["shutting down"]).await;
    callee.yields(invocation.request, &["done".into()]).await;
    assert!(matches!(caller.message().await, Message::Result(_)));
    assert_eq!(caller.reason().await, "wamp.close.system_shutdown");
    assert_eq!(callee.reason().await, "wamp.close.system_shutdown");
    drop((caller, callee));
    assert_eq!(program.ended().await.code(), Some(0));
}

#[tokio::test]
async fn d11_handlers_have_the_time_that_drain_gives_them() {
    let script = r#"local p = require "perilune"
p.register("slow.answer", function() p.publish("slow.begun") p.sleep(2.5) return "done" end)
"#;
    let files = [
        ("perilune.lua", &*open_realm(r#""slow.lua""#)),
        ("slow.lua", script),
    ];
    let folder = app(&files);
    let program = Program::serve(folder.path(), &[]);
    let (mut watcher, mut caller) = (program.join().await, program.join().await);
    watcher.subscribe("slow.begun").await;
    let request = caller.call("slow.answer", &[]).await;
    watcher.event().await;
    program.signal("-TERM");
    assert_eq!(caller.result(request).await, ["done".into()]);
    assert_eq!(caller.reason().await, "wamp.close.system_shutdown");
}

#[tokio::test]
async fn d11_who_never_answers_holds_up_the_end_no_longer_than_drain() {
    let config = open_realm("").replacen("limits = {", "limits = { drain = '300ms',", 1);
    let folder = app(&[("perilune.lua", &config)]);
    let program = Program::serve(folder.path(), &[]);
    let (mut caller, _callee, _) = in_flight(&program).await;
    program.signal("-TERM");
    let ended = soon(caller.next()).await;
    assert!(!matches!(ended, Ok(Message::Result(_))), "{ended:?}");
}

#[tokio::test]
async fn d11_a_second_signal_waits_for_nobody() {
    let config = open_realm("").replacen("limits = {", "limits = { drain = false,", 1);
    let folder = app(&[("perilune.lua", &config)]);
    let mut program = Program::serve(folder.path(), &[]);
    let (caller, callee, _) = in_flight(&program).await;
    program.signal("-TERM");
    program.log.with(&["shutting down"]).await;
    program.signal("-INT");
    program.log.with(&["told once more"]).await;
    drop((caller, callee));
    assert_eq!(program.ended().await.code(), Some(0));
}

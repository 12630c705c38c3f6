//! `p.subscribe` and `p.publish`.

use perilune::wire::Serializer;
use perilune::words::{Id, Value};

use crate::support::app::{App, args, kwargs};

/// Tells every event it gets as `log`.
const LISTENERS: &str = r#"
local p = require "perilune"
local function tell(how) return function(e) p.publish("log", { how, e.topic, e.args, e.kwargs }) end end
p.subscribe("t.exact", tell "exact")
p.subscribe("t.prefix", tell "prefix", { match = "prefix" })
p.subscribe("t..wild", tell "wildcard", { match = "wildcard" })
p.subscribe("t.two", tell "first")
p.subscribe("t.two", tell "second")
p.subscribe("t.plain", function(e) p.publish("log", { #e.args, next(e.kwargs) == nil, e.publisher or p.null, type(e.details) }) end)
p.subscribe("t.fails", function(e) error("subscriber broke") end)
"#;

#[tokio::test]
async fn events_name_their_topic_under_every_match() {
    let router = App::of(LISTENERS).start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    for (topic, how) in [
        ("t.exact", "exact"),
        ("t.prefix.a.b", "prefix"),
        ("t.x.wild", "wildcard"),
    ] {
        peer.publish(topic, &args(r#"[1,{"a":[]}]"#)).await;
        let expected = args(&format!(r#"["{how}","{topic}",[1,{{"a":[]}}],{{}}]"#));
        assert_eq!(peer.event_args().await, expected);
    }
    peer.publish("t.two", &[]).await;
    assert_eq!(peer.event_args().await, args(r#"["first","t.two",[],{}]"#));
    assert_eq!(peer.event_args().await, args(r#"["second","t.two",[],{}]"#));
    peer.publish("t.plain", &[]).await;
    assert_eq!(peer.event_args().await, args(r#"[0,true,null,"table"]"#));
}

#[tokio::test]
async fn a_failing_subscriber_is_told_to_the_log() {
    let router = App::of(LISTENERS).start().await;
    let mut peer = router.join().await;
    peer.publish("t.fails", &[]).await;
    let line = router.log.says("subscriber broke").await;
    assert!(line.contains("a.lua:10:"), "{line}");
    peer.subscribe("log").await;
    peer.publish("t.exact", &[]).await;
    peer.event_args().await;
}

#[tokio::test]
async fn ordered_subscribers_handle_one_event_at_a_time() {
    let app = App::of(
        r#"
local p = require "perilune"
local function handler(name)
  local running = 0
  return function(e)
    running = running + 1
    p.publish("log." .. name, { "begin", e.args[1], running })
    p.sleep(e.args[1] == 1 and 0.05 or 0)
    p.publish("log." .. name, { "end", e.args[1], running })
    running = running - 1
  end
end
p.subscribe("t.topic", handler "ordered", { ordered = true })
p.subscribe("t.topic", handler "unordered")
"#,
    );
    let router = app.start().await;
    let mut ordered = router.join().await;
    ordered.subscribe("log.ordered").await;
    let mut unordered = router.join().await;
    unordered.subscribe("log.unordered").await;
    for i in 1..=2 {
        ordered.publish("t.topic", &[Value::Int(i)]).await;
    }
    for expected in [
        r#"["begin",1,1]"#,
        r#"["end",1,1]"#,
        r#"["begin",2,1]"#,
        r#"["end",2,1]"#,
    ] {
        assert_eq!(ordered.event_args().await, args(expected));
    }
    for expected in [
        r#"["begin",1,1]"#,
        r#"["begin",2,2]"#,
        r#"["end",2,2]"#,
        r#"["end",1,1]"#,
    ] {
        assert_eq!(unordered.event_args().await, args(expected));
    }
}

#[tokio::test]
async fn an_ordered_subscriber_that_fails_goes_on_with_the_next_event() {
    let app = App::of(
        r#"
local p = require "perilune"
p.subscribe("t.topic", function(e)
  p.sleep(0.001)
  if e.args[1] == 1 then error("first") end
  p.publish("log", e.args)
end, { ordered = true })
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    for i in 1..=3 {
        peer.publish("t.topic", &[Value::Int(i)]).await;
    }
    assert_eq!(peer.event_args().await, args("[2]"));
    assert_eq!(peer.event_args().await, args("[3]"));
}

/// Publishes as it is told.
const PUBLISHER: &str = r#"
local p = require "perilune"
p.subscribe("t.mine", function(e) p.publish("log", { "mine", e.args[1] }) end)
p.register("a.publish", function(call)
  local id = p.publish(call.args[1], { "hello" }, { key = "value" }, call.args[2])
  return id, type(id)
end)
p.register("a.refused", function(call)
  local ok, e = pcall(p.publish, call.args[1], nil, nil, call.args[2])
  return ok, ok or e.uri or e
end)
"#;

#[tokio::test]
async fn publish_options_choose_who_gets_it() {
    let router = App::of(PUBLISHER).start().await;
    let (mut first, mut second) = (router.join().await, router.join().await);
    let mut peer = router.join().await;
    for subscriber in [&mut first, &mut second] {
        subscriber.subscribe("t.topic").await;
        subscriber.subscribe("t.end").await;
    }
    let (one, two) = (
        first.client.session.unwrap().value(),
        second.client.session.unwrap().value(),
    );
    let options = [
        (format!(r#"{{"exclude":[{one}]}}"#), [false, true]),
        (format!(r#"{{"eligible":[{one}]}}"#), [true, false]),
        (r#"{"exclude_authrole":["guest"]}"#.into(), [false, false]),
        (r#"{"eligible_authrole":["guest"]}"#.into(), [true, true]),
        (
            format!(r#"{{"exclude":[{two}],"acknowledge":true}}"#),
            [true, false],
        ),
    ];
    for (options, reach) in options {
        let acknowledged = options.contains("acknowledge");
        let said = peer
            .call("a.publish", &args(&format!(r#"["t.topic",{options}]"#)))
            .await;
        assert_eq!(said[1] == "number".into(), acknowledged, "{said:?}");
        peer.call("a.publish", &args(r#"["t.end"]"#)).await;
        for (subscriber, reached) in [&mut first, &mut second].into_iter().zip(reach) {
            if reached {
                let (_, args_of, kwargs_of) = subscriber.event().await;
                assert_eq!(args_of, args(r#"["hello"]"#), "{options}");
                assert_eq!(kwargs_of, kwargs(r#"{"key":"value"}"#));
            }
            // The next event is the one that ends the round: nothing else has come.
            subscriber.event().await;
            assert!(!subscriber.has_kept(), "{options}");
        }
    }
}

#[tokio::test]
async fn acknowledged_publications_return_their_id() {
    let router = App::of(PUBLISHER).start().await;
    let mut peer = router.join_with(Serializer::Json).await;
    peer.subscribe("t.topic").await;
    let said = peer
        .call("a.publish", &args(r#"["t.topic",{"acknowledge":true}]"#))
        .await;
    let (event, ..) = peer.event().await;
    assert_eq!(said[0], Value::from(event.publication.value()));
}

#[tokio::test]
async fn a_publisher_is_excluded_unless_it_says_otherwise() {
    let router = App::of(PUBLISHER).start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    peer.subscribe("t.mine").await;
    peer.call("a.publish", &args(r#"["t.mine"]"#)).await;
    assert_eq!(peer.event_args().await, args(r#"["hello"]"#));
    peer.call("a.publish", &args(r#"["t.mine",{"exclude_me":false}]"#))
        .await;
    assert_eq!(peer.event_args().await, args(r#"["hello"]"#));
    assert_eq!(peer.event_args().await, args(r#"["mine","hello"]"#));
}

#[tokio::test]
async fn reserved_and_malformed_topics_are_refused() {
    let router = App::of(PUBLISHER).start().await;
    let mut peer = router.join().await;
    for topic in ["wamp.topic", "perilune.script.on_reload", "a b", "a..b", ""] {
        let said = peer.call("a.refused", &[topic.into()]).await;
        assert_eq!(said[0], Value::Bool(false), "{topic}: {said:?}");
    }
}

#[tokio::test]
async fn subscriptions_come_and_go_while_running() {
    let app = App::of(
        r#"
local p = require "perilune"
local handles = {}
p.register("a.add", function(call)
  local name = call.args[1]
  handles[name] = p.subscribe("t.topic", function(e) p.publish("log", { name, e.args[1] }) end)
  return handles[name].id, handles[name].uri
end)
p.register("a.remove", function(call)
  local h = handles[call.args[1]]
  if call.args[2] then h:unsubscribe() else p.unsubscribe(h) end
  return h.id
end)
"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    let id = peer.subscribe("t.topic").await;
    // Two handlers share the subscription, and the subscription is the topic's.
    for name in ["one", "two"] {
        let said = peer.call("a.add", &[name.into()]).await;
        assert_eq!(said, [Value::from(id), "t.topic".into()]);
    }
    let mut publisher = router.join().await;
    publisher.publish("t.topic", &args("[1]")).await;
    assert_eq!(peer.event_args().await, args("[1]"));
    assert_eq!(peer.event_args().await, args(r#"["one",1]"#));
    assert_eq!(peer.event_args().await, args(r#"["two",1]"#));
    let removed = peer.call("a.remove", &args(r#"["one",true]"#)).await;
    assert_eq!(removed, args("[null]"));
    publisher.publish("t.topic", &args("[2]")).await;
    assert_eq!(peer.event_args().await, args("[2]"));
    assert_eq!(peer.event_args().await, args(r#"["two",2]"#));
    peer.call("a.remove", &args(r#"["two",false]"#)).await;
    publisher.publish("t.topic", &args("[3]")).await;
    assert_eq!(peer.event_args().await, args("[3]"));
    peer.call("a.add", &args(r#"["three"]"#)).await;
    publisher.publish("t.topic", &args("[4]")).await;
    assert_eq!(peer.event_args().await, args("[4]"));
    assert_eq!(peer.event_args().await, args(r#"["three",4]"#));
}

#[tokio::test]
async fn publishers_are_disclosed_as_the_rules_say() {
    let app = App::of(
        r#"
local p = require "perilune"
p.subscribe("t.topic", function(e)
  p.publish("log", { e.publisher, e.details.publisher_authrole }, nil, { disclose_me = true })
end)
"#,
    )
    .config(
        r#"return { realms = { realm1 = {
  auth = { anonymous = { role = "guest" } },
  roles = { guest = { { uri = "", match = "prefix", allow = { "publish", "subscribe" }, disclose = { publisher = true } } } },
  scripts = { "a.lua" },
} } }"#,
    );
    let router = app.start().await;
    let mut peer = router.join().await;
    peer.subscribe("log").await;
    peer.publish("t.topic", &[]).await;
    let (event, told, _) = peer.event().await;
    let session = peer.client.session.unwrap().value();
    assert_eq!(told, [Value::from(session), "guest".into()]);
    assert_eq!(
        event.details.publisher.expect("disclosed").authrole,
        "script"
    );
}

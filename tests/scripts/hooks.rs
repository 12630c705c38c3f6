//! `p.authenticate` and `p.authorize`, in scripts and as functions of the configuration.

use perilune::words::Value;

use crate::support::app::{App, Running, args};

/// `realm1` with these logins and roles, and `a.lua`.
fn app(auth: &str, roles: &str, script: &str) -> App {
    impatient("5s", auth, roles, script)
}

/// The same with a bound for functions.
fn impatient(hook: &str, auth: &str, roles: &str, script: &str) -> App {
    App::of(script).config(&format!(
        "return {{ realms = {{ realm1 = {{ auth = {{ {auth} }}, roles = {{ {roles} }},\n\
         limits = {{ hook = {hook:?} }}, scripts = {{ \"a.lua\" }} }} }} }}\n"
    ))
}

/// A role that may do everything.
const ROLE: &str = r#"user = { { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } } }"#;

const LOGINS: &str = r#"
local p = require "perilune"
local people = {
  joe = function() return { role = "user", extra = { shoe = 46 } } end,
  brief = function() return "user" end,
  renamed = function() return { role = "user", authid = "somebody" } end,
  refused = function() return nil, "not on Sundays" end,
  silent = function() return nil end,
  raised = function() p.error("app.error.locked", { "come back later" }) end,
  broken = function() error("secret internals") end,
  odd = function() return 5 end,
  roleless = function() return { authid = "x" } end,
  stranger = function() return { role = "nobody" } end,
  asked = function(login) p.sleep(0.001); return { role = p.call("a.role", { login.authid }).args[1] } end,
  slow = function() p.sleep(3600) end,
}
p.register("a.role", function() return "user" end)
p.authenticate("ticket", function(login)
  if login.ticket ~= "t-" .. login.authid then return nil end
  return people[login.authid](login)
end)
p.authenticate("wampcra", function(login)
  if login.authid == "plain" then return { secret = "s3cret", role = "user" } end
  if login.authid == "salted" then
    return { password = "s3cret", salt = "pepper", iterations = 100, keylen = 16, role = "user" }
  end
  if login.authid == "slow" then p.sleep(3600) end
  return nil, "who?"
end)
p.authenticate("anonymous", function(login)
  p.shared("seen").login = { login.realm, login.method, type(login.session), login.authid or p.null,
    type(login.transport.peer), login.transport.tls, type(login.transport.http), type(login.transport.cookies) }
  return { role = "user" }
end)
p.register("a.seen", function() return p.shared("seen").login end)
"#;

async fn ticket(router: &Running, authid: &str) -> Result<perilune::words::Dict, String> {
    let mut peer = router.open().await;
    let outcome = peer.ticket(authid, &format!("t-{authid}")).await;
    outcome.map_err(|(reason, message)| format!("{reason}: {}", message.unwrap_or_default()))
}

#[tokio::test]
async fn dyn_03_a_ticket_is_judged_by_a_function() {
    let router = app("", ROLE, LOGINS).start().await;
    let joe = ticket(&router, "joe").await.unwrap();
    assert_eq!(joe.text("authid"), Some("joe"));
    assert_eq!(joe.text("authrole"), Some("user"));
    assert_eq!(joe.text("authmethod"), Some("ticket"));
    let Some(Value::Map(extra)) = joe.lookup("authextra") else {
        panic!("{joe:?}")
    };
    assert_eq!(extra.lookup("shoe"), Some(&Value::Int(46)));
    let renamed = ticket(&router, "renamed").await.unwrap();
    assert_eq!(renamed.text("authid"), Some("somebody"));
    for authid in ["brief", "asked"] {
        let details = ticket(&router, authid).await.unwrap();
        assert_eq!(details.text("authrole"), Some("user"), "{authid}");
    }
    let mut wrong = router.open().await;
    let (reason, _) = wrong.ticket("joe", "guessed").await.unwrap_err();
    assert!(reason.starts_with("wamp.error.authentication_"), "{reason}");
}

#[tokio::test]
async fn dyn_04_refusals_say_what_the_function_says() {
    let router = app("", ROLE, LOGINS).start().await;
    let refused = ticket(&router, "refused").await.unwrap_err();
    assert!(
        refused.starts_with("wamp.error.authentication_denied"),
        "{refused}"
    );
    let logged = router.log.says("not on Sundays").await;
    assert!(
        logged.contains("refused") && logged.contains("ticket"),
        "{logged}"
    );
    let raised = ticket(&router, "raised").await.unwrap_err();
    assert_eq!(raised, "app.error.locked: come back later");
    for authid in ["broken", "odd", "roleless"] {
        let failed = ticket(&router, authid).await.unwrap_err();
        assert!(
            failed.starts_with("wamp.error.authentication_failed"),
            "{authid}: {failed}"
        );
        assert!(!failed.contains("secret"), "{authid}: {failed}");
    }
    router.log.says("a.lua:10: secret internals").await;
    let stranger = ticket(&router, "stranger").await.unwrap_err();
    assert!(
        stranger.starts_with("wamp.error.no_such_role"),
        "{stranger}"
    );
    assert!(ticket(&router, "silent").await.is_err());
    assert!(
        !router.log.text().contains("t-joe") && !router.log.text().contains("t-broken"),
        "tickets are no log matter"
    );
}

#[tokio::test]
async fn a_login_function_that_takes_too_long_denies() {
    let router = impatient("300ms", "", ROLE, LOGINS).start().await;
    let slow = ticket(&router, "slow").await.unwrap_err();
    assert!(
        slow.starts_with("wamp.error.authentication_failed"),
        "{slow}"
    );
    let mut peer = router.open().await;
    let (reason, _) = peer.wampcra("slow", "s3cret").await.unwrap_err();
    assert_eq!(reason, "wamp.error.authentication_failed");
    ticket(&router, "joe").await.unwrap();
}

#[tokio::test]
async fn the_router_does_the_crypto_of_wampcra() {
    let router = app("", ROLE, LOGINS).start().await;
    for authid in ["plain", "salted"] {
        let mut peer = router.open().await;
        let details = peer.wampcra(authid, "s3cret").await.unwrap();
        assert_eq!(details.text("authid"), Some(authid));
        let mut peer = router.open().await;
        let (reason, _) = peer.wampcra(authid, "wrong").await.unwrap_err();
        assert!(reason.starts_with("wamp.error.authentication_"), "{reason}");
    }
    let mut peer = router.open().await;
    assert!(peer.wampcra("unknown", "s3cret").await.is_err());
}

#[tokio::test]
async fn anonymous_logins_are_judged_with_their_transport() {
    let router = app("", ROLE, LOGINS).start().await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.seen", &[]).await,
        args(r#"[["realm1","anonymous","number",null,"string",false,"table","table"]]"#)
    );
}

#[tokio::test]
async fn static_users_are_looked_up_first() {
    let auth = r#"ticket = { users = { joe = { secret = "static", role = "user" } } }"#;
    let router = app(auth, ROLE, LOGINS).start().await;
    let mut peer = router.open().await;
    peer.ticket("joe", "static").await.unwrap();
    assert!(
        ticket(&router, "joe").await.is_err(),
        "the function is not asked"
    );
    ticket(&router, "brief").await.unwrap();
}

#[tokio::test]
async fn functions_of_the_configuration_decide_too() {
    let auth = r#"
ticket = function(login)
  if login.ticket == "t-raised" then error { uri = "app.error.locked", args = { "later" } } end
  if login.ticket == "t-broken" then error("secret internals") end
  if login.ticket == "t-endless" then while true do end end
  return login.ticket == "t-" .. login.authid and { role = "reader" } or nil
end,
anonymous = function() return "guest" end"#;
    let roles = r#"
reader = function(session, action, uri, options)
  if uri == "a.broken" then error("secret internals") end
  return action == "call" and uri == "a.read" and session.authrole == "reader" and session.authid == "ann"
end,
guest = { { uri = "a.guest", allow = { "call" } } }"#;
    let script = r#"
local p = require "perilune"
for _, name in ipairs { "a.read", "a.write", "a.guest", "a.broken" } do p.register(name, function() return name end) end
"#;
    let router = app(auth, roles, script).start().await;
    let mut ann = router.open().await;
    ann.ticket("ann", "t-ann").await.unwrap();
    assert_eq!(ann.call("a.read", &[]).await, args(r#"["a.read"]"#));
    for (procedure, expected) in [
        ("a.write", "wamp.error.not_authorized"),
        ("a.broken", "wamp.error.authorization_failed"),
    ] {
        let (uri, _) = ann.call_fails(procedure, &[]).await;
        assert_eq!(uri, expected, "{procedure}");
    }
    let mut guest = router.join().await;
    guest.call("a.guest", &[]).await;
    let (uri, _) = guest.call_fails("a.read", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
    let raised = ticket(&router, "raised").await.unwrap_err();
    assert_eq!(raised, "app.error.locked: later");
    for authid in ["broken", "endless"] {
        let failed = ticket(&router, authid).await.unwrap_err();
        assert!(
            failed.starts_with("wamp.error.authentication_failed"),
            "{failed}"
        );
    }
    ticket(&router, "ann").await.unwrap();
}

/// Decides by the URI, and counts how often it is asked.
const AUTHORIZER: &str = r#"
local p = require "perilune"
local count = p.shared("count")
p.authorize(function(session, action, uri, options)
  if uri == "a.counts" then return true end
  count:incr(action .. " " .. uri)
  if uri == "a.no" then return false end
  if uri == "a.nothing" then return end
  if uri == "a.fails" then error("secret internals") end
  if uri == "a.odd" then return "yes" end
  if uri == "a.raises" then p.error("app.error.closed") end
  if uri == "a.slow" then p.sleep(3600) end
  if uri == "a.waits" then p.sleep(0.001); return p.call("a.counts", { "x" }).args[1] == 0 end
  if uri == "a.cached" then return { allow = true, cache = 60 } end
  if uri == "a.brief" then return { allow = true, cache = 0.001 } end
  if uri == "a.kept" then return { allow = true, cache = true } end
  if uri == "a.never" then return { allow = false, cache = true } end
  if uri == "a.disclosed" then return { allow = true, disclose = true } end
  if uri == "a.session" then return session.authrole == "user" and session.authmethod == "anonymous" and
    type(session.session) == "number" and options.match == "exact" end
  return action ~= "register"
end)
p.register("a.counts", function(call) return count:get(call.args[1]) or 0 end)
p.register("a.disclosed", function(call) return call.details.caller_authrole end)
for _, name in ipairs { "a.any", "a.no", "a.nothing", "a.fails", "a.odd", "a.raises", "a.slow", "a.waits", "a.cached", "a.brief", "a.kept",
  "a.never", "a.session" } do
  p.register(name, function(call) return name, call.details.caller end)
end
"#;

/// Everybody is a `user`, whose only rule is another's matter.
fn authorized() -> App {
    impatient(
        "1s",
        r#"anonymous = { role = "user" }"#,
        r#"user = { { uri = "rule.no", allow = {} } }"#,
        AUTHORIZER,
    )
}

#[tokio::test]
async fn az_06_an_authorizer_says_yes_or_no() {
    let router = authorized().start().await;
    let mut peer = router.join().await;
    for procedure in ["a.any", "a.waits", "a.session"] {
        assert_eq!(peer.call(procedure, &[]).await[0], procedure.into());
    }
    for (procedure, expected) in [
        ("a.no", "wamp.error.not_authorized"),
        ("a.nothing", "wamp.error.not_authorized"),
        ("a.fails", "wamp.error.authorization_failed"),
        ("a.odd", "wamp.error.authorization_failed"),
        ("a.raises", "wamp.error.authorization_failed"),
        ("a.slow", "wamp.error.authorization_failed"),
        // A rule that matches decides, whatever the function would say.
        ("rule.no", "wamp.error.not_authorized"),
    ] {
        let (uri, said) = peer.call_fails(procedure, &[]).await;
        assert_eq!(uri, expected, "{procedure}");
        assert!(!format!("{said:?}").contains("secret"), "{said:?}");
    }
    assert_eq!(
        peer.try_register("a.new").await.unwrap_err(),
        "wamp.error.not_authorized"
    );
    assert_eq!(
        peer.try_subscribe("a.no").await.unwrap_err(),
        "wamp.error.not_authorized"
    );
    assert_eq!(
        peer.try_publish("a.no", &[]).await.unwrap_err(),
        "wamp.error.not_authorized"
    );
    peer.subscribe("t.topic").await;
    peer.publish("t.topic", &[]).await;
}

#[tokio::test]
async fn verdicts_are_asked_for_as_often_as_the_cache_says() {
    let router = authorized().start().await;
    let mut peer = router.join().await;
    for procedure in ["a.any", "a.cached", "a.kept"] {
        for _ in 0..3 {
            peer.call(procedure, &[]).await;
        }
    }
    for _ in 0..3 {
        peer.call_fails("a.never", &[]).await;
    }
    for (key, expected) in [
        ("call a.any", 3),
        ("call a.cached", 1),
        ("call a.kept", 1),
        ("call a.never", 1),
    ] {
        let count = peer.call("a.counts", &[key.into()]).await;
        assert_eq!(count, [Value::Int(expected)], "{key}");
    }
    // A cache is a session's own.
    let mut other = router.join().await;
    other.call("a.kept", &[]).await;
    let count = other.call("a.counts", &args(r#"["call a.kept"]"#)).await;
    assert_eq!(count, args("[2]"));
    // One millisecond passes in one of these calls.
    while peer.call("a.counts", &args(r#"["call a.brief"]"#)).await != args("[2]") {
        peer.call("a.brief", &[]).await;
    }
}

#[tokio::test]
async fn an_authorizer_may_force_disclosure() {
    let router = authorized().start().await;
    let mut peer = router.join().await;
    assert_eq!(peer.call("a.disclosed", &[]).await, args(r#"["user"]"#));
    assert_eq!(peer.call("a.any", &[]).await[1], Value::Null);
}

#[tokio::test]
async fn a_second_authorizer_or_authenticator_is_a_load_error_that_names_both() {
    for (what, name) in [
        ("p.authorize(function() return true end)", "p.authorize"),
        (
            "p.authenticate('ticket', function() end)",
            "p.authenticate(\"ticket\")",
        ),
    ] {
        let script = format!("local p = require 'perilune'\n{what}\n");
        let text = App::new()
            .script("first.lua", &script)
            .script("second.lua", &script)
            .refused()
            .await;
        assert!(text.contains(name), "{text}");
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        assert!(
            line.contains("first.lua") && line.contains("second.lua"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn no_rule_and_no_function_is_no() {
    let router = app(
        r#"anonymous = { role = "user" }"#,
        r#"user = { { uri = "b.", match = "prefix", allow = { "call" } } }"#,
        "local p = require 'perilune'\np.register('a.b', function() end)",
    )
    .start()
    .await;
    let mut peer = router.join().await;
    let (uri, _) = peer.call_fails("a.b", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
}

#[tokio::test]
async fn rules_bind_scripts_where_the_configuration_says_so() {
    let script = r#"
local p = require "perilune"
p.register("a.try", function()
  local ok, e = pcall(p.publish, "b.topic", nil, nil, { acknowledge = true })
  return ok, ok or e.uri
end)
"#;
    let roles = format!(
        r#"{ROLE}, script = {{ {{ uri = "a.", match = "prefix", allow = {{ "register" }} }} }}"#
    );
    let router = app(r#"anonymous = { role = "user" }"#, &roles, script)
        .start()
        .await;
    let mut peer = router.join().await;
    assert_eq!(
        peer.call("a.try", &[]).await,
        args(r#"[false,"wamp.error.not_authorized"]"#)
    );
}

/// Answers with rules, and does what the changeable `policy` says.
const RULES: &str = r#"
local p = require "perilune"
local policy = p.shared("policy")
local function asked(uri) policy:incr("asked " .. uri) end
p.authorize(function(session, action, uri)
  if uri:find("^do%.") then return true end
  asked(uri)
  if policy:get("closed") then return false end
  if uri:find("^home%.") then
    return { uri = "home.", match = "prefix", allow = { "call", "subscribe" }, cache = 60 }
  end
  if uri == "odd.allow" then return { uri = uri, allow = true } end
  if uri == "odd.match" then return { uri = uri, match = "glob", allow = { "call" } } end
  if uri == "odd.other" then return { uri = "elsewhere", allow = { "call" } } end
  return { allow = true, cache = true }
end)
p.register("home.door", function() return "open" end)
p.register("home.window", function() return "shut" end)
p.register("do.close", function() policy:set("closed", true) end)
p.register("do.purge", function(call) p.purge { authid = call.args[1] } end)
p.register("do.reauthorize", function() p.reauthorize() end)
p.register("do.count", function(call) return policy:get("asked " .. call.args[1]) or 0 end)
p.register("do.misuse", function()
  local ok, text = pcall(p.purge, { user = "joe" })
  return ok, tostring(text)
end)
"#;

fn ruling() -> App {
    impatient("1s", r#"anonymous = { role = "user" }"#, "user = {}", RULES)
}

#[tokio::test]
async fn az_06_an_authorizer_may_answer_with_a_rule() {
    let router = ruling().start().await;
    let mut peer = router.join().await;
    peer.call("home.door", &[]).await;
    peer.call("home.window", &[]).await;
    for (uri, asked) in [("home.door", 1), ("home.window", 0)] {
        let count = peer.call("do.count", &[uri.into()]).await;
        assert_eq!(count, [Value::Int(asked)], "{uri}");
    }
    let refused = peer.try_publish("home.door", &[]).await.unwrap_err();
    assert_eq!(refused, "wamp.error.not_authorized");
    for procedure in ["odd.allow", "odd.match", "odd.other"] {
        let (uri, _) = peer.call_fails(procedure, &[]).await;
        assert_eq!(uri, "wamp.error.authorization_failed", "{procedure}");
    }
}

#[tokio::test]
async fn purge_and_reauthorize_look_again() {
    let router = ruling().start().await;
    let mut peer = router.join().await;
    peer.subscribe("t.topic").await;
    peer.call("home.door", &[]).await;
    let misuse = peer.call("do.misuse", &[]).await;
    assert_eq!(misuse[0], Value::Bool(false));
    assert!(misuse[1].as_str().unwrap().contains("user"), "{misuse:?}");
    peer.call("do.purge", &["nobody".into()]).await;
    peer.call("home.door", &[]).await;
    assert_eq!(
        peer.call("do.count", &["home.door".into()]).await,
        args("[1]")
    );
    peer.call("do.purge", &[]).await;
    peer.call("home.door", &[]).await;
    assert_eq!(
        peer.call("do.count", &["home.door".into()]).await,
        args("[2]")
    );
    // From now on nothing is allowed: what is held goes.
    peer.call("do.close", &[]).await;
    peer.call("do.reauthorize", &[]).await;
    let (uri, _) = peer.call_fails("home.door", &[]).await;
    assert_eq!(uri, "wamp.error.not_authorized");
    // Asked once for SUBSCRIBE, once more by `p.reauthorize`.
    let count = peer.call("do.count", &["t.topic".into()]).await;
    assert_eq!(count, args("[2]"));
}

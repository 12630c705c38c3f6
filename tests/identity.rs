//! Who somebody is, over real sockets: cookies, WAMP procedures that decide, realms on demand.

mod support;

use std::time::Duration;

use perilune::wire::{Authenticate, Message};
use perilune::words::{Dict, Value};
use support::app::{App, Running};
use support::{Client, Kind, REALM, soon, tcp, uri};

const ALL: &str =
    r#"{ uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } }"#;

/// A configuration whose `ALL` is a rule that allows everything.
async fn serve(config: &str, files: &[(&str, &str)]) -> Running {
    let app = App::new().config(&config.replace("ALL", ALL));
    let app = files
        .iter()
        .fold(app, |app, (name, text)| app.file(name, text));
    app.start().await
}

/// HELLO, then whatever the login takes: `realm authid authrole authmethod authprovider`, or the reason of ABORT.
async fn log_in(
    client: &mut Client,
    realm: Option<&str>,
    method: &str,
    authid: &str,
    ticket: &str,
) -> String {
    let Message::Hello(mut hello) = support::hello(REALM) else {
        unreachable!("hello() makes HELLO")
    };
    hello.realm = realm.map(uri);
    hello.authmethods = vec![method.to_owned()];
    hello.authid = (!authid.is_empty()).then(|| authid.to_owned());
    client.send(&Message::Hello(hello)).await;
    loop {
        match client.message().await {
            Message::Challenge(_) => {
                let signature = ticket.to_owned();
                let extra = Dict::new();
                let answer = Authenticate { signature, extra };
                client.send(&Message::Authenticate(answer)).await;
            }
            Message::Welcome(welcome) => {
                client.session = Some(welcome.session);
                let text = |key: &str| welcome.details.text(key).unwrap_or_default().to_owned();
                return ["realm", "authid", "authrole", "authmethod", "authprovider"]
                    .map(text)
                    .join(" ");
            }
            Message::Abort(abort) => return abort.reason.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

async fn open(router: &Running) -> Client {
    let io = tcp(router.address).await;
    Client::open(io, Kind::WebSocket, perilune::wire::Serializer::Cbor).await
}

/// Logs in on a connection of its own.
async fn try_in(router: &Running, realm: &str, method: &str, authid: &str, ticket: &str) -> String {
    let mut client = open(router).await;
    log_in(&mut client, Some(realm), method, authid, ticket).await
}

#[tokio::test]
async fn auth_13_an_issued_cookie_brings_its_user_back() {
    let config = r#"return { realms = { realm1 = {
      auth = {
        anonymous = { role = "user" },
        ticket = { users = { joe = { secret = "t1cket", role = "user" } } },
        cookie = { name = "sid", issue = true, max_age = "1h", same_site = "strict" },
      },
      roles = { user = { ALL, { uri = "wamp.session.", match = "prefix", allow = { "call" } } } },
    } } }"#;
    let router = serve(config, &[]).await;
    let (mut first, set) = Client::with_cookie(router.address, "sid=planted").await;
    let set = set.expect("a cookie is set");
    let (cookie, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(
        attributes,
        "Path=/; Max-Age=3600; SameSite=Strict; HttpOnly"
    );
    assert_eq!(cookie.len(), "sid=".len() + 43, "32 octets in Base64");
    let back = async |cookie: &str| {
        let (mut client, set) = Client::with_cookie(router.address, cookie).await;
        let outcome = log_in(&mut client, Some(REALM), "cookie", "", "").await;
        (client, outcome, set.is_some())
    };
    let (_, outcome, _) = back(cookie).await;
    assert_eq!(
        outcome, "wamp.error.no_matching_auth_method",
        "not bound yet"
    );
    let outcome = log_in(&mut first, Some(REALM), "ticket", "joe", "t1cket").await;
    assert_eq!(outcome, "realm1 joe user ticket static");
    let (_second, outcome, again) = back(cookie).await;
    assert_eq!(outcome, "realm1 joe user cookie static");
    assert!(!again, "the cookie is known");
    let (_, outcome, _) = back("sid=planted").await;
    assert_eq!(outcome, "wamp.error.no_matching_auth_method", "not ours");
    // Who is sent away does not come back by it.
    let mut judge = open(&router).await;
    log_in(&mut judge, Some(REALM), "anonymous", "", "").await;
    let kill = judge
        .call("wamp.session.kill_by_authid", &["joe".into()])
        .await;
    judge.result(kill).await;
    first.reason().await;
    soon(async {
        while back(cookie).await.1 != "wamp.error.no_matching_auth_method" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn auth_13_a_function_says_whose_cookie_it_is() {
    let script = r#"
local p = require "perilune"
p.authenticate("cookie", function(login)
  if login.cookie == "let me" then return { role = "user", authid = login.transport.cookies.name } end
end)"#;
    let config =
        r#"return { realms = { realm1 = { scripts = { "s.lua" }, roles = { user = { ALL } } } } }"#;
    let router = serve(config, &[("s.lua", script)]).await;
    let back = async |cookie: &str| {
        let (mut client, _) = Client::with_cookie(router.address, cookie).await;
        log_in(&mut client, Some(REALM), "cookie", "", "").await
    };
    let outcome = back("name=ann; wampauth=let%20me").await;
    assert_eq!(outcome, "realm1 ann user cookie lua");
    assert_eq!(
        back("wampauth=no").await,
        "wamp.error.authentication_denied"
    );
    assert_eq!(back("other=1").await, "wamp.error.no_matching_auth_method");
}

#[tokio::test]
async fn auth_13_dyn_01_a_procedure_says_whose_cookie_it_is() {
    let script = r#"
local p = require "perilune"
p.register("com.auth", function(call)
  local details = call.args[3]
  assert(details.authmethod == "cookie")
  if details.cookie == "let me" then return { role = "user", authid = "ann" } end
  p.error("com.error.unknown")
end)"#;
    let config = r#"return { realms = {
      desk = { scripts = { "s.lua" } },
      realm1 = { auth = { cookie = { name = "sid", procedure = "com.auth", realm = "desk" } }, roles = { user = { ALL } } },
    } }"#;
    let router = serve(config, &[("s.lua", script)]).await;
    for (cookie, expected) in [
        ("sid=let%20me", "realm1 ann user cookie dynamic"),
        ("sid=no", "com.error.unknown"),
    ] {
        let (mut client, _) = Client::with_cookie(router.address, cookie).await;
        let outcome = log_in(&mut client, Some(REALM), "cookie", "", "").await;
        assert_eq!(outcome, expected);
    }
}

#[tokio::test]
async fn auth_13_the_gate_of_a_configuration() {
    let config = r#"return { realms = { realm1 = {
      auth = {
        anonymous = { role = "user" },
        cookie = { gate = true, values = { "friend" }, verify = function(login) return login.cookie == "guest" end },
      },
      roles = { user = { ALL } },
    } } }"#;
    let router = serve(config, &[]).await;
    for (cookie, passes) in [("friend", true), ("guest", true), ("foe", false)] {
        let (mut client, _) =
            Client::with_cookie(router.address, &format!("wampauth={cookie}")).await;
        let outcome = log_in(&mut client, Some(REALM), "anonymous", "", "").await;
        assert_eq!(outcome.ends_with("anonymous static"), passes, "{outcome}");
        assert_eq!(outcome == "wamp.error.authentication_denied", !passes);
    }
}

const AUTHENTICATOR: &str = r#"
local p = require "perilune"
p.register("com.auth", function(call)
  local realm, authid, details = call.args[1], call.args[2], call.args[3]
  assert(details.session and details.transport.kind == "websocket" and details.authextra)
  assert(details.authmethod == "ticket")
  if authid == "ann" and details.ticket == "s3cret" then
    return { role = "user", realm = realm == p.null and "realm1" or nil, extra = { from = realm } }
  elseif authid == "bob" then return "user"
  elseif authid == "eve" then p.error("com.error.banned", { "go away" })
  elseif authid == "sloth" then p.sleep(60)
  elseif authid == "odd" then return 7
  elseif authid == "none" then return nil end
  error("boom")
end)"#;

#[tokio::test]
async fn dyn_03_dyn_04_a_procedure_of_another_realm_decides() {
    let config = r#"return {
      auth = { ticket = { procedure = "com.auth", realm = "desk" } },
      realms = {
        desk = { scripts = { "auth.lua" }, limits = { hook = "5s" } },
        realm1 = {
          limits = { hook = "300ms" },
          auth = { ticket = { procedure = "com.auth", realm = "desk",
            users = { joe = { secret = "own", role = "user" } } } },
          roles = { user = { ALL } },
        },
        shut = { auth = { ticket = { procedure = "com.nobody" } }, roles = { user = { ALL } } },
      },
    }"#;
    let router = serve(config, &[("auth.lua", AUTHENTICATOR)]).await;
    let failed = "wamp.error.authentication_failed";
    for (authid, ticket, expected) in [
        ("joe", "own", "realm1 joe user ticket static"),
        ("joe", "s3cret", "wamp.error.authentication_denied"),
        ("ann", "s3cret", "realm1 ann user ticket dynamic"),
        ("bob", "", "realm1 bob user ticket dynamic"),
        ("eve", "", "com.error.banned"),
        ("ann", "wrong", failed),
        ("sloth", "", failed),
        ("odd", "", failed),
        ("none", "", failed),
    ] {
        let outcome = try_in(&router, REALM, "ticket", authid, ticket).await;
        assert_eq!(outcome, expected, "{authid}");
    }
    let outcome = try_in(&router, "shut", "ticket", "ann", "s3cret").await;
    assert_eq!(outcome, failed, "nobody has registered it");
    // SES-12
    let mut client = open(&router).await;
    let outcome = log_in(&mut client, None, "ticket", "ann", "s3cret").await;
    assert_eq!(outcome, "realm1 ann user ticket dynamic");
    let mut client = open(&router).await;
    let outcome = log_in(&mut client, None, "ticket", "bob", "").await;
    assert_eq!(outcome, "wamp.error.no_such_realm", "none assigned");
}

#[tokio::test]
async fn az_05_az_06_a_procedure_authorizes() {
    let script = r#"
local p = require "perilune"
local asked = 0
p.register("com.authz", function(call)
  local session, uri, action, options = call.args[1], call.args[2], call.args[3], call.args[4]
  asked = asked + 1
  assert(session.authid and session.realm == "realm1" and options.match)
  if uri == "com.yes" then return true end
  if uri == "com.cached" then return { allow = action == "call", cache = true } end
  if uri == "com.count" then return true end
  if uri == "com.broken" then return "perhaps" end
  if uri == "com.none" then return nil end
  return false
end)
for _, name in ipairs { "yes", "cached", "broken", "none", "no" } do
  p.register("com." .. name, function() return name end)
end
p.register("com.count", function() return asked end)"#;
    let config = r#"return { realms = { realm1 = {
      auth = { anonymous = { role = "user" }, ticket = { users = { joe = { secret = "t", role = "special" } } } },
      authorize = { procedure = "com.authz" }, scripts = { "s.lua" },
      roles = { user = {}, special = { procedure = "com.nobody", { uri = "com.yes", allow = { "call" } } } },
    } } }"#;
    let router = serve(config, &[("s.lua", script)]).await;
    let mut ann = router.join().await;
    assert_eq!(ann.call("com.yes", &[]).await, ["yes".into()]);
    let denied = "wamp.error.not_authorized";
    let failed = "wamp.error.authorization_failed";
    for (procedure, error) in [("no", denied), ("broken", failed), ("none", failed)] {
        let uri = format!("com.{procedure}");
        assert_eq!(ann.call_fails(&uri, &[]).await.0, error, "{uri}");
    }
    let before = ann.call("com.count", &[]).await;
    for _ in 0..3 {
        assert_eq!(ann.call("com.cached", &[]).await, ["cached".into()]);
    }
    let after = ann.call("com.count", &[]).await;
    let number = |values: &[Value]| match values {
        [Value::Int(number)] => *number,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        number(&after) - number(&before),
        2,
        "asked once, and for the count"
    );
    // A role's own procedure, which nobody has registered: fail closed.
    let mut joe = router.open().await;
    joe.ticket("joe", "t").await.expect("logs in");
    assert_eq!(joe.call("com.yes", &[]).await, ["yes".into()]);
    assert_eq!(joe.call_fails("com.no", &[]).await.0, failed);
}

#[tokio::test]
async fn ses_11_realms_come_to_be_on_demand() {
    let script = r#"
local p = require "perilune"
local count = 0
p.register("com.where", function() count = count + 1 return p.realm, count end)"#;
    let config = |role: &str, more: &str| {
        format!(
            r#"return {{ limits = {{ realms = 2, realm_idle = "50ms" }}, realms = {{
              fixed = {{ auth = {{ anonymous = {{ role = "user" }} }}, roles = {{ user = {{ ALL }} }} }},
              ["*"] = {{ auth = {{ anonymous = {{ role = "{role}" }} }}, scripts = {{ "s.lua" }},
                roles = {{ {role} = {{ ALL }} }} {more} }},
            }} }}"#
        )
    };
    let router = serve(&config("user", ""), &[("s.lua", script)]).await;
    let enter = async |realm: &str| {
        let mut client = open(&router).await;
        let outcome = log_in(&mut client, Some(realm), "anonymous", "", "").await;
        (client, outcome)
    };
    let (mut one, outcome) = enter("com.one").await;
    assert!(outcome.starts_with("com.one "), "{outcome}");
    let (mut two, _) = enter("com.two").await;
    for (client, realm) in [(&mut one, "com.one"), (&mut two, "com.two")] {
        let call = client.call("com.where", &[]).await;
        let expected: Vec<Value> = vec![realm.into(), Value::Int(1)];
        assert_eq!(client.result(call).await, expected, "instances of its own");
    }
    // Both are in use.
    let refused = "wamp.error.no_such_realm";
    assert_eq!(enter("com.three").await.1, refused);
    router.log.says("limits.realms (2) is reached").await;
    for name in ["wamp.realm", "perilune.realm"] {
        assert_eq!(enter(name).await.1, refused);
    }
    // A new configuration holds for those that live: the role is gone, and so are its sessions.
    router.save("perilune.lua", &config("guest", "").replace("ALL", ALL));
    assert_eq!(one.reason().await, "wamp.close.killed");
    drop((one, two));
    router.log.says("realm on demand ended").await;
    let (mut three, outcome) = enter("com.three").await;
    assert!(outcome.contains(" guest "), "{outcome}");
    let call = three.call("com.where", &[]).await;
    three.result(call).await;
    // Without realms["*"] they go.
    let fixed = r#"return { realms = { fixed = { auth = { anonymous = { role = "user" } }, roles = { user = { ALL } } } } }"#;
    router.save("perilune.lua", &fixed.replace("ALL", ALL));
    assert_eq!(three.reason().await, "wamp.close.close_realm");
    assert_eq!(enter("com.three").await.1, refused);
}

#[tokio::test]
async fn ses_11_a_function_describes_realms_on_demand() {
    let config = r#"return { realms = {
      ["*"] = function(name)
        local tenant = name:match("^tenant%.(%w+)$")
        if not tenant then return nil end
        if tenant == "odd" then return { rolls = {} } end
        return {
          auth = { ticket = { users = { [tenant] = { secret = "of \"" .. tenant .. "\"\n", role = "user" } } } },
          roles = { user = { ALL } },
        }
      end,
    } }"#;
    let router = serve(config, &[]).await;
    let outcome = try_in(&router, "tenant.ann", "ticket", "ann", "of \"ann\"\n").await;
    assert_eq!(outcome, "tenant.ann ann user ticket static");
    let outcome = try_in(&router, "tenant.bob", "ticket", "ann", "of \"ann\"\n").await;
    assert_eq!(outcome, "wamp.error.authentication_denied");
    for realm in ["elsewhere", "tenant.odd"] {
        let outcome = try_in(&router, realm, "ticket", "ann", "").await;
        assert_eq!(outcome, "wamp.error.no_such_realm", "{realm}");
    }
    router.log.says("did you mean `roles`").await;
}

#[tokio::test]
async fn ses_11_a_slow_script_keeps_nobody_else_waiting() {
    // Loading takes its CPU budget: some time, and then it fails.
    let script = r#"if require "perilune".realm == "com.slow" then while true do end end"#;
    let config = r#"return { realms = { ["*"] = {
      auth = { anonymous = { role = "user" } }, scripts = { { "s.lua", cpu = "3s" } }, roles = { user = { ALL } },
    } } }"#;
    let router = serve(config, &[("s.lua", script)]).await;
    let mut slow = open(&router).await;
    let mut slow_login = Box::pin(log_in(&mut slow, Some("com.slow"), "anonymous", "", ""));
    let first = tokio::time::timeout(Duration::ZERO, &mut slow_login).await;
    assert!(first.is_err());
    tokio::select! {
        outcome = &mut slow_login => panic!("{outcome}"),
        outcome = try_in(&router, "com.quick", "anonymous", "", "") => {
            assert!(outcome.starts_with("com.quick "), "{outcome}");
        }
    }
    assert_eq!(slow_login.await, "wamp.error.no_such_realm");
}

//! `scram`, `cryptosign` and `jwt` against the built program: functions of scripts, tables of the configuration, and
//! key files that change while it runs.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use perilune::core::hex;
use perilune::wire::{Authenticate, Challenge, Message};
use perilune::words::{Dict, Value};
use sha2::{Digest, Sha256};

use crate::support::app::{App, Peer, Running, args};
use crate::support::{REALM, hello};

const SCRIPT: &str = r#"
local p = require "perilune"
p.authenticate("wamp-scram", function(login)
  assert(login.method == "scram" and login.authextra.nonce)
  if login.authid == "ann" then return { role = "user", password = "ann's", iterations = 50, extra = { shoe = 46 } } end
  if login.authid == "argon" then
    return { role = "user", password = "argon's", kdf = "argon2id13", iterations = 1, memory = 64 }
  end
  if login.authid == "keys" then
    return { role = "user", kdf = "pbkdf2", iterations = 4096, salt = "aBc+fx0NAVBoFz5/HQ0BUA==",
      ["stored-key"] = "5496f175e0c666b9b5df18013d75928a492cccfda4d73f05951ef0d4a0c01889",
      server_key = "8371d97489cb83b115f0c8403a32f6aad116023df4bb69a947c55d0c349bff52" }
  end
  if login.authid == "costly" then return { role = "user", password = "x", iterations = 200000 } end
  if login.authid == "odd" then return { role = "user", password = "x", salt = "no Base64" } end
  if login.authid == "roleonly" then return "user" end
  return nil, "who is that?"
end)
p.authenticate("cryptosign", function(login)
  local key = login.authextra.pubkey
  if login.authid == "hub" then return { role = "user", pubkey = key } end
  if login.authid == "several" then return { role = "user", authorized_keys = { ("8a"):rep(32), key } } end
  if login.authid == nil then return { role = "user", authid = "named by key", pubkey = key } end
  if login.authid == "odd" then return { role = "user", pubkey = 5 } end
end)
p.authenticate("jwt", function(login)
  if login.claims then return { role = login.claims.team == "red" and "user" or "nobody" } end
  if login.token == "let me in" then return { role = "user", authid = "trusting" } end
end)
"#;

fn app(auth: &str) -> App {
    app_of(SCRIPT, auth)
}

fn app_of(script: &str, auth: &str) -> App {
    App::of(script).config(&format!(
        "return {{ realms = {{ realm1 = {{ auth = {{ {auth} }}, scripts = {{ \"a.lua\" }},\n\
         roles = {{ user = {{ {{ uri = \"\", match = \"prefix\", allow = {{ \"call\" }} }} }} }} }} }} }}\n"
    ))
}

type Welcomed = Result<Dict, String>;

/// HELLO with this method; its CHALLENGE, or how it was refused.
async fn challenged(
    peer: &mut Peer,
    method: &str,
    authid: Option<&str>,
    extra: Dict,
) -> Result<Challenge, String> {
    let Message::Hello(mut message) = hello(REALM) else {
        unreachable!("hello() makes HELLO")
    };
    message.authmethods = vec![method.to_owned()];
    message.authid = authid.map(str::to_owned);
    message.authextra = extra;
    peer.client.send(&Message::Hello(message)).await;
    match peer.client.message().await {
        Message::Challenge(challenge) => Ok(challenge),
        Message::Abort(abort) => Err(abort.reason.to_string()),
        other => panic!("expected CHALLENGE or ABORT, got {other:?}"),
    }
}

async fn answered(peer: &mut Peer, signature: String, extra: Dict) -> Welcomed {
    let message = Message::Authenticate(Authenticate { signature, extra });
    peer.client.send(&message).await;
    peer.welcomed().await.map_err(|(reason, _)| reason)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

async fn scram(router: &Running, authid: &str, password: &str) -> Welcomed {
    let mut peer = router.open().await;
    let hello = Dict::new().with("nonce", "Y2xpZW50");
    let extra = challenged(&mut peer, "wamp-scram", Some(authid), hello)
        .await?
        .extra;
    let text = |key| extra.text(key).expect(key);
    let number = |key| match extra.lookup(key) {
        Some(Value::Int(number)) => u32::try_from(*number).expect("small"),
        other => panic!("{key} is {other:?}"),
    };
    let salt = STANDARD.decode(text("salt")).expect("Base64");
    let (mut salted, rounds) = ([0; 32], number("iterations"));
    if text("kdf") == "argon2id13" {
        let params = argon2::Params::new(number("memory"), rounds, 1, None).expect("good");
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &salt, &mut salted)
            .expect("derives");
    } else {
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, rounds, &mut salted);
    }
    let (nonce, salt) = (text("nonce"), text("salt"));
    let message = format!("n={authid},r=Y2xpZW50,r={nonce},s={salt},i={rounds},c=biws,r={nonce}");
    let client_key = hmac(&salted, b"Client Key");
    let signature = hmac(&Sha256::digest(client_key), message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    let repeated = Dict::new().with("nonce", nonce);
    let welcome = answered(&mut peer, STANDARD.encode(proof), repeated).await?;
    let Some(Value::Map(extra)) = welcome.lookup("authextra") else {
        panic!("{welcome:?}")
    };
    let expected = hmac(&hmac(&salted, b"Server Key"), message.as_bytes());
    assert_eq!(extra.text("verifier"), Some(&*STANDARD.encode(expected)));
    Ok(welcome)
}

async fn cryptosign(router: &Running, authid: Option<&str>, signer: u8) -> Welcomed {
    let mut peer = router.open().await;
    let key = SigningKey::from_bytes(&[1; 32]);
    let hello = Dict::new().with("pubkey", hex::encode(key.verifying_key().as_bytes()));
    let challenge = challenged(&mut peer, "cryptosign", authid, hello).await?;
    let message = challenge
        .extra
        .text("challenge")
        .and_then(hex::decode)
        .expect("hex");
    let signature = SigningKey::from_bytes(&[signer; 32])
        .sign(&message)
        .to_bytes();
    let signature = hex::encode(&signature) + &hex::encode(&message);
    answered(&mut peer, signature, Dict::new()).await
}

async fn jwt(router: &Running, token: &str) -> Welcomed {
    let mut peer = router.open().await;
    challenged(&mut peer, "jwt", None, Dict::new()).await?;
    answered(&mut peer, token.to_owned(), Dict::new()).await
}

/// A token of HS256, good for a long time.
fn token(secret: &str, claims: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let body = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":32503680000,{claims}}}"));
    let text = format!("{head}.{body}");
    let signature = URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), text.as_bytes()));
    format!("{text}.{signature}")
}

const DENIED: &str = "wamp.error.authentication_denied";
const FAILED: &str = "wamp.error.authentication_failed";

#[track_caller]
fn is(welcomed: Welcomed, authid: &str, method: &str) {
    let details = welcomed.unwrap_or_else(|reason| panic!("{authid}: {reason}"));
    let seen =
        ["authid", "authmethod", "authrole"].map(|key| details.text(key).unwrap_or_default());
    assert_eq!(seen, [authid, method, "user"]);
}

#[tokio::test]
async fn dyn_03_functions_answer_for_scram() {
    let router = app("").start().await;
    is(scram(&router, "ann", "ann's").await, "ann", "wamp-scram");
    is(
        scram(&router, "argon", "argon's").await,
        "argon",
        "wamp-scram",
    );
    is(
        scram(&router, "keys", "pencil-42").await,
        "keys",
        "wamp-scram",
    );
    for (authid, reason) in [
        ("ann", DENIED),
        ("keys", DENIED),
        ("nobody", DENIED),
        ("costly", FAILED),
        ("odd", FAILED),
        ("roleonly", DENIED),
    ] {
        assert_eq!(
            scram(&router, authid, "wrong").await,
            Err(reason.into()),
            "{authid}"
        );
    }
    router.log.says("who is that?").await;
    router.log.says("costs too much").await;
    router.log.says("the function's salt must be Base64").await;
    router.log.says("neither keys nor a password").await;
    let log = router.log.text();
    for secret in ["ann's", "pencil-42", "5496f175"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Deriving a key takes its time, but not the script's.
#[tokio::test]
async fn scripts_do_not_wait_for_keys_to_be_derived() {
    let script = r#"
        local p = require "perilune"
        p.authenticate("scram", function(login)
          p.log.info("asked")
          return { role = "user", password = "x", kdf = "argon2id13", iterations = 4, memory = 65536 }
        end)
        p.register("a.now", function() return 5 end)
    "#;
    let router = app_of(script, "anonymous = { role = \"user\" }")
        .start()
        .await;
    let mut caller = router.join().await;
    let mut slow = router.open().await;
    let hello = Dict::new().with("nonce", "Y2xpZW50");
    let login = challenged(&mut slow, "wamp-scram", Some("ann"), hello);
    let call = async {
        router.log.says("asked").await;
        caller.call("a.now", &[]).await
    };
    tokio::pin!(login);
    tokio::select! {
        biased;
        answer = call => assert_eq!(answer, args("[5]")),
        _ = &mut login => panic!("the key was derived first"),
    }
    login.await.expect("CHALLENGE");
}

#[tokio::test]
async fn dyn_03_functions_answer_for_cryptosign() {
    let router = app("").start().await;
    for authid in ["hub", "several"] {
        is(
            cryptosign(&router, Some(authid), 1).await,
            authid,
            "cryptosign",
        );
        let forged = cryptosign(&router, Some(authid), 2).await;
        assert_eq!(forged, Err(DENIED.into()), "{authid}");
    }
    is(
        cryptosign(&router, None, 1).await,
        "named by key",
        "cryptosign",
    );
    assert_eq!(
        cryptosign(&router, Some("other"), 1).await,
        Err(DENIED.into())
    );
    assert_eq!(
        cryptosign(&router, Some("odd"), 1).await,
        Err(FAILED.into())
    );
    router.log.says("no Ed25519 key").await;
}

#[tokio::test]
async fn dyn_02_functions_answer_for_tokens() {
    let secret = "thirty-two octets are not too much";
    let auth = format!("jwt = {{ secret = {secret:?} }}");
    let router = app(&auth).start().await;
    is(
        jwt(&router, &token(secret, r#""sub":"joe","role":"user""#)).await,
        "joe",
        "jwt",
    );
    is(
        jwt(&router, &token(secret, r#""sub":"joe","team":"red""#)).await,
        "joe",
        "jwt",
    );
    let blue = jwt(&router, &token(secret, r#""sub":"joe","team":"blue""#)).await;
    assert_eq!(blue, Err("wamp.error.no_such_role".into()));
    is(jwt(&router, "let me in").await, "trusting", "jwt");
    let forged = token("another secret", r#""sub":"joe","role":"user""#);
    assert_eq!(jwt(&router, &forged).await, Err(DENIED.into()));
    router.log.says("jwt: refused by the function").await;
    assert!(!router.log.text().contains(&forged));
}

#[tokio::test]
async fn a_changed_key_file_is_read_again() {
    let set = |secret: &str| {
        let key = URL_SAFE_NO_PAD.encode(secret);
        format!(r#"{{"keys":[{{"kty":"oct","k":"{key}"}}]}}"#)
    };
    let (old, new) = (
        "the first of two secrets, long enough",
        "the second of two secrets, long enough",
    );
    let router = app("jwt = { jwks = \"keys.json\" }")
        .file("keys.json", &set(old))
        .start()
        .await;
    let token_of = |secret| token(secret, r#""sub":"joe","role":"user""#);
    is(jwt(&router, &token_of(old)).await, "joe", "jwt");
    assert_eq!(jwt(&router, &token_of(new)).await, Err(DENIED.into()));
    router.save("keys.json", &set(new));
    router.log.says("configuration reloaded").await;
    is(jwt(&router, &token_of(new)).await, "joe", "jwt");
    assert_eq!(jwt(&router, &token_of(old)).await, Err(DENIED.into()));
}

/// Decides for every method, as a WAMP procedure of another realm: what it is told, and what it answers, on the wire.
const DESK: &str = r#"
local p = require "perilune"
p.register("com.auth", function(call)
  local realm, authid, details = call.args[1], call.args[2], call.args[3]
  assert(realm == "realm1" and details.session)
  local method = details.authmethod
  if method == "anonymous" then return "user" end
  if method == "wampcra" and authid == "ann" then return { role = "user", secret = "ann's" } end
  if method == "wampcra" and authid == "salty" then
    return { role = "user", password = "salty's", salt = "pepper", iterations = 100, keylen = 16 }
  end
  if method == "scram" and authid == "keys" then
    return { role = "user", kdf = "pbkdf2", iterations = 4096, salt = "aBc+fx0NAVBoFz5/HQ0BUA==",
      ["stored-key"] = "5496f175e0c666b9b5df18013d75928a492cccfda4d73f05951ef0d4a0c01889",
      ["server-key"] = "8371d97489cb83b115f0c8403a32f6aad116023df4bb69a947c55d0c349bff52" }
  end
  if method == "cryptosign" and authid == "hub" then
    return { role = "user", authorized_keys = { details.authextra.pubkey } }
  end
  if method == "jwt" and details.token == "let me in" then return { role = "user", authid = "trusting" } end
  p.error("com.error.unknown", { "nobody I know" })
end)
"#;

#[tokio::test]
async fn dyn_01_dyn_02_dyn_03_dyn_05_a_procedure_answers_for_every_method() {
    let methods = ["anonymous", "wampcra", "scram", "cryptosign", "jwt"]
        .map(|name| format!("{name} = {{ procedure = \"com.auth\", realm = \"desk\" }}"))
        .join(", ");
    let router = App::of("")
        .file("desk.lua", DESK)
        .config(&format!(
            "return {{ realms = {{ desk = {{ scripts = {{ \"desk.lua\" }} }}, realm1 = {{ auth = {{ {methods} }},\n\
             roles = {{ user = {{ {{ uri = \"\", match = \"prefix\", allow = {{ \"call\" }} }} }} }} }} }} }}\n"
        ))
        .start()
        .await;
    let is_dynamic = |welcomed: Welcomed, authid: &str, method: &str| {
        let details = welcomed.as_ref().expect(authid);
        assert_eq!(details.text("authprovider"), Some("dynamic"), "{method}");
        is(welcomed, authid, method);
    };
    let mut peer = router.open().await;
    peer.hello("anonymous", "").await;
    let details = peer.welcomed().await.expect("welcome");
    assert_eq!(details.text("authprovider"), Some("dynamic"));
    assert_eq!(details.text("authrole"), Some("user"));
    let cra = async |authid: &str, secret: &str| {
        let mut peer = router.open().await;
        let outcome = peer.wampcra(authid, secret).await;
        outcome.map_err(|(reason, _)| reason)
    };
    is_dynamic(cra("ann", "ann's").await, "ann", "wampcra");
    is_dynamic(cra("salty", "salty's").await, "salty", "wampcra");
    assert_eq!(cra("ann", "wrong").await, Err(DENIED.into()));
    let unknown = Err("com.error.unknown".to_owned());
    assert_eq!(cra("eve", "x").await, unknown, "DYN-04");
    is_dynamic(
        scram(&router, "keys", "pencil-42").await,
        "keys",
        "wamp-scram",
    );
    assert_eq!(scram(&router, "keys", "wrong").await, Err(DENIED.into()));
    is_dynamic(
        cryptosign(&router, Some("hub"), 1).await,
        "hub",
        "cryptosign",
    );
    assert_eq!(
        cryptosign(&router, Some("hub"), 2).await,
        Err(DENIED.into())
    );
    is_dynamic(jwt(&router, "let me in").await, "trusting", "jwt");
    assert_eq!(jwt(&router, "let them in").await, unknown);
    let log = router.log.text();
    for secret in [
        "ann's",
        "salty's",
        "pencil-42",
        "5496f175",
        "let me in",
        "let them in",
    ] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

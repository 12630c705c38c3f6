//! The configuration from the outside: whole files in, `Settings` or findings out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use perilune::core::credentials::{
    AnonymousUser, AuthMethod, AuthPolicy, CraUser, Principal, Salt, Secret, TicketUser,
};
use perilune::core::policy::{
    Action, Actions, Disclosure, HistoryPlace, HistoryPolicy, Lifetime, MetaApi, RealmLimits,
    RealmPolicy, RequestIds, Retention, RetentionPolicy, RolePolicy, Rule, SlowPolicy, Validation,
};
use perilune::lua::config::{
    self, ConfigError, ConfigHook, Finding, HookKind, LoadedConfig, UndecidedRole,
};
use perilune::lua::vm::{ErrorKind, Slice, Vm, spawn_vm_thread};
use perilune::lua::watch::Fingerprints;
use perilune::server::settings::{
    Address, ClientCertificates, Compat, DeflateSettings, HttpSettings, ListenerSettings,
    RealmHostLimits, RealmSettings, RouterLimits, ScriptSettings, Settings, SocketFile,
    TlsSettings,
};
use perilune::wire::Serializer;
use perilune::words::{MatchPolicy, Uri, UriRules};

fn app(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

/// What of a configuration can leave the thread of its VM.
#[derive(Debug)]
struct Loaded {
    settings: Settings,
    /// Kind and line of each.
    hooks: Vec<(String, Option<u32>)>,
    files: Vec<PathBuf>,
    watched: Vec<PathBuf>,
    fingerprints: Fingerprints,
    warnings: Vec<Finding>,
    undecided: Vec<UndecidedRole>,
}

impl From<LoadedConfig> for Loaded {
    fn from(config: LoadedConfig) -> Loaded {
        Loaded {
            watched: config.watched(),
            hooks: config
                .hooks
                .iter()
                .map(|hook| (format!("{:?}", hook.kind), hook.line))
                .collect(),
            settings: config.settings,
            files: config.files,
            fingerprints: config.fingerprints,
            warnings: config.warnings,
            undecided: config.undecided,
        }
    }
}

fn on_vm_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    spawn_vm_thread("config", move || send.send(body()).unwrap_or_default()).expect("a thread");
    receive.recv().expect("no panic")
}

fn load_at(path: &Path) -> Result<Loaded, ConfigError> {
    let path = path.to_owned();
    on_vm_thread(move || config::load(&path).map(Loaded::from))
}

fn load(source: &str) -> Result<Loaded, ConfigError> {
    load_at(with_certificate(source).path())
}

/// A certificate and its key, in PEM form.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// `source` as an application with a script, and a certificate that its listeners may name.
fn with_certificate(source: &str) -> tempfile::TempDir {
    static PAIR: LazyLock<(String, String)> = LazyLock::new(certificate);
    let (cert, key) = &*PAIR;
    app(&[
        ("perilune.lua", source),
        ("rooms.lua", ""),
        ("cert.pem", cert),
        ("key.pem", key),
    ])
}

/// Loads a configuration and goes on with it on its thread.
fn with_config(source: &str, body: impl FnOnce(LoadedConfig) + Send + 'static) {
    let folder = app(&[("perilune.lua", source)]);
    let path = folder.path().to_owned();
    on_vm_thread(move || body(config::load(&path).expect("fine")));
}

/// The findings of a configuration, with the folder's name cut off.
fn findings_of(folder: &Path) -> String {
    let prefix = format!("{}/", folder.display());
    load_at(folder)
        .expect_err("a refusal")
        .to_string()
        .replace(&prefix, "")
}

#[track_caller]
fn refused(source: &str, expected: &str) {
    assert_eq!(
        findings_of(with_certificate(source).path()),
        expected,
        "{source}"
    );
}

/// Each case: a configuration that is wrong in one way, and what is said about it.
fn all_refused(cases: &[(&str, &str)]) {
    for (source, expected) in cases {
        refused(source, expected);
    }
}

/// Wraps the inside of one realm, which begins in line 1, with a role `guest`.
fn realm(inside: &str) -> String {
    format!("return {{ realms = {{ home = {{ roles = {{ guest = {{}} }}, {inside} }} }} }}")
}

fn all_refused_in_realm(cases: &[(&str, &str)]) {
    for (inside, expected) in cases {
        refused(&realm(inside), expected);
    }
}

#[test]
fn misspelt_keys_name_the_nearest() {
    all_refused(&[
        (
            "return {\n  limts = {},\n}",
            "perilune.lua:2: unknown key `limts`, did you mean `limits`?",
        ),
        (
            "return {\n  realms = {\n    home = {\n      auth = {\n        tikcet = {} } } } }",
            "perilune.lua:5: `realms.home.auth`: unknown key `tikcet`, did you mean `ticket`?",
        ),
        (
            "return { quux = 1 }",
            "perilune.lua:1: unknown key `quux`; valid keys: limits, listen, data, realms, auth, http, compat, trusted_proxies, shared",
        ),
        (
            "return {\n listen = {\n { addr = ':0',\n orgins = '*' } } }",
            "perilune.lua:4: `listen[1]`: unknown key `orgins`, did you mean `origins`?",
        ),
        (
            "local home = {\n  role = {},\n}\nreturn { realms = { home = home } }",
            "perilune.lua:2: `realms.home`: unknown key `role`, did you mean `roles`?",
        ),
    ]);
}

#[test]
fn keys_of_later_versions_are_refused_by_name() {
    all_refused(&[(
        "return { http = {\n metrics = '/m' } }",
        "perilune.lua:2: `http`: `metrics` is not in this version",
    )]);
}

#[test]
fn retained_events_and_histories() {
    let folder = app(&[
        (
            "perilune.lua",
            r#"return {
          data = "kept/events",
          limits = { retained = 500 },
          realms = {
            plain = { auth = { anonymous = { role = "guest" } }, roles = { guest = {} } },
            off = { retain = false, scripts = { "a.lua" } },
            home = {
              scripts = { "a.lua" },
              retain = {
                size = "1MB", ttl = "1h",
                { uri = "sensor.", match = "prefix", ttl = "5min" },
                { uri = "door", ttl = false },
              },
              history = {
                { uri = "log.", match = "prefix", limit = 50, size = "2MB", ttl = "24h", store = "disk" },
                { uri = "door" },
              },
            },
          },
        }"#,
        ),
        ("a.lua", ""),
    ]);
    let settings = load_at(folder.path()).expect("loads").settings;
    let policy = |realm: &str| settings.realms[realm].policy.clone();
    let limited = RetentionPolicy {
        limit: 500,
        ..RetentionPolicy::default()
    };
    assert_eq!(settings.data, Some(folder.path().join("kept/events")));
    assert_eq!(policy("plain").retention, Retention::On(limited.clone()));
    assert_eq!(policy("plain").history, []);
    assert_eq!(policy("off").retention, Retention::Off);
    let lifetime = |uri: &str, match_policy, ttl| Lifetime {
        uri: uri.into(),
        match_policy,
        ttl,
    };
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    assert_eq!(
        policy("home").retention,
        Retention::On(RetentionPolicy {
            size: 1 << 20,
            ttl: minutes(60),
            lifetimes: vec![
                lifetime("sensor.", MatchPolicy::Prefix, minutes(5)),
                lifetime("door", MatchPolicy::Exact, None),
            ],
            ..limited
        })
    );
    assert_eq!(
        policy("home").history,
        [
            HistoryPolicy {
                limit: 50,
                size: 2 << 20,
                ttl: minutes(24 * 60),
                store: HistoryPlace::Disk,
                ..HistoryPolicy::new(MatchPolicy::Prefix, "log.".into())
            },
            HistoryPolicy::new(MatchPolicy::Exact, "door".into()),
        ]
    );
}

#[test]
fn retained_events_and_histories_that_are_wrong() {
    all_refused(&[
        (
            "return { history = {} }",
            "perilune.lua:1: `history` is a key of a realm",
        ),
        (
            "return { limits = { history = 5 } }",
            "perilune.lua:1: `limits`: `history` is bounded where it is configured: `limit` in the realm's `history`",
        ),
    ]);
    all_refused_in_realm(&[
        (
            "retain = 5",
            "perilune.lua:1: `realms.home.retain` must be true, false or a table, not a number",
        ),
        (
            "retain = { limt = 5 }",
            "perilune.lua:1: `realms.home.retain`: unknown key `limt`, did you mean `limit`?",
        ),
        (
            "retain = { { uri = 'a' } }",
            "perilune.lua:1: `realms.home.retain[1]` needs `ttl`",
        ),
        (
            "retain = { { uri = 'a.', ttl = 5 } }",
            "perilune.lua:1: `realms.home.retain[1].uri` with match \"exact\": \"a.\" is not a valid URI \
             (no empty component)",
        ),
        (
            "history = { { limit = 5 } }",
            "perilune.lua:1: `realms.home.history[1]` needs `uri`",
        ),
        (
            "history = { { uri = 'wamp.session.on_join' } }",
            "perilune.lua:1: `realms.home.history[1].uri` is reserved for the router, whose own events are not kept",
        ),
        (
            "history = { { uri = 'a' }, { uri = 'a', limit = 5 } }",
            "perilune.lua:1: exact \"a\" has a history already, in line 1",
        ),
        (
            "history = { { uri = 'a', store = 'dsk' } }",
            "perilune.lua:1: `realms.home.history[1].store` must be \"memory\" or \"disk\", not \"dsk\", \
             did you mean \"disk\"?",
        ),
        (
            "\nhistory = { { uri = 'a', store = 'disk' } }",
            "perilune.lua:2: `realms.home.history` has `store = \"disk\"`: say where, by `data = \"FOLDER\"` at the \
             top level",
        ),
    ]);
}

#[test]
fn limits_stand_where_they_hold() {
    all_refused(&[(
        "return { limits = { memory = '1MB' } }",
        "perilune.lua:1: `limits`: `memory` is a limit of a script: set it in the script's entry in `scripts`",
    )]);
    all_refused_in_realm(&[
        (
            "limits = { connections = 5 }",
            "perilune.lua:1: `realms.home.limits`: `connections` is a limit of the whole router: \
             set it in `limits` at the top level",
        ),
        (
            "limits = { login_failures = 5 }",
            "perilune.lua:1: `realms.home.limits`: `login_failures` is a limit of the whole router: \
             set it in `limits` at the top level",
        ),
        (
            "limits = { message = 5 }",
            "perilune.lua:1: `realms.home.limits`: `message` is a limit of a listener: \
             set it there or in `limits` at the top level",
        ),
    ]);
}

#[test]
fn wrong_values() {
    all_refused(&[
        (
            "return 5",
            "perilune.lua:1: the file must return a table, not integer",
        ),
        (
            "return { listen = 5 }",
            "perilune.lua:1: `listen` must be an address or a table with `addr`, not a number",
        ),
        (
            "return { realms = {}, 'x' }",
            "perilune.lua:1: `[1]` is a list item where a key is expected",
        ),
        (
            "return { realms = { 'x' } }",
            "perilune.lua:1: `realms[1]` is a list item where a realm's name is expected",
        ),
        (
            "return { limits = { queue = {} } }",
            "perilune.lua:1: `limits.queue` must be a size or false, not a table",
        ),
        (
            "return { limits = {\n queue = '1XB' } }",
            "perilune.lua:2: `limits.queue` must be a size like \"64MB\" (units: B, KB, MB, GB), not \"1XB\"",
        ),
        (
            "return { limits = { queue = 0 } }",
            "perilune.lua:1: `limits.queue` must be at least 1 B (`false` means no limit)",
        ),
        (
            "return { limits = { message = 100 } }",
            "perilune.lua:1: `limits.message` must be at least 512 B (`false` means no limit)",
        ),
        (
            "return { limits = { connections = -1 } }",
            "perilune.lua:1: `limits.connections` must be at least 1 (`false` means no limit)",
        ),
        (
            "return { limits = { connections = 1.5 } }",
            "perilune.lua:1: `limits.connections` must be a whole number",
        ),
        (
            "return { limits = { connections = '5' } }",
            "perilune.lua:1: `limits.connections` must be a number, not the string \"5\"",
        ),
        (
            "return { limits = { auth = '5m' } }",
            "perilune.lua:1: `limits.auth` must be a duration like \"250ms\" (units: ms, s, min, h), not \"5m\"",
        ),
        (
            "return { limits = { auth = 0 } }",
            "perilune.lua:1: `limits.auth` must be at least 1 ms (`false` means no limit)",
        ),
        (
            "return { limits = { nesting = false } }",
            "perilune.lua:1: `limits.nesting` must be a whole number from 8 to 1000",
        ),
        (
            "return { http = { health = 'x' } }",
            "perilune.lua:1: `http.health` must be a path like \"/ws\", not \"x\"",
        ),
        (
            "return { shared = { x = 'rooter' } }",
            "perilune.lua:1: `shared.x` must be \"router\", not \"rooter\", did you mean \"router\"?",
        ),
    ]);
    all_refused_in_realm(&[
        (
            "uris = 'lose'",
            "perilune.lua:1: `realms.home.uris` must be \"loose\" or \"strict\", not \"lose\", did you mean \"loose\"?",
        ),
        (
            "slow = true",
            "perilune.lua:1: `realms.home.slow` must be a string, not true",
        ),
    ]);
}

#[test]
fn listeners_that_cannot_be() {
    all_refused(&[
        (
            "return { listen = {} }",
            "perilune.lua:1: `listen` names no address",
        ),
        (
            "return { listen = {\n ':80',\n { addr = '0.0.0.0:80' } } }",
            "perilune.lua:3: a second listener on 0.0.0.0:80",
        ),
        (
            "return { listen = 'here' }",
            "perilune.lua:1: `listen` is wrong: \"here\" is not an address like 127.0.0.1:8080, [::1]:8080, :8080 or unix:/path",
        ),
        (
            "return { listen = { mode = '0600' } }",
            "perilune.lua:1: `listen` needs `addr`",
        ),
        (
            "return { listen = { addr = ':0', mode = '0600' } }",
            "perilune.lua:1: `listen.mode` is for unix sockets with a file only",
        ),
        (
            "return { listen = { addr = 'unix:x', mode = 600 } }",
            "perilune.lua:1: `listen.mode` must be an octal string like \"0660\", not a number",
        ),
        (
            "return { listen = { addr = ':0', tls = { cert = 'rooms.lua' } } }",
            "perilune.lua:1: `listen.tls` needs `key`",
        ),
        (
            "return { listen = { addr = ':0', serializers = { 'jsn' } } }",
            "perilune.lua:1: `listen.serializers[1]` must be \"json\" or \"msgpack\" or \"cbor\" or \"json.batched\" or \
             \"msgpack.batched\" or \"cbor.batched\", not \"jsn\", \
             did you mean \"json\"?",
        ),
        (
            "return { listen = { addr = ':0', no_subprotocol = 'jsn' } }",
            "perilune.lua:1: `listen.no_subprotocol` must be \"json\" or \"msgpack\" or \"cbor\", not \"jsn\", did you mean \"json\"?",
        ),
        (
            "return { listen = { addr = ':0', deflate = 'yes' } }",
            "perilune.lua:1: `listen.deflate` must be true, false or a table, not a string",
        ),
        (
            "return { listen = { addr = ':0', deflate = { window_bits = 16 } } }",
            "perilune.lua:1: `listen.deflate.window_bits` must be a whole number from 9 to 15",
        ),
        (
            "return { listen = { addr = ':0', deflate = { takeover = true } } }",
            "perilune.lua:1: `listen.deflate`: unknown key `takeover`; valid keys: context_takeover, window_bits",
        ),
        (
            "return { listen = { addr = ':0', serializers = {} } }",
            "perilune.lua:1: `listen.serializers` names no serializer",
        ),
        (
            "return { listen = { addr = ':0', tls = { client_cert = 'optional', cert = 'cert.pem', key = 'key.pem' } } }",
            "perilune.lua:1: `listen.tls.client_cert` means nothing without `client_ca`",
        ),
        (
            "return { listen = { addr = ':0', tls = { client_ca = 'rooms.lu', cert = 'cert.pem', key = 'key.pem' } } }",
            "perilune.lua:1: rooms.lu does not exist, did you mean `rooms.lua`?",
        ),
        (
            "return { trusted_proxies = { '10.0.0.0/8', 'proxy.example' } }",
            "perilune.lua:1: `trusted_proxies[2]` must be an address like \"10.1.2.3\" or a network like \"10.1.0.0/16\", \
             not \"proxy.example\"",
        ),
    ]);
}

#[test]
fn realms_that_cannot_be() {
    all_refused(&[(
        "return { realms = { ['a..b'] = {} } }",
        "perilune.lua:1: the realm's name \"a..b\" is not a valid URI (no empty component)",
    )]);
    all_refused_in_realm(&[
        (
            "auth = { anonymous = {\n role = 'gest' } }",
            "perilune.lua:2: realm `home` has no role `gest`, did you mean `guest`?",
        ),
        (
            "auth = { ticket = { users = { joe = {\n role = 'admin', secret = 'x' } } } }",
            "perilune.lua:2: realm `home` has no role `admin`; its roles: guest",
        ),
        (
            "auth = { anonymous = {} }",
            "perilune.lua:1: `realms.home.auth.anonymous` needs `role`",
        ),
        (
            "auth = { ticket = {} }",
            "perilune.lua:1: `realms.home.auth.ticket` needs `users`",
        ),
        (
            "auth = { ticket = true }",
            "perilune.lua:1: `realms.home.auth.ticket` must be a table or a function, not true",
        ),
        (
            "scripts = { 'rooms.lua',\n 'rooms.lua' }",
            "perilune.lua:2: the script rooms.lua is named twice",
        ),
        (
            "scripts = { { memory = '1MB' } }",
            "perilune.lua:1: `realms.home.scripts[1]` must name one file: { \"file.lua\", memory = \"64MB\" }",
        ),
        (
            "scripts = { { 'rooms.lua', instances = 0 } }",
            "perilune.lua:1: `realms.home.scripts[1].instances` must be a whole number from 1 to 256",
        ),
    ]);
    let folder = app(&[
        ("perilune.lua", &realm("scripts = {\n'room.lua' }")),
        ("rooms.lua", ""),
    ]);
    assert_eq!(
        findings_of(folder.path()),
        "perilune.lua:2: room.lua does not exist, did you mean `rooms.lua`?"
    );
}

#[test]
fn rules_that_cannot_be() {
    for (rule, problem) in [
        (
            "{ uri = 'a b', allow = {} }",
            "`realms.home.roles.r[1].uri` with match \"exact\": \"a b\" is not a valid URI (no whitespace, no '#', no control characters)",
        ),
        (
            "{ uri = 'a.', allow = {} }",
            "`realms.home.roles.r[1].uri` with match \"exact\": \"a.\" is not a valid URI (no empty component)",
        ),
        ("{ allow = {} }", "`realms.home.roles.r[1]` needs `uri`"),
        (
            "{ uri = 'a' }",
            "`realms.home.roles.r[1]` needs `allow` (an empty list refuses everything)",
        ),
        (
            "{ uri = 'a', allow = { 'cal' } }",
            "`realms.home.roles.r[1].allow[1]` must be \"call\" or \"register\" or \"publish\" or \"subscribe\", not \"cal\", did you mean \"call\"?",
        ),
        (
            "{ uri = 'a', match = 'regex', allow = {} }",
            "`realms.home.roles.r[1].match` must be \"exact\" or \"prefix\" or \"wildcard\", not \"regex\"",
        ),
        (
            "{ uri = 'a', allow = {} },\n{ uri = 'a', allow = { 'call' } }",
            "role `r` has a rule for exact \"a\" already, in line 1",
        ),
        (
            "{ uri = 'a', allow = {}, disclose = { caller = 'yes' } }",
            "`realms.home.roles.r[1].disclose.caller` must be true or false, not a string",
        ),
        (
            "'call'",
            "`realms.home.roles.r[1]` must be a table, not a string",
        ),
    ] {
        let line = if rule.contains('\n') { 2 } else { 1 };
        let source =
            format!("return {{ realms = {{ home = {{ roles = {{ r = {{ {rule} }} }} }} }} }}");
        refused(&source, &format!("perilune.lua:{line}: {problem}"));
    }
}

/// `CRA-06`: all salting parameters or none; and a plain secret must not be taken for a derived key.
#[test]
fn cra_06_wampcra_users_that_cannot_be() {
    for (user, problem) in [
        ("", " needs `secret`"),
        ("secret = ''", ".secret` is empty"),
        ("secret = 5", ".secret` must be a string, not a number"),
        (
            "secret = 'a', password = 'b', salt = 'c'",
            " has both `secret` and `password`: give one",
        ),
        (
            "password = 'b'",
            " has a `password` without `salt`: give both, or the password as `secret`",
        ),
        (
            "secret = 'a', iterations = 1000",
            ".iterations` stands without `salt`",
        ),
        (
            "secret = 'a', keylen = 32",
            ".keylen` stands without `salt`",
        ),
        (
            "password = 'a', salt = 'b', iterations = 0",
            ".iterations` must be a whole number from 1 to 1000000",
        ),
        (
            "secret = 'plain', salt = 'b'",
            ".secret` must be the derived key, 32 octets in Base64 (`keylen`); write the plain text as `password`",
        ),
    ] {
        let place = "`realms.home.auth.wampcra.users.ann";
        let tick = if problem.starts_with(' ') { "`" } else { "" };
        let source = realm(&format!(
            "auth = {{ wampcra = {{ users = {{ ann = {{ role = 'guest', {user} }} }} }} }}"
        ));
        refused(&source, &format!("perilune.lua:1: {place}{tick}{problem}"));
    }
}

/// `CRA-05`: the key of a salted user is the Base64 text of the derived octets.
#[test]
fn cra_05_passwords_are_derived() {
    let users = "ann = { password = 'secret1', salt = 'mysalt', iterations = 100, keylen = 32, role = 'guest' },
                 bob = { secret = 'AAAAAAAAAAAAAAAAAAAAAA==', salt = 'x', keylen = 16, role = 'guest' },
                 eve = { secret = 'plain', role = 'guest' }";
    let loaded = load(&realm(&format!(
        "auth = {{ wampcra = {{ users = {{ {users} }} }} }}"
    )))
    .expect("fine");
    let users = loaded.settings.realms["home"]
        .policy
        .auth
        .wampcra
        .as_ref()
        .expect("offered");
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(b"secret1", b"mysalt", 100, &mut key);
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
    let salt = |salt: &str, iterations, keylen| {
        Some(Salt {
            salt: salt.into(),
            iterations,
            keylen,
        })
    };
    let user = |key: &str, salt| CraUser {
        key: Secret::new(key),
        role: "guest".into(),
        salt,
    };
    assert_eq!(users["ann"], user(&text, salt("mysalt", 100, 32)));
    assert_eq!(
        users["bob"],
        user("AAAAAAAAAAAAAAAAAAAAAA==", salt("x", 1000, 16))
    );
    assert_eq!(users["eve"], user("plain", None));
}

#[test]
fn all_problems_at_once_in_the_order_of_the_file() {
    refused(
        "return {\n  limts = 1,\n  realms = {\n    home = {\n      slow = 'x',\n      auth = { tls = 1 } } } }",
        "perilune.lua:2: unknown key `limts`, did you mean `limits`?\n\
         perilune.lua:5: `realms.home.slow` must be \"drop\" or \"close\", not \"x\"\n\
         perilune.lua:6: `realms.home.auth.tls` must be a table or a function, not a number",
    );
}

#[test]
fn lua_errors_keep_their_place() {
    refused(
        "return {\n  a = = 1 }",
        "perilune.lua:2: unexpected symbol near '='",
    );
    refused(
        "local t\n\nlocal x = t.y\nreturn {}",
        "perilune.lua:3: attempt to index local 't' (a nil value)",
    );
    refused("\nerror('no: 1: way')", "perilune.lua:2: no: 1: way");
    refused(
        "\nio.open('x', 'w')",
        "perilune.lua:2: a configuration only reads files (io.open mode \"w\")",
    );
    let error = load("local function f()\n  error('x')\nend\nf()").expect_err("refused");
    let traceback = error.findings[0].traceback.as_deref().expect("a traceback");
    assert!(traceback.contains("perilune.lua:4"), "{traceback}");
}

#[test]
fn lua_errors_in_deep_folders_and_modules() {
    let deep = "a_folder_with_a_long_name/another_folder_with_a_long_name/app";
    let config = format!("{deep}/perilune.lua");
    let module = format!("{deep}/users/home.lua");
    let folder = app(&[
        (&config, "\nreturn require 'users.home'"),
        (&module, "\n\nreturn = 1"),
    ]);
    let error = load_at(&folder.path().join(deep)).expect_err("refused");
    assert_eq!(error.findings[0].file, folder.path().join(&module));
    assert_eq!(error.findings[0].line, Some(3));
    let folder = app(&[(
        "perilune.lua",
        "\nlocal nowhere = require 'nowhere'\nreturn nowhere",
    )]);
    let text = findings_of(folder.path());
    assert_eq!(
        text,
        "perilune.lua:2: module 'nowhere' not found: no built-in module 'nowhere', no file 'nowhere.lua', \
         no file 'nowhere/init.lua'"
    );
    let folder = app(&[
        ("perilune.lua", "return require 'a'"),
        ("a.lua", "local a = require 'a'"),
    ]);
    assert_eq!(
        findings_of(folder.path()),
        "a.lua:1: cyclic require: a -> a"
    );
}

#[test]
fn a_configuration_that_never_ends_is_stopped() {
    let cpu_time = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a clock");
        Duration::from_nanos(
            text.split(' ')
                .next()
                .expect("CPU time")
                .parse()
                .expect("a number"),
        )
    };
    for source in ["\nwhile true do end", "\nwhile true do pcall(error) end"] {
        let folder = app(&[("perilune.lua", source)]);
        let path = folder.path().to_owned();
        let (error, used) = on_vm_thread(move || {
            let error = config::load(&path).map(Loaded::from).expect_err("stopped");
            (error, cpu_time())
        });
        let text = error.to_string();
        assert!(
            text.ends_with("perilune.lua:2: the configuration took longer than 2 s"),
            "{text}"
        );
        assert!(used < Duration::from_millis(2500), "{source}: {used:?}");
    }
}

#[test]
fn missing_files() {
    let folder = app(&[("other.lua", "")]);
    assert_eq!(
        findings_of(folder.path())
            .split_once(": ")
            .map(|(_, text)| text),
        Some("the folder holds no perilune.lua")
    );
    let error = load_at(&folder.path().join("nowhere")).expect_err("refused");
    assert!(
        error
            .to_string()
            .ends_with("/nowhere: no such file or folder"),
        "{error}"
    );
}

#[test]
fn b09_an_unset_variable_is_an_error_at_its_line() {
    all_refused(&[
        (
            "local x = 1\nreturn { listen = env 'PERILUNE_UNSET', realms = {} }",
            "perilune.lua:2: the environment variable PERILUNE_UNSET is not set \
             (`env(\"PERILUNE_UNSET\", default)` does without)",
        ),
        (
            "return { listen = { { addr = ':0',\n tls = { client_ca = env 'PERILUNE_UNSET' } } }, realms = {} }",
            "perilune.lua:2: the environment variable PERILUNE_UNSET is not set \
             (`env(\"PERILUNE_UNSET\", default)` does without)",
        ),
    ]);
    for fine in [
        "return { listen = env('PERILUNE_UNSET', ':0'), realms = {} }",
        "return { listen = env('PERILUNE_UNSET', nil) or ':0', realms = {} }",
        "return { listen = os.getenv 'PERILUNE_UNSET' or ':0', realms = {} }",
    ] {
        assert!(load(fine).expect("fine").warnings.is_empty(), "{fine}");
    }
}

#[test]
fn an_unset_variable_is_named_where_it_may_be_the_reason() {
    let source = realm(
        "auth = { ticket = { users = { joe = { secret = os.getenv 'PERILUNE_UNSET', role = 'guest' } } } }",
    );
    let error = load(&source).expect_err("refused");
    assert!(
        error
            .to_string()
            .ends_with("`realms.home.auth.ticket.users.joe` needs `secret`"),
        "{error}"
    );
    assert!(
        error.warnings[0]
            .message
            .contains("PERILUNE_UNSET is not set"),
        "{error:?}"
    );
}

#[test]
fn b09_a_name_that_nobody_defined_is_an_error_at_its_line() {
    all_refused(&[
        (
            "return {\n listen = LISTEN, realms = {} }",
            "perilune.lua:2: the name `LISTEN` is not defined",
        ),
        (
            "local t = {}\nt.listen = evn 'X'\nreturn t",
            "perilune.lua:2: the name `evn` is not defined, did you mean `env`?",
        ),
        (
            &realm("roles = { guest = { { uri = 'x',\n match = prefix, allow = {} } } }"),
            "perilune.lua:2: the name `prefix` is not defined",
        ),
    ]);
    // Whoever defines a global may use it, in modules too, and may ask without being told off.
    let defined = "LISTEN = ':0' require 'more' assert(rawget(_G, 'OTHER') == nil)
                   return { listen = LISTEN, realms = { [NAME] = {} } }";
    let folder = app(&[("perilune.lua", defined), ("more.lua", "NAME = 'home'")]);
    load_at(folder.path()).expect("fine");
    let folder = app(&[
        ("perilune.lua", "return require 'more'"),
        ("more.lua", "\nreturn { listen = LISTEN }"),
    ]);
    assert_eq!(
        findings_of(folder.path()),
        "more.lua:2: the name `LISTEN` is not defined"
    );
}

#[test]
fn b09_a_list_with_a_hole_is_an_error() {
    let rule = "{ uri = 'a', allow = { 'call' } }";
    all_refused(&[
        (
            &format!(
                "local mine\nreturn {{ realms = {{ home = {{ roles = {{ guest = {{ {rule},\n mine,\n {{ uri = 'b', allow = {{ 'call' }} }} }} }} }} }} }}"
            ),
            "perilune.lua:3: `realms.home.roles.guest[2]` is nil: a list has no holes",
        ),
        (
            &format!(
                "local mine\nreturn {{ realms = {{ home = {{ roles = {{ guest = {{ {rule},\n mine }} }} }} }} }}"
            ),
            "perilune.lua:3: `realms.home.roles.guest[2]` is nil: a list has no holes",
        ),
        (
            "local second\nreturn { listen = { ':0', second, ':1' }, realms = {} }",
            "perilune.lua:2: `listen[2]` is nil: a list has no holes",
        ),
        (
            "local rooms\nreturn { realms = { home = { scripts = { rooms } } } }",
            "perilune.lua:2: `realms.home.scripts[1]` is nil: a list has no holes",
        ),
        (
            &realm(
                "roles = { r = { [1] = { uri = 'a', allow = {} },\n[9007199254740992] = { uri = 'b', allow = {} } } }",
            ),
            "perilune.lua:1: `realms.home.roles.r[2]` is nil: a list has no holes",
        ),
    ]);
    // What a function or `unpack` leaves away was not written down.
    let none = "local none = {} return { listen = ':0', realms = { home = { scripts = { unpack(none) } } } }";
    load(none).expect("fine");
}

#[test]
fn secrets_are_never_shown() {
    for user in [
        "{ secret = { 'hush' } }",
        "{ secret = 'hush', salt = 'x' }",
        "'hush'",
    ] {
        let error = load(&realm(&format!(
            "auth = {{ wampcra = {{ users = {{ joe = {user} }} }} }}"
        )))
        .expect_err(user);
        assert!(!format!("{error:?}").contains("hush"), "{error}");
    }
}

#[test]
fn a_realm_nobody_can_join_is_worth_a_warning() {
    let warnings = |source| {
        load(source)
            .expect("fine")
            .warnings
            .iter()
            .map(|w| w.message.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("return {}"),
        ["there is no realm: nobody can join"]
    );
    assert_eq!(
        warnings("return { realms = { home = {} } }"),
        ["realm `home` has no `auth`: nobody can join it"]
    );
    assert_eq!(
        warnings("return { realms = { home = { scripts = { 'rooms.lua' } } } }"),
        [""; 0]
    );
}

/// A script may bring `p.authorize`, so whether the role exists is known when the scripts are loaded.
#[test]
fn roles_are_undecided_where_scripts_may_authorize() {
    let loaded = load(&realm(
        "scripts = { 'rooms.lua' }, auth = { anonymous = { role = 'gest' } }",
    ))
    .expect("fine");
    let message = &loaded.undecided[0].finding.message;
    assert_eq!(
        message,
        "realm `home` has no role `gest`, did you mean `guest`?"
    );
    // Script sessions are trusted: a login must not get their role by a gap in the configuration.
    let error = load(&realm(
        "scripts = { 'rooms.lua' }, auth = { anonymous = { role = 'script' } }",
    ));
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("has no role `script`")
    );
    let error = load(
        "return { realms = { home = { auth = { anonymous = { role = 'script' } }, roles = { script = {} } } } }",
    );
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("is the role of scripts, for which nobody logs in")
    );
}

#[test]
fn functions_become_hooks() {
    let loaded = load(
        "return { realms = { home = {
           auth = { ticket = function(login) return { role = login.authid } end },
           roles = { boss = function() return true end,
                     mixed = { { uri = 'a', allow = { 'call' } }, function() return false end, slow = 'close' } },
         } } }",
    )
    .expect("fine");
    let policy = &loaded.settings.realms["home"].policy;
    assert_eq!(policy.auth.hooks, BTreeSet::from([AuthMethod::Ticket]));
    assert!(policy.roles["boss"].function && policy.roles["mixed"].function);
    assert_eq!(policy.roles["mixed"].rules.len(), 1);
    assert_eq!(policy.roles["mixed"].slow, Some(SlowPolicy::Close));
    let mut kinds = loaded.hooks;
    kinds.sort();
    assert_eq!(
        kinds,
        [
            (format!("{:?}", HookKind::Auth(AuthMethod::Ticket)), Some(2)),
            (format!("{:?}", HookKind::Role("boss".into())), Some(3)),
            (format!("{:?}", HookKind::Role("mixed".into())), Some(4)),
        ]
    );
}

fn start(vm: &Rc<Vm>, hook: &ConfigHook) -> Slice {
    vm.start(&hook.function, &mut |_| Ok(0), &mut |_, _| Ok(()))
}

#[test]
fn hooks_run_in_the_bounds_of_a_handler() {
    let source = "asked = 0 return { realms = { home = { auth = {
        ticket = function() asked = asked + 1 end,
        wampcra = function() while true do pcall(error) end end,
    } } } }";
    with_config(source, |loaded| {
        let hook = |method| {
            loaded
                .hooks
                .iter()
                .find(|hook| hook.kind == HookKind::Auth(method))
                .expect("there")
        };
        assert!(matches!(
            start(&loaded.vm, hook(AuthMethod::Ticket)),
            Slice::Finished
        ));
        match start(&loaded.vm, hook(AuthMethod::WampCra)) {
            Slice::Failed(error) => assert!(matches!(error.kind, ErrorKind::Time), "{error:?}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            start(&loaded.vm, hook(AuthMethod::Ticket)),
            Slice::Finished
        ));
        assert_eq!(
            loaded
                .vm
                .lua()
                .globals()
                .get::<u32>("asked")
                .expect("a number"),
            2
        );
    });
}

/// What a configuration may do and what not.
#[test]
fn configurations_read_and_nothing_else() {
    let folder = app(&[("perilune.lua", "return {}"), ("secret.txt", "hush\n")]);
    let secret = folder.path().join("secret.txt");
    let source = format!(
        "local path = {secret:?}
         local file = assert(io.open(path))
         assert(file:read('*l') == 'hush')
         assert(not file:write('x'))
         file:close()
         for line in io.lines(path) do assert(line == 'hush') end
         assert(io.open('/no/such/file') == nil)
         assert(env 'PATH' == os.getenv('PATH') and env 'PATH')
         assert(not (io.popen or io.output or io.tmpfile or os.execute or os.remove or os.rename or os.exit))
         for _, name in ipairs {{ 'load', 'loadstring', 'loadfile', 'dofile', 'ffi', 'jit', 'getfenv' }} do
           assert(not rawget(_G, name))
         end
         assert(not pcall(require, 'ffi') and not pcall(require, 'io'))
         return {{ realms = {{}} }}"
    );
    assert_eq!(
        load(&source)
            .map(|loaded| loaded.warnings)
            .map_err(|error| error.to_string()),
        Ok(Vec::new())
    );
    assert_eq!(std::fs::read_to_string(secret).expect("there"), "hush\n");
    refused(
        "\nlocal p = require 'perilune'",
        "perilune.lua:2: 'perilune' is for scripts: the configuration has no session",
    );
}

/// The configuration's metamethods would run outside the bounds: its values are read raw.
#[test]
fn metamethods_are_not_called() {
    let trap = "local function trap() while true do end end
        local function trapped(t) return setmetatable(t, { __index = trap, __pairs = trap, __len = trap, __tostring = trap,
            __eq = trap, __call = trap, __ipairs = trap }) end ";
    let source = format!(
        "{trap} return trapped {{ realms = trapped {{ home = trapped {{
             roles = trapped {{ guest = trapped {{ trapped {{ uri = 'a', allow = trapped {{ 'call' }} }} }} }},
             auth = trapped {{ anonymous = trapped {{ role = 'guest' }} }} }} }} }}"
    );
    assert_eq!(
        load(&source).expect("fine").settings.realms["home"]
            .policy
            .roles["guest"]
            .rules
            .len(),
        1
    );
}

#[test]
fn large_configurations() {
    let source = "local users, rules = {}, {}
        for i = 1, 20000 do users['user' .. i] = { secret = 's' .. i, role = 'guest' } end
        for i = 1, 20000 do rules[i] = { uri = 'a.' .. i, allow = { 'call' } } end
        return { realms = { home = { roles = { guest = rules }, auth = { ticket = { users = users } } } } }";
    let policy = load(source).expect("fine").settings.realms["home"]
        .policy
        .clone();
    assert_eq!(policy.auth.ticket.expect("offered").len(), 20000);
    assert_eq!(policy.roles["guest"].rules.len(), 20000);
}

/// What a reload of the configuration depends on, also of one that was refused.
#[test]
fn fingerprints_cover_what_was_read_or_missing() {
    let folder = app(&[
        ("perilune.lua", "return { realms = require 'realms' }"),
        (
            "realms/init.lua",
            "return { home = { scripts = { 'rooms.lua' } } }",
        ),
    ]);
    let changed = |before: &Fingerprints| {
        let changed = before.changed(&before.now());
        changed
            .iter()
            .map(|path| path.strip_prefix(folder.path()).expect("in it").to_owned())
            .collect::<Vec<_>>()
    };
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let refused = load_at(folder.path())
        .expect_err("no rooms.lua")
        .fingerprints;
    assert_eq!(changed(&refused), Vec::<PathBuf>::new());
    write("rooms.lua", "");
    assert_eq!(changed(&refused), [Path::new("rooms.lua")]);
    let loaded = load_at(folder.path()).expect("fine").fingerprints;
    assert_eq!(changed(&loaded), Vec::<PathBuf>::new());
    write(
        "perilune.lua",
        "return { realms = require 'realms' } -- new",
    );
    write("realms/init.lua", "return { home = {} }");
    write("realms.lua", "return {}");
    assert_eq!(
        changed(&loaded),
        ["perilune.lua", "realms/init.lua", "realms.lua"].map(PathBuf::from)
    );
}

const FULL: &str = r#"
local users = require "users"
return {
  listen = {
    "127.0.0.1:8080",
    "unix:run/p.sock",
    { addr = ":8443", tls = { cert = "tls/cert.pem", key = "tls/key.pem", client_ca = "tls/ca.pem", client_cert = "optional" },
      proxy = true, origins = { "https://*.example.com" },
      serializers = { "json", "cbor", "cbor.batched" }, no_subprotocol = "cbor", deflate = { context_takeover = true }, path = "/wamp", message = "2MB", idle_ping = false },
    { addr = "unix:/run/x.sock", mode = "0660" },
  },
  trusted_proxies = { "10.1.0.0/16", "2001:db8::7" },
  realms = {
    home = {
      auth = {
        anonymous = { role = "guest" },
        ticket = { users = users },
        wampcra = { users = { ann = { secret = "s", role = "resident" } } },
      },
      roles = {
        guest = { { uri = "home.sensor.", match = "prefix", allow = { "subscribe" } }, slow = "close" },
        resident = {
          { uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" },
            disclose = { caller = true, publisher = false } },
        },
      },
      scripts = { "rooms.lua", { "deep/alarm.lua", instances = 2, memory = "32MB", cpu = "50ms", deadline = false,
                                 handlers = 10, trusted = true } },
      limits = { calls_in_flight = 5, call_queue = 6, call_timeout = "1min", hook = 1, drain = false, shared = "1MB" },
      request_ids = "strict", strict_continuations = true, uris = "strict", slow = "close", meta = false, validate = "enforce",
    },
    other = { auth = { anonymous = { role = "x" } }, roles = { x = {} } },
  },
  shared = { counters = "router" },
  http = { health = "/up" },
  limits = { message = "64KB", idle_ping = "5s", queue = 1000, connections = false, handshake = 0.5,
             subscriptions = 7, max_call_timeout = "2min" },
}
"#;

fn full_app() -> tempfile::TempDir {
    let (cert, key) = certificate();
    app(&[
        ("perilune.lua", FULL),
        (
            "users.lua",
            "return { joe = { secret = 's3cret', role = 'resident' } }",
        ),
        ("rooms.lua", ""),
        ("deep/alarm.lua", ""),
        ("tls/cert.pem", &cert),
        ("tls/key.pem", &key),
        ("tls/ca.pem", &cert),
    ])
}

fn full_listeners(folder: &Path) -> Vec<ListenerSettings> {
    let plain = |address| ListenerSettings {
        message: 64 << 10,
        idle_ping: Some(Duration::from_secs(5)),
        ..ListenerSettings::at(address)
    };
    vec![
        plain(Address::Tcp("127.0.0.1:8080".into())),
        plain(Address::Unix {
            path: folder.join("run/p.sock"),
            file: SocketFile::default(),
        }),
        ListenerSettings {
            address: Address::Tcp("0.0.0.0:8443".into()),
            tls: Some(TlsSettings {
                cert: folder.join("tls/cert.pem"),
                key: folder.join("tls/key.pem"),
                client: Some(ClientCertificates {
                    ca: folder.join("tls/ca.pem"),
                    optional: true,
                    revoked: None,
                }),
            }),
            proxy: true,
            forwarded: false,
            paths: vec!["/wamp".into()],
            origins: Some(vec!["https://*.example.com".into()]),
            no_subprotocol: Some(Serializer::Cbor),
            deflate: Some(DeflateSettings {
                context_takeover: true,
                window_bits: 15,
            }),
            serializers: vec![Serializer::Json, Serializer::Cbor],
            batched: vec![Serializer::Cbor],
            message: 2 << 20,
            idle_ping: None,
        },
        plain(Address::Unix {
            path: "/run/x.sock".into(),
            file: SocketFile {
                mode: 0o660,
                ..SocketFile::default()
            },
        }),
    ]
}

fn full_home() -> RealmPolicy {
    let rule = |uri: &str, allow, disclose_caller, disclose_publisher| Rule {
        uri: Uri::from(uri),
        match_policy: MatchPolicy::Prefix,
        allow,
        disclose_caller,
        disclose_publisher,
    };
    let guest = RolePolicy {
        procedure: None,
        rules: vec![rule(
            "home.sensor.",
            Actions::from_iter([Action::Subscribe]),
            Disclosure::OnRequest,
            Disclosure::OnRequest,
        )],
        function: false,
        slow: Some(SlowPolicy::Close),
    };
    let resident = RolePolicy {
        rules: vec![rule(
            "",
            Actions::all(),
            Disclosure::Always,
            Disclosure::Never,
        )],
        ..RolePolicy::default()
    };
    let joe = TicketUser {
        secret: Secret::new("s3cret"),
        role: "resident".into(),
    };
    let ann = CraUser {
        key: Secret::new("s"),
        role: "resident".into(),
        salt: None,
    };
    RealmPolicy {
        uris: UriRules::Strict,
        request_ids: RequestIds::Strict,
        meta: MetaApi::Off,
        validate: Validation::Enforce,
        strict_continuations: true,
        auth: AuthPolicy {
            anonymous: Some(AnonymousUser {
                role: "guest".into(),
            }),
            ticket: Some(BTreeMap::from([("joe".into(), joe)])),
            wampcra: Some(BTreeMap::from([("ann".into(), ann)])),
            ..AuthPolicy::default()
        },
        roles: BTreeMap::from([
            ("guest".into(), Arc::new(guest)),
            ("resident".into(), Arc::new(resident)),
        ]),
        slow: SlowPolicy::Close,
        limits: RealmLimits {
            calls_in_flight: 5,
            call_queue: 6,
            call_timeout: Some(Duration::from_secs(60)),
            hook: Duration::from_secs(1),
            subscriptions: 7,
            max_call_timeout: Some(Duration::from_secs(120)),
            ..RealmLimits::default()
        },
        ..RealmPolicy::default()
    }
}

#[test]
fn a_full_configuration() {
    let folder = full_app();
    let loaded = load_at(folder.path())
        .map_err(|err| err.to_string())
        .expect("fine");
    let at = |name: &str| folder.path().join(name);
    let alarm = ScriptSettings {
        instances: 2,
        memory: 32 << 20,
        cpu: Duration::from_millis(50),
        deadline: None,
        handlers: 10,
        trusted: true,
        ..ScriptSettings::new("deep/alarm.lua", at("deep/alarm.lua"))
    };
    let home = RealmSettings {
        policy: full_home(),
        scripts: vec![ScriptSettings::new("rooms.lua", at("rooms.lua")), alarm],
        host: RealmHostLimits {
            drain: config::NO_TIME_LIMIT,
            shared: 1 << 20,
        },
        role_places: BTreeMap::new(),
    };
    let mut other = RealmSettings::default();
    other.policy.auth.anonymous = Some(AnonymousUser { role: "x".into() });
    other.policy.roles.insert("x".into(), Arc::default());
    other.policy.limits.subscriptions = 7;
    other.policy.limits.max_call_timeout = Some(Duration::from_secs(120));
    let expected = Settings {
        on_demand: None,
        lobby: None,
        listeners: full_listeners(folder.path()),
        realms: BTreeMap::from([("home".into(), home), ("other".into(), other)]),
        limits: RouterLimits {
            queue: 1000,
            connections: usize::MAX,
            handshake: Duration::from_millis(500),
            trusted_proxies: ["10.1.0.0/16", "2001:db8::7/128"]
                .map(|network| network.parse().expect("a network"))
                .into(),
            ..RouterLimits::default()
        },
        http: HttpSettings {
            health: Some("/up".into()),
            ..HttpSettings::default()
        },
        data: None,
        common_dictionaries: vec!["counters".into()],
    };
    // Lines are shown by `authz explain`, and tested there.
    let mut expected = expected;
    for (name, realm) in &mut expected.realms {
        realm.role_places = loaded.settings.realms[name].role_places.clone();
    }
    assert_eq!(loaded.settings, expected);
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.undecided, []);
    let config = [
        "perilune.lua",
        "users.lua",
        "tls/cert.pem",
        "tls/key.pem",
        "tls/ca.pem",
    ]
    .map(at);
    assert_eq!(loaded.files, config);
    assert_eq!(loaded.watched.len(), 7);
}

#[test]
fn limits_hold_for_the_default_listener_too() {
    let loaded = load("return { limits = { message = '2KB' }, realms = {} }").expect("fine");
    assert_eq!(loaded.settings.listeners[0].message, 2048);
    assert_eq!(
        loaded.settings.listeners[0].address,
        Address::Tcp("127.0.0.1:8080".into())
    );
}

#[test]
fn d03_what_no_listener_could_begin_with_is_a_finding() {
    let ((cert, key), (_, other)) = (certificate(), certificate());
    let tls = "return {\n listen = { addr = ':0',\n tls = { cert = 'cert.pem', key = 'key.pem', client_ca = CA } } }";
    let said = |cert: &str, key: &str, ca: &str| {
        let ca = format!("CA = {ca:?} {tls}");
        let folder = app(&[
            ("perilune.lua", &ca),
            ("cert.pem", cert),
            ("key.pem", key),
            ("rooms.lua", ""),
        ]);
        findings_of(folder.path())
    };
    let misfit = said(&cert, &other, "cert.pem");
    assert!(
        misfit.starts_with("perilune.lua:3: cert.pem and key.pem do not work together: "),
        "{misfit}"
    );
    for (cert, key, ca, expected) in [
        (
            "",
            &*key,
            "cert.pem",
            "perilune.lua:3: cert.pem: no certificate in PEM form in it: ",
        ),
        (
            &key,
            &key,
            "cert.pem",
            "perilune.lua:3: cert.pem: no certificate in PEM form in it: ",
        ),
        (
            &cert,
            &cert,
            "cert.pem",
            "perilune.lua:3: key.pem: no private key in PEM form in it: ",
        ),
        (
            &cert,
            &key,
            "rooms.lua",
            "perilune.lua:3: rooms.lua: no CA certificate in PEM form in it: ",
        ),
    ] {
        let finding = said(cert, key, ca);
        assert!(finding.starts_with(expected), "{finding}");
    }
}

#[test]
fn failed_logins_are_limited_unless_false() {
    let limit = |limits: &str| {
        load(&format!(
            "return {{ limits = {{ {limits} }}, realms = {{}} }}"
        ))
        .map(|loaded| loaded.settings.limits.login_failures)
    };
    assert_eq!(limit("").expect("fine"), 5);
    assert_eq!(limit("login_failures = 1").expect("fine"), 1);
    assert_eq!(limit("login_failures = false").expect("fine"), usize::MAX);
    assert!(limit("login_failures = 0").is_err());
}

#[test]
fn what_needs_a_restart() {
    let settings = |listen: &str| {
        load(&format!("return {{ listen = {listen}, realms = {{}} }}"))
            .expect("fine")
            .settings
    };
    let old = settings("{ '127.0.0.1:1', '127.0.0.1:2', '127.0.0.1:3' }");
    let new = settings(
        "{ { addr = '127.0.0.1:1', origins = '*' }, { addr = '127.0.0.1:2', \
         tls = { cert = 'cert.pem', key = 'key.pem' } }, '127.0.0.1:4' }",
    );
    assert_eq!(
        config::changes_needing_restart(&old.listeners, &new.listeners),
        [
            "`origins` of 127.0.0.1:1 has changed",
            "`tls` of 127.0.0.1:2: turned on",
            "`listen`: 127.0.0.1:3 is no longer there",
            "`listen`: 127.0.0.1:4 is new",
        ]
    );
    assert_eq!(
        config::changes_needing_restart(&old.listeners, &old.listeners),
        [""; 0]
    );
}

#[test]
fn the_built_in_app_lets_anybody_in_on_loopback() {
    let settings = config::built_in();
    assert_eq!(
        settings.listeners,
        [ListenerSettings::at(Address::Tcp("127.0.0.1:8080".into()))]
    );
    let policy = &settings.realms["realm1"].policy;
    let anonymous = policy.auth.anonymous.as_ref().expect("offered");
    assert!(policy.has_role(&anonymous.role));
    assert!(!policy.has_role("script"), "scripts do not log in");
    assert!(policy.auth.still_admits(&Principal {
        authid: "x".into(),
        authrole: anonymous.role.clone(),
        authmethod: "anonymous".into(),
        authprovider: "static".into(),
        extra: Default::default(),
    }));
}

#[test]
fn the_reference_tells_defaults() {
    let text = config::reference();
    assert!(
        text.contains("| `queue` | size or `false` | 1 MB |"),
        "{text}"
    );
    assert!(
        text.contains("| `max_call_timeout` | duration or `false` | 10 min |"),
        "{text}"
    );
    assert!(
        text.contains("| `instances` | number, 1 to 256 | 1 |"),
        "{text}"
    );
}

#[test]
fn trust_levels_are_whole_numbers_by_role() {
    let loaded = load(&realm("trust = { guest = 0, resident = 7 }")).expect("fine");
    let trust = &loaded.settings.realms["home"].policy.trust;
    assert_eq!(trust.get("resident"), Some(&7));
    all_refused_in_realm(&[
        (
            "trust = { guest = -1 }",
            "perilune.lua:1: `realms.home.trust.guest` must be a whole number from 0 to 1000000",
        ),
        (
            "trust = { guest = 'high' }",
            "perilune.lua:1: `realms.home.trust.guest` must be a whole number from 0 to 1000000",
        ),
    ]);
}

#[test]
fn placeholders_of_rules_are_known_names() {
    let rule = |uri: &str| {
        format!(
            "return {{ realms = {{ home = {{ roles = {{ guest = {{\n\
             {{ uri = {uri:?}, match = 'prefix', allow = {{ 'call' }} }} }} }} }} }} }}"
        )
    };
    load(&rule("user.{authid}.{session}.{authrole}.")).expect("fine");
    refused(
        &rule("user.{authd}."),
        "perilune.lua:2: `realms.home.roles.guest[1].uri` has {authd}, which is no placeholder ({authid}, {authrole}, {session}), did you mean {authid}?",
    );
    refused(
        &rule("user.{authid."),
        "perilune.lua:2: `realms.home.roles.guest[1].uri` has an unpaired brace; placeholders are {authid}, {authrole}, {session}",
    );
}

#[test]
fn paths_of_the_http_bridge() {
    let settings = load(
        "return { compat = 'wiola', realms = { home = {} }, http = {\n\
         publish = { ['/publish'] = { realm = 'home', auth = 'ticket' } },\n\
         call = { ['/call'] = { realm = 'home', timeout = '5s' } },\n\
         events = { ['/events'] = { realm = 'home', auth = 'anonymous' } },\n\
         longpoll = '/poll' } }",
    )
    .expect("loads")
    .settings;
    let publish = &settings.http.publish["/publish"];
    assert_eq!(publish.auth, Some(AuthMethod::Ticket));
    assert_eq!(publish.compat, Some(Compat::Wiola));
    let call = &settings.http.call["/call"];
    assert_eq!((call.realm.as_str(), call.auth), ("home", None));
    assert_eq!((call.timeout, call.compat), (Duration::from_secs(5), None));
    assert_eq!(
        settings.http.events["/events"].auth,
        Some(AuthMethod::Anonymous)
    );
    assert_eq!(
        settings.http.longpoll.map(|longpoll| longpoll.path),
        Some("/poll".into())
    );
    let off =
        load("return { realms = { home = {} }, http = { longpoll = false } }").expect("loads");
    assert_eq!(off.settings.http.longpoll, None);
}

#[test]
fn paths_of_the_http_bridge_that_are_wrong() {
    all_refused(&[
        (
            "return { realms = { home = {} }, http = { call = {\n ['/c'] = { realm = 'hoem' } } } }",
            "perilune.lua:2: `http.call[\"/c\"].realm` names no realm: \"hoem\", did you mean \"home\"?",
        ),
        (
            "return { realms = { home = {} }, http = { call = {\n ['/c'] = {} } } }",
            "perilune.lua:2: `http.call[\"/c\"]` needs `realm`",
        ),
        (
            "return { realms = { home = {} }, http = { call = {\n ['c'] = { realm = 'home' } } } }",
            "perilune.lua:2: `http.call.c` must be a path like \"/ws\", not \"c\"",
        ),
        (
            "return { realms = { home = {} }, http = { call = {\n ['/ws'] = { realm = 'home' } } } }",
            "perilune.lua:2: `http.call[\"/ws\"]` is the path of something else, too",
        ),
        (
            "return { realms = { home = {} }, http = { call = {\n ['/c'] = { realm = 'home', auth = 'wampcra' } } } }",
            "perilune.lua:2: `http.call[\"/c\"].auth` must be \"anonymous\" or \"ticket\" or \"jwt\", not \"wampcra\"",
        ),
        (
            "return { realms = { home = {} }, http = { call = {\n ['/c'] = { realm = 'home', compat = 'wiola' } } } }",
            "perilune.lua:2: `http.call[\"/c\"]`: unknown key `compat`; valid keys: realm, auth, timeout",
        ),
        (
            "return { listen = '0.0.0.0:80', realms = { home = {} }, http = { call = {\n ['/c'] = { realm = 'home' } } } }",
            "perilune.lua:2: `http.call[\"/c\"]` needs `auth`, as 0.0.0.0:80 can be reached from elsewhere",
        ),
        (
            "return { realms = { home = {} }, http = {\n longpoll = '/lp/' } }",
            "perilune.lua:2: `http.longpoll` must not end with `/`: \"/lp/\"",
        ),
    ]);
}

//! `auth.scram`, `auth.cryptosign` and `auth.jwt` of a configuration: what is read, and what is said of mistakes.

use std::path::Path;

use perilune::core::credentials::AuthPolicy;
use perilune::core::jwt_keys::Algorithm;
use perilune::core::scram::{Derivation, Kdf, ScramCredential};
use perilune::lua::config;
use perilune::lua::vm::spawn_vm_thread;

const SECRET: &str = "a secret of at least thirty-two octets!!";
/// Of the private key in `router.key`.
const OWN: &str = "6e7a1cdd29b0b78fd13af4c5598feff4ef2a97166e3ca6f2e4fbfccd80505bf1";
const PUBLIC: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

fn data() -> serde_json::Value {
    serde_json::from_str(include_str!("conformance/data/jwt.json")).expect("JSON")
}

/// Loads `auth = { … }` in a folder with key files: the logins and the files that were read, or the findings.
fn load(auth: &str) -> Result<(AuthPolicy, Vec<String>), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let data = data();
    let source = format!(
        "return {{ realms = {{ home = {{ roles = {{ guest = {{}} }}, auth = {{ {auth} }} }} }} }}"
    );
    let pem = data["pem"]["RS"].as_str().expect("text");
    for (name, text) in [
        ("perilune.lua", source.as_str()),
        ("rsa.pem", pem),
        ("private.pem", &pem.replace("PUBLIC", "PRIVATE")),
        ("keys.json", &data["jwks"].to_string()),
        ("router.key", &"05".repeat(32)),
        ("empty", ""),
    ] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let path = folder.path().to_owned();
    let (send, receive) = std::sync::mpsc::channel();
    spawn_vm_thread("config", move || {
        let loaded = config::load(&path).map(|loaded| {
            let policy = loaded.settings.realms["home"].policy.auth.clone();
            let names = loaded.files.iter().filter_map(|file| file.file_name());
            let names = names
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            (policy, names)
        });
        let _ = send.send(loaded.map_err(|error| error.to_string()));
    })
    .expect("a thread");
    let loaded = receive.recv().expect("no panic");
    loaded.map_err(|error| error.replace(&format!("{}/", Path::new(folder.path()).display()), ""))
}

/// Each case: the inside of a table, and what is said of it behind the path of that table.
fn refused(wrap: impl Fn(&str) -> String, path: &str, cases: &[(&str, &str)]) {
    for (inside, problem) in cases {
        let findings = load(&wrap(inside)).map(drop).expect_err(inside);
        assert_eq!(
            findings,
            format!("perilune.lua:1: `realms.home.auth.{path}{problem}"),
            "{inside}"
        );
    }
}

#[test]
fn scr_04_passwords_become_keys_and_keys_are_taken() {
    let (auth, _) = load(
        "scram = { users = {
           plain = { password = 'pencil-42', role = 'guest' },
           twin = { password = 'pencil-42', role = 'guest' },
           salted = { password = 'pencil-42', salt = 'aBc+fx0NAVBoFz5/HQ0BUA==', iterations = 4096, role = 'guest' },
           argon = { password = 'pencil-42', kdf = 'argon2id13', iterations = 1, memory = 64, role = 'guest' },
           keys = { kdf = 'argon2id-13', salt = 'aBc+fx0NAVBoFz5/HQ0BUA==', iterations = 3, memory = 4096,
             stored_key = 'd7acf9826765adbd4c02796200b40478b5cd71b7f4b4f4a513bc8b17b3e304b6',
             server_key = 'C1DE627488D0514D7262702FF82E58D13FC96B9CB71F1EBA263C203503A44733', role = 'guest' } } }",
    )
    .expect("fine");
    let users = auth.scram.expect("offered");
    let derived = |name: &str| {
        let credential = &users[name].credential;
        let again = ScramCredential::derive("pencil-42", credential.derivation.clone());
        assert_eq!(Ok(credential), again.as_ref(), "{name}");
        credential.derivation.clone()
    };
    let plain = derived("plain");
    assert_eq!(
        (plain.kdf, plain.iterations, plain.salt.len()),
        (Kdf::Pbkdf2, 15_000, 16)
    );
    assert_ne!(plain.salt, derived("twin").salt);
    let salted = derived("salted");
    assert_eq!(
        (salted.iterations, &salted.salt[..3]),
        (4096, &[0x68, 0x17, 0x3e][..])
    );
    assert_eq!(derived("argon").kdf, Kdf::Argon2id13 { memory: 64 });
    let keys = &users["keys"].credential;
    let parameters = Derivation {
        kdf: Kdf::Argon2id13 { memory: 4096 },
        iterations: 3,
        salt: keys.derivation.salt.clone(),
    };
    assert_eq!(keys.derivation, parameters);
    let derived = ScramCredential::derive("pencil-42", parameters).expect("derives");
    assert_eq!(keys.keys, derived.keys);
    assert_eq!(users["keys"].role, "guest");
}

#[test]
fn a_reload_finds_the_same_keys() {
    let source =
        "scram = { users = { joe = { password = 'x', iterations = 10, role = 'guest' } } }";
    assert_eq!(load(source), load(source));
}

#[test]
fn scr_04_users_that_cannot_be() {
    let key = "5496f175e0c666b9b5df18013d75928a492cccfda4d73f05951ef0d4a0c01889";
    let wrap = |user: &str| {
        format!(
            "scram = {{ users = {{ joe = {{ role = 'guest', {} }} }} }}",
            user.replace("KEY", key)
        )
    };
    refused(
        wrap,
        "scram.users.joe",
        &[
            (
                "",
                "` needs `password`, or `salt`, `stored_key` and `server_key` (it has no `stored_key`)",
            ),
            ("password = ''", ".password` is empty"),
            ("password = 5", ".password` must be a string, not a number"),
            (
                "password = 'bell\\7'",
                ".password` holds characters that passwords must not hold (SASLprep)",
            ),
            (
                "password = 'x', stored_key = 'KEY'",
                "` has both `password` and keys: give one",
            ),
            (
                "salt = 'AAAAAAAAAAAAAAAA', stored_key = 'KEY'",
                "` needs `password`, or `salt`, `stored_key` and `server_key` (it has no `server_key`)",
            ),
            (
                "stored_key = 'KEY', server_key = 'KEY'",
                "` has keys without the `salt` they were derived with",
            ),
            (
                "salt = 'AAAAAAAAAAAAAAAA', stored_key = 'KEY', server_key = '12'",
                ".server_key` must be 64 hexadecimal digits",
            ),
            ("password = 'x', salt = 'salt123'", ".salt` must be Base64"),
            (
                "password = 'x', salt = 'AAAA'",
                ".salt` is too short: at least 8 octets",
            ),
            (
                "password = 'x', kdf = 'scrypt'",
                ".kdf` must be \"pbkdf2\" or \"argon2id13\", not \"scrypt\"",
            ),
            (
                "password = 'x', memory = 64",
                ".memory` is for the kdf \"argon2id13\"",
            ),
            (
                "password = 'x', kdf = 'argon2id13', memory = 7",
                ".memory` must be a whole number from 8 to 1048576",
            ),
            (
                "password = 'x', iterations = 0",
                ".iterations` must be a whole number from 1 to 10000000",
            ),
        ],
    );
    let findings = load("['wamp-scram'] = { users = {} }").expect_err("another name");
    assert_eq!(
        findings,
        "perilune.lua:1: `realms.home.auth`: `wamp-scram` is configured as `scram`"
    );
}

#[test]
fn cs_06_keys_have_owners() {
    let auth = format!(
        "cryptosign = {{ keys = {{ ['{}'] = {{ authid = 'hub', role = 'guest' }} }}, key = 'router.key' }}",
        PUBLIC.to_uppercase()
    );
    let (policy, files) = load(&auth).expect("fine");
    let table = policy.cryptosign.expect("offered");
    let (key, owner) = table.keys.first_key_value().expect("a key");
    assert_eq!(
        (
            key.to_hex().as_str(),
            owner.authid.as_str(),
            owner.role.as_str()
        ),
        (PUBLIC, "hub", "guest")
    );
    assert_eq!(files, ["perilune.lua", "router.key"]);
    let (direct, files) = load(&auth.replace("router.key", &"05".repeat(32))).expect("fine");
    assert_eq!(direct.cryptosign, Some(table));
    assert_eq!(files, ["perilune.lua"]);
}

#[test]
fn cryptosign_that_cannot_be() {
    refused(
        |inside| {
            format!(
                "cryptosign = {{ {} }}",
                inside.replace("PUBLIC", PUBLIC).replace("OWN", OWN)
            )
        },
        "cryptosign",
        &[
            ("", "` needs `keys`"),
            (
                "keys = { ['03a1'] = { authid = 'x', role = 'guest' } }",
                ".keys[\"03a1\"]` is no Ed25519 public key (64 hexadecimal digits)",
            ),
            (
                "keys = { ['PUBLIC'] = { role = 'guest' } }",
                &format!(".keys[\"{PUBLIC}\"]` needs `authid`"),
            ),
            (
                "keys = {}, key = 'empty'",
                ".key` names a file without an Ed25519 private key (64 hexadecimal digits)",
            ),
            (
                "keys = {}, key = '0505050505050505050505050505050505050505050505050505050505050505050505'",
                ".key` is neither 64 hexadecimal digits nor a file",
            ),
            (
                "keys = {}, key = [[05\\n05]]",
                ".key` is neither 64 hexadecimal digits nor a file",
            ),
            (
                "keys = { ['OWN'] = { authid = 'x', role = 'guest' } }, key = 'router.key'",
                ".key` is the private key of one of `keys`: the router needs one of its own",
            ),
        ],
    );
    let twice = format!(
        "cryptosign = {{ keys = {{ ['{PUBLIC}'] = {{ authid = 'a', role = 'guest' }}, ['{}'] = {{ authid = 'b', role = 'guest' }} }} }}",
        PUBLIC.to_uppercase()
    );
    assert!(load(&twice).expect_err("twice").contains("is named twice"));
}

#[test]
fn jwt_keys_of_every_form() {
    let (auth, files) = load(&format!(
        "jwt = {{ secret = '{SECRET}', key = 'rsa.pem', jwks = 'keys.json', algorithms = {{ 'RS256', 'EdDSA' }},
           issuer = 'a', audience = {{ 'b', 'c' }}, leeway = '5s', authid = 'email', role = 'groups',
           roles = {{ admin = 'guest' }}, default_role = 'guest' }}"
    ))
    .expect("fine");
    let jwt = auth.jwt.expect("offered");
    assert_eq!(files, ["perilune.lua", "rsa.pem", "keys.json"]);
    let algorithms: Vec<_> = jwt.keys.iter().flat_map(|key| key.algorithms()).collect();
    assert_eq!(
        algorithms,
        [&Algorithm::Rs256, &Algorithm::Rs256, &Algorithm::EdDsa]
    );
    assert_eq!(
        (jwt.issuer, jwt.audience),
        (vec!["a".to_owned()], vec!["b".to_owned(), "c".into()])
    );
    assert_eq!(
        (jwt.leeway.as_secs(), &*jwt.authid, &*jwt.role.claim),
        (5, "email", "groups")
    );
    assert_eq!(jwt.role.roles.expect("a map")["admin"], "guest");
    assert_eq!(jwt.role.default.as_deref(), Some("guest"));

    let pem = data()["pem"]["ES256"].to_string().replace("\\n", "\\\n");
    let (auth, _) = load(&format!("jwt = {{ key = {pem}, leeway = 0 }}")).expect("fine");
    let jwt = auth.jwt.expect("offered");
    assert_eq!(jwt.keys[0].algorithms(), [Algorithm::Es256]);
    assert_eq!(
        (jwt.leeway.as_secs(), &*jwt.authid, &*jwt.role.claim),
        (0, "sub", "role")
    );
}

#[test]
fn jwt_that_cannot_be() {
    refused(
        |inside| {
            format!(
                "jwt = {{ {} }}",
                inside.replace("SECRET", &format!("secret = '{SECRET}'"))
            )
        },
        "jwt",
        &[
            ("", "` needs `secret`, `key` or `jwks`"),
            (
                "secret = 'short'",
                ".secret` is too short: at least 32 octets",
            ),
            (
                "secret = '-----BEGIN PUBLIC KEY----- MIIBIjANBgkq'",
                ".secret` is a key in PEM form, no shared secret: public keys go into `key`",
            ),
            (
                "key = 'a secret meant for `secret`'",
                ".key` is neither public keys in PEM form nor a file",
            ),
            (
                "jwks = '{ \"keys\": [] }'",
                ".jwks` must be the name of a file",
            ),
            ("secret = 5", ".secret` must be a string, not a number"),
            (
                "key = 'private.pem'",
                ".key` holds a private key: give the public one, the router only verifies",
            ),
            (
                "key = 'empty'",
                ".key` holds no `-----BEGIN PUBLIC KEY-----`",
            ),
            (
                "jwks = 'rsa.pem'",
                ".jwks` is no JSON Web Key Set: invalid number at line 1 column 2",
            ),
            (
                "SECRET, algorithms = { 'none' }",
                ".algorithms[1]` must be \"HS256\" or \"HS384\" or \"HS512\" or \"RS256\" or \"RS384\" or \"RS512\" or \"ES256\" or \"ES384\" or \"EdDSA\", not \"none\"",
            ),
            (
                "SECRET, algorithms = { 'HS256', 'RS256' }",
                ".algorithms` names RS256, but no key is of that kind",
            ),
            ("SECRET, audience = {}", ".audience` is empty"),
            (
                "SECRET, issuer = 5",
                ".issuer` must be a string or a list of strings, not a number",
            ),
            (
                "SECRET, leeway = false",
                ".leeway` must be a duration; 0 is none",
            ),
            ("SECRET, leeway = '2h'", ".leeway` must be at most an hour"),
        ],
    );
    for (inside, finding) in [
        (
            "default_role = 'gest'",
            "realm `home` has no role `gest`, did you mean `guest`?",
        ),
        (
            "roles = { admin = 'gest' }",
            "realm `home` has no role `gest`, did you mean `guest`?",
        ),
        (
            "jwks = 'key.json'",
            "key.json does not exist, did you mean `keys.json`?",
        ),
    ] {
        let findings =
            load(&format!("jwt = {{ secret = '{SECRET}', {inside} }}")).expect_err(inside);
        assert_eq!(findings, format!("perilune.lua:1: {finding}"));
    }
}

#[test]
fn auth_11_no_secret_is_shown() {
    let (auth, _) = load(&format!(
        "scram = {{ users = {{ joe = {{ password = 'pencil-42', iterations = 10, role = 'guest' }} }} }},
         cryptosign = {{ keys = {{}}, key = 'router.key' }}, jwt = {{ secret = '{SECRET}' }}"
    ))
    .expect("fine");
    let shown = format!("{auth:?}");
    for secret in ["pencil-42", SECRET, "0505", "5, 5, 5"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    for auth in [
        "cryptosign = { keys = {}, key = '0505050505050505050505050505050505050505050505050505050505050505050505' }",
        "cryptosign = { keys = {}, key = 'private-key-ed25519: 05050505' }",
        "cryptosign = { keys = {}, key = '050505050505' }",
        "jwt = { key = 'sh0rt' }",
        "jwt = { secret = 'sh0rt' }",
        "scram = { users = { joe = { role = 'guest', salt = 'AAAAAAAAAAAAAAAA', stored_key = 's3cret', server_key = 's3cret' } } }",
    ] {
        let findings = load(auth).expect_err("wrong");
        assert!(
            !["0505", "sh0rt", "s3cret"]
                .iter()
                .any(|secret| findings.contains(secret)),
            "{findings}"
        );
    }
}

#[test]
fn auth_13_tables_of_certificates_and_cookies_are_read() {
    let colons = ["AB"; 32].join(":");
    let (auth, _) = load(&format!(
        "tls = {{ role = 'guest', users = {{ hub = {{ fingerprint = '{colons}', role = 'guest' }} }} }},
         cookie = {{ issue = true, max_age = '1h', secure = true, same_site = 'none' }},
         ticket = {{ procedure = 'com.auth', realm = 'desk' }}"
    ))
    .expect("fine");
    let tls = auth.tls.expect("offered");
    let fingerprint = tls.users["hub"].fingerprint.as_deref();
    assert_eq!(fingerprint, Some(&*"ab".repeat(32)));
    let cookie = auth.cookie.expect("offered");
    let issue = cookie.issue.expect("issued");
    assert_eq!((&*cookie.name, issue.max_age.as_secs()), ("wampauth", 3600));
    assert_eq!((issue.secure, issue.http_only), (Some(true), true));
    assert_eq!(auth.ticket, None, "only the procedure knows");
    let procedure = auth.procedures.values().next().expect("there");
    assert_eq!(
        (&*procedure.uri, procedure.realm.as_deref()),
        ("com.auth", Some("desk"))
    );
}

#[test]
fn auth_13_mistakes_in_tables_of_certificates_and_cookies_are_told() {
    refused(
        |inside| format!("tls = {{ {inside} }}"),
        "tls",
        &[
            ("", "` needs `users` or `role`"),
            (
                "users = { joe = { role = 'guest' } }",
                ".users.joe` names no certificate: give `fingerprint`, `cn`, `dns` or `email`",
            ),
            (
                "users = { joe = { role = 'guest', fingerprint = 'ab' } }",
                ".users.joe.fingerprint` is no SHA-256 in hex (64 digits)",
            ),
        ],
    );
    refused(
        |inside| format!("cookie = {{ {inside} }}"),
        "cookie",
        &[
            (
                "gate = true, issue = true",
                ".issue` is for cookies that log in, and with `gate` they do not",
            ),
            (
                "values = { 'x' }, issue = true",
                ".values` are for the `gate`; a cookie that logs in stands in `users`",
            ),
            (
                "users = { joe = { secret = 's', role = 'guest' } }, max_age = '1h'",
                ".max_age` stands without `issue`",
            ),
            (
                "name = 'a b', issue = true",
                ".name` must be a cookie's name: letters, digits, `-`, `_` and `.`",
            ),
            (
                "",
                "` names no cookie: give `users`, `verify`, `procedure` or `issue`, or with `gate` `values`",
            ),
        ],
    );
    refused(
        |inside| format!("anonymous = {{ {inside} }}"),
        "anonymous",
        &[
            (
                "role = 'guest', procedure = 'com.auth'",
                ".procedure` would never be asked: `role` admits everybody",
            ),
            (
                "role = 'guest', realm = 'desk'",
                ".realm` stands without `procedure`",
            ),
        ],
    );
}

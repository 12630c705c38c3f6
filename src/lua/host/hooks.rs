//! The arguments and answers of login and permission functions.

use crate::core::credentials::{Salt, Secret};
use crate::core::policy::{Action, Actions, Disclosure, Rule};
use crate::core::{AuthFailure, AuthorizeRequest, CacheFor, Granted, Login, Verdict, cra};
use crate::server::TransportInfo;
use crate::wire::Payload;
use crate::words::{Dict, Id, MatchPolicy, UriRules, Value};
use std::time::Duration;

/// `(session, action, uri, options)`
pub(super) fn authorize_arguments(realm: &str, request: &AuthorizeRequest) -> Vec<Value> {
    let principal = &request.principal;
    let session = Dict::new()
        .with("realm", realm)
        .with("session", request.session.value())
        .with("authid", principal.authid.as_str())
        .with("authrole", principal.authrole.as_str())
        .with("authmethod", principal.authmethod.as_str())
        .with("authprovider", principal.authprovider.as_str())
        .with("authextra", principal.extra.clone());
    let options = Dict::new()
        .with("match", request.match_policy.as_str())
        .with("disclose_me", request.disclose_me);
    vec![
        session.into(),
        request.action.as_str().into(),
        request.uri.as_str().into(),
        options.into(),
    ]
}

/// `AZ-06`: a boolean, a dict with `allow`, or a rule; anything else is a broken authorizer.
pub(super) fn verdict(results: &Payload) -> Verdict {
    let broken = |text: String| Verdict::Failed(format!("the authorizer returned {text}"));
    let (args, _) = match results.values() {
        Ok(values) => values,
        Err(error) => return broken(error.to_string()),
    };
    match args.into_iter().next().unwrap_or_default() {
        Value::Bool(true) => Verdict::Allow {
            disclose: false,
            cache: CacheFor::Never,
        },
        Value::Bool(false) | Value::Null => Verdict::Deny {
            cache: CacheFor::Never,
        },
        Value::Map(answer) => verdict_of(&answer).unwrap_or_else(broken),
        other => broken(format!(
            "{}, expected true, false, a table with `allow`, or a rule",
            kind(&other)
        )),
    }
}

fn verdict_of(answer: &Dict) -> Result<Verdict, String> {
    if answer.lookup("uri").is_some() {
        return rule_of(answer);
    }
    only_keys(answer, &["allow", "disclose", "cache"])?;
    let cache = cache_of(answer)?;
    match flag(answer, "allow")? {
        Some(true) => Ok(Verdict::Allow {
            disclose: flag(answer, "disclose")?.unwrap_or(false),
            cache,
        }),
        Some(false) => Ok(Verdict::Deny { cache }),
        None => Err("a table without `allow`".into()),
    }
}

/// A rule as in the configuration, with `cache`: `{ uri = "home.", match = "prefix", allow = { "call" }, cache = 60 }`.
fn rule_of(answer: &Dict) -> Result<Verdict, String> {
    only_keys(answer, &["uri", "match", "allow", "disclose", "cache"])?;
    let uri = answer.text("uri").ok_or("a rule whose uri is no string")?;
    let match_policy = match answer.lookup("match") {
        None | Some(Value::Null) => MatchPolicy::Exact,
        Some(value) => value
            .as_str()
            .and_then(MatchPolicy::parse)
            .ok_or("a rule whose match is not exact, prefix or wildcard")?,
    };
    UriRules::Loose
        .check(uri, match_policy)
        .map_err(|invalid| format!("a rule: {invalid}"))?;
    let action = |value: &Value| value.as_str().and_then(Action::parse);
    let allow = match answer.lookup("allow") {
        Some(Value::List(actions)) => actions.iter().map(action).collect::<Option<Actions>>(),
        Some(Value::Map(none)) if none.is_empty() => Some(Actions::default()),
        _ => None,
    };
    let empty = Dict::new();
    let disclose = match answer.lookup("disclose") {
        None | Some(Value::Null) => &empty,
        Some(Value::Map(disclose)) => disclose,
        Some(_) => return Err("a rule whose disclose is no table: { caller = true }".into()),
    };
    only_keys(disclose, &["caller", "publisher"])?;
    let disclosure = |key| {
        Ok::<_, String>(match flag(disclose, key)? {
            Some(true) => Disclosure::Always,
            Some(false) => Disclosure::Never,
            None => Disclosure::OnRequest,
        })
    };
    let rule = Rule {
        uri: uri.into(),
        match_policy,
        allow: allow
            .ok_or("a rule whose allow is no list of call, register, publish, subscribe")?,
        disclose_caller: disclosure("caller")?,
        disclose_publisher: disclosure("publisher")?,
    };
    Ok(Verdict::Rule {
        rule: Box::new(rule),
        cache: cache_of(answer)?,
    })
}

fn only_keys(answer: &Dict, known: &[&str]) -> Result<(), String> {
    match answer
        .0
        .iter()
        .find(|(key, _)| !known.contains(&key.as_str()))
    {
        Some((key, _)) => Err(format!(
            "a table with the unknown key {key:?} ({})",
            known.join(", ")
        )),
        None => Ok(()),
    }
}

fn flag(answer: &Dict, key: &str) -> Result<Option<bool>, String> {
    match answer.lookup(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(format!("{key} = {}, expected true or false", kind(other))),
    }
}

fn cache_of(answer: &Dict) -> Result<CacheFor, String> {
    match answer.lookup("cache") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(CacheFor::Never),
        Some(Value::Bool(true)) => Ok(CacheFor::Session),
        Some(value) => seconds(value)
            .map(CacheFor::Time)
            .ok_or_else(|| "a cache that is neither true, false nor a number of seconds".into()),
    }
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Int(seconds) => *seconds as f64,
        Value::Float(seconds) => *seconds,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// `(login)`
pub(super) fn login_arguments(login: &Login, transport: &TransportInfo) -> Vec<Value> {
    let headers = transport
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let http = Dict::new()
        .with("path", transport.path.as_str())
        .with("headers", Dict(headers));
    let cookies = transport
        .headers
        .iter()
        .filter(|(name, _)| name == "cookie")
        .flat_map(|(_, value)| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let connection = Dict::new()
        .with("peer", transport.peer_name())
        .with("kind", transport.kind)
        .with("tls", transport.tls)
        .with("http", http)
        .with("cookies", Dict(cookies));
    let mut table = Dict::new()
        .with("method", login.method.as_str())
        .with("realm", login.realm.as_str())
        .with("session", login.session.value())
        .with("authextra", login.authextra.clone())
        .with("transport", connection);
    if let Some(authid) = &login.authid {
        table = table.with("authid", authid.as_str());
    }
    if let Some(ticket) = &login.ticket {
        table = table.with(
            "ticket",
            String::from_utf8_lossy(ticket.expose()).into_owned(),
        );
    }
    vec![table.into()]
}

/// `DYN-03`, `DYN-04`: nil or false refuse, with an optional reason; a string is the role; a table says more.
pub(super) fn granted(results: &Payload) -> Result<Granted, AuthFailure> {
    let (args, _) = results
        .values()
        .map_err(|error| AuthFailure::Failed(error.to_string()))?;
    let mut args = args.into_iter();
    match args.next().unwrap_or_default() {
        Value::Null | Value::Bool(false) => {
            let reason = args
                .next()
                .and_then(|reason| reason.as_str().map(str::to_owned));
            Err(AuthFailure::Refused { reason })
        }
        Value::Str(role) => Ok(Granted {
            role,
            ..Granted::default()
        }),
        Value::Map(answer) => granted_of(&answer).map_err(AuthFailure::Failed),
        other => Err(AuthFailure::Failed(format!(
            "the function returned {}, expected nil, a role or a table with `role`",
            kind(&other)
        ))),
    }
}

/// What deriving a key may cost: it runs in the router, where no CPU limit of the script's ends it.
const DERIVED_ITERATIONS: u32 = 100_000;
const DERIVED_OCTETS: u32 = 64;

fn granted_of(answer: &Dict) -> Result<Granted, String> {
    const KNOWN: [&str; 8] = [
        "role",
        "authid",
        "extra",
        "secret",
        "password",
        "salt",
        "iterations",
        "keylen",
    ];
    if let Some((key, _)) = answer
        .0
        .iter()
        .find(|(key, _)| !KNOWN.contains(&key.as_str()))
    {
        return Err(format!(
            "the function's table has the unknown key {key:?}, known are {}",
            KNOWN.join(", ")
        ));
    }
    let text = |key: &str| match answer.lookup(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!(
            "the function's {key} is {}, expected a string",
            kind(other)
        )),
    };
    let count = |key: &str, absent: u32| match answer.lookup(key) {
        None | Some(Value::Null) => Ok(absent),
        Some(Value::Int(count)) if (1..=10_000_000).contains(count) => Ok(*count as u32),
        Some(_) => Err(format!(
            "the function's {key} must be a number from 1 to 10000000"
        )),
    };
    let salt = match text("salt")? {
        Some(salt) => Some(Salt {
            salt,
            iterations: count("iterations", 1000)?,
            keylen: count("keylen", 32)?,
        }),
        None => None,
    };
    let secret = match (text("secret")?, text("password")?, &salt) {
        (Some(_), Some(_), _) => return Err("the function gave both secret and password".into()),
        (Some(secret), None, _) => Some(Secret::new(secret)),
        (None, Some(_), Some(salt))
            if salt.iterations > DERIVED_ITERATIONS || salt.keylen > DERIVED_OCTETS =>
        {
            return Err(format!(
                "the function gave a password to derive a key from with iterations {} and keylen {}: at most \
                 {DERIVED_ITERATIONS} and {DERIVED_OCTETS}, beyond that give the derived key as secret",
                salt.iterations, salt.keylen
            ));
        }
        (None, Some(password), Some(salt)) => Some(cra::derive_key(password.as_bytes(), salt)),
        (None, Some(password), None) => Some(Secret::new(password)),
        (None, None, _) => None,
    };
    let extra = match answer.lookup("extra") {
        None | Some(Value::Null) => Dict::new(),
        Some(Value::Map(extra)) => extra.clone(),
        Some(other) => {
            return Err(format!(
                "the function's extra is {}, expected a table",
                kind(other)
            ));
        }
    };
    let role = text("role")?.ok_or("the function's table has no role")?;
    Ok(Granted {
        role,
        authid: text("authid")?,
        extra,
        secret,
        salt,
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => "a number",
        Value::Str(_) => "a string",
        Value::Bytes(_) => "binary",
        Value::List(_) => "a list",
        Value::Map(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deriving_a_key_has_a_price_limit() {
        let refusal = |secret: &str, iterations: i64, keylen: i64| {
            let answer = [
                ("role", Value::from("user")),
                (secret, "s3cret".into()),
                ("salt", "pepper".into()),
                ("iterations", Value::Int(iterations)),
                ("keylen", Value::Int(keylen)),
            ]
            .map(|(key, value)| (key.to_owned(), value));
            granted_of(&Dict(answer.to_vec())).err()
        };
        assert_eq!(refusal("password", 10, 64), None);
        for (iterations, keylen) in [(100_001, 32), (10, 65)] {
            let text = refusal("password", iterations, keylen).unwrap();
            assert!(text.contains("at most 100000 and 64"), "{text}");
            assert_eq!(
                refusal("secret", iterations, keylen),
                None,
                "the peer derives"
            );
        }
    }
}

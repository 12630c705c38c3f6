//! The arguments of login and permission functions, and the answers of the latter; those of the former: `granted`.

use crate::core::policy::{Action, Actions, Disclosure, Rule};
use crate::core::{AuthorizeRequest, CacheFor, Login, Verdict};
use crate::server::{AlternativeName, ClientCertificate, TransportInfo};
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

/// `(session, uri, action, options)`: the order that procedures are called with (`AZ-05`).
pub(super) fn authorizer_arguments(realm: &str, request: &AuthorizeRequest) -> Vec<Value> {
    let mut arguments = authorize_arguments(realm, request);
    arguments.swap(1, 2);
    arguments
}

/// As [`verdict`]; a procedure that returns nothing is broken.
pub(super) fn verdict_of_procedure(results: &Payload) -> Verdict {
    let first = results.values().map(|(args, _)| args.into_iter().next());
    match first {
        Ok(None | Some(Value::Null)) => {
            Verdict::Failed("the authorizer returned neither a boolean nor a dict".into())
        }
        _ => verdict(results),
    }
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

fn certificate(shown: &ClientCertificate) -> Dict {
    let names = shown.names.iter().map(|name| {
        let (kind, name) = match name {
            AlternativeName::Dns(name) => ("dns", name.clone()),
            AlternativeName::Email(name) => ("email", name.clone()),
            AlternativeName::Uri(name) => ("uri", name.clone()),
            AlternativeName::Ip(address) => ("ip", address.to_string()),
        };
        Dict::new().with("kind", kind).with("name", name).into()
    });
    let dict = Dict::new()
        .with("fingerprint", shown.fingerprint.as_str())
        .with("names", Value::List(names.collect()));
    match &shown.common_name {
        Some(name) => dict.with("common_name", name.as_str()),
        None => dict,
    }
}

/// `(realm, authid, details)` for a procedure (`DYN-01`).
pub(super) fn authenticator_arguments(login: &Login, transport: &TransportInfo) -> Vec<Value> {
    let told = |name: &str| {
        let procedure = login.procedure.iter();
        let mut listed = procedure.flat_map(|procedure| &procedure.headers);
        listed.any(|header| header == name)
    };
    let Some(Value::Map(mut details)) = arguments(login, transport, told).into_iter().next() else {
        return Vec::new();
    };
    let mut own = |key: &str| {
        let at = details.0.iter().position(|(name, _)| name == key);
        at.map_or(Value::Null, |at| details.0.remove(at).1)
    };
    let (authid, method) = (own("authid"), own("method"));
    let realm = match own("realm") {
        Value::Str(realm) if realm.is_empty() => Value::Null,
        realm => realm,
    };
    let details = details.with("authmethod", method);
    vec![realm, authid, details.into()]
}

/// `(login)`
pub(super) fn login_arguments(login: &Login, transport: &TransportInfo) -> Vec<Value> {
    arguments(login, transport, |_| true)
}

/// With those headers that may be told.
fn arguments(login: &Login, transport: &TransportInfo, told: impl Fn(&str) -> bool) -> Vec<Value> {
    let headers = transport
        .headers
        .iter()
        .filter(|(name, _)| told(name))
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let http = Dict::new()
        .with("path", transport.path.as_str())
        .with("headers", Dict(headers));
    let cookies = transport
        .cookies()
        .filter(|_| told("cookie"))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let connection = Dict::new()
        .with("peer", transport.peer_name())
        .with("kind", transport.kind)
        .with("tls", transport.tls)
        .with("http", http)
        .with("cookies", Dict(cookies));
    let connection = match transport.certificate.as_deref() {
        Some(shown) => connection.with("certificate", certificate(shown)),
        None => connection,
    };
    let mut table = Dict::new()
        .with("method", login.method.as_str())
        .with("realm", login.realm.as_str())
        .with("session", login.session.value())
        .with("authextra", login.authextra.clone())
        .with("transport", connection);
    if let Some(authid) = &login.authid {
        table = table.with("authid", authid.as_str());
    }
    let secrets = [
        ("ticket", &login.ticket),
        ("token", &login.token),
        ("cookie", &login.cookie),
    ];
    for (key, secret) in secrets {
        if let Some(secret) = secret {
            let text = String::from_utf8_lossy(secret.expose()).into_owned();
            table = table.with(key, text);
        }
    }
    if let Some(claims) = &login.claims {
        table = table.with("claims", claims.clone());
    }
    vec![table.into()]
}

pub(super) fn kind(value: &Value) -> &'static str {
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

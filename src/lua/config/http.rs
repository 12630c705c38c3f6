//! The keys below `http`: paths of the bridge, of event streams, of long-poll and of the health check.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mlua::Value;

use super::keys::{Fields, Key, Reads, Slot, nearest};
use super::node::Node;
use super::router::is_path;
use crate::core::credentials::AuthMethod;
use crate::server::HTTP_METHODS;
use crate::server::settings::{
    Address, Compat, HttpPath, HttpSettings, LongPollSettings, Settings,
};
use crate::words::Uri;

pub(super) const HTTP: Fields<HttpSettings> = Fields::of(&[HTTP_KEYS], &["metrics"]);

const HTTP_KEYS: &[Key<HttpSettings>] = &[
    Key {
        name: "health",
        reads: Reads::With(
            "path or `false`",
            |http: &mut HttpSettings, node| match node.value {
                Value::Boolean(false) => http.health = None,
                Value::String(_) => http.health = node.text().filter(|path| is_path(path, node)),
                _ => node.wrong_type("a path or false"),
            },
        ),
        doc: "Where the health check answers: `/healthz` unless given.",
    },
    Key {
        name: "publish",
        reads: Reads::With("table: path = table", |http, node| {
            http.publish = paths(node, &PUBLISH_PATH);
        }),
        doc: "Paths where a `POST` of `{\"topic\", \"args\", \"kwargs\", \"options\"}` publishes.",
    },
    Key {
        name: "call",
        reads: Reads::With("table: path = table", |http, node| {
            http.call = paths(node, &PATH);
        }),
        doc: "Paths where a `POST` of `{\"procedure\", \"args\", \"kwargs\", \"options\"}` calls.",
    },
    Key {
        name: "events",
        reads: Reads::With("table: path = table", |http, node| {
            http.events = paths(node, &PATH);
        }),
        doc: "Paths where a `GET` with `?topic=URI`, once or more, and perhaps `&match=prefix` gets the events as \
              server-sent events.",
    },
    Key {
        name: "longpoll",
        reads: Reads::With(
            "path or `false`",
            |http: &mut HttpSettings, node| match node.value {
                Value::Boolean(false) => http.longpoll = None,
                Value::String(_) => {
                    let path = node.text().filter(|path| is_base(path, node));
                    http.longpoll = path.map(LongPollSettings::at);
                }
                _ => node.wrong_type("a path or false"),
            },
        ),
        doc: "What the paths of WAMP long-poll begin with: `/lp` unless given.",
    },
];

/// One path in the making.
#[derive(Default)]
pub(super) struct PathDraft {
    realm: Option<String>,
    auth: Option<AuthMethod>,
    timeout: Option<Duration>,
    compat: Option<Compat>,
}

pub(super) const PATH: Fields<PathDraft> = Fields::of(&[PATH_KEYS], &[]);
pub(super) const PUBLISH_PATH: Fields<PathDraft> = Fields::of(&[PATH_KEYS, COMPAT_KEYS], &[]);

const PATH_KEYS: &[Key<PathDraft>] = &[
    Key {
        name: "realm",
        reads: Reads::Into(|path| Slot::Text(&mut path.realm)),
        doc: "The realm that requests log in to.",
    },
    Key {
        name: "auth",
        reads: Reads::With(
            "`\"anonymous\"`, `\"ticket\"` or `\"jwt\"`",
            |path: &mut PathDraft, node| {
                path.auth = node.word(&HTTP_METHODS.map(AuthMethod::as_str), |text| {
                    AuthMethod::parse(text).filter(|method| HTTP_METHODS.contains(method))
                });
            },
        ),
        doc: "The login: `ticket` takes `Authorization: Basic` with authid and ticket, `jwt` takes \
              `Authorization: Bearer` with the token. Without the key requests are anonymous, and only loopback addresses and unix sockets take them.",
    },
    Key {
        name: "timeout",
        reads: Reads::With("duration", |path: &mut PathDraft, node| {
            let mut time = Duration::ZERO;
            Slot::Time(&mut time).read(node);
            path.timeout = Some(time);
        }),
        doc: "How long the realm may take to answer: 60 s unless given.",
    },
];

const COMPAT_KEYS: &[Key<PathDraft>] = &[Key {
    name: "compat",
    reads: Reads::With("`\"wiola\"`", |path: &mut PathDraft, node| {
        path.compat = compat(node);
    }),
    doc: "`http.publish` only: takes Wiola's lightweight POST, `[16, 1, {}, topic, args, kwargs]`, instead.",
}];

/// Reads `http`, once listeners and realms have been read.
pub(super) fn read(settings: &mut Settings, node: &Node) {
    if !node.read(&mut settings.http, &HTTP) {
        return;
    }
    let mut served: Vec<&str> = settings.http.health.as_deref().into_iter().collect();
    for listener in &settings.listeners {
        served.extend(listener.paths.iter().map(String::as_str));
    }
    let http = &settings.http;
    for (key, paths) in [
        ("publish", &http.publish),
        ("call", &http.call),
        ("events", &http.events),
    ] {
        let Some(table) = node.child(key) else {
            continue;
        };
        for (name, path) in paths {
            let Some(place) = table.child(name) else {
                continue;
            };
            if served.contains(&name.as_str()) {
                place.problem("is the path of something else, too");
            }
            served.push(name);
            check(settings, path, &place);
        }
    }
}

fn check(settings: &Settings, path: &HttpPath, place: &Node) {
    if !settings.realms.contains_key(&path.realm) && !path.realm.as_str().is_empty() {
        let realms = settings.realms.keys().map(Uri::as_str);
        let hint = nearest(&path.realm, realms).map(|near| format!(", did you mean {near:?}?"));
        place.at("realm").problem(format!(
            "names no realm: {:?}{}",
            path.realm.as_str(),
            hint.unwrap_or_default()
        ));
    }
    let open = settings
        .listeners
        .iter()
        .find(|listener| !is_local(&listener.address));
    if let (None, Some(listener)) = (path.auth, open) {
        place.problem(format!(
            "needs `auth`, as {} can be reached from elsewhere",
            super::router::show_address(&listener.address)
        ));
    }
}

/// Only this machine can connect there.
fn is_local(address: &Address) -> bool {
    match address {
        Address::Unix { .. } | Address::Abstract(_) => true,
        Address::Tcp(address) => {
            let host = address
                .rsplit_once(':')
                .map_or(address.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

/// `compat` at the top level, once `http` has been read.
pub(super) fn keep_ways_of(http: &mut HttpSettings, node: &Node) {
    let compat = compat(node);
    for path in http.publish.values_mut() {
        path.compat = path.compat.or(compat);
    }
}

fn compat(node: &Node) -> Option<Compat> {
    node.word(&["wiola"], |word| {
        (word == "wiola").then_some(Compat::Wiola)
    })
}

fn paths(node: &Node, fields: &Fields<PathDraft>) -> BTreeMap<String, HttpPath> {
    let mut paths = BTreeMap::new();
    for (name, place) in node.named("a path") {
        let mut draft = PathDraft::default();
        if !is_path(&name, &place) || !place.read(&mut draft, fields) {
            continue;
        }
        let realm = place.need("realm", draft.realm).unwrap_or_default();
        let of_realm = HttpPath::of(Uri::from(realm));
        paths.insert(
            name,
            HttpPath {
                auth: draft.auth,
                timeout: draft.timeout.unwrap_or(of_realm.timeout),
                compat: draft.compat,
                ..of_realm
            },
        );
    }
    paths
}

/// A path that others stand behind.
fn is_base(path: &str, node: &Node) -> bool {
    let good = is_path(path, node);
    if good && path.ends_with('/') {
        node.problem(format!("must not end with `/`: {path:?}"));
        return false;
    }
    good
}

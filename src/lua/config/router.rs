//! The top level of a configuration: listeners, HTTP, shared dictionaries, and the realms by name.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use mlua::Value;
use nix::unistd::{Group, User};

use crate::core::credentials::AuthPolicy;
use crate::server::check_tls;
use crate::server::settings::{
    Address, ClientCertificates, DeflateSettings, ListenerSettings, OnDemand, Settings, SocketFile,
    TlsSettings,
};
use crate::wire::Serializer;
use crate::words::{MatchPolicy, Uri, UriRules};

use super::address::parse_address;
use super::keys::{Fields, Key, Reads, Slot};
use super::limits::{self, LEAST_MESSAGE, Limits};
use super::node::Node;
use super::realm::{RealmDraft, read_realm};
use super::{ConfigHook, HookKind, UndecidedRole, auth, deciders, http};

/// Settings in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) settings: Settings,
    /// Read first: the defaults of everything below.
    limits: Limits,
    pub(super) hooks: Vec<ConfigHook>,
    pub(super) undecided: Vec<UndecidedRole>,
}

pub(super) const TOP: Fields<Draft> = Fields {
    misplaced: |name| matches!(name, "history" | "retain").then_some("is a key of a realm"),
    ..Fields::of(&[TOP_KEYS], &["trust"])
};

const TOP_KEYS: &[Key<Draft>] = &[
    Key {
        name: "limits",
        reads: Reads::With("table", |draft, node| {
            node.read(&mut draft.limits, &limits::TOP);
        }),
        doc: "Bounds of the router, and the defaults of every listener and realm.",
    },
    Key {
        name: "listen",
        reads: Reads::With("address, table, or a list of them", |draft, node| {
            draft.settings.listeners = listeners(node, &draft.limits);
        }),
        doc: "Where to listen: `127.0.0.1:8080` unless given.",
    },
    Key {
        name: "data",
        reads: Reads::With("folder", |draft: &mut Draft, node| {
            draft.settings.data = node.text().map(|folder| node.source.folder.join(folder));
        }),
        doc: "Where histories with `store = \"disk\"` are written; relative to the configuration, made if it is not \
              there. One router at a time.",
    },
    Key {
        name: "realms",
        reads: Reads::With("table of realms by name", realms),
        doc: "The realms. `[\"*\"]`, a table or a function of the name, is for realms that come to be on demand.",
    },
    Key {
        name: "auth",
        reads: Reads::With("table: method = table or function", lobby),
        doc: "How clients log in that name no realm: by functions, or procedures of a named realm, that say `realm` in \
              their answer.",
    },
    Key {
        name: "http",
        reads: Reads::With("table", |draft, node| {
            http::read(&mut draft.settings, node);
        }),
        doc: "The HTTP side.",
    },
    Key {
        name: "compat",
        reads: Reads::With("`\"wiola\"`", |draft, node| {
            http::keep_ways_of(&mut draft.settings.http, node);
        }),
        doc: "Another router whose ways are kept: every path of `http.publish` takes Wiola's messages.",
    },
    Key {
        name: "trusted_proxies",
        reads: Reads::With("address, network, or a list of them", |draft, node| {
            draft.limits.router.trusted_proxies = networks(node);
        }),
        doc: "Proxies in front, beside this machine: believed by listeners with `proxy` or `forwarded`, and exempt from limits per \
              address. For example `\"10.1.0.0/16\"`.",
    },
    Key {
        name: "shared",
        reads: Reads::With("table: name = `\"router\"`", common_dictionaries),
        doc: "Dictionaries of `p.shared` that all realms have in common.",
    },
];

/// Reads the whole table.
pub(super) fn read_router(root: &Node) -> Draft {
    let mut draft = Draft::default();
    if !root.read(&mut draft, &TOP) {
        return draft;
    }
    if !root.has("listen") {
        for listener in &mut draft.settings.listeners {
            apply_limits(listener, &draft.limits);
        }
    }
    if draft.settings.data.is_none() && !root.has("data") {
        demand_data(root, &draft);
    }
    if draft.settings.realms.is_empty() && !root.has("realms") {
        root.warn("there is no realm: nobody can join");
    }
    deciders::warn_of_rivals(root, &draft.settings);
    draft.settings.limits = draft.limits.router.clone();
    draft
}

/// A history on disk needs to know where.
fn demand_data(root: &Node, draft: &Draft) {
    let on_disk = draft
        .settings
        .realms
        .iter()
        .find(|(_, realm)| realm.policy.histories_on_disk().next().is_some());
    let realm = on_disk.and_then(|(name, _)| root.child("realms")?.child(name));
    if let Some(realm) = realm {
        realm
            .at("history")
            .problem("has `store = \"disk\"`: say where, by `data = \"FOLDER\"` at the top level");
    }
}

fn realms(draft: &mut Draft, node: &Node) {
    for (name, realm) in node.named("a realm's name") {
        if name == "*" {
            on_demand(draft, &realm);
            continue;
        }
        if let Err(err) = UriRules::Loose.check(&name, MatchPolicy::Exact) {
            realm.say(format!("the realm's name {err}"));
            continue;
        }
        let RealmDraft {
            settings,
            hooks,
            undecided,
            ..
        } = read_realm(&realm, Uri::from(name.as_str()), &draft.limits);
        draft.hooks.extend(hooks);
        draft.undecided.extend(undecided);
        draft.settings.realms.insert(Uri::from(name), settings);
    }
}

/// Addresses and networks.
fn networks(node: &Node) -> Vec<IpNet> {
    let network = |(text, node): (String, Node)| {
        let network = text.parse().or_else(|_| text.parse().map(IpAddr::into));
        if network.is_err() {
            node.problem(format!(
                "must be an address like \"10.1.2.3\" or a network like \"10.1.0.0/16\", not {text:?}"
            ));
        }
        network.ok()
    };
    node.texts().into_iter().filter_map(network).collect()
}

/// `realms["*"]`: what all are like, or a function that says it of each.
fn on_demand(draft: &mut Draft, node: &Node) {
    let mut realm = match &node.value {
        Value::Function(function) => {
            let mut realm = RealmDraft::new(Uri::from_static("*"), &draft.limits);
            realm.hook(HookKind::Realm, node, function);
            realm.settings.policy.limits = draft.limits.realm.clone();
            realm.settings.host = draft.limits.host.clone();
            realm
        }
        _ => read_realm(node, Uri::from_static("*"), &draft.limits),
    };
    draft.hooks.append(&mut realm.hooks);
    // Whether a script authorizes is known when a client's word has loaded it.
    for undecided in realm.undecided {
        let finding = undecided.finding;
        node.warn(format!(
            "{}: such users get in only if a script authorizes",
            finding.message
        ));
    }
    draft.settings.on_demand = Some(OnDemand {
        realm: realm.settings,
        function: matches!(node.value, Value::Function(_)),
        most: draft.limits.realms,
        idle: draft.limits.realm_idle,
    });
}

/// `auth` for clients that name no realm.
fn lobby(draft: &mut Draft, node: &Node) {
    let mut realm = RealmDraft::new(Uri::default(), &draft.limits);
    node.read(&mut realm, &auth::fields());
    let policy = &mut realm.settings.policy;
    policy.limits = draft.limits.realm.clone();
    let users = AuthPolicy {
        hooks: policy.auth.hooks.clone(),
        procedures: policy.auth.procedures.clone(),
        ..AuthPolicy::default()
    };
    if users != policy.auth {
        node.problem("at the top level names no users: give functions or procedures");
    }
    for (method, procedure) in &policy.auth.procedures {
        if procedure.realm.is_none() {
            let place = node.at(method.as_str());
            place.problem("needs `realm`: where the procedure is registered");
        }
    }
    draft.hooks.append(&mut realm.hooks);
    draft.settings.lobby = Some(Box::new(realm.settings.policy));
}

fn common_dictionaries(draft: &mut Draft, node: &Node) {
    for (name, dictionary) in node.named("a dictionary's name") {
        if dictionary
            .word(&["router"], |word| (word == "router").then_some(()))
            .is_some()
        {
            draft.settings.common_dictionaries.push(name);
        }
    }
}

pub(super) fn is_path(path: &str, node: &Node) -> bool {
    let good = path.starts_with('/')
        && !path.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#'));
    if !good {
        node.problem(format!("must be a path like \"/ws\", not {path:?}"));
    }
    good
}

/// A listener in the making.
pub(super) struct ListenerDraft {
    settings: ListenerSettings,
    addr: Option<String>,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
}

impl ListenerDraft {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut settings = ListenerSettings::at(Address::Tcp(String::new()));
        apply_limits(&mut settings, limits);
        Self {
            settings,
            addr: None,
            mode: None,
            owner: None,
            group: None,
        }
    }
}

fn apply_limits(listener: &mut ListenerSettings, limits: &Limits) {
    listener.message = limits.message;
    listener.idle_ping = limits.idle_ping;
}

pub(super) const LISTENER: Fields<ListenerDraft> = Fields::of(&[LISTENER_KEYS], &["compat"]);

const LISTENER_KEYS: &[Key<ListenerDraft>] = &[
    Key {
        name: "addr",
        reads: Reads::Into(|l| Slot::Text(&mut l.addr)),
        doc: "`127.0.0.1:8080`, `[::1]:0` (any free port), `:8080` (every IPv4 address), `unix:/path` or `unix:@name` \
              (no file; everybody on this machine may connect). A name stands for all its addresses.",
    },
    Key {
        name: "tls",
        reads: Reads::With(
            "table: `cert`, `key`, `client_ca`, `client_crl`, `client_cert`",
            |l: &mut ListenerDraft, node| {
                l.settings.tls = tls(node);
            },
        ),
        doc: "PEM files of the certificate chain and its key, relative to the configuration; read again when they change.",
    },
    Key {
        name: "proxy",
        reads: Reads::Into(|l| Slot::Flag(&mut l.settings.proxy)),
        doc: "Connections come from a proxy that begins each with a PROXY header (version 1 or 2) telling the client's \
              address; whoever sends none, or is not of `trusted_proxies`, is closed.",
    },
    Key {
        name: "forwarded",
        reads: Reads::Into(|l| Slot::Flag(&mut l.settings.forwarded)),
        doc: "HTTP requests and WebSockets come through a proxy, of this machine or `trusted_proxies`, that writes the \
              client's address into `X-Forwarded-For`, `Forwarded` or `X-Real-IP`: limits, lock-out, log and login \
              functions go by it. Such headers must agree; the proxy must set or remove each.",
    },
    Key {
        name: "origins",
        reads: Reads::With("string or list", |l: &mut ListenerDraft, node| {
            l.settings.origins = Some(node.texts().into_iter().map(|(origin, _)| origin).collect());
        }),
        doc: "Origins whose pages may connect, `*` for any run of characters; unless given, own host and \
              loopback (at a loopback address only pages of loopback, by such a `Host`). Without TLS, own host is an \
              address, a name of one label, or one below `.local`, `.internal` or `.home.arpa`: any other could be \
              pointed here by anybody.",
    },
    Key {
        name: "serializers",
        reads: Reads::With(
            "list of `\"json\"`, `\"msgpack\"`, `\"cbor\"`, each also with `.batched`",
            |l: &mut ListenerDraft, node| {
                (l.settings.serializers, l.settings.batched) = serializers(node);
            },
        ),
        doc: "Serializers on offer, `.batched` for several messages in one of WebSocket; all unless given.",
    },
    Key {
        name: "no_subprotocol",
        reads: Reads::With(
            "`\"json\"`, `\"msgpack\"` or `\"cbor\"`",
            |l: &mut ListenerDraft, node| {
                let names = Serializer::ALL.map(Serializer::name);
                let parse = |text: &str| {
                    let named = |serializer: &Serializer| serializer.name() == text;
                    Serializer::ALL.into_iter().find(named)
                };
                l.settings.no_subprotocol = node.word(&names, parse);
            },
        ),
        doc: "What WebSocket clients speak that offer no subprotocol; unless given they are refused.",
    },
    Key {
        name: "deflate",
        reads: Reads::With(
            "`true`, or table: `context_takeover`, `window_bits`",
            |l: &mut ListenerDraft, node| {
                l.settings.deflate = deflate(node);
            },
        ),
        doc: "WebSocket messages of 128 octets and more are compressed (permessage-deflate) both ways with clients that \
              offer it.",
    },
    Key {
        name: "path",
        reads: Reads::With("string or list", |l: &mut ListenerDraft, node| {
            let paths = node
                .texts()
                .into_iter()
                .filter(|(path, node)| is_path(path, node));
            l.settings.paths = paths.map(|(path, _)| path).collect();
        }),
        doc: "Paths that accept WebSockets; `/`, `/ws` and `/ws/` unless given.",
    },
    Key {
        name: "message",
        reads: Reads::Into(|l| Slot::Size(&mut l.settings.message, LEAST_MESSAGE)),
        doc: "Largest message in either direction.",
    },
    Key {
        name: "idle_ping",
        reads: Reads::Into(|l| Slot::MaybeTime(&mut l.settings.idle_ping)),
        doc: "How long a peer may say nothing before a ping; three missed answers close. Over RawSocket only who has \
              sent PING or PONG is pinged. TCP gives up whoever is unreachable, or takes nothing, for four times as long.",
    },
    Key {
        name: "mode",
        reads: Reads::With("octal string", |l: &mut ListenerDraft, node| {
            l.mode = socket_mode(node)
        }),
        doc: "Permissions of a unix socket's file; `\"0600\"` unless given.",
    },
    Key {
        name: "owner",
        reads: Reads::With("name or number", |l: &mut ListenerDraft, node| {
            l.owner = account(node, "user", |name| {
                Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
            });
        }),
        doc: "The user whom a unix socket's file is given to (only root can); the router's own unless given.",
    },
    Key {
        name: "group",
        reads: Reads::With("name or number", |l: &mut ListenerDraft, node| {
            l.group = account(node, "group", |name| {
                Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
            });
        }),
        doc: "The group of a unix socket's file, together with `mode = \"0660\"`.",
    },
];

pub(super) const DEFLATE: Fields<DeflateSettings> = Fields::of(
    &[&[
        Key {
            name: "context_takeover",
            reads: Reads::Into(|deflate| Slot::Flag(&mut deflate.context_takeover)),
            doc: "Messages refer to earlier ones, which makes small ones much smaller; costs memory for each connection.",
        },
        Key {
            name: "window_bits",
            reads: Reads::Into(|deflate| Slot::Within(&mut deflate.window_bits, 9..=15)),
            doc: "Logarithm of how far back a message refers, in octets.",
        },
    ]],
    &[],
);

fn deflate(node: &Node) -> Option<DeflateSettings> {
    let mut deflate = DeflateSettings::default();
    match node.value {
        Value::Boolean(granted) => return granted.then_some(deflate),
        Value::Table(_) => node.read(&mut deflate, &DEFLATE),
        _ => {
            node.wrong_type("true, false or a table");
            return None;
        }
    };
    Some(deflate)
}

/// A user or group of this machine, by name or number.
fn account(
    node: &Node,
    what: &str,
    find: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Option<u32> {
    if let Value::Integer(id) = node.value {
        let id = u32::try_from(id).ok();
        if id.is_none() {
            node.problem(format!("is no number of a {what}"));
        }
        return id;
    }
    let name = node.text()?;
    match find(&name) {
        Ok(Some(id)) => return Some(id),
        Ok(None) => node.problem(format!(
            "names {name:?}, which is no {what} of this machine"
        )),
        Err(error) => node.problem(format!(
            "names {name:?}, which cannot be looked up: {error}"
        )),
    }
    None
}

fn socket_mode(node: &Node) -> Option<u32> {
    if !matches!(node.value, Value::String(_)) {
        node.wrong_type("an octal string like \"0660\"");
        return None;
    }
    let text = node.text()?;
    let mode = u32::from_str_radix(&text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        node.problem(format!(
            "must be an octal string like \"0660\", not {text:?}"
        ));
    }
    mode
}

/// The plain serializers and the batched ones.
fn serializers(node: &Node) -> (Vec<Serializer>, Vec<Serializer>) {
    const BATCHED: [&str; 3] = ["json.batched", "msgpack.batched", "cbor.batched"];
    let names: Vec<&str> = Serializer::ALL
        .map(Serializer::name)
        .into_iter()
        .chain(BATCHED)
        .collect();
    let (mut plain, mut batched) = (Vec::new(), Vec::new());
    let items = node.texts();
    for (_, item) in &items {
        let parse = |text: &str| {
            let at = names.iter().position(|name| *name == text)?;
            Some((Serializer::ALL[at % 3], at >= 3))
        };
        match item.word(&names, parse) {
            Some((serializer, true)) if !batched.contains(&serializer) => batched.push(serializer),
            Some((serializer, false)) if !plain.contains(&serializer) => plain.push(serializer),
            _ => {}
        }
    }
    if items.is_empty() && node.value.is_table() {
        node.problem("names no serializer");
    }
    (plain, batched)
}

#[derive(Default)]
pub(super) struct TlsDraft {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    client_crl: Option<String>,
    /// Clients need none.
    optional: Option<bool>,
}

pub(super) const TLS: Fields<TlsDraft> = Fields::of(
    &[&[
        Key {
            name: "cert",
            reads: Reads::Into(|tls| Slot::Text(&mut tls.cert)),
            doc: "The certificate chain, own certificate first.",
        },
        Key {
            name: "key",
            reads: Reads::Into(|tls| Slot::Text(&mut tls.key)),
            doc: "The private key.",
        },
        Key {
            name: "client_ca",
            reads: Reads::Into(|tls| Slot::Text(&mut tls.client_ca)),
            doc: "PEM file of who signs clients' certificates: clients are asked for one, and it is verified.",
        },
        Key {
            name: "client_crl",
            reads: Reads::Into(|tls| Slot::Text(&mut tls.client_crl)),
            doc: "With `client_ca`: PEM file of its certificate revocation lists; whose certificate is on one, or was \
                  signed by somebody who has none there, is closed.",
        },
        Key {
            name: "client_cert",
            reads: Reads::With(
                "`\"required\"` or `\"optional\"`",
                |tls: &mut TlsDraft, node| {
                    tls.optional = node.word(&["required", "optional"], |word| match word {
                        "required" => Some(false),
                        "optional" => Some(true),
                        _ => None,
                    });
                },
            ),
            doc: "With `client_ca`: whether clients without a certificate are closed, as unless given, or may log in \
                  by other means.",
        },
    ]],
    &[],
);

fn tls(node: &Node) -> Option<TlsSettings> {
    let mut draft = TlsDraft::default();
    if !node.read(&mut draft, &TLS) {
        return None;
    }
    let file = |name, value| -> Option<PathBuf> { node.at(name).file(&node.need(name, value)?) };
    let asks = draft.client_ca.is_some();
    for (name, given) in [
        ("client_cert", draft.optional.is_some()),
        ("client_crl", draft.client_crl.is_some()),
    ] {
        if given && !asks {
            node.at(name).problem("means nothing without `client_ca`");
        }
    }
    let (cert, key) = (file("cert", draft.cert), file("key", draft.key));
    let ca = asks.then(|| file("client_ca", draft.client_ca)).flatten();
    let revoked = draft.client_crl.is_some();
    let revoked = revoked
        .then(|| file("client_crl", draft.client_crl))
        .flatten();
    let files = [&cert, &key, &ca, &revoked];
    node.source
        .files
        .borrow_mut()
        .extend(files.into_iter().flatten().cloned());
    let client = ca.map(|ca| ClientCertificates {
        ca,
        revoked,
        optional: draft.optional.unwrap_or(false),
    });
    let settings = TlsSettings {
        cert: cert?,
        key: key?,
        client,
    };
    if let Err(error) = check_tls(&settings) {
        node.say(error.to_string());
    }
    Some(settings)
}

fn listeners(node: &Node, limits: &Limits) -> Vec<ListenerSettings> {
    let is_list = node
        .value
        .as_table()
        .is_some_and(|table| table.raw_len() > 0);
    let is_empty = node.value.as_table().is_some_and(mlua::Table::is_empty);
    if is_empty {
        node.problem("names no address");
        return Vec::new();
    }
    if !is_list {
        return listener(node, limits).into_iter().collect();
    }
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for item in node.list() {
        let Some(listener) = listener(&item, limits) else {
            continue;
        };
        if listeners
            .iter()
            .any(|other| other.address.is_same_place(&listener.address))
        {
            item.say(format!(
                "a second listener on {}",
                show_address(&listener.address)
            ));
        } else {
            listeners.push(listener);
        }
    }
    listeners
}

fn listener(node: &Node, limits: &Limits) -> Option<ListenerSettings> {
    let mut draft = ListenerDraft::new(limits);
    let place;
    match node.value {
        Value::String(_) => {
            draft.addr = node.text();
            place = None;
        }
        Value::Table(_) => {
            node.read(&mut draft, &LISTENER);
            draft.addr = node.need("addr", draft.addr.take());
            place = Some(node.at("addr"));
        }
        _ => {
            node.wrong_type("an address or a table with `addr`");
            return None;
        }
    }
    let place = place.as_ref().unwrap_or(node);
    let address = parse_address(&draft.addr?)
        .map_err(|problem| place.problem(format!("is wrong: {problem}")))
        .ok()?;
    let given = [
        ("mode", draft.mode.is_some()),
        ("owner", draft.owner.is_some()),
        ("group", draft.group.is_some()),
    ];
    draft.settings.address = match address {
        Address::Unix { path, file } => Address::Unix {
            path: node.source.folder.join(path),
            file: SocketFile {
                mode: draft.mode.unwrap_or(file.mode),
                owner: draft.owner,
                group: draft.group,
            },
        },
        other => {
            for (name, _) in given.iter().filter(|(_, given)| *given) {
                node.at(name)
                    .problem("is for unix sockets with a file only");
            }
            other
        }
    };
    Some(draft.settings)
}

/// An address as it is written in the configuration.
pub(super) fn show_address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.clone(),
        Address::Unix { path, .. } => format!("unix:{}", path.display()),
        Address::Abstract(name) => format!("unix:@{name}"),
    }
}

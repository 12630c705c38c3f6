//! The whole configuration as plain structs with their defaults. Built by `lua::config`; below it nobody parses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::core::credentials::AuthMethod;
use crate::core::policy::RealmPolicy;
use crate::wire::Serializer;
use crate::words::Uri;

/// One loaded `perilune.lua`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// In the order of the file; default: one on `127.0.0.1:8080`.
    pub listeners: Vec<ListenerSettings>,
    pub realms: BTreeMap<Uri, RealmSettings>,
    /// `realms["*"]`: any other realm comes to be when a client names it.
    pub on_demand: Option<OnDemand>,
    /// What holds for clients that name no realm (`SES-12`): functions and procedures only.
    pub lobby: Option<Box<RealmPolicy>>,
    pub limits: RouterLimits,
    pub http: HttpSettings,
    /// The folder of what is kept on disk; there if some history is.
    pub data: Option<PathBuf>,
    /// Names of `p.shared` dictionaries that are common to all realms (`shared = "router"`).
    pub common_dictionaries: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listeners: vec![ListenerSettings::at(Address::Tcp("127.0.0.1:8080".into()))],
            realms: BTreeMap::new(),
            on_demand: None,
            lobby: None,
            limits: RouterLimits::default(),
            http: HttpSettings::default(),
            data: None,
            common_dictionaries: Vec::new(),
        }
    }
}

/// One listening address; it speaks WebSocket, RawSocket and HTTP, told apart by the first bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    pub address: Address,
    /// Certificate chain and key (PEM files): TLS.
    pub tls: Option<TlsSettings>,
    /// Connections begin with a PROXY header, and come from [`RouterLimits::trusted_proxies`] only.
    pub proxy: bool,
    /// Whom an HTTP request comes from is what [`RouterLimits::trusted_proxies`] say in its headers.
    pub forwarded: bool,
    /// Paths that accept WebSocket upgrades.
    pub paths: Vec<String>,
    /// Allowed `Origin` patterns (`*` matches any run of characters); `None`: own host and loopback pages only.
    pub origins: Option<Vec<String>>,
    /// In no order of preference: the client's list decides.
    pub serializers: Vec<Serializer>,
    /// Those that WebSocket clients may also use in batches.
    pub batched: Vec<Serializer>,
    /// What WebSocket clients speak that offer no subprotocol; `None`: they are refused.
    pub no_subprotocol: Option<Serializer>,
    /// WebSocket messages are compressed with clients that offer it.
    pub deflate: Option<DeflateSettings>,
    /// Largest message in octets, either direction; `limits.message`.
    pub message: usize,
    /// Idle time after which a peer is pinged; three missed pongs close it. `None`: never.
    pub idle_ping: Option<Duration>,
}

impl ListenerSettings {
    /// A plain listener with the defaults.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            tls: None,
            proxy: false,
            forwarded: false,
            paths: vec!["/".into(), "/ws".into(), "/ws/".into()],
            origins: None,
            serializers: Serializer::ALL.to_vec(),
            batched: Serializer::ALL.to_vec(),
            no_subprotocol: None,
            deflate: None,
            message: 1 << 20,
            idle_ping: Some(Duration::from_secs(20)),
        }
    }
}

/// How permessage-deflate (RFC 7692) is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeflateSettings {
    /// Both sides go on with the window of the last message, and keep it for that: hundreds of KB per connection.
    pub context_takeover: bool,
    /// The logarithm of the largest window, 9 to 15.
    pub window_bits: usize,
}

impl Default for DeflateSettings {
    fn default() -> Self {
        Self {
            context_takeover: false,
            window_bits: 15,
        }
    }
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, all addresses of the host; port 0 lets the system choose.
    Tcp(String),
    /// `unix:/path`. A stale socket file is replaced (`TLS-02`).
    Unix { path: PathBuf, file: SocketFile },
    /// `unix:@name`: a unix socket without a file, for everybody on this machine.
    Abstract(String),
}

impl Address {
    /// Whether both name the same socket. (Port 0 is another one each time.)
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => one == other && !one.ends_with(":0"),
            (Self::Unix { path: one, .. }, Self::Unix { path: other, .. }) => one == other,
            (Self::Abstract(one), Self::Abstract(other)) => one == other,
            _ => false,
        }
    }
}

/// Who may connect to a unix socket: whoever may write to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFile {
    pub mode: u32,
    /// `None`: the router's own user.
    pub owner: Option<u32>,
    /// `None`: the router's own group, or the folder's.
    pub group: Option<u32>,
}

impl Default for SocketFile {
    /// For the router's own user only.
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
            group: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients are asked for certificates; `None`: they are not.
    pub client: Option<ClientCertificates>,
}

/// Which certificates clients may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whoever signed them (PEM file).
    pub ca: PathBuf,
    /// Clients without one are let in too, to log in by other means.
    pub optional: bool,
    /// The lists of those that hold no longer (PEM file).
    pub revoked: Option<PathBuf>,
}

/// The HTTP side of every listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Path of the health check; `None`: off.
    pub health: Option<String>,
    /// Paths that publish.
    pub publish: BTreeMap<String, HttpPath>,
    /// Paths that call.
    pub call: BTreeMap<String, HttpPath>,
    /// Paths that send events.
    pub events: BTreeMap<String, HttpPath>,
    /// WAMP over requests that wait; `None`: off.
    pub longpoll: Option<LongPollSettings>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            health: Some("/healthz".into()),
            publish: BTreeMap::new(),
            call: BTreeMap::new(),
            events: BTreeMap::new(),
            longpoll: Some(LongPollSettings::at("/lp")),
        }
    }
}

/// One path of the HTTP bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPath {
    pub realm: Uri,
    /// How requests log in; `None`: anonymously, and from this machine only.
    pub auth: Option<AuthMethod>,
    /// For an answer of the realm.
    pub timeout: Duration,
    /// Whose contract it keeps instead of ours.
    pub compat: Option<Compat>,
}

impl HttpPath {
    /// A path without a login.
    pub fn of(realm: Uri) -> Self {
        Self {
            realm,
            auth: None,
            timeout: Duration::from_secs(60),
            compat: None,
        }
    }
}

/// Another router whose ways are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    Wiola,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongPollSettings {
    /// The path that `/open` and so on stand behind.
    pub path: String,
    /// How long a request waits for messages.
    pub hold: Duration,
    /// A transport without requests is dead after this.
    pub idle: Duration,
}

impl LongPollSettings {
    /// As the protocol has it, there.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            hold: Duration::from_secs(10),
            idle: Duration::from_secs(30),
        }
    }
}

/// Realms on demand.
#[derive(Debug, Clone, PartialEq)]
pub struct OnDemand {
    /// What they all are like; where a function says it, only the limits are given.
    pub realm: RealmSettings,
    /// The configuration's function is asked for each.
    pub function: bool,
    /// How many there may be at once (`limits.realms`).
    pub most: usize,
    /// How long an empty one stays (`limits.realm_idle`).
    pub idle: Option<Duration>,
}

/// One realm: what the core enforces, and the scripts that live in it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RealmSettings {
    pub policy: RealmPolicy,
    pub scripts: Vec<ScriptSettings>,
    pub host: RealmHostLimits,
    /// Where each role of `policy` is written.
    pub role_places: BTreeMap<String, RolePlaces>,
}

/// Where a role is written, as `file:line`, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolePlaces {
    /// One for each rule.
    pub rules: Vec<String>,
    pub function: Option<String>,
}

/// Realm limits that the script host enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmHostLimits {
    /// How long handlers of a replaced version may go on, and calls in flight when the router stops.
    pub drain: Duration,
    /// Octets in the realm's `p.shared` dictionaries.
    pub shared: usize,
}

impl Default for RealmHostLimits {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            shared: 64 << 20,
        }
    }
}

/// One script file of a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptSettings {
    /// As written in the configuration; names the script in logs and meta events.
    pub name: String,
    /// Absolute, or relative to the working directory.
    pub path: PathBuf,
    /// VMs behind the one session.
    pub instances: usize,
    /// Octets per VM.
    pub memory: usize,
    /// CPU time between two waits.
    pub cpu: Duration,
    /// Wall-clock time of a whole handler.
    pub deadline: Option<Duration>,
    /// Handlers in flight per VM.
    pub handlers: usize,
    /// Opens `io`, `os`, `debug`, `ffi`.
    pub trusted: bool,
    /// The environment variables that `p.env` reads; `None`: all.
    pub env: Option<Arc<[String]>>,
}

impl ScriptSettings {
    /// A script with the default bounds.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            instances: 1,
            memory: 64 << 20,
            cpu: Duration::from_millis(100),
            deadline: Some(Duration::from_secs(30)),
            handlers: 1_000,
            trusted: false,
            env: None,
        }
    }
}

/// Limits of the router and its transports; `usize::MAX` / `None`: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterLimits {
    pub nesting: usize,
    pub connections: usize,
    pub connections_per_address: usize,
    pub unauthenticated: usize,
    pub unauthenticated_per_address: usize,
    /// Octets of a message before WELCOME.
    pub login_message: usize,
    /// Transport up to HELLO.
    pub handshake: Duration,
    /// CHALLENGE to AUTHENTICATE.
    pub auth: Duration,
    /// Failed logins before a lock: of one authid from one address, and ten times as many of one address.
    pub login_failures: usize,
    /// Our GOODBYE to theirs.
    pub goodbye: Duration,
    /// Octets waiting for one session.
    pub queue: usize,
    /// Octets waiting for all sessions.
    pub queues_total: usize,
    /// Beside loopback and unix sockets: who is believed about others' addresses. Exempt from limits per address.
    pub trusted_proxies: Vec<IpNet>,
}

impl RouterLimits {
    /// Whether this is a proxy that is believed about whose connections it hands on; `None`: a unix socket.
    pub fn trusts(&self, address: Option<IpAddr>) -> bool {
        address.is_none_or(|address| {
            let address = address.to_canonical();
            let mut proxies = self.trusted_proxies.iter();
            address.is_loopback() || proxies.any(|network| network.contains(&address))
        })
    }
}

impl Default for RouterLimits {
    fn default() -> Self {
        Self {
            nesting: 128,
            connections: 100_000,
            connections_per_address: 10_000,
            unauthenticated: 1_000,
            unauthenticated_per_address: 50,
            login_message: 64 << 10,
            handshake: Duration::from_secs(5),
            auth: Duration::from_secs(10),
            login_failures: 5,
            goodbye: Duration::from_secs(2),
            queue: 1 << 20,
            queues_total: 1 << 30,
            trusted_proxies: Vec::new(),
        }
    }
}

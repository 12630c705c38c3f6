//! What the router asks of the script host, which lives a layer above.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tokio::sync::oneshot;

use super::realm::RealmHandle;
use super::tls::{AlternativeName, ClientCertificate};
use crate::core::certificates::{AltName, Certificate};
use crate::core::credentials::{Principal, Secret};
use crate::core::{AuthFailure, AuthorizeRequest, Granted, Login, Transport};
use crate::words::{SessionId, Uri};

/// Answers logins and permissions by function. Without it, whatever would be asked is refused.
pub trait Hooks: Send + Sync {
    /// Asks whether an action is allowed; answered, now or later, by [`crate::core::Input::Verdict`] with the
    /// request's ticket. Called without any lock; must not wait.
    fn authorize(&self, realm: &Arc<RealmHandle>, request: AuthorizeRequest);

    /// Asks a login function, or the login's procedure; must not wait. A dropped sender is a failed function. The router watches the time
    /// (`login.within`) and the peer: when either is gone, so is the receiver.
    fn authenticate(
        &self,
        login: Login,
        transport: Arc<TransportInfo>,
    ) -> oneshot::Receiver<Result<Granted, AuthFailure>>;

    /// Opens a realm on demand, with all its scripts; must not wait. It is there when the answer is, or the answer says
    /// why not.
    fn open_realm(&self, _realm: &Uri) -> oneshot::Receiver<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        // The receiver is here.
        let _ = reply.send(Err("nobody is there to open it".into()));
        answer
    }

    /// Tells of a session that joined or left. Called without any lock, in order; must not wait.
    fn session_changed(&self, realm: &Arc<RealmHandle>, change: &SessionChange);
}

/// A session of a peer has joined or left.
#[derive(Debug, Clone)]
pub struct SessionChange {
    pub session: SessionId,
    pub principal: Arc<Principal>,
    pub joined: bool,
}

/// What login functions learn of the connection.
#[derive(Debug, Clone, Default)]
pub struct TransportInfo {
    /// `None` on unix sockets.
    pub peer: Option<SocketAddr>,
    /// The listener speaks TLS.
    pub tls: bool,
    /// The certificate the client showed, which has been verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// `"websocket"`, `"rawsocket"`, `"longpoll"`, or `"http"` for the sessions of single requests.
    pub kind: &'static str,
    /// The upgrade request: its path with the query, and its headers in lower case; empty for RawSocket.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Cookies set with the answer to this request, by name; they mean nothing yet.
    pub(crate) issued: Vec<(String, Secret)>,
    /// What only the two ends of this TLS connection know (RFC 9266); `None` without TLS 1.3.
    pub channel_binding: Option<[u8; 32]>,
}

impl TransportInfo {
    /// What the login conversation has to know of the connection.
    pub(crate) fn for_login(&self) -> Transport {
        Transport {
            peer: self.peer_name(),
            channel_binding: self.channel_binding,
            certificate: self
                .certificate
                .as_ref()
                .map(|shown| Arc::new(shown.for_login())),
            cookies: self
                .cookies()
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .collect(),
        }
    }

    /// The cookies of the request, name and value as they were sent.
    pub fn cookies(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter().filter(|(name, _)| name == "cookie");
        headers
            .flat_map(|(_, value)| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
    }

    /// The peer's address for humans.
    pub fn peer_name(&self) -> String {
        peer_name(self.peer)
    }
}

/// A proxy may name an address without a port.
pub(crate) fn peer_name(peer: Option<SocketAddr>) -> String {
    match peer {
        None => "unix".to_owned(),
        Some(peer) if peer.port() == 0 => peer.ip().to_string(),
        Some(peer) => peer.to_string(),
    }
}

impl ClientCertificate {
    fn for_login(&self) -> Certificate {
        let name = |name: &AlternativeName| match name {
            AlternativeName::Dns(name) => Some(AltName::Dns(name.clone())),
            AlternativeName::Email(name) => Some(AltName::Email(name.clone())),
            AlternativeName::Uri(_) | AlternativeName::Ip(_) => None,
        };
        Certificate {
            common_name: self.common_name.clone(),
            names: self.names.iter().filter_map(name).collect(),
            fingerprint: self.fingerprint.clone(),
            expires: self.expires,
        }
    }
}

/// The place where the hooks are installed; copies share it.
#[derive(Clone, Default)]
pub(crate) struct HookSlot(Arc<Slot>);

#[derive(Default)]
struct Slot {
    hooks: RwLock<Option<Arc<dyn Hooks>>>,
    /// Whether there are any: asked at every step of a realm, while the hooks themselves are seldom needed.
    installed: AtomicBool,
}

impl HookSlot {
    pub(crate) fn install(&self, hooks: Option<Arc<dyn Hooks>>) {
        self.0.installed.store(hooks.is_some(), Ordering::Release);
        *self.0.hooks.write() = hooks;
    }

    pub(crate) fn is_installed(&self) -> bool {
        self.0.installed.load(Ordering::Acquire)
    }

    pub(crate) fn current(&self) -> Option<Arc<dyn Hooks>> {
        self.0.hooks.read().clone()
    }
}

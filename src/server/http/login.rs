//! The login of an HTTP request: the same conversation as on any connection, with the answers taken from its headers.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::core::credentials::AuthMethod;
use crate::core::{self, AuthFailure, Handshake, Join, Refusal, SessionKind, Step};
use crate::server::connection::Surroundings;
use crate::server::guest::Guest;
use crate::server::hooks::TransportInfo;
use crate::server::router::Shared;
use crate::wire::{Authenticate, ClientFeatures, ClientRoles, Hello, Message};
use crate::words::{Dict, SessionId, Uri};

/// What a request shows for its login.
pub(super) struct Credentials {
    method: AuthMethod,
    authid: Option<String>,
    /// What AUTHENTICATE would bring.
    secret: String,
}

/// Methods that need no more than the headers of one request.
pub(crate) const METHODS: [AuthMethod; 3] =
    [AuthMethod::Anonymous, AuthMethod::Ticket, AuthMethod::Jwt];

impl Credentials {
    /// Those that the method asks for; `None`: they are not there, or make no sense.
    pub(super) fn of(method: AuthMethod, headers: &HeaderMap) -> Option<Self> {
        let (authid, secret) = match method {
            AuthMethod::Anonymous => (None, String::new()),
            AuthMethod::Jwt => (None, authorization(headers, "bearer")?.to_owned()),
            _ => {
                let (authid, secret) = basic(headers)?;
                (Some(authid), secret)
            }
        };
        Some(Self {
            method,
            authid,
            secret,
        })
    }
}

/// `Authorization: Basic` with Base64 of `authid:ticket`.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = authorization(headers, "basic")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (authid, secret) = decoded.split_once(':')?;
    Some((authid.to_owned(), secret.to_owned()))
}

fn authorization<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h str> {
    let (found, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// Logs in and joins. Whoever drops the future gives up the login.
pub(super) async fn log_in(
    shared: &Shared,
    transport: &Arc<TransportInfo>,
    realm: &Uri,
    credentials: Credentials,
) -> Result<Guest, Refusal> {
    let outcome = converse(shared, transport, realm, credentials).await;
    let peer = transport.peer_name();
    match &outcome {
        Ok(guest) => {
            metrics::counter!("perilune_logins_total").increment(1);
            debug!(session = %guest.session(), %realm, %peer, kind = transport.kind, "login");
        }
        Err(refusal) => {
            metrics::counter!("perilune_logins_refused_total").increment(1);
            info!(%peer, path = transport.path, "refused: {:.500}", refusal.to_string());
        }
    }
    outcome
}

async fn converse(
    shared: &Shared,
    transport: &Arc<TransportInfo>,
    realm: &Uri,
    credentials: Credentials,
) -> Result<Guest, Refusal> {
    let Credentials {
        method,
        authid,
        secret,
    } = credentials;
    let mut login = Login {
        shared,
        transport,
        handshake: Handshake::new(transport.for_login(), shared.seed()),
        drawn: None,
    };
    let hello = Message::Hello(Box::new(Hello {
        realm: Some(realm.clone()),
        roles: roles(),
        authmethods: vec![method.as_str().to_owned()],
        authid,
        ..Hello::default()
    }));
    let mut step = login.step(|handshake, context| handshake.message(context, hello));
    let mut secret = Some(secret);
    loop {
        step = match step {
            Step::Send(_) => {
                let answer = Message::Authenticate(Authenticate {
                    signature: secret.take().unwrap_or_default(),
                    extra: Dict::new(),
                });
                login.step(|handshake, context| handshake.message(context, answer))
            }
            Step::Ask(question) => login.ask(*question).await,
            Step::Open(realm) => login.open(&realm).await,
            Step::Join { realm, join } => return login.join(&realm, *join),
            Step::Refuse(refusal) => return Err(refusal),
            Step::Close => {
                let text = "the login was given up".into();
                return Err(Refusal::HookFailed { method, text });
            }
        };
    }
}

/// A guest answers no calls.
fn roles() -> ClientRoles {
    let features = Some(ClientFeatures::default());
    ClientRoles {
        publisher: features,
        subscriber: features,
        caller: features,
        callee: None,
    }
}

struct Login<'a> {
    shared: &'a Shared,
    transport: &'a Arc<TransportInfo>,
    handshake: Handshake,
    drawn: Option<SessionId>,
}

impl Login<'_> {
    fn step(&mut self, work: impl FnOnce(&mut Handshake, &mut core::Context<'_>) -> Step) -> Step {
        let address = self.transport.peer.map(|peer| peer.ip());
        let handshake = &mut self.handshake;
        let surroundings = Surroundings::new(self.shared, address);
        let step = surroundings.with_context(|context| work(handshake, context));
        if let Some(id) = surroundings.drawn() {
            self.forget();
            self.drawn = Some(id);
        }
        step
    }

    async fn ask(&mut self, login: core::Login) -> Step {
        let answer = match self.shared.hooks().current() {
            Some(hooks) => {
                let within = login.within;
                let answer = hooks.authenticate(login, self.transport.clone());
                match timeout(within, answer).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(AuthFailure::Failed("the function is gone".into())),
                    Err(_) => return self.step(Handshake::timeout),
                }
            }
            None => Err(AuthFailure::Failed("no script host is there to ask".into())),
        };
        self.step(|handshake, context| handshake.answer(context, answer))
    }

    async fn open(&mut self, realm: &Uri) -> Step {
        let opened = match self.shared.hooks().current() {
            Some(hooks) => hooks.open_realm(realm).await,
            None => Ok(Err("no script host is there to open it".into())),
        };
        let opened = opened.unwrap_or_else(|_| Err("opening it was given up".into()));
        self.step(|handshake, context| handshake.opened(context, opened))
    }

    fn join(&mut self, realm: &Uri, join: Join) -> Result<Guest, Refusal> {
        let handle = self.shared.realm(realm);
        let handle = handle.ok_or_else(|| Refusal::NoSuchRealm(realm.clone()))?;
        let join = Join {
            kind: SessionKind::Guest,
            transport: self.transport.kind,
            ..join
        };
        // From here on others give the id back.
        self.drawn = None;
        Guest::join(&handle, join, self.shared.limits().queue).map_err(|_| {
            match self.shared.is_shutting_down() {
                true => Refusal::ShuttingDown,
                false => Refusal::NoSuchRealm(realm.clone()),
            }
        })
    }

    fn forget(&mut self) {
        if let Some(id) = self.drawn.take() {
            self.shared.ids().release(id);
        }
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

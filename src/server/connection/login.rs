//! A connection without a session: drives `core::Handshake`, asks login functions, joins the realm.

use std::cell::Cell;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rand::RngCore;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Asked, Connection, Stage};
use crate::core::cookies::Remembered;
use crate::core::credentials::{Principal, Secret};
use crate::core::lockout::{Claim, Locked};
use crate::core::models::Learned;
use crate::core::policy::RealmPolicy;
use crate::core::{self as core, AuthFailure, Handshake, Join, Login, Now, Outcome, Refusal, Step};
use crate::server::outbox::Room;
use crate::server::realm::{Link, RealmHandle};
use crate::server::router::Shared;
use crate::wire::{self, Message};
use crate::words::{SessionId, Uri, Visible};

/// How long opening a realm on demand may take, its scripts included.
const OPENING: Duration = Duration::from_secs(30);

impl Connection {
    /// Runs one step of the login and what follows from it.
    pub(super) fn log_in(
        &mut self,
        work: impl FnOnce(&mut Handshake, &mut core::Context<'_>) -> Step,
    ) {
        let mut handshake = match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Login(handshake) | Stage::Asking(handshake, _) => handshake,
            other => return self.stage = other,
        };
        let shared = self.shared.clone();
        let step = self.with_context(&shared, |context| work(&mut handshake, context));
        self.stage = Stage::Login(handshake);
        match step {
            Step::Send(message) => {
                self.send(&message);
                self.set_deadline(Instant::now().checked_add(self.limits.auth));
            }
            Step::Ask(login) => self.ask(*login),
            Step::Open(realm) => self.open(&realm),
            Step::Join { realm, mut join } => {
                join.transport = self.transport.kind;
                self.join(&realm, *join);
            }
            Step::Refuse(refusal) => self.refuse(&refusal),
            Step::Close => self.close(1000),
        }
    }

    fn with_context<R>(
        &mut self,
        shared: &Shared,
        work: impl FnOnce(&mut core::Context<'_>) -> R,
    ) -> R {
        let address = self.transport.peer.as_ref().map(SocketAddr::ip);
        let surroundings = Surroundings::new(shared, address);
        let result = surroundings.with_context(work);
        if let Some(id) = surroundings.drawn() {
            self.forget_login();
            self.drawn = Some(id);
        }
        result
    }

    pub(super) fn forget_login(&mut self) {
        if let Some(id) = self.drawn.take() {
            self.shared.ids().release(id);
        }
    }

    fn ask(&mut self, login: Login) {
        let Some(hooks) = self.shared.hooks().current() else {
            let failure = AuthFailure::Failed("no script host is there to ask".into());
            return self.log_in(|handshake, context| handshake.answer(context, Err(failure)));
        };
        let within = login.within;
        let answer = hooks.authenticate(login, self.transport.clone());
        if let Stage::Login(handshake) = mem::replace(&mut self.stage, Stage::Over) {
            let asked = Asked::Function(answer);
            self.enter(Stage::Asking(handshake, asked), Some(within));
        }
    }

    /// Has a realm opened on demand; other logins go on meanwhile.
    fn open(&mut self, realm: &Uri) {
        let Some(hooks) = self.shared.hooks().current() else {
            let text = "no script host is there to open it".to_owned();
            return self.log_in(|handshake, context| handshake.opened(context, Err(text)));
        };
        let answer = hooks.open_realm(realm);
        if let Stage::Login(handshake) = mem::replace(&mut self.stage, Stage::Over) {
            let asked = Asked::Realm(answer);
            self.enter(Stage::Asking(handshake, asked), Some(OPENING));
        }
    }

    /// True: the function has answered.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> bool {
        let Stage::Asking(_, answer) = &mut self.stage else {
            return false;
        };
        match answer {
            Asked::Function(answer) => {
                let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                    return false;
                };
                let gone = || AuthFailure::Failed("the function is gone".into());
                let answer = answer.unwrap_or_else(|_| Err(gone()));
                self.log_in(|handshake, context| handshake.answer(context, answer));
            }
            Asked::Realm(answer) => {
                let Poll::Ready(answer) = Pin::new(answer).poll(cx) else {
                    return false;
                };
                let answer = answer.unwrap_or_else(|_| Err("opening it was given up".into()));
                self.log_in(|handshake, context| handshake.opened(context, answer));
            }
        }
        true
    }

    fn join(&mut self, realm: &Uri, join: Join) {
        let Some(handle) = self.shared.realm(realm) else {
            return self.refuse(&Refusal::NoSuchRealm(realm.clone()));
        };
        let (session, principal, expires) = (join.session, join.principal.clone(), join.expires);
        // Whatever happens from here on, the end of this connection is the end of the session.
        let open = Stage::Open {
            realm: handle.clone(),
            session,
        };
        self.enter(open, self.idle.every);
        let link = Link::Remote {
            outbox: self.outbox.clone(),
            format: self.format,
        };
        let joined = handle.step_of(Some(session), |step| {
            step.join(join, link).map(|()| step.has(session))
        });
        let Ok(welcomed) = joined else {
            return self.refuse(&match self.shared.is_shutting_down() {
                true => Refusal::ShuttingDown,
                false => Refusal::NoSuchRealm(realm.clone()),
            });
        };
        // From here on the realm gives the id back.
        self.drawn = None;
        if welcomed {
            self.welcomed(&handle, session, (&principal, expires));
        }
    }

    /// The client is logged in.
    fn welcomed(
        &mut self,
        handle: &Arc<RealmHandle>,
        session: SessionId,
        (principal, expires): (&Principal, Option<SystemTime>),
    ) {
        let realm = handle.uri();
        let now = self.shared.clock().now();
        let place = (realm, &*handle.policy());
        let cookies = self.shared.cookies();
        let known = cookies.bind(now, &self.transport, place, (principal, expires));
        self.remembered = known.then(|| (realm.clone(), principal.authid.clone()));
        self.seat.settle();
        self.reader.set_limit(self.message);
        metrics::counter!("perilune_logins_total").increment(1);
        self.outbox.belongs_to(handle, session);
        info!(
            %session, realm = %realm, authid = principal.authid, role = principal.authrole,
            method = principal.authmethod, peer = %self.transport.peer_name(), "login"
        );
    }

    /// The router has ended their session: a cookie does not bring them back.
    pub(super) fn forget_cookies(&mut self) {
        if let Some((realm, authid)) = self.remembered.take() {
            self.shared.cookies().forget(&realm, &authid);
        }
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        metrics::counter!("perilune_logins_refused_total").increment(1);
        // It may quote the peer, and who is not logged in must not fill the log.
        let text = Visible(&refusal.to_string()).to_string();
        info!(peer = %self.transport.peer_name(), "refused: {text:.500}");
        self.send(&Message::Abort(refusal.abort()));
        self.close(if refusal.is_violation() { 1002 } else { 1000 });
    }

    /// Sends a message of the login.
    fn send(&self, message: &Message) {
        let mut octets = Vec::new();
        match wire::encode(self.format.serializer, message, &mut octets) {
            Ok(()) if octets.len() <= self.format.limit => {
                let _ = self.outbox.push(
                    self.format.framing.header(octets.len()),
                    &octets,
                    Room::Always,
                );
            }
            Ok(()) => debug!(peer = %self.transport.peer_name(), "message above the peer's limit"),
            Err(error) => {
                debug!(peer = %self.transport.peer_name(), "message not encodable: {error}")
            }
        }
    }
}

/// What a login may know of the router; remembers the session id it drew.
pub(crate) struct Surroundings<'a> {
    shared: &'a Shared,
    /// Where the login comes from; `None`: a unix socket.
    address: Option<IpAddr>,
    now: Now,
    drawn: Cell<Option<SessionId>>,
}

impl<'a> Surroundings<'a> {
    /// For one step; `address` is where the login comes from.
    pub(crate) fn new(shared: &'a Shared, address: Option<IpAddr>) -> Self {
        Self {
            shared,
            address,
            now: shared.clock().now(),
            drawn: Cell::new(None),
        }
    }

    pub(crate) fn with_context<R>(&self, work: impl FnOnce(&mut core::Context<'_>) -> R) -> R {
        let mut random = rand::rng();
        work(&mut core::Context {
            now: self.now,
            realms: self,
            random: &mut random,
        })
    }

    /// The session id that was drawn in this step.
    pub(crate) fn drawn(&self) -> Option<SessionId> {
        self.drawn.get()
    }

    fn claim<'c>(&self, realm: &'c Uri, authid: Option<&'c str>) -> Claim<'c> {
        Claim {
            address: self.address,
            realm,
            authid,
        }
    }
}

impl core::Realms for Surroundings<'_> {
    fn policy(&self, realm: &str) -> Option<Arc<RealmPolicy>> {
        self.shared.realm(realm).map(|realm| realm.policy())
    }

    fn lobby(&self) -> Option<Arc<RealmPolicy>> {
        self.shared.lobby()
    }

    fn opens(&self, realm: &Uri) -> bool {
        self.shared.opens(realm)
    }

    fn remembered(&self, realm: &Uri, cookie: &Secret) -> Option<Remembered> {
        self.shared.cookies().find(self.now, realm, cookie)
    }

    fn draw_session(&self, random: &mut dyn RngCore) -> SessionId {
        let id = self.shared.ids().draw(random);
        self.drawn.set(Some(id));
        id
    }

    fn shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }

    fn allows(&self, realm: &Uri, authid: Option<&str>) -> Result<(), Locked> {
        let claim = self.claim(realm, authid);
        self.shared.lockout().lock().allows(self.now.mono, &claim)
    }

    fn learned(&self) -> Option<&Learned> {
        Some(self.shared.learned())
    }

    fn ended(&self, realm: &Uri, authid: Option<&str>, outcome: Outcome) {
        let claim = self.claim(realm, authid);
        let mut lockout = self.shared.lockout().lock();
        match outcome {
            Outcome::Admitted => lockout.succeeded(&claim),
            Outcome::Failed => lockout.failed(self.now.mono, &claim),
        }
    }
}

//! A router of one realm seen from the door: log-ins as conversations, with an invented clock and seeded dice.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perilune::core::cookies::{Jar, Remembered};
use perilune::core::credentials::{
    AnonymousUser, AuthMethod, AuthPolicy, CraUser, Principal, Salt, Secret, TicketUser,
};
use perilune::core::lockout::{Claim, Locked, Lockout};
use perilune::core::models::Learned;
use perilune::core::policy::{RealmPolicy, RolePolicy};
use perilune::core::{
    AuthFailure, Context, Granted, Handshake, Join, Login, Now, Outcome, Realms, Refusal, Step,
    Transport,
};
use perilune::wire::{Abort, Authenticate, Challenge, ClientFeatures, ClientRoles, Hello, Message};
use perilune::words::{Dict, Id, MAX_ID, SessionId, Uri};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::support::{self, Json};

pub(crate) const REALM: &str = "com.example.home";

/// 2026-01-15T09:30:00.123Z
pub(crate) const NOW: Duration = Duration::from_millis(1_768_469_400_123);

struct Router {
    policy: Option<Arc<RealmPolicy>>,
    /// For clients that name no realm.
    lobby: Option<Arc<RealmPolicy>>,
    /// A realm that does not exist may be opened.
    opens: bool,
    /// Cookies that were issued, and to whom.
    jar: Jar,
    shutting_down: bool,
    lockout: RefCell<Lockout>,
    learned: Learned,
    /// Since the router's start.
    time: Duration,
}

/// All connections come from here.
fn claim<'a>(realm: &'a Uri, authid: Option<&'a str>) -> Claim<'a> {
    Claim {
        address: Some([192, 0, 2, 7].into()),
        realm,
        authid,
    }
}

impl Router {
    fn now(&self) -> Now {
        Now {
            mono: self.time,
            wall: SystemTime::UNIX_EPOCH + NOW + self.time,
        }
    }
}

impl Realms for Router {
    fn policy(&self, realm: &str) -> Option<Arc<RealmPolicy>> {
        self.policy.clone().filter(|_| realm == REALM)
    }

    fn lobby(&self) -> Option<Arc<RealmPolicy>> {
        self.lobby.clone()
    }

    fn opens(&self, _: &Uri) -> bool {
        self.opens
    }

    fn remembered(&self, realm: &Uri, cookie: &Secret) -> Option<Remembered> {
        self.jar.find(self.now(), realm, cookie).cloned()
    }

    fn draw_session(&self, random: &mut dyn RngCore) -> SessionId {
        SessionId::from_raw(random.next_u64() % MAX_ID + 1)
    }

    fn shutting_down(&self) -> bool {
        self.shutting_down
    }

    fn allows(&self, realm: &Uri, authid: Option<&str>) -> Result<(), Locked> {
        let claim = claim(realm, authid);
        self.lockout.borrow().allows(self.time, &claim)
    }

    fn learned(&self) -> Option<&Learned> {
        Some(&self.learned)
    }

    fn ended(&self, realm: &Uri, authid: Option<&str>, outcome: Outcome) {
        let (claim, mut lockout) = (claim(realm, authid), self.lockout.borrow_mut());
        match outcome {
            Outcome::Admitted => lockout.succeeded(&claim),
            Outcome::Failed => lockout.failed(self.time, &claim),
        }
    }
}

/// The client's side of one connection.
pub(crate) struct Door {
    router: Router,
    random: StdRng,
    handshake: Handshake,
    transport: Transport,
}

impl Door {
    pub(crate) fn new(auth: AuthPolicy) -> Self {
        let roles =
            ["guest", "resident"].map(|role| (role.into(), Arc::new(RolePolicy::default())));
        let policy = RealmPolicy {
            auth,
            roles: BTreeMap::from(roles),
            ..RealmPolicy::default()
        };
        Self {
            router: Router {
                policy: Some(Arc::new(policy)),
                lobby: None,
                opens: false,
                jar: Jar::default(),
                shutting_down: false,
                lockout: RefCell::new(Lockout::new(usize::MAX)),
                learned: Learned::default(),
                time: Duration::ZERO,
            },
            random: StdRng::seed_from_u64(7),
            handshake: handshake(),
            transport: transport(),
        }
    }

    /// Connections have TLS, with this channel.
    pub(crate) fn over_tls(mut self, channel: [u8; 32]) -> Self {
        self.transport.channel_binding = Some(channel);
        self.reconnect();
        self
    }

    /// The next connections bring this along.
    pub(crate) fn brings(&mut self, change: impl FnOnce(&mut Transport)) -> &mut Self {
        self.transport = transport();
        change(&mut self.transport);
        self.reconnect()
    }

    /// For clients that name no realm.
    pub(crate) fn lobby(&mut self, auth: AuthPolicy) {
        let policy = RealmPolicy {
            auth,
            ..RealmPolicy::default()
        };
        self.router.lobby = Some(Arc::new(policy));
    }

    /// Realms come to be on demand; hands back the one there was, to be opened.
    pub(crate) fn opens_realms(&mut self) -> Option<Arc<RealmPolicy>> {
        self.router.opens = true;
        self.router.policy.take()
    }

    /// The realm on demand is there, or not.
    pub(crate) fn opened(&mut self, outcome: Result<Option<Arc<RealmPolicy>>, String>) -> Step {
        let outcome = outcome.map(|policy| self.router.policy = policy);
        let mut context = context(&self.router, &mut self.random);
        self.handshake.opened(&mut context, outcome)
    }

    /// The router has issued this cookie to somebody.
    pub(crate) fn issued(&mut self, cookie: &str, principal: Principal) {
        let (cookie, hour) = (Secret::new(cookie), Duration::from_secs(3600));
        self.issued_until(&cookie, principal, None, hour);
    }

    /// As [`Door::issued`], by a login that ends.
    pub(crate) fn issued_until(
        &mut self,
        cookie: &Secret,
        principal: Principal,
        expires: Option<SystemTime>,
        max_age: Duration,
    ) {
        let policy = self.router.policy.clone().expect("the realm");
        let owner = Remembered::new(&policy.auth, principal, expires);
        let now = self.router.now();
        self.router
            .jar
            .bind(now, cookie, &REALM.into(), owner, max_age);
    }

    /// `limits.login_failures` is set.
    pub(crate) fn with_login_failures(self, allowed: usize) -> Self {
        self.router.lockout.borrow_mut().set_allowed(allowed);
        self
    }

    /// Time goes by.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.router.time += time;
    }

    /// Another connection beside this one: it takes the other's place, which goes on where it was.
    pub(crate) fn swap(&mut self, other: &mut Handshake) {
        std::mem::swap(&mut self.handshake, other);
    }

    /// Another connection to the same router.
    pub(crate) fn reconnect(&mut self) -> &mut Self {
        self.handshake = over(self.transport.clone());
        self
    }

    /// The configuration changes.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut RealmPolicy)) {
        if let Some(policy) = &mut self.router.policy {
            change(Arc::make_mut(policy));
        }
    }

    pub(crate) fn remove_realm(&mut self) {
        self.router.policy = None;
    }

    pub(crate) fn shut_down(&mut self) {
        self.router.shutting_down = true;
    }

    pub(crate) fn send(&mut self, message: Message) -> Step {
        let mut context = context(&self.router, &mut self.random);
        self.handshake.message(&mut context, message)
    }

    pub(crate) fn hello(&mut self, hello: Hello) -> Step {
        self.send(Message::Hello(Box::new(hello)))
    }

    pub(crate) fn authenticate(&mut self, signature: &str) -> Step {
        self.send(authenticate(signature))
    }

    /// The realm's login function answers.
    pub(crate) fn answer(&mut self, answer: Result<Granted, AuthFailure>) -> Step {
        let mut context = context(&self.router, &mut self.random);
        self.handshake.answer(&mut context, answer)
    }

    pub(crate) fn timeout(&mut self) -> Step {
        let mut context = context(&self.router, &mut self.random);
        self.handshake.timeout(&mut context)
    }
}

/// A connection that has said nothing yet.
pub(crate) fn handshake() -> Handshake {
    over(transport())
}

fn transport() -> Transport {
    Transport {
        peer: "192.0.2.7:4711".into(),
        ..Transport::default()
    }
}

fn over(transport: Transport) -> Handshake {
    Handshake::new(transport, Arc::new(Secret::new([42; 32])))
}

fn context<'a>(router: &'a Router, random: &'a mut StdRng) -> Context<'a> {
    Context {
        now: router.now(),
        realms: router,
        random,
    }
}

/// HELLO to [`REALM`] with these `authmethods`.
pub(crate) fn hello(methods: &[&str], authid: Option<&str>) -> Hello {
    Hello {
        realm: Some(REALM.into()),
        roles: ClientRoles {
            caller: Some(ClientFeatures::default()),
            ..ClientRoles::default()
        },
        authmethods: methods.iter().map(|&method| method.into()).collect(),
        authid: authid.map(Into::into),
        ..Hello::default()
    }
}

pub(crate) fn authenticate(signature: &str) -> Message {
    Message::Authenticate(Authenticate {
        signature: signature.into(),
        extra: Dict::new(),
    })
}

pub(crate) fn anonymous(role: &str) -> AuthPolicy {
    AuthPolicy {
        anonymous: Some(AnonymousUser { role: role.into() }),
        ..AuthPolicy::default()
    }
}

/// `joe` with the ticket `t1cket`.
pub(crate) fn tickets() -> AuthPolicy {
    let joe = TicketUser {
        secret: Secret::new("t1cket"),
        role: "resident".into(),
    };
    AuthPolicy {
        ticket: Some(BTreeMap::from([("joe".into(), joe)])),
        ..AuthPolicy::default()
    }
}

/// `joe` with the secret `secret-42`, perhaps salted.
pub(crate) fn cra(salt: Option<Salt>) -> AuthPolicy {
    let key = match &salt {
        Some(salt) => perilune::core::cra::derive_key(b"secret-42", salt),
        None => Secret::new("secret-42"),
    };
    let joe = CraUser {
        key,
        role: "resident".into(),
        salt,
    };
    AuthPolicy {
        wampcra: Some(BTreeMap::from([("joe".into(), joe)])),
        ..AuthPolicy::default()
    }
}

/// The same tables, and a function for the method.
pub(crate) fn with_function(mut auth: AuthPolicy, method: AuthMethod) -> AuthPolicy {
    auth.hooks.insert(method);
    auth
}

/// The peer says this in its wire form; what cannot be decoded is refused, as in the server.
pub(crate) fn said(door: &mut Door, message: Json) -> Step {
    match support::parse(&message) {
        Ok(message) => door.send(message),
        Err(text) => Step::Refuse(Refusal::Undecodable(text)),
    }
}

#[track_caller]
pub(crate) fn joined(step: Step) -> Join {
    match step {
        Step::Join { realm, join } if &*realm == REALM => *join,
        other => panic!("admission was expected, not {other:?}"),
    }
}

#[track_caller]
pub(crate) fn challenged(step: Step) -> Challenge {
    match step {
        Step::Send(Message::Challenge(challenge)) => challenge,
        other => panic!("CHALLENGE was expected, not {other:?}"),
    }
}

#[track_caller]
pub(crate) fn asked(step: Step) -> Login {
    match step {
        Step::Ask(login) => *login,
        other => panic!("a question was expected, not {other:?}"),
    }
}

#[track_caller]
pub(crate) fn refused(step: Step) -> Refusal {
    match step {
        Step::Refuse(refusal) => refusal,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

/// Refused with this ABORT.Reason.
#[track_caller]
pub(crate) fn aborted(step: Step, reason: &str) -> Abort {
    let abort = refused(step).abort();
    assert_eq!(abort.reason, Uri::from(reason), "{abort:?}");
    abort
}

#[track_caller]
pub(crate) fn violation(step: Step) {
    let refusal = refused(step);
    assert!(refusal.is_violation(), "{refusal}");
    assert_eq!(&*refusal.abort().reason, "wamp.error.protocol_violation");
    assert!(
        refusal.abort().message.is_some(),
        "Details.message says what was wrong"
    );
}

pub(crate) fn number(session: SessionId) -> u64 {
    session.value()
}

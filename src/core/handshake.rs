//! The log-in conversation of one connection: from HELLO to an admitted session or a typed refusal.
//!
//! Conformance sections 5.1, 5.2 (up to ESTABLISHED) and 20. Knows no socket, no Lua and no clock: what has to happen
//! next leaves as a [`Step`], and the driver keeps the time. WELCOME is the realm's word, after `Input::Join`.
//!
//! A later method gets its variant of [`AuthMethod`], a module below this one (as `wampcra`), an arm in
//! [`Handshake::begin`] and [`Handshake::answer`] and, if it proves something new, a variant of [`Proof`]. What a
//! transport already proved (TLS, cookie) comes in by [`Handshake::new`].

mod attempt;
mod brought;
mod claim;
mod cryptosign;
mod jwt;
mod scram;
mod ticket;
mod wampcra;

use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;

use self::attempt::{Attempt, random_authid};
use self::claim::Claim;
use self::scram::ScramHello;
use super::certificates::Certificate;
use super::cookies::Remembered;
use super::credentials::{AuthMethod, Principal, Secret, WAMP_SCRAM};
use super::cryptosign::{self as signing, CryptosignHello};
use super::lockout::Locked;
use super::login::{AuthFailure, Granted, Login, Provider};
use super::models::Learned;
use super::policy::{RealmPolicy, SCRIPT_ROLE};
use super::scram::{Dialect, Exchange};
use super::{Join, Now, Refusal, SessionKind};
use crate::wire::{Authenticate, Challenge, ClientRoles, Hello, Message};
use crate::words::{Dict, MatchPolicy, SessionId, Uri, UriRules, Value};

/// What the conversation must know of the router.
pub trait Realms {
    /// What holds in the realm now; `None`: there is no such realm.
    fn policy(&self, realm: &str) -> Option<Arc<RealmPolicy>>;
    /// What holds for clients that name no realm, until somebody assigns one (`SES-12`).
    fn lobby(&self) -> Option<Arc<RealmPolicy>> {
        None
    }
    /// Whether a realm that does not exist may be opened on demand.
    fn opens(&self, _realm: &Uri) -> bool {
        false
    }
    /// Who logged in before this cookie was issued to them.
    fn remembered(&self, _realm: &Uri, _cookie: &Secret) -> Option<Remembered> {
        None
    }
    /// A random id that no live session has.
    fn draw_session(&self, random: &mut dyn RngCore) -> SessionId;
    fn shutting_down(&self) -> bool;
    /// Whether logins in this name from where this connection comes are locked out ([`super::lockout`]). `authid` is
    /// `None` for `anonymous`.
    fn allows(&self, realm: &Uri, authid: Option<&str>) -> Result<(), Locked>;
    /// The login [`Realms::allows`] was asked for has come to an end that counts.
    fn ended(&self, realm: &Uri, authid: Option<&str>, outcome: Outcome);
    /// Where it is noted what the users of functions look like; with `None` their mocks are made without.
    fn learned(&self) -> Option<&Learned> {
        None
    }
}

/// How a login ended that had to prove something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Admitted,
    Failed,
}

/// The surroundings of one step.
pub struct Context<'a> {
    pub now: Now,
    pub realms: &'a dyn Realms,
    pub random: &'a mut dyn RngCore,
}

/// What the driver must do next.
#[derive(Debug)]
pub enum Step {
    /// Send this CHALLENGE, then await the next message for `limits.auth`.
    Send(Message),
    /// Ask the realm's function; it comes back by [`Handshake::answer`].
    Ask(Box<Login>),
    /// Open this realm on demand; it comes back by [`Handshake::opened`].
    Open(Uri),
    /// Admitted: hand `join` to the realm as `Input::Join`.
    Join { realm: Uri, join: Box<Join> },
    /// Log it, send [`Refusal::abort`], close.
    Refuse(Refusal),
    /// Close without a word (`SES-24`, `SES-15`).
    Close,
}

/// What a connection brings along beside its messages.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// Names the other end for humans.
    pub peer: String,
    /// `tls-exporter`: octets that only the two ends of this TLS connection know. `None`: there is no TLS 1.3.
    pub channel_binding: Option<[u8; 32]>,
    /// What the client showed, verified.
    pub certificate: Option<Arc<Certificate>>,
    /// Of the HTTP request, by name.
    pub cookies: Vec<(String, Secret)>,
}

/// The conversation of one connection while it has no session: before the first, and again after the client said
/// GOODBYE (`SES-32`). Messages of a live session go to its realm instead.
#[derive(Debug)]
pub struct Handshake {
    transport: Transport,
    seed: Arc<Secret>,
    state: State,
    /// Set while somebody has to prove who they are.
    claim: Option<Claim>,
}

#[derive(Debug)]
enum State {
    AwaitHello,
    /// A realm is being opened for this HELLO.
    Opening(Box<Hello>),
    /// A realm is being opened that somebody has assigned.
    Assigned(Box<Attempt>, Principal),
    /// A function has been asked.
    Asking(Box<Attempt>),
    /// CHALLENGE is out.
    Challenging(Box<Attempt>, Proof),
    /// Refused or closed: nothing can come after (`AUTH-10`).
    Over,
}

/// What AUTHENTICATE has to prove.
#[derive(Debug)]
enum Proof {
    /// Looked at when it is here: by the table, or by the function.
    Ticket,
    /// `outcome` is what the right signature leads to; for a mock challenge a refusal.
    Signature {
        expected: Secret,
        outcome: Result<Principal, Refusal>,
    },
    /// The same for `scram`.
    Scram {
        exchange: Box<Exchange>,
        outcome: Result<Principal, Refusal>,
    },
    /// The same for `cryptosign`.
    Cryptosign {
        exchange: signing::Exchange,
        outcome: Result<Principal, Refusal>,
    },
    /// `jwt`: looked at when it is here.
    Token,
}

impl Handshake {
    /// `seed` is a random secret of this process, 32 octets, the same for all connections: mock challenges are derived
    /// from it.
    pub fn new(transport: Transport, seed: Arc<Secret>) -> Self {
        Self {
            transport,
            seed,
            state: State::AwaitHello,
            claim: None,
        }
    }

    /// A message from the peer while there is no session.
    pub fn message(&mut self, context: &mut Context<'_>, message: Message) -> Step {
        let state = mem::replace(&mut self.state, State::Over);
        let step = match (state, message) {
            (State::Over, _) | (_, Message::Abort(_)) => Ok(Step::Close),
            (State::AwaitHello, Message::Hello(hello)) => self.hello(context, *hello, true),
            (State::Challenging(attempt, proof), Message::Authenticate(message)) => {
                self.authenticate(context, attempt, proof, message)
            }
            (state, message) => Err(Refusal::Unexpected {
                got: message.name(),
                expected: state.expected(),
            }),
        };
        self.conclude(context, step)
    }

    /// The function's answer to [`Step::Ask`]. With no question open (the peer left, or the time was up): `Close`.
    pub fn answer(
        &mut self,
        context: &mut Context<'_>,
        answer: Result<Granted, AuthFailure>,
    ) -> Step {
        let State::Asking(attempt) = mem::replace(&mut self.state, State::Over) else {
            return Step::Close;
        };
        let asked = match attempt.at_gate {
            true => AuthMethod::Cookie,
            false => attempt.method,
        };
        let answer = answer.map_err(|failure| refusal(asked, failure));
        // Again: meanwhile others may have failed that were asked about at the same time.
        let step = self
            .check_lock(context)
            .and_then(|()| self.answered(context, attempt, answer));
        self.conclude(context, step)
    }

    fn answered(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: Box<Attempt>,
        answer: Result<Granted, Refusal>,
    ) -> Result<Step, Refusal> {
        match (attempt.method, answer) {
            (_, answer) if attempt.at_gate => self.answer_gate(context, attempt, answer),
            (AuthMethod::WampCra, answer) => self.answer_wampcra(context, attempt, answer),
            (AuthMethod::Scram, answer) => self.answer_scram(context, attempt, answer),
            (AuthMethod::Cryptosign, answer) => self.answer_cryptosign(context, attempt, answer),
            (
                AuthMethod::Anonymous
                | AuthMethod::Ticket
                | AuthMethod::Jwt
                | AuthMethod::Cookie
                | AuthMethod::Tls,
                answer,
            ) => answer
                .and_then(|granted| attempt.granted(granted, context.random))
                .and_then(|principal| self.admit(context, *attempt, principal)),
        }
    }

    /// The realm of [`Step::Open`] is there, or why not.
    pub fn opened(&mut self, context: &mut Context<'_>, outcome: Result<(), String>) -> Step {
        let refused = |realm: Uri| {
            let text = outcome.clone().err();
            text.map_or(Ok(()), |text| Err(Refusal::NotOpened { realm, text }))
        };
        let step = match mem::replace(&mut self.state, State::Over) {
            State::Opening(hello) => refused(hello.realm.clone().unwrap_or_default())
                .and_then(|()| self.hello(context, *hello, false)),
            State::Assigned(attempt, principal) => refused(attempt.realm.clone())
                .and_then(|()| self.admit(context, *attempt, principal)),
            _ => Ok(Step::Close),
        };
        self.conclude(context, step)
    }

    /// The time for what was awaited is up: HELLO (`limits.handshake`), AUTHENTICATE (`limits.auth`, `AUTH-09`) or
    /// the function's answer (`Login::within`).
    pub fn timeout(&mut self, context: &mut Context<'_>) -> Step {
        let step = match mem::replace(&mut self.state, State::Over) {
            State::AwaitHello | State::Over => Ok(Step::Close),
            State::Challenging(attempt, _) => Err(Refusal::NoAnswer {
                method: attempt.method,
                authid: attempt.authid,
            }),
            State::Opening(hello) => Err(not_in_time(hello.realm.unwrap_or_default())),
            State::Assigned(attempt, _) => Err(not_in_time(attempt.realm)),
            State::Asking(attempt) => Err(Refusal::HookFailed {
                method: attempt.method,
                text: "no answer in time".into(),
            }),
        };
        self.conclude(context, step)
    }

    /// `opens`: a realm on demand may be opened for it.
    fn hello(
        &mut self,
        context: &mut Context<'_>,
        hello: Hello,
        opens: bool,
    ) -> Result<Step, Refusal> {
        if hello.roles == ClientRoles::default() {
            return Err(Refusal::NoRoles);
        }
        if context.realms.shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let realm = match &hello.realm {
            Some(realm) => {
                UriRules::Loose.check(realm, MatchPolicy::Exact)?;
                if opens && context.realms.policy(realm).is_none() && context.realms.opens(realm) {
                    let realm = realm.detached();
                    self.state = State::Opening(Box::new(hello));
                    return Ok(Step::Open(realm));
                }
                realm.detached()
            }
            None => Uri::default(),
        };
        let policy = policy(context, &realm)?;
        if hello
            .authmethods
            .iter()
            .any(|name| name == AuthMethod::Cookie.as_str())
        {
            self.count_unknown_cookie(context, &policy, &realm);
        }
        let usable = |method| self.usable(context, &policy, &realm, method);
        let (method, name) = choose(usable, &realm, hello.authmethods)?;
        // An empty name is none.
        let named = hello.authid.filter(|authid| !authid.is_empty());
        let authid = match (method, named) {
            (AuthMethod::Anonymous, _) => String::new(),
            (_, Some(authid)) => authid,
            // `CS-06`
            (AuthMethod::Cryptosign, None) => policy
                .auth
                .cryptosign
                .as_ref()
                .and_then(|policy| policy.derived_authid(&hello.authextra))
                .unwrap_or_default(),
            (AuthMethod::Jwt | AuthMethod::Cookie | AuthMethod::Tls, None) => String::new(),
            (_, None) => return Err(Refusal::MissingAuthid { method }),
        };
        self.claim = Claim::of(&policy, &realm, method, &authid);
        self.check_lock(context)?;
        let session = context.realms.draw_session(context.random);
        let (roles, authextra) = (hello.roles, hello.authextra);
        let attempt = Box::new(Attempt {
            realm,
            session,
            method,
            name,
            authid,
            authextra,
            roles,
            provider: Provider::Static,
            at_gate: false,
            scram: None,
            cryptosign: None,
            vouched: false,
            expires: None,
            remembered: false,
            policy: policy.clone(),
        });
        match policy.auth.has_gate() {
            true => self.gate(context, &policy, attempt),
            false => self.begin(context, &policy, attempt),
        }
    }

    /// What a method does first.
    fn begin(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        match attempt.method {
            AuthMethod::Anonymous => self.begin_anonymous(context, policy, attempt),
            AuthMethod::Ticket => Ok(self.begin_ticket(attempt)),
            AuthMethod::WampCra => Ok(self.begin_wampcra(context, policy, attempt)),
            AuthMethod::Scram => self.begin_scram(context, policy, attempt),
            AuthMethod::Cryptosign => self.begin_cryptosign(context, policy, attempt),
            AuthMethod::Jwt => Ok(self.begin_jwt(attempt)),
            AuthMethod::Cookie => self.begin_cookie(context, policy, attempt),
            AuthMethod::Tls => self.begin_tls(context, policy, attempt),
        }
    }

    /// `ANON-01`: no CHALLENGE.
    fn begin_anonymous(
        &mut self,
        context: &mut Context<'_>,
        policy: &RealmPolicy,
        attempt: Box<Attempt>,
    ) -> Result<Step, Refusal> {
        let Some(user) = &policy.auth.anonymous else {
            return Ok(self.ask(policy, attempt, None, None));
        };
        let authid = random_authid(context.random);
        let principal = attempt.principal(authid, &user.role, Provider::Static);
        self.admit(context, *attempt, principal)
    }

    fn authenticate(
        &mut self,
        context: &mut Context<'_>,
        attempt: Box<Attempt>,
        proof: Proof,
        message: Authenticate,
    ) -> Result<Step, Refusal> {
        // Again: meanwhile others may have failed that were challenged at the same time.
        self.check_lock(context)?;
        match proof {
            Proof::Ticket => self.ticket(context, attempt, Secret::new(message.signature)),
            Proof::Token => self.token(context, attempt, Secret::new(message.signature)),
            Proof::Scram { exchange, outcome } => {
                self.scram(context, attempt, &exchange, outcome, &message)
            }
            Proof::Cryptosign { exchange, outcome } => {
                self.cryptosign(context, attempt, &exchange, outcome, &message)
            }
            Proof::Signature { expected, outcome } => {
                // Compared first, for mock challenges too: both take the same time.
                let right = Secret::new(message.signature) == expected;
                let principal = outcome?;
                if !right {
                    return Err(attempt.wrong_secret());
                }
                self.admit(context, *attempt, principal)
            }
        }
    }

    fn challenge(&mut self, attempt: Box<Attempt>, challenge: Challenge, proof: Proof) -> Step {
        self.state = State::Challenging(attempt, proof);
        Step::Send(Message::Challenge(challenge))
    }

    fn ask(
        &mut self,
        policy: &RealmPolicy,
        mut attempt: Box<Attempt>,
        credential: Option<Secret>,
        claims: Option<Dict>,
    ) -> Step {
        let method = match attempt.at_gate {
            true => AuthMethod::Cookie,
            false => attempt.method,
        };
        let (ticket, token, cookie) = match method {
            AuthMethod::Jwt => (None, credential, None),
            AuthMethod::Cookie => (None, None, credential.or_else(|| Some(Secret::new("")))),
            _ => (credential, None, None),
        };
        let procedure = policy.auth.procedures.get(&method).cloned();
        let authextra = match attempt.at_gate {
            true => attempt.authextra.clone(),
            false => mem::take(&mut attempt.authextra),
        };
        if !attempt.at_gate {
            attempt.provider = match &procedure {
                Some(_) => Provider::Dynamic,
                None => Provider::Lua,
            };
        }
        let login = Login {
            method,
            realm: attempt.realm.clone(),
            procedure,
            session: attempt.session,
            authid: attempt.claimed().map(str::to_owned),
            authextra,
            ticket,
            token,
            claims,
            cookie,
            gate: attempt.at_gate,
            within: policy.limits.hook,
        };
        self.state = State::Asking(attempt);
        Step::Ask(Box::new(login))
    }

    /// The last gate: what changed since HELLO counts, and the role must exist (`AUTH-08`).
    fn admit(
        &mut self,
        context: &mut Context<'_>,
        attempt: Attempt,
        principal: Principal,
    ) -> Result<Step, Refusal> {
        if context.realms.shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        // Only what somebody has assigned can be missing here, or a realm that was removed meanwhile.
        let known = context.realms.policy(&attempt.realm);
        if known.is_none() && !attempt.realm.is_empty() && context.realms.opens(&attempt.realm) {
            let realm = attempt.realm.clone();
            self.state = State::Assigned(Box::new(attempt), principal);
            return Ok(Step::Open(realm));
        }
        let policy = policy(context, &attempt.realm)?;
        let Attempt {
            realm,
            session,
            method,
            roles,
            policy: before,
            expires,
            remembered,
            ..
        } = attempt;
        // Whether the function of one who comes back is still there, their cookie has told.
        let by_function = principal.authprovider == Provider::Lua.as_str() && !remembered;
        if !policy.auth.still_admits(&principal)
            || !policy.auth.same_secret(&before.auth, &principal)
            || (by_function && !policy.auth.hooks.contains(&method))
        {
            return Err(Refusal::Removed {
                method,
                authid: principal.authid,
            });
        }
        if principal.authrole == SCRIPT_ROLE {
            return Err(Refusal::ScriptRole {
                method,
                authid: principal.authid,
            });
        }
        if !policy.has_role(&principal.authrole) {
            let (authid, role) = (principal.authid, principal.authrole);
            return Err(Refusal::NoSuchRole {
                realm,
                authid,
                role,
            });
        }
        self.state = State::AwaitHello;
        let join = Join {
            session,
            principal,
            roles,
            kind: SessionKind::Peer,
            peer: self.transport.peer.clone(),
            transport: "", // The driver knows.
            message: usize::MAX,
            expires,
        };
        Ok(Step::Join {
            realm,
            join: Box::new(join),
        })
    }
}

impl State {
    fn expected(&self) -> &'static str {
        match self {
            Self::AwaitHello => "HELLO",
            Self::Opening(_) | Self::Assigned(..) => "nothing (the realm is being opened)",
            Self::Asking(_) => "nothing (the log-in is being checked)",
            Self::Challenging(..) => "AUTHENTICATE",
            Self::Over => "nothing",
        }
    }
}

fn not_in_time(realm: Uri) -> Refusal {
    Refusal::NotOpened {
        realm,
        text: "it was not opened in time".into(),
    }
}

/// What holds in the realm; in the empty one, for clients that named none.
fn policy(context: &Context<'_>, realm: &Uri) -> Result<Arc<RealmPolicy>, Refusal> {
    if realm.is_empty() {
        return context.realms.lobby().ok_or(Refusal::NoRealm);
    }
    context
        .realms
        .policy(realm)
        .ok_or_else(|| Refusal::NoSuchRealm(realm.clone()))
}

/// `AUTH-02..04`: the client's first method that is on offer here, and by which name.
fn choose(
    usable: impl Fn(AuthMethod) -> bool,
    realm: &Uri,
    mut offered: Vec<String>,
) -> Result<(AuthMethod, &'static str), Refusal> {
    if offered.is_empty() {
        offered.push(AuthMethod::Anonymous.as_str().to_owned());
    }
    let mut known = offered.iter().filter_map(|name| {
        let method = AuthMethod::parse(name)?;
        let own = if name == WAMP_SCRAM {
            WAMP_SCRAM
        } else {
            method.as_str()
        };
        Some((method, own))
    });
    match known.find(|(method, _)| usable(*method)) {
        Some(chosen) => Ok(chosen),
        None if offered
            .iter()
            .all(|name| name == AuthMethod::Anonymous.as_str()) =>
        {
            Err(Refusal::AuthenticationRequired {
                realm: realm.clone(),
            })
        }
        None => Err(Refusal::NoMatchingMethod {
            realm: realm.clone(),
            offered,
        }),
    }
}

/// `DYN-04`. An error URI that is none cannot go out: that is a failure of the function.
fn refusal(method: AuthMethod, failure: AuthFailure) -> Refusal {
    match failure {
        AuthFailure::Refused { reason } => Refusal::ByHook { method, reason },
        AuthFailure::Raised { error, message } => {
            match UriRules::Loose.check(&error, MatchPolicy::Exact) {
                Ok(()) => Refusal::RaisedByHook {
                    method,
                    error,
                    message,
                },
                Err(invalid) => Refusal::HookFailed {
                    method,
                    text: format!("it raised an error, but {invalid}"),
                },
            }
        }
        AuthFailure::Failed(text) => Refusal::HookFailed { method, text },
    }
}

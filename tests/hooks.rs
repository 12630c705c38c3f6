//! The seams for the script host: sessions of this process, login functions, authorizers.

mod support;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use perilune::core::credentials::{AuthMethod, Principal};
use perilune::core::policy::SCRIPT_ROLE;
use perilune::core::{
    AuthFailure, AuthorizeRequest, CacheFor, Granted, Input, Join, Login, SessionKind, Then,
    Verdict,
};
use perilune::server::settings::Settings;
use perilune::server::{Hooks, LocalSession, RealmHandle, Router, SessionChange, TransportInfo};
use perilune::wire::{ClientRoles, Message, Register, RegisterOptions, Serializer, Yield};
use perilune::words::{Dict, RequestId, SessionId, Value};
use support::{Client, Kind, REALM, hello, settings, soon, start, tcp, uri};
use tokio::sync::{Notify, mpsc, oneshot};

/// A session of this process that passes everything on.
struct Script {
    messages: mpsc::UnboundedSender<Message>,
    ended: Notify,
    full: bool,
}

impl LocalSession for Script {
    fn deliver(&self, message: Message) -> Result<(), Message> {
        if self.full {
            Err(message)
        } else {
            self.messages.send(message).map_err(|error| error.0)
        }
    }

    fn ended(&self, _: Then) {
        self.ended.notify_one();
    }
}

fn join(session: SessionId) -> Join {
    let principal = Principal {
        authid: "rooms.lua".into(),
        authrole: SCRIPT_ROLE.into(),
        authmethod: "local".into(),
        authprovider: "static".into(),
        extra: Dict::new(),
    };
    Join {
        session,
        principal,
        roles: ClientRoles::default(),
        kind: SessionKind::Script,
        peer: "rooms.lua".into(),
        transport: "",
        message: usize::MAX,
        expires: None,
    }
}

fn script(
    router: &Router,
    full: bool,
) -> (Arc<Script>, SessionId, mpsc::UnboundedReceiver<Message>) {
    let (messages, receiver) = mpsc::unbounded_channel();
    let script = Arc::new(Script {
        messages,
        ended: Notify::new(),
        full,
    });
    let session = router.draw_session();
    let realm = router.realm(REALM).unwrap();
    // Several inputs, one step: nobody sees the session without its procedure.
    realm.step(|step| {
        step.join_local(join(session), script.clone()).unwrap();
        let (options, procedure) = (RegisterOptions::default(), uri("com.script"));
        let register = Register {
            request: RequestId::from_raw(1),
            options,
            procedure,
        };
        step.input(Input::Message {
            session,
            message: Message::Register(register),
        });
    });
    (script, session, receiver)
}

#[tokio::test]
async fn a_local_session_is_called_and_ended() {
    let (router, address) = start(&settings()).await;
    let (script, session, mut messages) = script(&router, false);
    assert!(
        matches!(soon(messages.recv()).await, Some(Message::Registered(_))),
        "and no WELCOME"
    );
    let mut caller = Client::join(address, Kind::WebSocket, Serializer::Cbor).await;
    let request = caller.call("com.script", &[Value::Int(1)]).await;
    let Some(Message::Invocation(invocation)) = soon(messages.recv()).await else {
        panic!("INVOCATION")
    };
    let answer = Yield {
        request: invocation.request,
        progress: false,
        passthru: None,
        payload: invocation.payload,
    };
    router.realm(REALM).unwrap().input(Input::Message {
        session,
        message: Message::Yield(answer),
    });
    assert_eq!(caller.result(request).await, [Value::Int(1)]);
    let leave = async move { assert_eq!(caller.reason().await, "wamp.close.system_shutdown") };
    soon(async { tokio::join!(router.shutdown(), leave) }).await;
    soon(script.ended.notified()).await;
}

#[tokio::test]
async fn a_script_with_a_full_queue_is_unavailable() {
    let (router, address) = start(&settings()).await;
    let (_script, _, _messages) = script(&router, true);
    let mut caller = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    caller.call("com.script", &[]).await;
    let message = caller.message().await;
    let Message::Error(error) = message else {
        panic!("expected ERROR, got {message:?}")
    };
    // Its REGISTERED could not be delivered either, so the session may be gone altogether.
    assert!(["wamp.error.unavailable", "wamp.error.no_such_procedure"].contains(&&*error.error));
}

/// Answers logins from one place and permissions at once; keeps what it was asked.
#[derive(Default)]
struct Host {
    logins: Mutex<Vec<(Login, Arc<TransportInfo>)>>,
    /// `None`: never answers.
    answer: Option<Result<Granted, AuthFailure>>,
    pending: Mutex<Vec<oneshot::Sender<Result<Granted, AuthFailure>>>>,
    asked: Mutex<Vec<(Weak<RealmHandle>, AuthorizeRequest)>>,
}

impl Hooks for Host {
    fn session_changed(&self, _: &Arc<RealmHandle>, _: &SessionChange) {}

    fn authorize(&self, realm: &Arc<RealmHandle>, request: AuthorizeRequest) {
        let verdict = match &*request.uri {
            "com.good" => Verdict::Allow {
                disclose: false,
                cache: CacheFor::Never,
            },
            _ => Verdict::Deny {
                cache: CacheFor::Never,
            },
        };
        realm.input(Input::Verdict {
            ticket: request.ticket,
            verdict,
        });
        self.asked.lock().push((Arc::downgrade(realm), request));
    }

    fn authenticate(
        &self,
        login: Login,
        transport: Arc<TransportInfo>,
    ) -> oneshot::Receiver<Result<Granted, AuthFailure>> {
        let (sender, receiver) = oneshot::channel();
        self.logins.lock().push((login, transport));
        match self.answer.clone() {
            Some(answer) => drop(sender.send(answer)),
            None => self.pending.lock().push(sender),
        }
        receiver
    }
}

/// Anonymous logins and everything they do are up to functions.
fn hooked() -> Settings {
    let mut settings = settings();
    let policy = &mut settings.realms.get_mut(REALM).unwrap().policy;
    policy.auth.anonymous = None;
    policy.auth.hooks = [AuthMethod::Anonymous].into();
    policy.roles.clear();
    policy.authorizer = true;
    policy.limits.hook = Duration::from_millis(100);
    settings
}

async fn refused(address: std::net::SocketAddr) -> String {
    let mut client = Client::open(tcp(address).await, Kind::WebSocket, Serializer::Json).await;
    client.send(&hello(REALM)).await;
    client.reason().await
}

#[tokio::test]
async fn dyn_functions_admit_and_permit() {
    let (router, address) = start(&hooked()).await;
    let granted = Granted {
        role: "resident".into(),
        ..Granted::default()
    };
    let host = Arc::new(Host {
        answer: Some(Ok(granted)),
        ..Host::default()
    });
    router.install_hooks(host.clone());
    let mut client = Client::join(address, Kind::WebSocket, Serializer::Json).await;
    client.register("com.good").await;
    let request = client.request();
    let (options, procedure) = (RegisterOptions::default(), uri("com.bad"));
    client
        .send(&Message::Register(Register {
            request,
            options,
            procedure,
        }))
        .await;
    let message = client.message().await;
    let Message::Error(error) = message else {
        panic!("expected ERROR, got {message:?}")
    };
    assert_eq!(&*error.error, "wamp.error.not_authorized");
    let logins = host.logins.lock();
    let (login, transport) = &logins[0];
    assert_eq!(Some(login.session), client.session);
    assert_eq!((transport.kind, &*transport.path), ("websocket", "/ws"));
    assert!(
        transport
            .headers
            .iter()
            .any(|(name, _)| name == "sec-websocket-protocol")
    );
    assert_eq!(host.asked.lock().len(), 2);
}

#[tokio::test]
async fn dyn_without_an_answer_nobody_comes_in() {
    let (router, address) = start(&hooked()).await;
    assert_eq!(
        refused(address).await,
        "wamp.error.authentication_failed",
        "no script host"
    );
    router.install_hooks(Arc::new(Host::default()));
    assert_eq!(
        refused(address).await,
        "wamp.error.authentication_failed",
        "no answer in time"
    );
    let no = Err(AuthFailure::Refused {
        reason: Some("the moon is full".into()),
    });
    router.install_hooks(Arc::new(Host {
        answer: Some(no),
        ..Host::default()
    }));
    assert_eq!(refused(address).await, "wamp.error.authentication_denied");
}

#[tokio::test]
async fn az_02_without_a_script_host_nothing_is_permitted() {
    let mut settings = hooked();
    let policy = &mut settings.realms.get_mut(REALM).unwrap().policy;
    policy.auth.anonymous = Some(perilune::core::credentials::AnonymousUser {
        role: "guest".into(),
    });
    let (_router, address) = start(&settings).await;
    let mut client = Client::join(address, Kind::RawSocket, Serializer::MsgPack).await;
    client.call("com.good", &[]).await;
    let message = client.message().await;
    let Message::Error(error) = message else {
        panic!("expected ERROR, got {message:?}")
    };
    assert_eq!(&*error.error, "wamp.error.authorization_failed");
}

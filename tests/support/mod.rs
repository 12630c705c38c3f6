//! A small WAMP client for tests: WebSocket or RawSocket, over TCP or a unix socket, every serializer. Waits for
//! what it expects, with a time-out; never sleeps.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

pub mod app;
pub mod program;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use perilune::core::credentials::{AnonymousUser, AuthPolicy};
use perilune::core::policy::{Action, Actions, Disclosure, RealmPolicy, RolePolicy, Rule};
use perilune::server::settings::{Address, ListenerSettings, RealmSettings, Settings};
use perilune::server::{BoundAddress, Listener, Router};
use perilune::wire::*;
use perilune::words::{Dict, MatchPolicy, RequestId, SessionId, Uri, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Frame};

/// Longer than anything here takes, shorter than anybody's patience.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const REALM: &str = "realm1";

pub fn uri(text: &str) -> Uri {
    Uri::from(text)
}

/// Anonymous everybody may do everything in `realm1`; one listener on a free port.
pub fn settings() -> Settings {
    let rule = Rule {
        uri: uri(""),
        match_policy: MatchPolicy::Prefix,
        allow: Actions::all(),
        disclose_caller: Disclosure::OnRequest,
        disclose_publisher: Disclosure::OnRequest,
    };
    let role = RolePolicy {
        rules: vec![rule],
        ..RolePolicy::default()
    };
    let policy = RealmPolicy {
        auth: AuthPolicy {
            anonymous: Some(AnonymousUser {
                role: "guest".into(),
            }),
            ..AuthPolicy::default()
        },
        roles: [("guest".to_owned(), role.into())].into(),
        ..RealmPolicy::default()
    };
    Settings {
        listeners: vec![ListenerSettings::at(Address::Tcp("127.0.0.1:0".into()))],
        realms: [(
            uri(REALM),
            RealmSettings {
                policy,
                ..RealmSettings::default()
            },
        )]
        .into(),
        ..Settings::default()
    }
}

/// Starts a router in this process; hands back where its first listener is.
pub async fn start(settings: &Settings) -> (Router, SocketAddr) {
    let router = Router::new(settings);
    let mut first = None;
    for listener in &settings.listeners {
        for listener in Listener::bind(listener).await.expect("binds") {
            if let BoundAddress::Tcp { address, .. } = listener.address() {
                first.get_or_insert(*address);
            }
            router.serve(listener);
        }
    }
    (
        router,
        first.unwrap_or_else(|| "127.0.0.1:1".parse().unwrap()),
    )
}

/// Waits for something, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub type BoxedIo = Box<dyn Io>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WebSocket,
    /// WebSocket, any number of messages in each of its own.
    Batched,
    RawSocket,
}

pub enum Transport {
    WebSocket(Box<WebSocketStream<BoxedIo>>),
    RawSocket(BoxedIo),
}

/// What arrived instead of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// A WebSocket close frame with this code.
    Closed(u16),
    /// The end of the stream.
    Eof,
}

pub struct Client {
    pub transport: Transport,
    pub serializer: Serializer,
    pub batched: bool,
    /// The rest of the batch that came last.
    pub batch: VecDeque<Bytes>,
    pub session: Option<SessionId>,
    requests: u64,
}

pub async fn tcp(address: SocketAddr) -> BoxedIo {
    let stream = soon(TcpStream::connect(address)).await.expect("connects");
    stream.set_nodelay(true).expect("tunes");
    Box::new(stream)
}

pub async fn unix(path: &Path) -> BoxedIo {
    Box::new(soon(UnixStream::connect(path)).await.expect("connects"))
}

impl Client {
    /// A transport without a session.
    pub async fn open(io: BoxedIo, kind: Kind, serializer: Serializer) -> Self {
        let transport = match kind {
            Kind::WebSocket | Kind::Batched => {
                let mut request = "ws://localhost/ws".into_client_request().unwrap();
                let protocol = match kind {
                    Kind::Batched => serializer.batched_subprotocol(),
                    _ => serializer.subprotocol(),
                };
                request
                    .headers_mut()
                    .insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
                let (stream, _) = soon(tokio_tungstenite::client_async(request, io))
                    .await
                    .expect("upgrades");
                Transport::WebSocket(Box::new(stream))
            }
            Kind::RawSocket => {
                let mut io = io;
                let code = 0xF0 | (serializer as u8 + 1);
                io.write_all(&[0x7F, code, 0, 0]).await.unwrap();
                let mut reply = [0; 4];
                soon(io.read_exact(&mut reply)).await.expect("answers");
                assert_eq!((reply[0], reply[1] & 0x0F), (0x7F, code & 0x0F));
                Transport::RawSocket(io)
            }
        };
        Self {
            transport,
            serializer,
            batched: kind == Kind::Batched,
            batch: VecDeque::new(),
            session: None,
            requests: 0,
        }
    }

    /// A WebSocket whose request brings a cookie, and the cookie that the answer sets.
    pub async fn with_cookie(address: SocketAddr, cookie: &str) -> (Self, Option<String>) {
        let serializer = Serializer::MsgPack;
        let mut request = "ws://localhost/ws".into_client_request().unwrap();
        let headers = request.headers_mut();
        let protocol = serializer.subprotocol().parse().unwrap();
        headers.insert("Sec-WebSocket-Protocol", protocol);
        headers.insert("Cookie", cookie.parse().unwrap());
        let upgrade = tokio_tungstenite::client_async(request, tcp(address).await);
        let (stream, response) = soon(upgrade).await.expect("upgrades");
        let set = response.headers().get("Set-Cookie");
        let set = set.map(|value| value.to_str().unwrap().to_owned());
        let client = Self {
            transport: Transport::WebSocket(Box::new(stream)),
            serializer,
            batched: false,
            batch: VecDeque::new(),
            session: None,
            requests: 0,
        };
        (client, set)
    }

    /// An anonymous session in `realm1` over TCP.
    pub async fn join(address: SocketAddr, kind: Kind, serializer: Serializer) -> Self {
        Self::join_on(tcp(address).await, kind, serializer).await
    }

    /// An anonymous session in `realm1`.
    pub async fn join_on(io: BoxedIo, kind: Kind, serializer: Serializer) -> Self {
        let mut client = Self::open(io, kind, serializer).await;
        client.hello().await;
        client
    }

    /// An anonymous session on a RawSocket whose handshake is done.
    pub async fn join_raw(io: BoxedIo, serializer: Serializer) -> Self {
        let transport = Transport::RawSocket(io);
        let mut client = Self {
            transport,
            serializer,
            batched: false,
            batch: VecDeque::new(),
            session: None,
            requests: 0,
        };
        client.hello().await;
        client
    }

    /// Logs in anonymously.
    pub async fn hello(&mut self) {
        self.send(&hello(REALM)).await;
        match self.message().await {
            Message::Welcome(welcome) => self.session = Some(welcome.session),
            other => panic!("expected WELCOME, got {other:?}"),
        }
    }

    pub async fn send(&mut self, message: &Message) {
        let mut octets = Vec::new();
        encode(self.serializer, message, &mut octets).expect("encodes");
        self.send_octets(match self.batched {
            true => batch_of(self.serializer, &[octets]),
            false => octets,
        })
        .await;
    }

    /// Octets framed as one message of the transport.
    pub async fn send_octets(&mut self, octets: Vec<u8>) {
        match &mut self.transport {
            Transport::WebSocket(stream) => {
                let frame = match self.serializer {
                    Serializer::Json => {
                        Frame::Text(String::from_utf8(octets).expect("JSON is text").into())
                    }
                    Serializer::MsgPack | Serializer::Cbor => Frame::Binary(octets.into()),
                };
                soon(stream.send(frame)).await.expect("sends");
            }
            Transport::RawSocket(io) => {
                let mut frame = (octets.len() as u32).to_be_bytes().to_vec();
                frame.extend(octets);
                soon(io.write_all(&frame)).await.expect("sends");
            }
        }
    }

    /// The next message, or how the transport ended.
    pub async fn next(&mut self) -> Result<Message, Ended> {
        if let Some(octets) = self.batch.pop_front() {
            return Ok(decode(self.serializer, &octets, NESTING).expect("decodes"));
        }
        let octets = match &mut self.transport {
            Transport::WebSocket(stream) => loop {
                match soon(stream.next()).await {
                    Some(Ok(Frame::Text(text))) => break Bytes::from(text),
                    Some(Ok(Frame::Binary(octets))) => break octets,
                    Some(Ok(Frame::Close(Some(CloseFrame { code, .. })))) => {
                        return Err(Ended::Closed(code.into()));
                    }
                    Some(Ok(Frame::Close(None))) => return Err(Ended::Closed(1005)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(Ended::Eof),
                }
            },
            Transport::RawSocket(io) => {
                let mut header = [0; 4];
                if soon(io.read_exact(&mut header)).await.is_err() {
                    return Err(Ended::Eof);
                }
                assert_eq!(header[0], 0, "a message frame");
                let mut octets = vec![0; u32::from_be_bytes(header) as usize];
                soon(io.read_exact(&mut octets))
                    .await
                    .expect("a whole frame");
                octets.into()
            }
        };
        let octets = match self.batched {
            true => {
                self.batch = messages_of(self.serializer, octets);
                self.batch.pop_front().expect("a batch is not empty")
            }
            false => octets,
        };
        Ok(decode(self.serializer, &octets, NESTING).expect("the router's messages decode"))
    }

    pub async fn message(&mut self) -> Message {
        self.next().await.expect("a message")
    }

    pub async fn ended(&mut self) -> Ended {
        match self.next().await {
            Err(ended) => ended,
            Ok(message) => panic!("expected the end, got {message:?}"),
        }
    }

    pub fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId::from_raw(self.requests)
    }

    pub async fn register(&mut self, procedure: &str) {
        self.register_with(procedure, RegisterOptions::default())
            .await;
    }

    pub async fn register_with(&mut self, procedure: &str, options: RegisterOptions) {
        let (request, procedure) = (self.request(), uri(procedure));
        self.send(&Message::Register(Register {
            request,
            options,
            procedure,
        }))
        .await;
        match self.message().await {
            Message::Registered(registered) => assert_eq!(registered.request, request),
            other => panic!("expected REGISTERED, got {other:?}"),
        }
    }

    pub async fn subscribe(&mut self, topic: &str) {
        let request = self.request();
        let (options, topic) = (SubscribeOptions::default(), uri(topic));
        self.send(&Message::Subscribe(Subscribe {
            request,
            options,
            topic,
        }))
        .await;
        match self.message().await {
            Message::Subscribed(subscribed) => assert_eq!(subscribed.request, request),
            other => panic!("expected SUBSCRIBED, got {other:?}"),
        }
    }

    /// Sends a CALL.
    pub async fn call(&mut self, procedure: &str, args: &[Value]) -> RequestId {
        let request = self.request();
        let payload = Payload::of(self.serializer, args, &Dict::new());
        let options = CallOptions::default();
        self.send(&Message::Call(Call {
            request,
            options,
            procedure: uri(procedure),
            payload,
        }))
        .await;
        request
    }

    /// Answers the next INVOCATION with its own arguments.
    pub async fn echo(&mut self) {
        match self.message().await {
            Message::Invocation(Invocation {
                request, payload, ..
            }) => {
                self.send(&Message::Yield(Yield {
                    request,
                    progress: false,
                    passthru: None,
                    payload,
                }))
                .await;
            }
            other => panic!("expected INVOCATION, got {other:?}"),
        }
    }

    /// Sends a PUBLISH without acknowledgement.
    pub async fn publish(&mut self, topic: &str, args: &[Value]) {
        let request = self.request();
        let payload = Payload::of(self.serializer, args, &Dict::new());
        let options = PublishOptions::default();
        self.send(&Message::Publish(Publish {
            request,
            options,
            topic: uri(topic),
            payload,
        }))
        .await;
    }

    /// The arguments of the RESULT to a request.
    pub async fn result(&mut self, request: RequestId) -> Vec<Value> {
        match self.message().await {
            Message::Result(result) => {
                assert_eq!(result.request, request);
                result.payload.values().expect("values").0
            }
            other => panic!("expected RESULT, got {other:?}"),
        }
    }

    /// The arguments of the next EVENT.
    pub async fn event(&mut self) -> Vec<Value> {
        match self.message().await {
            Message::Event(event) => event.payload.values().expect("values").0,
            other => panic!("expected EVENT, got {other:?}"),
        }
    }

    /// The reason of the next message, a GOODBYE or an ABORT.
    pub async fn reason(&mut self) -> String {
        match self.message().await {
            Message::Goodbye(Goodbye { reason, .. }) | Message::Abort(Abort { reason, .. }) => {
                reason.to_string()
            }
            other => panic!("expected GOODBYE or ABORT, got {other:?}"),
        }
    }

    pub async fn goodbye(&mut self, reason: &str) {
        self.send(&Message::Goodbye(Goodbye {
            message: None,
            reason: uri(reason),
        }))
        .await;
    }
}

/// Serialized messages as one batch.
pub fn batch_of(serializer: Serializer, messages: &[Vec<u8>]) -> Vec<u8> {
    let one = |message: &Vec<u8>| match serializer {
        Serializer::Json => [message, &b"\x1e"[..]].concat(),
        _ => [&(message.len() as u32).to_be_bytes()[..], message].concat(),
    };
    messages.iter().flat_map(one).collect()
}

pub fn messages_of(serializer: Serializer, mut batch: Bytes) -> VecDeque<Bytes> {
    let mut messages = VecDeque::new();
    while !batch.is_empty() {
        messages.push_back(match serializer {
            Serializer::Json => {
                let end = batch.iter().position(|&octet| octet == 0x1E);
                let message = batch.split_to(end.expect("0x1E behind each message"));
                batch.advance(1);
                message
            }
            _ => {
                let length = batch.get_u32() as usize;
                batch.split_to(length)
            }
        });
    }
    messages
}

pub fn hello(realm: &str) -> Message {
    let features = Some(ClientFeatures::default());
    let roles = ClientRoles {
        publisher: features,
        subscriber: features,
        caller: features,
        callee: features,
    };
    Message::Hello(Box::new(Hello {
        realm: Some(uri(realm)),
        roles,
        ..Hello::default()
    }))
}

/// Resident memory of a process, in KiB.
#[cfg(target_os = "linux")]
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|text| text.parse().ok())
        .expect("a number of KiB")
}

/// The set of one action, for rules.
pub fn only(action: Action) -> Actions {
    [action].into_iter().collect()
}

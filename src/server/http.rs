//! The HTTP side of a listener: which path is for what, and how long a connection may last.
//!
//! Behind it stand the WebSocket upgrade, the bridge for single publications and calls, server-sent events, WAMP
//! long-poll and the health check.

mod bridge;
mod events;
mod extensions;
mod forwarded;
mod half_closed;
mod login;
mod longpoll;
mod origin;
mod patience;
mod reply;
mod upgrade;
mod wiola;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, VARY,
};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tracing::{debug, info};

use self::bridge::Kind;
use self::forwarded::Sender;
use self::half_closed::{Debt, Debts, Owing};
use self::login::Credentials;
use self::patience::{Held, Patience};
use self::reply::{Failure, Refusal, Reply, body_of};
use self::upgrade::Upgrade;
use super::frames::Framing;
use super::guest::Guest;
use super::hooks::{TransportInfo, peer_name};
use super::listener::{Newcomer, RawParts};
use super::outbox::Stop;
use super::settings::{HttpPath, HttpSettings, LongPollSettings};
use super::stream::Stream;
use crate::core::credentials::AuthMethod;
use crate::core::{Refusal as LoginRefusal, uris};

pub(crate) use self::login::METHODS;
pub(crate) use self::longpoll::LongPolls;
pub(crate) use self::reply::{lacks_tls, unavailable};

/// Serves HTTP until the connection is closed, becomes a WebSocket, or its time is up.
pub(crate) async fn serve(newcomer: Newcomer, stream: Stream) {
    let exchange = Exchange {
        newcomer: &newcomer,
        patience: Patience::new(newcomer.hello_by),
        debts: Arc::default(),
        upgrade: Mutex::new(None),
    };
    if !exchange.run(stream).await {
        return;
    }
    let upgrade = exchange.upgrade.lock().take();
    let Some(Upgrade {
        on,
        subprotocol,
        deflate,
        transport,
    }) = upgrade
    else {
        return;
    };
    let peer = transport.peer_name();
    match on.await {
        Ok(upgraded) => {
            // Down to the stream itself, so that hyper's buffers are freed.
            let Ok(parts) = upgraded.downcast::<TokioIo<Owing>>() else {
                return debug!(%peer, "upgraded connection is not ours");
            };
            let agreed = RawParts {
                framing: Framing::websocket(subprotocol.serializer, subprotocol.batched),
                serializer: subprotocol.serializer,
                // Batched messages have a length of 32 bits.
                limit: newcomer.settings.message.min(u32::MAX as usize),
                deflate,
            };
            newcomer
                .wamp(
                    parts.io.into_inner().into_inner(),
                    parts.read_buf,
                    agreed,
                    transport,
                )
                .await;
        }
        Err(error) => debug!(%peer, "upgrade failed: {error}"),
    }
}

/// One connection, while it speaks HTTP.
struct Exchange<'a> {
    newcomer: &'a Newcomer,
    patience: Arc<Patience>,
    debts: Arc<Debts>,
    upgrade: Mutex<Option<Upgrade>>,
}

/// What a path is for.
enum Place<'h> {
    Bridge(Kind, &'h HttpPath),
    Events(&'h HttpPath),
    /// With what stands behind the configured path.
    LongPoll(&'h LongPollSettings, &'h str),
}

impl<'h> Place<'h> {
    fn find(http: &'h HttpSettings, path: &'h str) -> Option<Self> {
        if let Some(settings) = &http.longpoll
            && let Some(rest) = path.strip_prefix(settings.path.as_str())
            && rest.starts_with('/')
        {
            return Some(Self::LongPoll(settings, rest));
        }
        let publish = http.publish.get(path);
        let call = http.call.get(path);
        publish
            .map(|publish| Self::Bridge(Kind::Publish, publish))
            .or_else(|| call.map(|call| Self::Bridge(Kind::Call, call)))
            .or_else(|| http.events.get(path).map(Self::Events))
    }

    fn methods(&self) -> (Method, &'static str) {
        match self {
            Self::Bridge(..) | Self::LongPoll(..) => (Method::POST, "POST, OPTIONS"),
            Self::Events(_) => (Method::GET, "GET, OPTIONS"),
        }
    }

    /// The path of the bridge.
    fn path(&self) -> Option<&'h HttpPath> {
        match self {
            Self::Bridge(_, path) | Self::Events(path) => Some(path),
            Self::LongPoll(..) => None,
        }
    }
}

impl Exchange<'_> {
    /// Serves requests. True: to the end, and not longer than allowed.
    async fn run(&self, stream: Stream) -> bool {
        let peer = self.peer();
        let service = service_fn(|request| {
            // Before hyper looks for what comes behind the request.
            let debt = self.debt(&request);
            async move {
                let answer = self.answer(request).await;
                drop(debt);
                Ok::<_, Infallible>(answer)
            }
        });
        let owing = Owing::new(stream, self.debts.clone());
        // The time is watched here: hyper needs no timer of its own.
        let exchange = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(owing), service)
            .with_upgrades();
        let mut exchange = pin!(exchange);
        let mut ending = false;
        loop {
            tokio::select! {
                result = &mut exchange => {
                    if let Err(error) = result {
                        info!(%peer, "closed: not a proper HTTP request: {error}");
                        return false;
                    }
                    return true;
                }
                known = self.patience.over() => {
                    match known {
                        true => debug!(%peer, "closed: no further request"),
                        false => info!(%peer, "closed: no HELLO in time (limits.handshake)"),
                    }
                    return false;
                }
                stop = self.newcomer.outbox.stopped(), if !ending => match stop {
                    Stop::Evicted => {
                        info!(%peer, "closed before login: limits.unauthenticated is reached");
                        return false;
                    }
                    Stop::Shutdown if self.patience.is_held() => {
                        ending = true;
                        exchange.as_mut().graceful_shutdown();
                    }
                    Stop::Shutdown => {
                        debug!(%peer, "closed before login: shutting down");
                        return false;
                    }
                },
            }
        }
    }

    /// An answer is owed also to who has closed their sending side, but not where somebody only listens: what they are
    /// sent would be lost if they are gone.
    fn debt(&self, request: &Request<Incoming>) -> Option<Debt> {
        let http = self.newcomer.shared.http();
        let listens = match Place::find(&http, request.uri().path()) {
            Some(Place::Events(_)) => true,
            Some(Place::LongPoll(_, rest)) => rest.ends_with("/receive"),
            Some(Place::Bridge(..)) | None => false,
        };
        (!listens).then(|| self.debts.owe())
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Reply {
        let http = self.newcomer.shared.http();
        if upgrade::asks_for_health(&http, &request) {
            // Told to anybody, however they ask.
            return Refusal::Healthy.reply(&self.peer());
        }
        let sender = match self.sender(&request) {
            Ok(sender) => sender,
            Err(refusal) => return refusal.reply(&self.peer()),
        };
        request.extensions_mut().insert(sender);
        let peer = peer_name(sender.peer);
        let path = request.uri().path().to_owned();
        if let Some(place) = Place::find(&http, &path) {
            let origin = request.headers().get(ORIGIN).cloned();
            // As with a WebSocket, the page may have the browser show who it is; autobahn-js asks for that.
            let credentials = matches!(place, Place::LongPoll(..));
            return match self.admit(&request, &place, &sender) {
                Ok(None) => {
                    let reply = self.at(place, request).await;
                    for_page(reply, origin, credentials)
                }
                Ok(Some(preflight)) => for_page(preflight, origin, credentials),
                Err(refusal) => refusal.reply(&peer),
            };
        }
        match upgrade::route(&self.newcomer.settings, &sender, &request) {
            Ok((mut reply, agreed)) => {
                let mut transport = self.transport("websocket", &request);
                let shared = &self.newcomer.shared;
                let now = shared.clock().now().mono;
                let cookies = shared.cookies();
                cookies.issue(now, &mut transport, sender.secure, reply.headers_mut());
                *self.upgrade.lock() = Some(Upgrade {
                    on: hyper::upgrade::on(&mut request),
                    subprotocol: agreed.subprotocol,
                    deflate: agreed.deflate,
                    transport,
                });
                reply
            }
            Err(refusal) => refusal.reply(&peer),
        }
    }

    /// Who sent the request. Behind a proxy that is somebody else with each, and is counted as they.
    fn sender(&self, request: &Request<Incoming>) -> Result<Sender, Refusal> {
        check_head(request)?;
        let newcomer = self.newcomer;
        let limits = newcomer.shared.limits();
        let sender = Sender::of(newcomer, &limits, request.headers())?;
        if newcomer.settings.forwarded
            && let Some(peer) = sender.peer
        {
            let seat = &newcomer.seat;
            seat.comes_from(&limits, peer.ip()).map_err(Refusal::Full)?;
        }
        Ok(sender)
    }

    async fn at(&self, place: Place<'_>, request: Request<Incoming>) -> Reply {
        match place {
            Place::Bridge(kind, path) => bridge::serve(self, request, kind, path).await,
            Place::Events(path) => events::serve(self, request, path).await,
            Place::LongPoll(settings, rest) => longpoll::serve(self, request, settings, rest).await,
        }
    }

    /// What is decided before the body is looked at; a preflight of a browser is answered here.
    fn admit(
        &self,
        request: &Request<Incoming>,
        place: &Place<'_>,
        sender: &Sender,
    ) -> Result<Option<Reply>, Refusal> {
        let settings = &self.newcomer.settings;
        origin::check_origin(settings, sender, request.headers())?;
        let login = place.path().map(|path| path.auth);
        if matches!(login, Some(None | Some(AuthMethod::Anonymous))) {
            origin::check_host(settings, sender, request)?;
        }
        let (method, allow) = place.methods();
        if request.method() == Method::OPTIONS {
            let mut reply = Response::new(body_of(""));
            *reply.status_mut() = StatusCode::NO_CONTENT;
            let headers = reply.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static(allow));
            headers.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static(allow),
            );
            headers.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("authorization, content-type"),
            );
            return Ok(Some(reply));
        }
        if request.method() != method {
            return Err(Refusal::Method { allow });
        }
        if login == Some(None) && !sender.local {
            let path = request.uri().path().to_owned();
            return Err(Refusal::NotLocal { path });
        }
        Ok(None)
    }

    fn peer(&self) -> String {
        peer_name(self.newcomer.peer)
    }

    /// The whole body of somebody known, up to `limits.message`.
    async fn read_within(&self, time: Duration, body: Incoming) -> Result<Bytes, Failure> {
        let body = self.read_up_to(self.newcomer.settings.message, body);
        let late = |_| {
            Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                uris::TIMEOUT,
                "the body was not here in time",
            )
        };
        tokio::time::timeout(time, body).await.map_err(late)?
    }

    async fn read_up_to(&self, limit: usize, body: Incoming) -> Result<Bytes, Failure> {
        let too_large = || {
            Failure::of_error(
                uris::PAYLOAD_SIZE_EXCEEDED,
                &format!("the body has more than {limit} octets"),
            )
        };
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => Err(Failure::bad_request(&format!(
                "the body is broken: {error}"
            ))),
        }
    }

    /// Logs a request in; from then on the connection is one of somebody known.
    async fn log_in(
        &self,
        path: &HttpPath,
        head: &request::Parts,
        held: &Held,
    ) -> Result<Guest, Failure> {
        let method = path.auth.unwrap_or(AuthMethod::Anonymous);
        let refused = |refusal: &LoginRefusal| {
            let abort = refusal.abort();
            let text = abort.message.unwrap_or_default();
            asking(Failure::of_error(abort.reason, &text), method, path)
        };
        let Some(credentials) = Credentials::of(method, &head.headers) else {
            let realm = path.realm.clone();
            return Err(refused(&LoginRefusal::AuthenticationRequired { realm }));
        };
        let sender = head.extensions.get().copied();
        let transport = self.transport_of("http", head.uri.path(), &head.headers, sender);
        let shared = &self.newcomer.shared;
        let guest = login::log_in(shared, &Arc::new(transport), &path.realm, credentials).await;
        let guest = guest.map_err(|refusal| refused(&refusal))?;
        self.newcomer.seat.settle();
        held.known();
        Ok(guest)
    }

    fn transport<B>(&self, kind: &'static str, request: &Request<B>) -> TransportInfo {
        let path = request.uri().path_and_query();
        let path = path.map_or("/", |path| path.as_str());
        let sender = request.extensions().get().copied();
        self.transport_of(kind, path, request.headers(), sender)
    }

    fn transport_of(
        &self,
        kind: &'static str,
        path: &str,
        headers: &HeaderMap,
        sender: Option<Sender>,
    ) -> TransportInfo {
        let connection = self.newcomer.transport();
        TransportInfo {
            kind,
            path: path.to_owned(),
            headers: joined(headers),
            peer: sender.map_or(connection.peer, |sender| sender.peer),
            ..connection
        }
    }
}

/// Headers that mean something once: who decides by one of two, and we by the other, would be deceived.
const SINGLE: [HeaderName; 7] = [
    HOST,
    ORIGIN,
    AUTHORIZATION,
    CONTENT_TYPE,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("sec-fetch-site"),
];

/// What holds for the head of any request (RFC 9112, 3.2).
fn check_head<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    if SINGLE
        .iter()
        .any(|name| headers.get_all(name).iter().nth(1).is_some())
    {
        let says = "Host, Origin, Authorization, Content-Type and the like stand once.";
        return Err(Refusal::Malformed(says));
    }
    if request.version() >= Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(Refusal::Malformed("A request of HTTP/1.1 has a Host."));
    }
    Ok(())
}

/// By name, the values of one that is repeated in a list, as RFC 9110 (5.3) has it.
fn joined(headers: &HeaderMap) -> Vec<(String, String)> {
    let joined = |name: &HeaderName| {
        let separator = if *name == COOKIE { "; " } else { ", " };
        let values = headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let text = values.collect::<Vec<_>>().join(separator);
        (name.as_str().to_owned(), text)
    };
    headers.keys().map(joined).collect()
}

/// Lets a page that was let in read the answer.
fn for_page(mut reply: Reply, origin: Option<HeaderValue>, credentials: bool) -> Reply {
    if let Some(origin) = origin {
        let headers = reply.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    reply
}

/// Says which credentials would help.
fn asking(failure: Failure, method: AuthMethod, path: &HttpPath) -> Failure {
    if failure.status != StatusCode::UNAUTHORIZED || method == AuthMethod::Anonymous {
        return failure;
    }
    let scheme = match method {
        AuthMethod::Jwt => "Bearer",
        _ => "Basic",
    };
    // A realm's name may hold what a header cannot.
    let challenge = HeaderValue::from_str(&format!("{scheme} realm=\"{}\"", path.realm));
    Failure {
        challenge: challenge.ok(),
        ..failure
    }
}

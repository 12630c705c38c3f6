//! One WAMP session of the client: joining, requests, messages, leaving.

use std::io;
use std::time::Duration;

use anyhow::anyhow;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::failure::{Failure, Farewell, WampError};
use super::flags::{Contents, Settings};
use super::transport::Transport;
use crate::wire::{
    self, Abort, ClientFeatures, ClientRoles, Goodbye, Hello, Message, NESTING, Payload,
    Serializer, Welcome,
};
use crate::words::{Dict, RequestId, Uri, Value};

/// How long connecting and logging in may take: longer than a router's own time-outs for its scripts.
const LOGIN: Duration = Duration::from_secs(20);

/// How long the router may take to answer our GOODBYE.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Session {
    transport: Transport,
    serializer: Serializer,
    requests: u64,
}

impl Session {
    /// Connects and logs in.
    pub(super) async fn join(settings: &Settings) -> Result<Self, Failure> {
        match timeout(LOGIN, Self::enter(settings)).await {
            Ok(joined) => joined,
            Err(_) => Err(Failure::NotConnected(anyhow!(
                "{} does not answer",
                settings.url
            ))),
        }
    }

    async fn enter(settings: &Settings) -> Result<Self, Failure> {
        let serializer = settings.serializer;
        let transport = Transport::connect(&settings.address, serializer, settings.ca.as_deref())
            .await
            .map_err(Failure::NotConnected)?;
        let mut session = Self {
            transport,
            serializer,
            requests: 0,
        };
        session.send(&hello(settings)).await?;
        let mut verifier: Option<String> = None;
        loop {
            match session.next().await? {
                Message::Welcome(welcome) => {
                    let proven = match &verifier {
                        Some(verifier) => proof(&welcome) == Some(verifier.as_str()),
                        None => !settings.credentials.are_mutual(),
                    };
                    return match proven {
                        true => Ok(session),
                        false => Err(Failure::NotConnected(anyhow!(
                            "the router cannot prove that it knows the password"
                        ))),
                    };
                }
                Message::Challenge(challenge) => {
                    let answer = settings
                        .credentials
                        .answer(settings.authid.as_deref(), &challenge)
                        .map_err(Failure::NotConnected)?;
                    verifier = answer.verifier;
                    session.send(&Message::Authenticate(answer.message)).await?;
                }
                Message::Abort(Abort {
                    message, reason, ..
                }) => {
                    let reason = reason.to_string();
                    return Err(Failure::Refused(Farewell { reason, message }));
                }
                other => {
                    let name = other.name();
                    return Err(Failure::NotConnected(anyhow!(
                        "the router answers the login with {name}"
                    )));
                }
            }
        }
    }

    /// Sends a request with options as they are; its answer bears the id handed back.
    pub(super) async fn request(
        &mut self,
        code: u64,
        options: &Dict,
        uri: &str,
        contents: &Contents,
    ) -> Result<RequestId, Failure> {
        self.requests += 1;
        let mut message = vec![
            Value::from(code),
            Value::from(self.requests),
            options.clone().into(),
            Value::from(uri),
        ];
        if !contents.args.is_empty() || !contents.kwargs.is_empty() {
            message.push(contents.args.clone().into());
        }
        if !contents.kwargs.is_empty() {
            message.push(contents.kwargs.clone().into());
        }
        // A message is a list of values, and so are the args of a payload.
        let payload = Payload::of(self.serializer, &message, &Dict::new());
        self.write(payload.tail().to_vec()).await?;
        Ok(RequestId::from_raw(self.requests))
    }

    /// Such a request and its answer. Nothing else may be under way.
    pub(super) async fn ask(
        &mut self,
        code: u64,
        options: &Dict,
        uri: &str,
        contents: &Contents,
    ) -> Result<Message, Failure> {
        let request = self.request(code, options, uri, contents).await?;
        match self.receive().await? {
            Message::Error(error) if error.request == request => {
                Err(Failure::Wamp(WampError::try_from(error)?))
            }
            answer => Ok(answer),
        }
    }

    pub(super) fn serializer(&self) -> Serializer {
        self.serializer
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<(), Failure> {
        let mut octets = Vec::new();
        wire::encode(self.serializer, message, &mut octets)
            .map_err(|error| Failure::Lost(error.into()))?;
        self.write(octets).await
    }

    async fn write(&mut self, octets: Vec<u8>) -> Result<(), Failure> {
        let sent = self.transport.send(self.serializer, octets).await;
        sent.map_err(Failure::Lost)
    }

    /// The next message of the open session. May be given up while it waits.
    pub(super) async fn receive(&mut self) -> Result<Message, Failure> {
        match self.next().await? {
            Message::Goodbye(Goodbye { message, reason }) => {
                let answer = goodbye("wamp.close.goodbye_and_out");
                // The router has ended it, whether or not this still arrives.
                let _ = self.send(&answer).await;
                self.transport.close().await;
                let reason = reason.to_string();
                Err(Failure::Ended(Farewell { reason, message }))
            }
            Message::Abort(Abort {
                message, reason, ..
            }) => {
                let reason = reason.to_string();
                Err(Failure::Ended(Farewell { reason, message }))
            }
            other => Ok(other),
        }
    }

    async fn next(&mut self) -> Result<Message, Failure> {
        let octets = self.transport.receive().await.map_err(Failure::Lost)?;
        Ok(wire::decode(self.serializer, &octets, NESTING)?)
    }

    /// Says GOODBYE, waits for the answer, closes. What was sent before has been handled by then.
    pub(super) async fn leave(mut self) {
        let farewell = async {
            self.send(&goodbye("wamp.close.close_realm")).await?;
            while !matches!(self.next().await?, Message::Goodbye(_)) {}
            self.transport.close().await;
            Ok::<_, Failure>(())
        };
        // It ends here in any case.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// What the router says to prove itself.
fn proof(welcome: &Welcome) -> Option<&str> {
    match welcome.details.lookup("authextra") {
        Some(Value::Map(extra)) => extra.text("verifier"),
        _ => None,
    }
}

fn goodbye(reason: &str) -> Message {
    Message::Goodbye(Goodbye {
        message: None,
        reason: Uri::from(reason),
    })
}

fn hello(settings: &Settings) -> Message {
    let features = ClientFeatures {
        call_canceling: true,
        call_timeout: true,
        progressive_call_results: true,
        subscription_revocation: true,
        registration_revocation: true,
        ..ClientFeatures::default()
    };
    Message::Hello(Box::new(Hello {
        realm: Some(Uri::from(settings.realm.as_str())),
        roles: ClientRoles {
            publisher: Some(features),
            subscriber: Some(features),
            caller: Some(features),
            callee: Some(features),
        },
        agent: Some(concat!("perilune-", env!("CARGO_PKG_VERSION")).into()),
        authmethods: settings.credentials.methods(),
        authid: settings.authid.clone(),
        authrole: settings.authrole.clone(),
        authextra: settings.credentials.extra(),
    }))
}

/// Ctrl-C and SIGTERM, as a wish to leave politely.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for it.
    pub(super) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

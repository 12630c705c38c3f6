//! A session of this process that acts for somebody without a WAMP transport: calls, publishes and subscribes are
//! futures, and the session leaves with its value.
//!
//! Answers and events come in under the realm's lock and are only put down here; what has no room goes back to the
//! core, which decides as for any subscriber.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::realm::{LocalSession, RealmClosed, RealmHandle};
use crate::core::{Input, Join, Then};
use crate::wire::{
    self, Call, CallOptions, CallResult, Message, Payload, Publish, PublishOptions, Subscribe,
    SubscribeOptions, Unsubscribed,
};
use crate::words::{PublicationId, RequestId, SessionId, SubscriptionId, Uri};

/// What an event costs beside its payload.
const ENVELOPE: usize = 100;

/// Why a request of a guest has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unanswered {
    /// The answer was ERROR.
    #[error("{}", .0.error)]
    Error(wire::Error),
    /// The request broke the protocol, which has ended the session.
    #[error("{0}")]
    Violation(String),
    /// The session has ended: it was killed, or the realm was closed.
    #[error("the session has ended")]
    Left,
}

/// See the module. Not to be dropped, nor used, inside a [`LocalSession`] or a step of its realm.
pub struct Guest {
    realm: Arc<RealmHandle>,
    session: SessionId,
    ear: Arc<Ear>,
}

/// The end that the realm talks to.
struct Ear {
    /// Octets of events that may wait.
    queue: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_request: u64,
    asked: FxHashMap<RequestId, oneshot::Sender<Message>>,
    /// EVENTs, and UNSUBSCRIBEDs that nobody asked for.
    news: VecDeque<Message>,
    octets: usize,
    ended: bool,
    waker: Option<Waker>,
}

impl Guest {
    /// Joins; `join.kind` says what it may do, `queue` how many octets of events may wait (an empty queue takes one
    /// event of any size). `join.session` is an id drawn for this; the realm gives it back.
    pub fn join(realm: &Arc<RealmHandle>, join: Join, queue: usize) -> Result<Self, RealmClosed> {
        let session = join.session;
        let ear = Arc::new(Ear {
            queue,
            state: Mutex::default(),
        });
        if let Err(closed) = realm.join_local(join, ear.clone()) {
            realm.ids().release(session);
            return Err(closed);
        }
        Ok(Self {
            realm: realm.clone(),
            session,
            ear,
        })
    }

    pub fn session(&self) -> SessionId {
        self.session
    }

    pub fn realm(&self) -> &Arc<RealmHandle> {
        &self.realm
    }

    /// Calls; the final result. Progressive ones are not asked for. A call whose future is dropped goes on until the
    /// guest leaves.
    pub async fn call(
        &self,
        procedure: Uri,
        options: CallOptions,
        payload: Payload,
    ) -> Result<CallResult, Unanswered> {
        let options = CallOptions {
            receive_progress: false,
            progress: false,
            ..options
        };
        let call = |request| {
            Message::Call(Call {
                request,
                options,
                procedure,
                payload,
            })
        };
        match self.request(call).await? {
            Message::Result(result) => Ok(result),
            _ => Err(Unanswered::Left),
        }
    }

    /// Publishes, acknowledged whatever the options say.
    pub async fn publish(
        &self,
        topic: Uri,
        options: PublishOptions,
        payload: Payload,
    ) -> Result<PublicationId, Unanswered> {
        let options = PublishOptions {
            acknowledge: true,
            ..options
        };
        let publish = |request| {
            Message::Publish(Publish {
                request,
                options,
                topic,
                payload,
            })
        };
        match self.request(publish).await? {
            Message::Published(published) => Ok(published.publication),
            _ => Err(Unanswered::Left),
        }
    }

    /// Subscribes; the events come by [`Guest::news`].
    pub async fn subscribe(
        &self,
        topic: Uri,
        options: SubscribeOptions,
    ) -> Result<SubscriptionId, Unanswered> {
        let subscribe = |request| {
            Message::Subscribe(Subscribe {
                request,
                options,
                topic,
            })
        };
        match self.request(subscribe).await? {
            Message::Subscribed(subscribed) => Ok(subscribed.subscription),
            _ => Err(Unanswered::Left),
        }
    }

    /// What comes unasked: EVENT, and UNSUBSCRIBED where a subscription was revoked. `None`: the session has ended.
    /// One task at a time may wait.
    pub async fn news(&self) -> Option<Message> {
        std::future::poll_fn(|cx| self.poll_news(cx)).await
    }

    /// [`Guest::news`] for streams.
    pub fn poll_news(&self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut state = self.ear.state.lock();
        if let Some(message) = state.news.pop_front() {
            state.octets -= size(&message);
            return Poll::Ready(Some(message));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Sends a request and waits for its answer.
    async fn request(
        &self,
        message: impl FnOnce(RequestId) -> Message,
    ) -> Result<Message, Unanswered> {
        // Ids are drawn in the step itself: requests reach the realm in the order of their ids.
        let answer = self.realm.step(|step| {
            let (request, answer) = self.ear.ask()?;
            step.input(Input::Message {
                session: self.session,
                message: message(request),
            });
            Some(answer)
        });
        match answer.ok_or(Unanswered::Left)?.await {
            Ok(Message::Error(error)) => Err(Unanswered::Error(error)),
            Ok(Message::Abort(abort)) => {
                Err(Unanswered::Violation(abort.message.unwrap_or_default()))
            }
            Ok(message) => Ok(message),
            Err(_) => Err(Unanswered::Left),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.ear.state.lock().ended {
            let session = self.session;
            // This may be the unwinding of a panic, and a second one would end the process.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.realm.input(Input::Leave { session });
            }));
        }
    }
}

impl Ear {
    /// A request id, and where its answer will be.
    fn ask(&self) -> Option<(RequestId, oneshot::Receiver<Message>)> {
        let mut state = self.state.lock();
        if state.ended {
            return None;
        }
        state.last_request += 1;
        let request = RequestId::from_raw(state.last_request);
        let (answer, receiver) = oneshot::channel();
        state.asked.insert(request, answer);
        Some((request, receiver))
    }
}

impl LocalSession for Ear {
    fn deliver(&self, message: Message) -> Result<(), Message> {
        let mut state = self.state.lock();
        let request = match &message {
            Message::Result(result) if result.progress => return Ok(()),
            Message::Result(result) => result.request,
            Message::Error(error) => error.request,
            Message::Published(published) => published.request,
            Message::Subscribed(subscribed) => subscribed.request,
            Message::Event(_) | Message::Unsubscribed(Unsubscribed::Revoked { .. }) => {
                let octets = size(&message);
                let revoked = matches!(message, Message::Unsubscribed(_));
                if !state.news.is_empty() && state.octets + octets > self.queue && !revoked {
                    return Err(message);
                }
                state.octets += octets;
                state.news.push_back(message);
                let waker = state.waker.take();
                drop(state);
                waker.into_iter().for_each(Waker::wake);
                return Ok(());
            }
            // Whoever has broken the protocol is one of those who ask.
            Message::Abort(_) => {
                for (_, answer) in state.asked.drain() {
                    let _ = answer.send(message.clone());
                }
                return Ok(());
            }
            // A guest has no procedures: nobody is there to answer.
            Message::Invocation(_) => return Err(message),
            _ => return Ok(()),
        };
        if let Some(answer) = state.asked.remove(&request) {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(message);
        }
        Ok(())
    }

    fn ended(&self, _: Then) {
        let mut state = self.state.lock();
        state.ended = true;
        state.asked.clear();
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Event(event) => ENVELOPE + event.payload.len(),
        _ => ENVELOPE,
    }
}

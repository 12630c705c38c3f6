//! Server-sent events: `GET` subscribes, and the events follow in the body for as long as somebody reads it.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request;
use hyper::{Request, Response};
use rustc_hash::FxHashMap;
use tokio::time::{Instant, Sleep, timeout};

use super::Exchange;
use super::patience::Held;
use super::reply::{Failure, Reply, object, text_of};
use crate::core::uris;
use crate::server::guest::Guest;
use crate::server::settings::HttpPath;
use crate::server::timer::timer;
use crate::wire::{
    Event, JsonWriter, Message, SubscribeOptions, TokenWriter, Unsubscribed, write_dict,
};
use crate::words::{Dict, Id, MatchPolicy, SubscriptionId, Uri};

/// Without events, a comment goes out this often: proxies close what is silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Topics of one request.
const TOPICS: usize = 100;

pub(super) async fn serve(
    exchange: &Exchange<'_>,
    request: Request<Incoming>,
    path: &HttpPath,
) -> Reply {
    let (head, _) = request.into_parts();
    match open(exchange, &head, path).await {
        Ok(stream) => stream.reply(),
        Err(failure) => failure.reply(),
    }
}

async fn open(
    exchange: &Exchange<'_>,
    head: &request::Parts,
    path: &HttpPath,
) -> Result<EventStream, Failure> {
    let query = head.uri.query().unwrap_or_default();
    let (topics, match_policy) = wanted(query).map_err(|text| Failure::bad_request(&text))?;
    let held = exchange.patience.hold();
    let guest = exchange.log_in(path, head, &held).await?;
    let mut subscriptions = FxHashMap::default();
    for topic in topics {
        let options = SubscribeOptions {
            match_policy,
            ..SubscribeOptions::default()
        };
        let subscribed = timeout(path.timeout, guest.subscribe(topic.clone(), options)).await;
        let subscribed = subscribed.map_err(|_| {
            Failure::of_error(uris::TIMEOUT, "the subscription was not answered in time")
        })?;
        subscriptions.insert(subscribed?, topic);
    }
    Ok(EventStream {
        guest,
        subscriptions,
        greeted: false,
        silence: timer(Instant::now() + KEEP_ALIVE),
        _held: held,
    })
}

/// `topic`, once or more, and `match`, which holds for all.
fn wanted(query: &str) -> Result<(Vec<Uri>, MatchPolicy), String> {
    let (mut topics, mut policy) = (Vec::new(), MatchPolicy::default());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unescaped(value).ok_or_else(|| format!("{name:?} is not escaped UTF-8"))?;
        match name {
            "topic" => topics.push(Uri::from(value.as_str())),
            "match" => {
                policy =
                    MatchPolicy::parse(&value).ok_or("match must be exact, prefix or wildcard")?;
            }
            _ => return Err(format!("unknown parameter {name:?}; valid: topic, match")),
        }
    }
    match topics.len() {
        0 => Err("the query needs a topic: ?topic=sensor.events".into()),
        1..=TOPICS => Ok((topics, policy)),
        _ => Err(format!("more than {TOPICS} topics")),
    }
}

/// `%2E` and `+` as browsers and curl write them.
fn unescaped(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                u8::from_str_radix(digits, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

/// The body of the answer; the session leaves with it.
struct EventStream {
    guest: Guest,
    subscriptions: FxHashMap<SubscriptionId, Uri>,
    greeted: bool,
    silence: Pin<Box<Sleep>>,
    _held: Held,
}

impl EventStream {
    fn reply(self) -> Reply {
        let chunks = stream::unfold(self, |mut events| async {
            let chunk = events.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(chunk)), events))
        });
        let mut reply = Response::new(StreamBody::new(chunks).boxed_unsync());
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // For nginx, which would gather events otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        reply
    }

    /// The next piece of the body; `None`: the session, or its last subscription, has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(Bytes::from_static(b": subscribed\n\n"));
        }
        loop {
            let news = tokio::select! {
                news = self.guest.news() => news?,
                () = &mut self.silence => {
                    self.silence.as_mut().reset(Instant::now() + KEEP_ALIVE);
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
            };
            match news {
                Message::Event(event) => {
                    if let Some(chunk) = self.written(&event) {
                        return Some(chunk.into());
                    }
                }
                Message::Unsubscribed(Unsubscribed::Revoked { subscription, .. }) => {
                    self.subscriptions.remove(&subscription);
                    if self.subscriptions.is_empty() {
                        return None;
                    }
                }
                _ => {}
            }
        }
    }

    /// `None`: not for us, or nothing that JSON can say.
    fn written(&self, event: &Event) -> Option<Vec<u8>> {
        let subscribed = self.subscriptions.get(&event.subscription)?;
        let topic = event.details.topic.as_ref().unwrap_or(subscribed);
        let (args, kwargs) = text_of(&event.payload).ok()?;
        let mut name = Vec::new();
        JsonWriter::new(&mut name).str(topic.as_str());
        let mut details = Vec::new();
        write_dict(&mut JsonWriter::new(&mut details), &details_of(event));
        let data = object(&[
            ("topic", &name),
            ("args", &args),
            ("kwargs", &kwargs),
            ("details", &details),
        ]);
        let id = event.publication.value();
        let mut chunk = format!("id: {id}\nevent: {topic}\ndata: ").into_bytes();
        // A publisher may have written JSON in several lines; line ends stand between its tokens only.
        chunk.extend(data.into_iter().map(|octet| match octet {
            b'\n' | b'\r' => b' ',
            other => other,
        }));
        chunk.extend(b"\n\n");
        Some(chunk)
    }
}

fn details_of(event: &Event) -> Dict {
    let mut details = Dict::new();
    if let Some(publisher) = &event.details.publisher {
        details = details
            .with("publisher", publisher.session.value())
            .with("publisher_authid", publisher.authid.as_str())
            .with("publisher_authrole", publisher.authrole.as_str());
    }
    if let Some(level) = event.details.trustlevel {
        details = details.with("trustlevel", level);
    }
    match event.details.retained {
        true => details.with("retained", true),
        false => details,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_topics_and_how_they_match() {
        let (topics, policy) = wanted("topic=a.b&topic=caf%C3%A9&match=prefix").unwrap();
        assert_eq!(topics, [Uri::from("a.b"), Uri::from("caf\u{e9}")]);
        assert_eq!(policy, MatchPolicy::Prefix);
        assert_eq!(wanted("topic=a").unwrap().1, MatchPolicy::Exact);
        for query in [
            "",
            "match=prefix",
            "topic=a&match=fuzzy",
            "topic=%f",
            "topic=%ff",
            "x=1",
        ] {
            assert!(wanted(query).is_err(), "{query}");
        }
    }
}

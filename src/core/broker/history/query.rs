//! `wamp.subscription.get_events`: its arguments, what they choose, and how it is told (`HIS-03` to `HIS-10`).

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};

use super::*;
use crate::wire::{CborWriter, JsonWriter, MsgPackWriter, Serializer, TokenWriter, write_dict};
use crate::words::{Dict, Id, Value};

/// One call, its arguments checked.
#[derive(Debug)]
pub(in crate::core) struct Query {
    pub(in crate::core) subscription: SubscriptionId,
    reverse: bool,
    limit: usize,
    times: Vec<(Bound, DateTime<Utc>)>,
    publications: Vec<(Bound, PublicationId)>,
    topic: Option<String>,
}

/// Which side of a time or an event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// It and later.
    From,
    After,
    Before,
    /// It and earlier.
    Until,
}

impl Bound {
    const ALL: [(&'static str, Self); 4] = [
        ("from", Self::From),
        ("after", Self::After),
        ("before", Self::Before),
        ("until", Self::Until),
    ];

    fn admits<T: PartialOrd>(self, value: T, bound: T) -> bool {
        match self {
            Self::From => value >= bound,
            Self::After => value > bound,
            Self::Before => value < bound,
            Self::Until => value <= bound,
        }
    }
}

impl Query {
    /// `HIS-09`: the text says what is wrong. Null counts as absent, unknown keywords are ignored.
    pub(in crate::core) fn parse(args: &[Value], kwargs: &Dict) -> Result<Self, String> {
        let [subscription] = args else {
            let count = args.len();
            return Err(format!(
                "expected one argument, the subscription, not {count}"
            ));
        };
        let mut query = Self {
            subscription: id(subscription).ok_or("the subscription must be an id")?,
            reverse: false,
            limit: usize::MAX,
            times: Vec::new(),
            publications: Vec::new(),
            topic: None,
        };
        for (key, value) in kwargs.0.iter().filter(|(_, value)| *value != Value::Null) {
            query.option(key, value)?;
        }
        Ok(query)
    }

    fn option(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let wrong = |expected: &str| format!("{key} must be {expected}");
        match key {
            "reverse" => match value {
                Value::Bool(reverse) => self.reverse = *reverse,
                _ => return Err(wrong("true or false")),
            },
            "limit" => {
                let limit = integer(value).filter(|limit| *limit >= 1);
                let limit = limit.ok_or_else(|| wrong("an integer of at least 1"))?;
                self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
            }
            "topic" => {
                let topic = value.as_str().ok_or_else(|| wrong("a URI"))?;
                self.topic = Some(topic.to_owned());
            }
            _ => {
                for (name, bound) in Bound::ALL {
                    match key.strip_prefix(name) {
                        Some("_time") => {
                            let time = value.as_str().and_then(time);
                            let time = time.ok_or_else(|| wrong("a time as in RFC 3339"))?;
                            self.times.push((bound, time));
                        }
                        Some("_publication") => {
                            let publication = id(value).ok_or_else(|| wrong("an id"))?;
                            self.publications.push((bound, publication));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// A non-negative integer; a float that is one counts (`ID-14`).
fn integer(value: &Value) -> Option<u64> {
    match *value {
        Value::Int(number) => u64::try_from(number).ok(),
        Value::Uint(number) => Some(number),
        Value::Float(number) if number.fract() == 0.0 && (0.0..=9e15).contains(&number) => {
            Some(number as u64)
        }
        _ => None,
    }
}

fn id<T: Id>(value: &Value) -> Option<T> {
    T::new(integer(value)?).ok()
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.with_timezone(&Utc))
}

fn time_of(event: &KeptEvent) -> DateTime<Utc> {
    (SystemTime::UNIX_EPOCH + Duration::from_millis(event.timestamp)).into()
}

impl History {
    /// What the query chooses of that which this session may see (`HIS-13`).
    fn choose(&self, query: &Query, session: &Session, now: Now) -> Vec<&KeptEvent> {
        let visible = |entry: &&Entry| {
            let lists = entry.event.audience.as_deref();
            !entry.awaited
                && entry.expires.is_none_or(|at| at > now.mono)
                && lists
                    .is_none_or(|lists| super::super::audience::Lists::new(lists).include(session))
        };
        let events: Vec<&KeptEvent> = self
            .entries
            .iter()
            .filter(visible)
            .map(|entry| &*entry.event)
            .collect();
        let mut bounds = Vec::new();
        for (bound, publication) in &query.publications {
            match events
                .iter()
                .position(|event| event.publication == *publication)
            {
                Some(at) => bounds.push((*bound, at)),
                None => return Vec::new(), // HIS-10
            }
        }
        let chosen = events.into_iter().enumerate().filter(|(at, event)| {
            bounds.iter().all(|(bound, limit)| bound.admits(at, limit))
                && query
                    .times
                    .iter()
                    .all(|(bound, limit)| bound.admits(time_of(event), *limit))
                && query
                    .topic
                    .as_deref()
                    .is_none_or(|topic| topic == event.topic.as_str())
        });
        let chosen = chosen.map(|(_, event)| event);
        // HIS-05: counted from where the traversal begins.
        if query.reverse {
            chosen.rev().take(query.limit).collect()
        } else {
            chosen.take(query.limit).collect()
        }
    }
}

impl Broker {
    /// `HIS-03`: Arguments of the RESULT. Events that the serializer cannot carry are left out (`MSG-17`). As many as the
    /// caller's transport takes; the keyword `more` says that there are others.
    pub(in crate::core) fn events(
        &self,
        query: &Query,
        session: &Session,
        serializer: Serializer,
        now: Now,
    ) -> Payload {
        let subscription = self.subscriptions.get(&query.subscription);
        let Some((subscription, history)) =
            subscription.and_then(|s| Some((s, s.history.as_ref()?)))
        else {
            return Payload::none();
        };
        let room = session.message.min(MOST).saturating_sub(ENVELOPE);
        let mut written = Vec::new();
        let (mut octets, mut more) = (0, false);
        for event in history.choose(query, session, now) {
            let Ok(payload) = event.payload.transcode(serializer) else {
                continue;
            };
            let told = Told {
                subscription: query.subscription,
                names_topic: subscription.match_policy != MatchPolicy::Exact,
                event,
                payload,
            };
            let entry = told.written(serializer);
            octets += entry.len() + 1;
            // The first goes alone; if it is too large by itself, the caller is told so.
            more = octets > room && !written.is_empty();
            if more {
                break;
            }
            written.push(entry);
        }
        if written.is_empty() {
            return Payload::none();
        }
        let kwargs = match more {
            true => Dict::new().with("more", true),
            false => Dict::new(),
        };
        Payload::of_written(serializer, &written, &kwargs)
    }
}

/// Octets of events in one answer, whatever the caller takes: they are written while the realm waits.
const MOST: usize = 8 << 20;
/// What a RESULT has beside the events.
const ENVELOPE: usize = 128;

/// One event as it is told.
struct Told<'a> {
    subscription: SubscriptionId,
    names_topic: bool,
    event: &'a KeptEvent,
    payload: Payload,
}

impl Told<'_> {
    fn written(&self, serializer: Serializer) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + 256);
        match serializer {
            Serializer::Json => self.to(&mut JsonWriter::new(&mut out)),
            Serializer::MsgPack => self.to(&mut MsgPackWriter::new(&mut out)),
            Serializer::Cbor => self.to(&mut CborWriter::new(&mut out)),
        }
        out
    }

    fn to(&self, w: &mut impl TokenWriter) {
        w.map(Some(4 + self.payload.elements()));
        w.str("timestamp");
        w.str(&time_of(self.event).to_rfc3339_opts(SecondsFormat::Millis, true));
        w.str("subscription");
        w.uint(self.subscription.value());
        w.str("publication");
        w.uint(self.event.publication.value());
        w.str("details");
        write_dict(w, &details(self.event, self.names_topic));
        for (key, octets) in [
            ("args", self.payload.args()),
            ("kwargs", self.payload.kwargs()),
        ] {
            if let Some(octets) = octets {
                w.str(key);
                w.raw(octets, 1);
            }
        }
        w.end();
    }
}

/// EVENT.Details, as they were for subscribers.
fn details(event: &KeptEvent, names_topic: bool) -> Dict {
    let mut details = Dict::new();
    if let Some(publisher) = &event.publisher {
        details = details
            .with("publisher", publisher.session.value())
            .with("publisher_authid", publisher.authid.as_str())
            .with("publisher_authrole", publisher.authrole.as_str());
    }
    if let Some(trustlevel) = event.trustlevel {
        details = details.with("trustlevel", trustlevel);
    }
    if names_topic {
        details = details.with("topic", event.topic.as_str());
    }
    if let Some(passthru) = &event.passthru {
        details = details.with("ppt_scheme", passthru.scheme.as_str());
        for (key, value) in [
            ("ppt_serializer", &passthru.serializer),
            ("ppt_cipher", &passthru.cipher),
            ("ppt_keyid", &passthru.keyid),
        ] {
            if let Some(value) = value {
                details = details.with(key, value.as_str());
            }
        }
    }
    details
}

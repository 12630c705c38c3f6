//! A kept event as octets: a version, the length of the head, the head (MsgPack), and the payload as it came.

use serde::{Deserialize, Serialize};

use crate::core::KeptEvent;
use crate::wire::{Audience, Disclosed, Passthru, Payload, Serializer};
use crate::words::{Id, PublicationId, SessionId};

const VERSION: u8 = 1;

/// All but the payload's octets. Written as a list: only ever add at the end, with a default.
#[derive(Serialize, Deserialize)]
struct Head {
    publication: u64,
    timestamp: u64,
    topic: String,
    publisher: Option<(u64, String, String)>,
    trustlevel: Option<u64>,
    audience: Option<Lists>,
    passthru: Option<Ppt>,
    serializer: u8,
    args_end: usize,
    kwargs_start: usize,
}

#[derive(Serialize, Deserialize)]
struct Lists {
    exclude_authid: Option<Vec<String>>,
    exclude_authrole: Option<Vec<String>>,
    eligible_authid: Option<Vec<String>>,
    eligible_authrole: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Ppt {
    scheme: String,
    serializer: Option<String>,
    cipher: Option<String>,
    keyid: Option<String>,
}

/// The row of an event.
pub fn write(event: &KeptEvent) -> Vec<u8> {
    let payload = &event.payload;
    let head = Head {
        publication: event.publication.value(),
        timestamp: event.timestamp,
        topic: event.topic.to_string(),
        publisher: event.publisher.as_deref().map(|publisher| {
            let Disclosed {
                session,
                authid,
                authrole,
            } = publisher.clone();
            (session.value(), authid, authrole)
        }),
        trustlevel: event.trustlevel,
        audience: event.audience.as_deref().map(|lists| Lists {
            exclude_authid: lists.exclude_authid.clone(),
            exclude_authrole: lists.exclude_authrole.clone(),
            eligible_authid: lists.eligible_authid.clone(),
            eligible_authrole: lists.eligible_authrole.clone(),
        }),
        passthru: event.passthru.as_deref().map(|passthru| Ppt {
            scheme: passthru.scheme.clone(),
            serializer: passthru.serializer.clone(),
            cipher: passthru.cipher.clone(),
            keyid: passthru.keyid.clone(),
        }),
        serializer: payload.serializer() as u8,
        args_end: payload.args().map_or(0, <[u8]>::len),
        kwargs_start: payload.len() - payload.kwargs().map_or(0, <[u8]>::len),
    };
    let head = rmp_serde::to_vec(&head).expect("plain data can be written");
    let mut octets = vec![VERSION];
    octets.extend_from_slice(&(head.len() as u32).to_be_bytes());
    octets.extend_from_slice(&head);
    octets.extend_from_slice(payload.tail());
    octets
}

/// `None`: not ours, or of a later version.
pub fn read(octets: &[u8]) -> Option<KeptEvent> {
    let (&version, rest) = octets.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (head, tail) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let head: Head = rmp_serde::from_slice(head)
        .ok()
        .filter(|_| version == VERSION)?;
    let Head {
        args_end,
        kwargs_start,
        ..
    } = head;
    let serializer = Serializer::ALL
        .into_iter()
        .find(|known| *known as u8 == head.serializer)?;
    if args_end > kwargs_start || kwargs_start > tail.len() {
        return None;
    }
    let publisher = match head.publisher {
        Some((session, authid, authrole)) => Some(Box::new(Disclosed {
            session: SessionId::new(session).ok()?,
            authid,
            authrole,
        })),
        None => None,
    };
    Some(KeptEvent {
        publication: PublicationId::new(head.publication).ok()?,
        timestamp: head.timestamp,
        topic: head.topic.into(),
        publisher,
        trustlevel: head.trustlevel,
        audience: head.audience.map(|lists| {
            Box::new(Audience {
                exclude_authid: lists.exclude_authid,
                exclude_authrole: lists.exclude_authrole,
                eligible_authid: lists.eligible_authid,
                eligible_authrole: lists.eligible_authrole,
                ..Audience::default()
            })
        }),
        passthru: head.passthru.map(|ppt| {
            Box::new(Passthru {
                scheme: ppt.scheme,
                serializer: ppt.serializer,
                cipher: ppt.cipher,
                keyid: ppt.keyid,
            })
        }),
        payload: Payload::from_parts(serializer, tail.to_vec().into(), args_end, kwargs_start),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Dict, Value};

    fn event(payload: Payload) -> KeptEvent {
        KeptEvent {
            publication: PublicationId::from_raw(4711),
            timestamp: 1_700_000_000_123,
            topic: "a.b".into(),
            publisher: None,
            trustlevel: None,
            audience: None,
            passthru: None,
            payload,
        }
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let kwargs = Dict::new().with("k", 1_u64);
        let args = [Value::Bytes(vec![0, 255].into()), Value::Null];
        for serializer in Serializer::ALL {
            for payload in [
                Payload::none(),
                Payload::of(serializer, &args, &Dict::new()),
                Payload::of(serializer, &args, &kwargs),
            ] {
                let plain = event(payload);
                assert_eq!(read(&write(&plain)).as_ref(), Some(&plain));
                let full = KeptEvent {
                    publisher: Some(Box::new(Disclosed {
                        session: SessionId::from_raw(1),
                        authid: "joe".into(),
                        authrole: "user".into(),
                    })),
                    trustlevel: Some(3),
                    audience: Some(Box::new(Audience {
                        eligible_authid: Some(vec!["ann".into()]),
                        exclude_authrole: Some(vec![]),
                        ..Audience::default()
                    })),
                    passthru: Some(Box::new(Passthru {
                        scheme: "x_mine".into(),
                        cipher: Some("xsalsa20poly1305".into()),
                        ..Passthru::default()
                    })),
                    ..plain
                };
                assert_eq!(read(&write(&full)), Some(full));
            }
        }
    }

    #[test]
    fn other_octets_are_no_event() {
        let octets = write(&event(Payload::of(
            Serializer::Cbor,
            &[Value::Null],
            &Dict::new(),
        )));
        for len in 0..octets.len() {
            // A head may be whole while the payload is cut; its bounds then say so.
            assert_eq!(read(&octets[..len]), None, "{len} octets");
        }
        let mut later = octets;
        later[0] = 2;
        assert_eq!(read(&later), None);
    }
}

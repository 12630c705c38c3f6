//! Any octets, as the frames of a peer: cut the same way wherever reads end, and never beyond the limit, compressed or
//! not.

use bytes::BytesMut;
use perilune::server::frames::{FrameError, FrameReader, Framing, Incoming, Window};

pub fn rawsocket(octets: &[u8]) {
    cut(octets, |_| Framing::RawSocket);
}

pub fn websocket(octets: &[u8]) {
    cut(octets, |text| Framing::WebSocket { text });
}

pub fn batched(octets: &[u8]) {
    cut(octets, |text| Framing::Batched { text });
}

/// The first octet says text or binary, the limit, and whether and how messages may be compressed; the second how long reads are; the rest is what the peer sends.
fn cut(octets: &[u8], framing: impl Fn(bool) -> Framing) {
    let [kind, step, rest @ ..] = octets else {
        return;
    };
    let framing = framing(kind & 1 == 1);
    let limit = 16 << (kind >> 4);
    let window = (kind & 2 == 2).then_some(Window {
        bits: if kind & 8 == 8 { 9 } else { 15 },
        takeover: kind & 4 == 4,
    });
    let reader = || {
        let reader = FrameReader::new(framing, limit);
        match window {
            Some(window) => reader.inflating(window),
            None => reader,
        }
    };
    let whole = read(reader(), &[rest]);
    let reads: Vec<&[u8]> = rest.chunks(usize::from(*step).max(1)).collect();
    assert_eq!(whole, read(reader(), &reads));
    for incoming in &whole.0 {
        let length = match incoming {
            Incoming::Message(octets) | Incoming::Ping(octets) => octets.len(),
            Incoming::Pong | Incoming::Close(_) => 0,
        };
        assert!(
            length <= limit.max(125),
            "{length} octets, the limit is {limit}"
        );
    }
    if let Some(error) = &whole.1 {
        assert!(matches!(error.close_code(), 1002 | 1007 | 1009));
    }
}

fn read(mut reader: FrameReader, reads: &[&[u8]]) -> (Vec<Incoming>, Option<FrameError>) {
    let mut input = BytesMut::new();
    let mut heard = Vec::new();
    for octets in reads {
        input.extend_from_slice(octets);
        loop {
            match reader.next(&mut input) {
                Ok(Some(incoming)) => heard.push(incoming),
                Ok(None) => break,
                Err(error) => return (heard, Some(error)),
            }
        }
    }
    (heard, None)
}

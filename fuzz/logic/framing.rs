//! Any octets, as the frames of a peer: cut the same way wherever reads end, and never beyond the limit.

use bytes::BytesMut;
use perilune::server::frames::{FrameError, FrameReader, Framing, Incoming};

pub fn rawsocket(octets: &[u8]) {
    cut(octets, |_| Framing::RawSocket);
}

pub fn websocket(octets: &[u8]) {
    cut(octets, |text| Framing::WebSocket { text });
}

pub fn batched(octets: &[u8]) {
    cut(octets, |text| Framing::Batched { text });
}

/// The first octet says text or binary, the second how long reads are; the rest is what the peer sends.
fn cut(octets: &[u8], framing: impl Fn(bool) -> Framing) {
    let [kind, step, rest @ ..] = octets else {
        return;
    };
    let framing = framing(kind & 1 == 1);
    let limit = 16 << (kind >> 4);
    let whole = read(framing, limit, &[rest]);
    let reads: Vec<&[u8]> = rest.chunks(usize::from(*step).max(1)).collect();
    assert_eq!(whole, read(framing, limit, &reads));
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

fn read(framing: Framing, limit: usize, reads: &[&[u8]]) -> (Vec<Incoming>, Option<FrameError>) {
    let (mut reader, mut input) = (FrameReader::new(framing, limit), BytesMut::new());
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

//! RawSocket: the handshake of four octets and frames with a length of 24 bits (conformance section 22, `RS-*`).
//! No I/O.

use bytes::{Buf, BytesMut};

use super::frames::{FrameError, Header, Incoming};
use crate::wire::Serializer;

pub(crate) const MAGIC: u8 = 0x7F;
pub(crate) const MESSAGE: u8 = 0;
pub(crate) const PING: u8 = 1;
pub(crate) const PONG: u8 = 2;

/// The largest payload a frame can carry; its length is written as the bit X and 24 zeros (`RS-08`).
pub(crate) const MAX: usize = 1 << 24;

/// What a client asked for in its four octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) serializer: Serializer,
    /// The largest message the client receives.
    pub(crate) limit: usize,
}

/// Why a handshake is refused, with the code that tells the client (`RS-03`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("serializer not offered here")]
    Serializer = 1,
    #[error("reserved octets are not zero")]
    Reserved = 3,
    #[error("too many connections")]
    Connections = 4,
}

impl HandshakeError {
    /// The four octets of the refusal.
    pub(crate) fn reply(self) -> [u8; 4] {
        [MAGIC, (self as u8) << 4, 0, 0]
    }
}

/// Reads the client's octets behind the magic one, in the order of checks of `RS-05`.
pub(crate) fn offer(octets: [u8; 3], allowed: &[Serializer]) -> Result<Offer, HandshakeError> {
    let [first, reserved @ ..] = octets;
    if reserved != [0, 0] {
        return Err(HandshakeError::Reserved);
    }
    let serializer = match first & 0x0F {
        1 => Serializer::Json,
        2 => Serializer::MsgPack,
        3 => Serializer::Cbor,
        _ => return Err(HandshakeError::Serializer),
    };
    if !allowed.contains(&serializer) {
        return Err(HandshakeError::Serializer);
    }
    Ok(Offer {
        serializer,
        limit: 512 << (first >> 4),
    })
}

/// The acceptance: our own limit, the client's serializer (`RS-02`).
pub(crate) fn accept(serializer: Serializer, limit: usize) -> [u8; 4] {
    let code = match serializer {
        Serializer::Json => 1,
        Serializer::MsgPack => 2,
        Serializer::Cbor => 3,
    };
    [MAGIC, exponent(limit) << 4 | code, 0, 0]
}

/// The largest announceable limit that is not above `message`; the smallest one is 512 octets.
pub(crate) fn announced(message: usize) -> usize {
    512 << exponent(message)
}

fn exponent(limit: usize) -> u8 {
    (limit.clamp(512, MAX).ilog2() - 9) as u8
}

/// The header of one frame.
pub(crate) fn header(kind: u8, len: usize) -> Header {
    let extended = if len == MAX { 0x08 } else { 0 };
    let [_, high, middle, low] = (len as u32).to_be_bytes();
    Header::new(&[
        kind | extended,
        if len == MAX { 0 } else { high },
        middle,
        low,
    ])
}

/// A whole frame.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(kind, payload.len()).as_slice().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// The incoming side.
#[derive(Debug)]
pub(crate) struct Reader {
    limit: usize,
}

impl Reader {
    /// `limit`: as announced.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit }
    }

    /// See `FrameReader::set_limit`.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// See `FrameReader::next`.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        let Some(&[first, high, middle, low]) = input.first_chunk() else {
            return Ok(None);
        };
        if first & 0xF0 != 0 {
            return Err(FrameError::RawSocket("reserved bits are set"));
        }
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let length = match (first & 0x08 != 0, length) {
            (false, length) => length,
            (true, 0) => MAX,
            (true, _) => return Err(FrameError::RawSocket("bit X is set beside a length")),
        };
        if length > self.limit {
            return Err(FrameError::TooLarge {
                size: length as u64,
                limit: self.limit,
            });
        }
        let kind = first & 0x07;
        if kind > PONG {
            return Err(FrameError::RawSocket("reserved frame type"));
        }
        if input.len() < 4 + length {
            return Ok(None);
        }
        input.advance(4);
        let payload = input.split_to(length).freeze();
        Ok(Some(match kind {
            MESSAGE => Incoming::Message(payload),
            PING => Incoming::Ping(payload),
            _ => Incoming::Pong,
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const ALL: &[Serializer] = &Serializer::ALL;

    fn read(limit: usize, octets: &[u8]) -> Result<Option<Incoming>, FrameError> {
        Reader::new(limit).next(&mut BytesMut::from(octets))
    }

    #[test]
    fn rs_01_lengths_and_serializers() {
        assert_eq!(
            offer([0x01, 0, 0], ALL),
            Ok(Offer {
                serializer: Serializer::Json,
                limit: 512
            })
        );
        assert_eq!(
            offer([0xF2, 0, 0], ALL),
            Ok(Offer {
                serializer: Serializer::MsgPack,
                limit: 16_777_216
            })
        );
        assert_eq!(
            offer([0x73, 0, 0], ALL),
            Ok(Offer {
                serializer: Serializer::Cbor,
                limit: 65_536
            })
        );
    }

    #[test]
    fn rs_02_acceptance() {
        assert_eq!(accept(Serializer::Json, 1 << 24), [0x7F, 0xF1, 0, 0]);
        assert_eq!(accept(Serializer::Cbor, 1 << 20), [0x7F, 0xB3, 0, 0]);
        assert_eq!(
            (announced(1 << 20), announced(1_000_000), announced(10)),
            (1 << 20, 1 << 19, 512)
        );
        assert_eq!(announced(usize::MAX), 1 << 24);
    }

    #[test]
    fn rs_03_rs_05_refusals_in_order() {
        for nibble in [0, 4, 5, 6, 15] {
            assert_eq!(
                offer([0xF0 | nibble, 0, 0], ALL),
                Err(HandshakeError::Serializer)
            );
        }
        assert_eq!(
            offer([0xF2, 0, 0], &[Serializer::Json]),
            Err(HandshakeError::Serializer)
        );
        assert_eq!(offer([0xF0, 0, 1], ALL), Err(HandshakeError::Reserved));
        assert_eq!(HandshakeError::Serializer.reply(), [0x7F, 0x10, 0, 0]);
        assert_eq!(HandshakeError::Reserved.reply(), [0x7F, 0x30, 0, 0]);
        assert_eq!(HandshakeError::Connections.reply(), [0x7F, 0x40, 0, 0]);
    }

    #[test]
    fn rs_07_frames_are_cut_wherever_reads_end() {
        let wire = [
            frame(MESSAGE, b"[1,2]"),
            frame(PONG, b""),
            frame(MESSAGE, b""),
        ]
        .concat();
        for split in 0..wire.len() {
            let mut reader = Reader::new(512);
            let mut input = BytesMut::from(&wire[..split]);
            let mut got = Vec::new();
            while let Some(incoming) = reader.next(&mut input).unwrap() {
                got.push(incoming);
            }
            input.extend_from_slice(&wire[split..]);
            while let Some(incoming) = reader.next(&mut input).unwrap() {
                got.push(incoming);
            }
            let expected = [
                Incoming::Message(Bytes::from_static(b"[1,2]")),
                Incoming::Pong,
                Incoming::Message(Bytes::new()),
            ];
            assert_eq!(got, expected, "split at {split}");
        }
    }

    #[test]
    fn rs_08_the_longest_frame() {
        assert_eq!(header(MESSAGE, MAX).as_slice(), [0x08, 0, 0, 0]);
        assert_eq!(
            header(MESSAGE, MAX - 1).as_slice(),
            [0x00, 0xFF, 0xFF, 0xFF]
        );
        assert_eq!(read(MAX, &[0x08, 0, 0, 0]), Ok(None));
        assert!(read(MAX, &[0x08, 0, 0, 1]).is_err());
    }

    #[test]
    fn rs_09_broken_frames() {
        assert_eq!(
            read(512, &[0, 0, 2, 1]),
            Err(FrameError::TooLarge {
                size: 513,
                limit: 512
            })
        );
        assert_eq!(
            read(512, &[1, 0, 2, 1]),
            Err(FrameError::TooLarge {
                size: 513,
                limit: 512
            })
        );
        assert!(read(512, &[0x10, 0, 0, 1]).is_err(), "reserved bits");
        for kind in 3..8 {
            assert!(read(512, &[kind, 0, 0, 1]).is_err(), "type {kind}");
        }
    }

    #[test]
    fn rs_10_ping_and_pong() {
        let ping = read(512, &[0x01, 0, 0, 2, 0x61, 0x62]);
        assert_eq!(ping, Ok(Some(Incoming::Ping(Bytes::from_static(b"ab")))));
        assert_eq!(frame(PONG, b"ab"), [0x02, 0, 0, 2, 0x61, 0x62]);
    }
}

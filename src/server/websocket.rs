//! Frames of RFC 6455 as a server sees them: masked ones come in, unmasked ones go out. No I/O. The one extension is
//! permessage-deflate, whose compression is `deflate`'s.
//!
//! The header codec is tungstenite's. The reader is ours, because an idle connection must not keep a read buffer
//! and messages are cut as slices out of what one read brought.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deflate::{Inflater, Window, compressed_limit};
use super::frames::{FrameError, Header, Incoming};

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;
/// RSV1 of a message's first frame: it is compressed (RFC 7692, 6).
const COMPRESSED: u8 = 0x40;

/// The longest payload of a control frame.
const CONTROL_LIMIT: u64 = 125;

/// The header of an unfragmented, unmasked data frame.
pub(crate) fn message_header(text: bool, len: usize) -> Header {
    header(FINAL | if text { TEXT } else { BINARY }, len)
}

/// That of a message that is compressed.
pub(crate) fn compressed_header(opcode: u8, len: usize) -> Header {
    header(FINAL | COMPRESSED | opcode, len)
}

fn header(first: u8, len: usize) -> Header {
    if len < 126 {
        Header::new(&[first, len as u8])
    } else if let Ok(short) = u16::try_from(len) {
        let [high, low] = short.to_be_bytes();
        Header::new(&[first, 126, high, low])
    } else {
        let mut octets = [first, 127, 0, 0, 0, 0, 0, 0, 0, 0];
        octets[2..].copy_from_slice(&(len as u64).to_be_bytes());
        Header::new(&octets)
    }
}

/// A whole control frame; what is longer than a control frame may be is cut.
pub(crate) fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_LIMIT as usize)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.extend([FINAL | opcode, payload.len() as u8]);
    frame.extend_from_slice(payload);
    frame
}

/// A whole close frame; of the reason as many characters as have room.
pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(CONTROL_LIMIT as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    control(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// One whole frame of our own, among those that wait to be written.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) whole: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn at_front(octets: &'a [u8]) -> Option<Self> {
        let &[first, short, ..] = octets else {
            return None;
        };
        let (start, len): (usize, usize) = match short {
            126 => {
                let len = u16::from_be_bytes(*octets[2..].first_chunk()?);
                (4, usize::from(len))
            }
            127 => {
                let len = u64::from_be_bytes(*octets[2..].first_chunk()?);
                (10, usize::try_from(len).ok()?)
            }
            len => (2, usize::from(len)),
        };
        let whole = octets.get(..start.checked_add(len)?)?;
        Some(Self {
            opcode: first & 0x0F,
            payload: &whole[start..],
            whole,
        })
    }

    pub(crate) fn is_data(&self) -> bool {
        matches!(self.opcode, TEXT | BINARY)
    }
}

/// The state of the incoming side between two reads.
#[derive(Debug)]
pub(crate) struct Reader {
    text: bool,
    limit: usize,
    /// The fragments so far of a message sent in several frames.
    fragments: Option<Fragments>,
    /// Messages may be compressed.
    inflater: Option<Box<Inflater>>,
}

#[derive(Debug)]
struct Fragments {
    compressed: bool,
    octets: BytesMut,
}

impl Reader {
    /// `text`: messages are text frames (`WS-01`).
    pub(crate) fn new(text: bool, limit: usize) -> Self {
        Self {
            text,
            limit,
            fragments: None,
            inflater: None,
        }
    }

    /// See `FrameReader::inflating`.
    pub(crate) fn inflating(&mut self, window: Window) {
        self.inflater = Some(Box::new(Inflater::new(window)));
    }

    /// See `FrameReader::set_limit`.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// See `FrameReader::next`.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        loop {
            let Some((header, payload)) = self.frame(input)? else {
                return Ok(None);
            };
            let whole = match header.opcode {
                OpCode::Control(kind) => Some(control_frame(kind, payload)?),
                OpCode::Data(kind) => self.data_frame(kind, &header, payload)?,
            };
            if whole.is_some() {
                return Ok(whole);
            }
        }
    }

    /// One frame, unmasked.
    fn frame(&self, input: &mut BytesMut) -> Result<Option<(FrameHeader, BytesMut)>, FrameError> {
        let mut cursor = Cursor::new(&input[..]);
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|error| FrameError::WebSocket(error.to_string()))?;
        let Some((header, len)) = parsed else {
            return Ok(None);
        };
        let start = cursor.position() as usize;
        self.check(&header, len)?;
        let Ok(len) = usize::try_from(len) else {
            return Err(FrameError::WebSocket("frame length".into()));
        };
        // Not `start + len`: without a limit the peer may claim any length.
        if input.len() - start < len {
            return Ok(None);
        }
        input.advance(start);
        let mut payload = input.split_to(len);
        if let Some(mask) = header.mask {
            unmask(&mut payload, mask);
        }
        Ok(Some((header, payload)))
    }

    /// All that can be said of a frame before its payload is there.
    fn check(&self, header: &FrameHeader, len: u64) -> Result<(), FrameError> {
        let protocol = |what: &str| Err(FrameError::WebSocket(what.into()));
        if header.rsv2 || header.rsv3 || (header.rsv1 && self.inflater.is_none()) {
            return protocol("reserved bits are set");
        }
        let begins = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if header.rsv1 && !begins {
            return protocol("RSV1 is set beyond the first frame of a message");
        }
        if header.mask.is_none() {
            return protocol("client frame is not masked");
        }
        if let OpCode::Control(_) = header.opcode {
            return match header.is_final && len <= CONTROL_LIMIT {
                true => Ok(()),
                false => protocol("control frame is fragmented or too long"),
            };
        }
        let sofar = self.fragments.as_ref();
        let size = len.saturating_add(sofar.map_or(0, |sofar| sofar.octets.len() as u64));
        let limit = match header.rsv1 || sofar.is_some_and(|sofar| sofar.compressed) {
            true => compressed_limit(self.limit),
            false => self.limit,
        };
        if size > limit as u64 {
            return Err(FrameError::TooLarge { size, limit });
        }
        match (header.opcode, self.fragments.is_some()) {
            (OpCode::Data(Data::Continue), false) => protocol("continuation of nothing"),
            (OpCode::Data(Data::Text | Data::Binary), true) => {
                protocol("new message inside a fragmented one")
            }
            (OpCode::Data(Data::Text), _) if !self.text => Err(FrameError::WrongKind("text")),
            (OpCode::Data(Data::Binary), _) if self.text => Err(FrameError::WrongKind("binary")),
            _ => Ok(()),
        }
    }

    /// A message, if this frame ends one.
    fn data_frame(
        &mut self,
        kind: Data,
        header: &FrameHeader,
        payload: BytesMut,
    ) -> Result<Option<Incoming>, FrameError> {
        let last = header.is_final;
        let message = match (kind, self.fragments.take()) {
            (Data::Continue, Some(mut sofar)) => {
                sofar.octets.extend_from_slice(&payload);
                sofar
            }
            _ => Fragments {
                compressed: header.rsv1,
                octets: match last {
                    true => payload,
                    // Copied: a fragment must not keep the read buffer alive while the rest of the message trickles in.
                    false => BytesMut::from(&payload[..]),
                },
            },
        };
        if !last {
            self.fragments = Some(message);
            return Ok(None);
        }
        let message = match &mut self.inflater {
            Some(inflater) if message.compressed => {
                inflater.inflate(&message.octets, self.limit)?
            }
            _ => message.octets.freeze(),
        };
        if self.text && std::str::from_utf8(&message).is_err() {
            return Err(FrameError::Utf8);
        }
        Ok(Some(Incoming::Message(message)))
    }
}

fn control_frame(kind: Control, payload: BytesMut) -> Result<Incoming, FrameError> {
    match kind {
        Control::Ping => Ok(Incoming::Ping(payload.freeze())),
        Control::Pong => Ok(Incoming::Pong),
        Control::Close => close_frame(payload.freeze()),
        Control::Reserved(_) => Err(FrameError::WebSocket("reserved opcode".into())),
    }
}

/// A close frame carries nothing, or a code and UTF-8.
fn close_frame(payload: Bytes) -> Result<Incoming, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload.is_empty() {
            true => Ok(Incoming::Close(1000)),
            false => Err(FrameError::WebSocket("close frame of one octet".into())),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(FrameError::WebSocket(format!("close code {code}")));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Incoming::Close(code)),
        Err(_) => Err(FrameError::Utf8),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (octet, key) in word.iter_mut().zip(mask) {
            *octet ^= key;
        }
    }
    for (octet, key) in words.into_remainder().iter_mut().zip(mask) {
        *octet ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client frame: masked.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 250];
        let mut octets = vec![first];
        if payload.len() < 126 {
            octets.push(0x80 | payload.len() as u8);
        } else {
            octets.push(0x80 | 126);
            octets.extend((payload.len() as u16).to_be_bytes());
        }
        octets.extend(mask);
        octets.extend(
            payload
                .iter()
                .enumerate()
                .map(|(at, octet)| octet ^ mask[at % 4]),
        );
        octets
    }

    fn read(reader: &mut Reader, octets: &[u8]) -> Result<Option<Incoming>, FrameError> {
        reader.next(&mut BytesMut::from(octets))
    }

    fn message(text: &str) -> Incoming {
        Incoming::Message(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn ws_01_frames_are_cut_wherever_reads_end() {
        let mut wire = frame(0x81, b"[1]");
        wire.extend(frame(0x81, "[\"\u{e4}\"]".repeat(50).as_bytes()));
        for split in 0..wire.len() {
            let mut reader = Reader::new(true, 1000);
            let mut input = BytesMut::from(&wire[..split]);
            let mut got = Vec::new();
            while let Some(incoming) = reader.next(&mut input).unwrap() {
                got.push(incoming);
            }
            input.extend_from_slice(&wire[split..]);
            while let Some(incoming) = reader.next(&mut input).unwrap() {
                got.push(incoming);
            }
            assert_eq!(
                got,
                [message("[1]"), message(&"[\"\u{e4}\"]".repeat(50))],
                "split at {split}"
            );
            assert!(input.is_empty());
        }
    }

    #[test]
    fn ws_01_fragments_are_joined_and_pings_may_stand_between() {
        let mut reader = Reader::new(false, 10);
        let mut input = BytesMut::new();
        for part in [
            frame(0x02, b"ab"),
            frame(0x89, b"hi"),
            frame(0x00, b"cd"),
            frame(0x80, b"ef"),
        ] {
            input.extend_from_slice(&part);
        }
        assert_eq!(
            reader.next(&mut input),
            Ok(Some(Incoming::Ping(Bytes::from_static(b"hi"))))
        );
        assert_eq!(reader.next(&mut input), Ok(Some(message("abcdef"))));
        assert_eq!(reader.next(&mut input), Ok(None));
    }

    #[test]
    fn ws_04_wrong_frame_kind() {
        let error = read(&mut Reader::new(true, 10), &frame(0x82, b"x")).unwrap_err();
        assert_eq!(error, FrameError::WrongKind("binary"));
        assert!(error.is_violation());
        assert_eq!(error.close_code(), 1002);
    }

    #[test]
    fn ws_05_close_codes_of_broken_frames() {
        let code = |octets: &[u8]| {
            read(&mut Reader::new(true, 10), octets)
                .unwrap_err()
                .close_code()
        };
        assert_eq!(code(&frame(0x81, &[0xFF, 0xFE])), 1007);
        assert_eq!(code(&frame(0x81, b"12345678901")), 1009);
        assert_eq!(code(&[0x81, 1, b'x']), 1002, "unmasked");
        assert_eq!(code(&frame(0x80, b"x")), 1002, "continuation of nothing");
        assert_eq!(code(&frame(0xC1, b"x")), 1002, "reserved bit");
        assert_eq!(code(&frame(0x83, b"x")), 1002, "reserved opcode");
        assert_eq!(code(&frame(0x09, b"x")), 1002, "fragmented ping");
        assert_eq!(code(&frame(0x88, b"x")), 1002, "close frame of one octet");
        assert_eq!(
            code(&frame(0x88, &999u16.to_be_bytes())),
            1002,
            "code that may not be sent"
        );
    }

    #[test]
    fn ws_05_fragments_count_together_towards_the_limit() {
        let mut reader = Reader::new(true, 10);
        assert_eq!(read(&mut reader, &frame(0x01, b"123456")), Ok(None));
        assert_eq!(
            read(&mut reader, &frame(0x80, b"78901")),
            Err(FrameError::TooLarge {
                size: 11,
                limit: 10
            })
        );
    }

    #[test]
    fn only_the_first_frame_of_a_message_may_say_that_it_is_compressed() {
        let hello: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        let deflating = |takeover| {
            let mut reader = Reader::new(true, 10);
            reader.inflating(Window { bits: 15, takeover });
            reader
        };
        for takeover in [false, true] {
            let mut reader = deflating(takeover);
            assert_eq!(
                read(&mut reader, &frame(0xC1, hello)),
                Ok(Some(message("Hello")))
            );
            assert_eq!(
                read(&mut reader, &frame(0x81, b"[1]")),
                Ok(Some(message("[1]")))
            );
            assert_eq!(read(&mut reader, &frame(0x41, &hello[..2])), Ok(None));
            assert!(read(&mut reader, &frame(0x89, b"x")).is_ok());
            assert_eq!(read(&mut reader, &frame(0x00, &hello[2..3])), Ok(None));
            let last = read(&mut reader, &frame(0x80, &hello[3..]));
            assert_eq!(last, Ok(Some(message("Hello"))));
        }
        let code =
            |reader: &mut Reader, octets: &[u8]| read(reader, octets).unwrap_err().close_code();
        for nonsense in [
            frame(0xC9, b"x"),
            frame(0xC8, b""),
            frame(0xA1, hello),
            frame(0x91, hello),
            frame(0xC2, hello),
        ] {
            assert_eq!(
                code(&mut deflating(false), &nonsense),
                1002,
                "{nonsense:x?}"
            );
        }
        let mut reader = deflating(false);
        assert_eq!(read(&mut reader, &frame(0x41, hello)), Ok(None));
        assert_eq!(
            code(&mut reader, &frame(0xC0, b"")),
            1002,
            "RSV1 on a later fragment"
        );
        assert_eq!(
            code(&mut Reader::new(true, 10), &frame(0xC1, hello)),
            1002,
            "nothing was agreed"
        );
    }

    #[test]
    fn a_compressed_message_counts_as_what_it_is_inflated_to() {
        let mut reader = Reader::new(true, 4);
        reader.inflating(Window {
            bits: 15,
            takeover: false,
        });
        let hello: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        let error = read(&mut reader, &frame(0xC1, hello)).unwrap_err();
        assert_eq!(error, FrameError::Inflated { limit: 4 });
        // Nothing that long can be a message of four octets.
        let error = read(&mut reader, &frame(0x41, &[0; 100])).unwrap_err();
        assert_eq!(error.close_code(), 1009);
        let not_utf8 = b"\x00\x02\x00\xfd\xff\xff\xfe\x00";
        assert_eq!(
            read(&mut reader, &frame(0xC1, not_utf8)),
            Err(FrameError::Utf8)
        );
    }

    #[test]
    fn ws_06_close_with_and_without_code() {
        assert_eq!(
            read(&mut Reader::new(true, 10), &frame(0x88, b"")),
            Ok(Some(Incoming::Close(1000)))
        );
        let going_away = frame(0x88, &[0x03, 0xE9, b'b', b'y', b'e']);
        assert_eq!(
            read(&mut Reader::new(true, 10), &going_away),
            Ok(Some(Incoming::Close(1001)))
        );
    }

    #[test]
    fn without_a_limit_a_claimed_length_is_only_waited_for() {
        let mut octets = vec![0x82, 0x80 | 127];
        octets.extend(u64::MAX.to_be_bytes());
        octets.extend([1, 2, 3, 4, 5, 6]);
        let outcome = read(&mut Reader::new(false, usize::MAX), &octets);
        assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
    }

    #[test]
    fn headers_use_the_shortest_length() {
        for (len, expected) in [
            (0usize, 2usize),
            (125, 2),
            (126, 4),
            (65_535, 4),
            (65_536, 10),
        ] {
            let header = message_header(true, len);
            let mut cursor = Cursor::new(header.as_slice());
            let (parsed, size) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!((header.as_slice().len(), size), (expected, len as u64));
            assert!(parsed.is_final && parsed.mask.is_none());
        }
    }
}

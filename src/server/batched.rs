//! Batched subprotocols: several WAMP messages in one WebSocket message (conformance section 22, `BAT-*`). No I/O.
//!
//! JSON messages each end with the octet 0x1E, which JSON itself never holds; the others are each preceded by their
//! length in 32 bits. What goes out is made of batches of one, so that everything that reckons with whole frames stays
//! as it is; [`pack`] joins those that have gathered when they are written.

use bytes::{Buf, Bytes, BytesMut};

use super::deflate::Window;
use super::frames::{FrameError, Header, Incoming};
use super::websocket::{self, Frame};

/// Ends each JSON message.
const RECORD_SEPARATOR: u8 = 0x1E;
/// The octets of a length.
const LENGTH: usize = 4;

/// Around a message that goes out as a batch of one.
pub(crate) fn header(text: bool, len: usize) -> Header {
    if text {
        return websocket::message_header(text, len + 1).ending(RECORD_SEPARATOR);
    }
    let frame = websocket::message_header(text, len + LENGTH);
    let frame = frame.as_slice();
    let mut octets = [0; 14];
    octets[..frame.len()].copy_from_slice(frame);
    // What is longer is above the limit of the connection, and does not come here.
    let length = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    octets[frame.len()..frame.len() + LENGTH].copy_from_slice(&length);
    Header::new(&octets[..frame.len() + LENGTH])
}

/// Joins neighbouring batches of whole unmasked frames, up to `limit` octets each; control frames stay in their place.
pub(crate) fn pack(limit: usize, frames: &mut Vec<u8>) {
    let first = Frame::at_front(frames);
    if first.is_none_or(|first| first.whole.len() == frames.len()) {
        return;
    }
    let mut packed = Vec::with_capacity(frames.len());
    let mut rest = frames.as_slice();
    while let Some(frame) = Frame::at_front(rest) {
        let run = run_of_batches(rest, limit);
        if run.frames < 2 {
            packed.extend_from_slice(frame.whole);
            rest = &rest[frame.whole.len()..];
            continue;
        }
        let text = frame.opcode == websocket::TEXT;
        packed.extend_from_slice(websocket::message_header(text, run.octets).as_slice());
        for _ in 0..run.frames {
            let Some(frame) = Frame::at_front(rest) else {
                break;
            };
            packed.extend_from_slice(frame.payload);
            rest = &rest[frame.whole.len()..];
        }
    }
    packed.extend_from_slice(rest);
    *frames = packed;
}

/// Data frames that may become one.
struct Run {
    frames: usize,
    /// Of all their payloads.
    octets: usize,
}

fn run_of_batches(mut rest: &[u8], limit: usize) -> Run {
    let mut run = Run {
        frames: 0,
        octets: 0,
    };
    while let Some(frame) = Frame::at_front(rest) {
        let octets = run.octets + frame.payload.len();
        if !frame.is_data() || (run.frames > 0 && octets > limit) {
            break;
        }
        run.frames += 1;
        run.octets = octets;
        rest = &rest[frame.whole.len()..];
    }
    run
}

/// The incoming side: frames to batches, batches to messages.
#[derive(Debug)]
pub(crate) struct Reader {
    frames: websocket::Reader,
    text: bool,
    limit: usize,
    /// What is left of a batch.
    batch: Bytes,
}

impl Reader {
    /// A batch may hold `limit` octets beside what is around one message.
    pub(crate) fn new(text: bool, limit: usize) -> Self {
        Self {
            frames: websocket::Reader::new(text, limit.saturating_add(LENGTH)),
            text,
            limit,
            batch: Bytes::new(),
        }
    }

    /// See `FrameReader::inflating`.
    pub(crate) fn inflating(&mut self, window: Window) {
        self.frames.inflating(window);
    }

    /// See `FrameReader::set_limit`.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.frames.set_limit(limit.saturating_add(LENGTH));
        self.limit = limit;
    }

    /// See `FrameReader::next`.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        if self.batch.is_empty() {
            match self.frames.next(input)? {
                Some(Incoming::Message(batch)) if batch.is_empty() => {
                    return Err(FrameError::Batch("it is empty"));
                }
                Some(Incoming::Message(batch)) => self.batch = batch,
                other => return Ok(other),
            }
        }
        let message = self.message()?;
        if message.len() > self.limit {
            return Err(FrameError::TooLarge {
                size: message.len() as u64,
                limit: self.limit,
            });
        }
        Ok(Some(Incoming::Message(message)))
    }

    /// The next message of the batch.
    fn message(&mut self) -> Result<Bytes, FrameError> {
        if self.text {
            let end = self.batch.iter().position(|&o| o == RECORD_SEPARATOR);
            let end = end.ok_or(FrameError::Batch("a message does not end with 0x1E"))?;
            let message = self.batch.split_to(end);
            self.batch.advance(1);
            return Ok(message);
        }
        let length = self.batch.first_chunk::<LENGTH>();
        let length = length.ok_or(FrameError::Batch("a length is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.batch.len() - LENGTH {
            return Err(FrameError::Batch("a length is beyond its end"));
        }
        self.batch.advance(LENGTH);
        Ok(self.batch.split_to(length))
    }
}

/// The messages of a whole batch that came without a WebSocket frame around it.
pub(crate) fn messages(text: bool, batch: Bytes) -> Result<Vec<Bytes>, FrameError> {
    let mut reader = Reader::new(text, batch.len());
    reader.batch = batch;
    let mut messages = Vec::new();
    loop {
        messages.push(reader.message()?);
        if reader.batch.is_empty() {
            return Ok(messages);
        }
    }
}

/// A whole batch without a WebSocket frame around it.
pub(crate) fn batch<'m>(text: bool, messages: impl IntoIterator<Item = &'m Bytes>) -> Vec<u8> {
    let mut batch = Vec::new();
    for message in messages {
        if !text {
            // What is longer is above the limit of the transport.
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
            batch.extend(length.to_be_bytes());
        }
        batch.extend_from_slice(message);
        if text {
            batch.push(RECORD_SEPARATOR);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame, masked with zeros.
    fn masked(text: bool, payload: &[u8]) -> BytesMut {
        let header = websocket::message_header(text, payload.len());
        let mut octets = header.as_slice().to_vec();
        octets[1] |= 0x80;
        octets.extend([0; 4]);
        octets.extend(payload);
        BytesMut::from(&octets[..])
    }

    fn read(text: bool, limit: usize, payload: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
        let (mut reader, mut input) = (Reader::new(text, limit), masked(text, payload));
        let mut messages = Vec::new();
        while let Some(incoming) = reader.next(&mut input)? {
            let Incoming::Message(message) = incoming else {
                panic!("{incoming:?}")
            };
            messages.push(message.to_vec());
        }
        Ok(messages)
    }

    /// As they stand in the outbox.
    fn written(text: bool, messages: &[&[u8]]) -> Vec<u8> {
        let mut octets = Vec::new();
        for message in messages {
            let header = header(text, message.len());
            octets.extend_from_slice(header.as_slice());
            octets.extend_from_slice(message);
            octets.extend(header.end());
        }
        octets
    }

    #[test]
    fn bat_01_json_messages_end_with_a_record_separator() {
        assert_eq!(
            read(true, 10, b"[1]\x1e[2,3]\x1e").unwrap(),
            [&b"[1]"[..], b"[2,3]"]
        );
        assert_eq!(read(true, 10, b"[1]\x1e").unwrap(), [b"[1]"]);
        assert_eq!(written(true, &[b"[1]"]), b"\x81\x04[1]\x1e");
    }

    #[test]
    fn bat_02_other_messages_begin_with_their_length() {
        let batch = b"\x00\x00\x00\x02ab\x00\x00\x00\x01c";
        assert_eq!(read(false, 10, batch).unwrap(), [&b"ab"[..], b"c"]);
        assert_eq!(written(false, &[b"ab"]), b"\x82\x06\x00\x00\x00\x02ab");
        let long = vec![7; 70_000];
        let frame = written(false, &[&long]);
        assert_eq!(
            frame[..14],
            [130, 127, 0, 0, 0, 0, 0, 1, 17, 116, 0, 1, 17, 112]
        );
    }

    #[test]
    fn bat_03_empty_and_broken_batches_are_violations() {
        for (text, batch) in [
            (true, &b""[..]),
            (false, b""),
            (true, b"[1]"),
            (true, b"[1]\x1e[2]"),
            (false, b"\x00\x00\x00"),
            (false, b"\x00\x00\x00\x03ab"),
            (false, b"\x00\x00\x00\x01a\x00\x00\x00\x01"),
            (false, b"\xff\xff\xff\xffa"),
        ] {
            let error = read(text, 100, batch).unwrap_err();
            assert!(matches!(error, FrameError::Batch(_)), "{batch:?}: {error}");
            assert!(error.is_violation() && error.close_code() == 1002);
        }
    }

    #[test]
    fn a_batch_counts_as_one_message_towards_the_limit() {
        assert_eq!(read(true, 4, b"[12]\x1e").unwrap(), [b"[12]"]);
        assert_eq!(read(false, 2, b"\0\0\0\x02ab").unwrap(), [b"ab"]);
        for (text, batch) in [(true, &b"[123]\x1e"[..]), (false, b"\0\0\0\x05abcde")] {
            let error = read(text, 4, batch).unwrap_err();
            assert!(matches!(error, FrameError::TooLarge { limit, .. } if limit >= 4));
            assert_eq!(error.close_code(), 1009);
        }
    }

    #[test]
    fn bat_01_bat_02_what_waits_goes_out_in_batches() {
        let mut frames = written(true, &[b"[1]", b"[2]", b"[3]"]);
        pack(100, &mut frames);
        assert_eq!(frames, b"\x81\x0c[1]\x1e[2]\x1e[3]\x1e");

        let mut frames = written(false, &[b"ab"]);
        frames.extend(websocket::control(websocket::PONG, b"x"));
        frames.extend(written(false, &[b"cd", b"ef"]));
        frames.extend(websocket::control(websocket::CLOSE, b""));
        pack(100, &mut frames);
        let expected = b"\x82\x06\0\0\0\x02ab\x8a\x01x\x82\x0c\0\0\0\x02cd\0\0\0\x02ef\x88\0";
        assert_eq!(frames, expected);
    }

    #[test]
    fn packing_heeds_the_limit_and_loses_nothing() {
        let sizes = [1usize, 124, 125, 126, 40_000, 40_000, 65_535, 65_536, 3, 0];
        let messages: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![b'x'; size]).collect();
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        for text in [true, false] {
            for limit in [1, 200, 70_000, 90_000, usize::MAX] {
                let mut frames = written(text, &messages);
                pack(limit, &mut frames);
                let (mut rest, mut got) = (&frames[..], Vec::new());
                while let Some(frame) = Frame::at_front(rest) {
                    let mut reader = Reader::new(text, usize::MAX);
                    reader.batch = Bytes::copy_from_slice(frame.payload);
                    let before = got.len();
                    while !reader.batch.is_empty() {
                        got.push(reader.message().unwrap().to_vec());
                    }
                    assert!(frame.payload.len() <= limit || got.len() == before + 1);
                    rest = &rest[frame.whole.len()..];
                }
                assert!(rest.is_empty());
                assert_eq!(got, messages, "limit {limit}");
            }
        }
    }
}

//! permessage-deflate (RFC 7692): the octets of WebSocket messages, compressed each way. No I/O; `http::extensions`
//! agrees on it.
//!
//! Without context takeover a connection keeps nothing: the compressors are the thread's. What goes out is compressed
//! by the connection's task, never while a realm is locked: an event is encoded once for all its receivers, and waits
//! in their outboxes as it is. What comes in is inflated up to the limit of a message and no further.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frames::FrameError;
use super::websocket::{self, Frame};

/// What ends each flush, and is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// The windows that the compressor knows; in the protocol 8 is one, too.
const LEAST_BITS: u8 = 9;
const MOST_BITS: u8 = 15;
const WINDOWS: usize = (MOST_BITS - LEAST_BITS + 1) as usize;
/// Payloads of fewer octets go out as they are.
const LEAST: usize = 128;
/// So many octets are compressed before other tasks get a turn.
const PORTION: usize = 64 << 10;
/// The least memory for an inflated message.
const FIRST: usize = 1024;

/// What is agreed on for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The logarithm of its size, 8 to 15.
    pub bits: u8,
    /// It goes on with the next message, and so is kept in between.
    pub takeover: bool,
}

/// What both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deflate {
    pub(crate) to_peer: Window,
    pub(crate) from_peer: Window,
}

/// What the connections of a thread have in common.
#[derive(Default)]
struct Shared {
    /// By window.
    compress: [Option<Compress>; WINDOWS],
    decompress: Option<Decompress>,
    compressed: Vec<u8>,
}

thread_local! {
    static SHARED: RefCell<Shared> = RefCell::default();
}

fn compressor(bits: u8) -> Compress {
    let bits = bits.clamp(LEAST_BITS, MOST_BITS);
    Compress::new_with_window_bits(Compression::fast(), false, bits)
}

/// Any window that is at least as large as the peer's will do.
fn decompressor(bits: u8) -> Decompress {
    Decompress::new_with_window_bits(false, bits.clamp(LEAST_BITS, MOST_BITS))
}

/// The outgoing side, between the outbox and the socket.
pub(crate) struct Deflater {
    window: Window,
    /// With context takeover, from the first message on.
    own: Option<Compress>,
    /// Whole frames out of the outbox.
    frames: Vec<u8>,
    /// What of them has been dealt with.
    done: usize,
}

impl Deflater {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            own: None,
            frames: Vec::new(),
            done: 0,
        }
    }

    /// Where the next frames are put, once there is nothing more of the last ones.
    pub(crate) fn frames(&mut self) -> &mut Vec<u8> {
        self.done = 0;
        &mut self.frames
    }

    /// There is another portion.
    pub(crate) fn has_more(&self) -> bool {
        self.done < self.frames.len()
    }

    /// Puts the next portion, ready for the socket, into a buffer that has been written.
    pub(crate) fn portion(&mut self, writing: &mut Vec<u8>) {
        writing.clear();
        if !self.has_more() {
            // Nothing of it stays with an idle connection.
            *writing = Vec::new();
            return;
        }
        SHARED.with_borrow_mut(|shared| self.compress(shared, writing));
    }

    fn compress(&mut self, shared: &mut Shared, writing: &mut Vec<u8>) {
        let Self {
            window,
            own,
            frames,
            done,
        } = self;
        let common = &mut shared.compress[usize::from(window.bits.max(LEAST_BITS) - LEAST_BITS)];
        let compress = if window.takeover { own } else { common };
        let end = *done + PORTION;
        while *done < end.min(frames.len()) {
            let Some(frame) = Frame::at_front(&frames[*done..]) else {
                // There are whole frames only.
                writing.extend_from_slice(&frames[*done..]);
                *done = frames.len();
                return;
            };
            *done += frame.whole.len();
            let worthwhile = frame.is_data() && frame.payload.len() >= LEAST && {
                let compress = compress.get_or_insert_with(|| compressor(window.bits));
                deflate(
                    compress,
                    frame.payload,
                    &mut shared.compressed,
                    window.takeover,
                )
            };
            if worthwhile {
                let octets = &shared.compressed;
                let header = websocket::compressed_header(frame.opcode, octets.len());
                writing.extend_from_slice(header.as_slice());
                writing.extend_from_slice(octets);
            } else {
                writing.extend_from_slice(frame.whole);
            }
        }
        shared.compressed.clear();
        shared.compressed.shrink_to(PORTION);
    }
}

/// Compresses one message. False: it would not become smaller.
fn deflate(compress: &mut Compress, payload: &[u8], out: &mut Vec<u8>, takeover: bool) -> bool {
    out.clear();
    out.reserve(payload.len());
    let before = compress.total_in();
    let flushed = compress.compress_vec(payload, out, FlushCompress::Sync);
    let taken = compress.total_in() - before;
    // With room left there is nothing more to come of it.
    let whole = flushed.is_ok() && taken == payload.len() as u64 && out.len() < out.capacity();
    let worthwhile = whole && out.ends_with(&TAIL) && out.len() - TAIL.len() < payload.len();
    if worthwhile {
        out.truncate(out.len() - TAIL.len());
    }
    // What the peer does not get inflated is not in its window either.
    if !(takeover && worthwhile) {
        compress.reset();
    }
    worthwhile
}

/// The incoming side.
#[derive(Debug)]
pub(crate) struct Inflater {
    window: Window,
    /// With context takeover, from the first message on.
    own: Option<Decompress>,
}

impl Inflater {
    pub(crate) fn new(window: Window) -> Self {
        Self { window, own: None }
    }

    /// A whole message of at most `limit` octets.
    pub(crate) fn inflate(&mut self, compressed: &[u8], limit: usize) -> Result<Bytes, FrameError> {
        if self.window.takeover {
            let bits = self.window.bits;
            let own = self.own.get_or_insert_with(|| decompressor(bits));
            return inflate(own, compressed, limit);
        }
        SHARED.with_borrow_mut(|shared| {
            let common = &mut shared.decompress;
            let common = common.get_or_insert_with(|| decompressor(MOST_BITS));
            let inflated = inflate(common, compressed, limit);
            common.reset(false);
            inflated
        })
    }
}

/// The most octets that a message of `limit` octets may have when it is compressed: some compressors make incompressible
/// ones larger by an eighth.
pub(crate) fn compressed_limit(limit: usize) -> usize {
    limit.saturating_add(limit / 8).saturating_add(64)
}

fn inflate(
    decompress: &mut Decompress,
    compressed: &[u8],
    limit: usize,
) -> Result<Bytes, FrameError> {
    let mut inflated = Inflated::new(limit);
    for octets in [compressed, &TAIL] {
        if inflated.part(decompress, octets)? == Status::StreamEnd {
            break;
        }
    }
    Ok(inflated.message())
}

/// A message so far, in pieces: a buffer that grows would be twice there while it is moved.
struct Inflated {
    limit: usize,
    full: Vec<Vec<u8>>,
    /// The octets of those.
    before: usize,
    last: Vec<u8>,
}

impl Inflated {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            full: Vec::new(),
            before: 0,
            last: Vec::new(),
        }
    }

    /// Inflates all of some octets. `StreamEnd`: they ended with a final block, which needs no tail (RFC 7692, 7.2.3.4).
    fn part(
        &mut self,
        decompress: &mut Decompress,
        mut octets: &[u8],
    ) -> Result<Status, FrameError> {
        loop {
            self.make_room(octets.len());
            let before = decompress.total_in();
            let status = decompress
                .decompress_vec(octets, &mut self.last, FlushDecompress::Sync)
                .map_err(|error| FrameError::Deflate(error.to_string()))?;
            let taken = (decompress.total_in() - before) as usize;
            octets = octets.get(taken..).unwrap_or_default();
            if self.before + self.last.len() > self.limit {
                return Err(FrameError::Inflated { limit: self.limit });
            }
            let is_end = status == Status::StreamEnd;
            if is_end {
                decompress.reset(false);
            }
            let has_room = self.last.len() < self.last.capacity();
            if octets.is_empty() && (is_end || has_room) {
                return Ok(status);
            }
            if taken == 0 && !is_end && has_room {
                return Err(FrameError::Deflate("no progress".into()));
            }
        }
    }

    /// For another piece, but for no more than shows that the limit is exceeded.
    fn make_room(&mut self, compressed: usize) {
        if self.last.len() < self.last.capacity() {
            return;
        }
        self.before += self.last.len();
        if !self.last.is_empty() {
            self.full.push(std::mem::take(&mut self.last));
        }
        let guess = match self.full.is_empty() {
            true => compressed.saturating_mul(4).clamp(FIRST, PORTION),
            false => PORTION,
        };
        let most = self.limit.saturating_add(1) - self.before;
        self.last.reserve_exact(guess.min(most));
    }

    fn message(self) -> Bytes {
        if self.full.is_empty() {
            return self.last.into_boxed_slice().into();
        }
        let mut whole = Vec::with_capacity(self.before + self.last.len());
        for piece in self.full {
            whole.extend_from_slice(&piece);
        }
        whole.extend_from_slice(&self.last);
        whole.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bits: u8, takeover: bool) -> Window {
        Window { bits, takeover }
    }

    /// As a peer compresses it.
    fn compressed(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let smaller = deflate(&mut compressor(15), payload, &mut out, false);
        assert!(smaller);
        out
    }

    /// What goes to the socket of payloads that waited, all as text frames.
    fn sent(deflater: &mut Deflater, payloads: &[&[u8]]) -> Vec<u8> {
        let frames = deflater.frames();
        frames.clear();
        for payload in payloads {
            let header = websocket::message_header(true, payload.len());
            frames.extend_from_slice(header.as_slice());
            frames.extend_from_slice(payload);
        }
        let (mut all, mut writing) = (Vec::new(), Vec::new());
        while deflater.has_more() {
            deflater.portion(&mut writing);
            all.extend_from_slice(&writing);
        }
        all
    }

    fn payloads(inflater: &mut Inflater, mut octets: &[u8]) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        while let Some(frame) = Frame::at_front(octets) {
            let is_compressed = octets[0] & 0x40 != 0;
            octets = &octets[frame.whole.len()..];
            payloads.push(match is_compressed {
                true => inflater.inflate(frame.payload, usize::MAX).unwrap(),
                false => Bytes::copy_from_slice(frame.payload),
            });
        }
        assert!(octets.is_empty());
        payloads
    }

    /// Text that repeats itself a little.
    fn text(words: usize) -> Vec<u8> {
        let mut seed = 1_u32;
        let mut word = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("{{\"key{}\":{}}},", seed >> 28, seed >> 16)
        };
        (0..words).map(|_| word()).collect::<String>().into_bytes()
    }

    /// Octets that no compressor makes fewer of.
    fn noise(octets: usize) -> Vec<u8> {
        let mut seed = 7_u64;
        let mut octet = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..octets).map(|_| octet()).collect()
    }

    #[test]
    fn whatever_is_sent_arrives_in_every_window() {
        let (long, noise) = (text(20_000), noise(300_000));
        let messages = [
            &b"[1]"[..],
            &long,
            &noise,
            &text(30),
            b"",
            &long[..70_000],
            &noise[..130],
        ];
        for bits in 9..=15 {
            for takeover in [false, true] {
                let window = window(bits, takeover);
                let (mut deflater, mut inflater) = (Deflater::new(window), Inflater::new(window));
                for _ in 0..2 {
                    let octets = sent(&mut deflater, &messages);
                    assert_eq!(payloads(&mut inflater, &octets), messages, "{window:?}");
                }
            }
        }
    }

    #[test]
    fn small_and_incompressible_messages_go_out_as_they_are() {
        let mut deflater = Deflater::new(window(15, true));
        let noise = noise(5_000);
        let mut plain = vec![0x81, 126, 0, 127];
        plain.extend(b"x".repeat(127));
        assert_eq!(sent(&mut deflater, &[&[b'x'; 127]]), plain);
        let octets = sent(&mut deflater, &[&noise]);
        assert_eq!((octets[0], octets.len()), (0x81, noise.len() + 4));
        assert_eq!(sent(&mut deflater, &[&[b'x'; 128]])[0], 0xC1);
    }

    #[test]
    fn control_frames_stay_in_their_place_and_uncompressed() {
        let mut deflater = Deflater::new(window(15, false));
        let ping = websocket::control(websocket::PING, &[b'x'; 125]);
        let frames = deflater.frames();
        let text = [b'x'; 200];
        let header = websocket::message_header(true, text.len());
        for part in [header.as_slice(), &text, &ping, header.as_slice(), &text] {
            frames.extend_from_slice(part);
        }
        let mut writing = Vec::new();
        deflater.portion(&mut writing);
        assert_eq!(Frame::at_front(&writing).unwrap().opcode, websocket::TEXT);
        let behind = &writing[Frame::at_front(&writing).unwrap().whole.len()..];
        assert!(behind.starts_with(&ping));
        assert_eq!(behind[ping.len()], 0xC1);
    }

    #[test]
    fn a_long_queue_is_compressed_in_portions() {
        let mut deflater = Deflater::new(window(15, false));
        let message = text(1_000);
        let queue: Vec<&[u8]> = std::iter::repeat_n(&message[..], 20).collect();
        let whole = sent(&mut deflater, &queue);
        assert_eq!(
            payloads(&mut Inflater::new(window(15, false)), &whole),
            queue
        );
        let frames = deflater.frames();
        let one = websocket::message_header(true, message.len());
        *frames = [one.as_slice(), &message].concat().repeat(20);
        let (mut writing, mut portions) = (Vec::new(), 0);
        while deflater.has_more() {
            let before = deflater.done;
            deflater.portion(&mut writing);
            assert!(deflater.done - before <= PORTION + message.len() + 10);
            portions += 1;
        }
        assert!(portions >= 20 * message.len() / (PORTION + message.len() + 10));
        deflater.frames().clear();
        deflater.portion(&mut writing);
        assert_eq!(writing.capacity(), 0, "an idle connection keeps nothing");
    }

    #[test]
    fn with_takeover_what_was_sent_before_costs_little() {
        let text = text(40);
        let sizes = |takeover| {
            let mut deflater = Deflater::new(window(15, takeover));
            [(); 2].map(|()| sent(&mut deflater, &[&text]).len())
        };
        let [first, second] = sizes(true);
        assert!(second * 5 < first, "{first} {second}");
        assert_eq!(sizes(false), [first; 2]);
    }

    #[test]
    fn a_window_is_never_left() {
        let unit = noise(600);
        let twice = [&unit[..], &unit].concat();
        let send = |bits| {
            let octets = sent(&mut Deflater::new(window(bits, false)), &[&twice]);
            let smaller = octets[0] == 0xC1;
            if smaller {
                let payload = Frame::at_front(&octets).unwrap().payload;
                let inflated = inflate(&mut decompressor(bits), payload, 10_000);
                assert_eq!(inflated.as_deref(), Ok(&twice[..]));
            }
            smaller
        };
        assert!(send(15) && send(10), "the second half refers to the first");
        assert!(!send(9), "600 octets back is beyond a window of 512");
    }

    #[test]
    fn a_bomb_is_inflated_up_to_the_limit_and_no_further() {
        let bomb = compressed(&vec![b' '; 50 << 20]);
        assert!(bomb.len() < 1 << 20);
        for limit in [0, 1, 999, 1 << 10, 1 << 20] {
            let mut inflated = Inflated::new(limit);
            let outcome = inflated.part(&mut decompressor(15), &bomb);
            assert_eq!(outcome, Err(FrameError::Inflated { limit }));
            let pieces = inflated.full.iter().chain([&inflated.last]);
            let memory: usize = pieces.map(Vec::capacity).sum();
            assert!(memory <= limit + 1, "{memory} {limit}");
        }
        let exactly = compressed(&[b' '; 1000]);
        let mut inflater = Inflater::new(window(15, false));
        assert!(inflater.inflate(&exactly, 999).is_err());
        assert_eq!(inflater.inflate(&exactly, 1000).unwrap().len(), 1000);
    }

    #[test]
    fn one_peers_nonsense_is_not_the_next_ones() {
        let shared = window(15, false);
        let good = compressed(&text(50));
        for broken in [
            &b"\xFF\xFF\xFF"[..],
            b"\x06",
            &good[..good.len() / 2],
            &noise(100),
        ] {
            let _ = Inflater::new(shared).inflate(broken, 1000);
            assert_eq!(
                Inflater::new(shared).inflate(&good, 100_000).unwrap(),
                text(50)
            );
        }
        let error = Inflater::new(shared).inflate(b"\xFF\xFF", 100).unwrap_err();
        assert_eq!((error.close_code(), error.is_violation()), (1007, true));
    }

    /// RFC 7692, 7.2.3: the same "Hello" in each form that the specification shows.
    #[test]
    fn every_form_of_a_message_is_read() {
        let mut inflater = Inflater::new(window(15, true));
        let mut is_hello = |octets: &[u8]| {
            let inflated = inflater.inflate(octets, 5).unwrap();
            assert_eq!(inflated, &b"Hello"[..], "{octets:x?}");
        };
        is_hello(b"\xf2\x48\xcd\xc9\xc9\x07\x00");
        is_hello(b"\xf2\x00\x11\x00\x00");
        is_hello(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00");
        is_hello(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00");
        is_hello(b"\xf3\x48\xcd\xc9\xc9\x07\x00");
        is_hello(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00");
        assert!(inflater.inflate(b"\x00", 5).unwrap().is_empty());
        assert!(inflater.inflate(b"", 5).unwrap().is_empty());
    }
}

//! WAMP messages as byte templates with the request id patched in: the generator neither encodes nor decodes while it
//! measures, so router and relay are loaded at the same, small cost.

use anyhow::{Context, Result, bail};
use bytes::{BufMut, BytesMut};
use clap::ValueEnum;
use serde_json::{Value, json};

pub(super) const WELCOME: u64 = 2;
pub(super) const PUBLISH: u64 = 16;
pub(super) const SUBSCRIBED: u64 = 33;
pub(super) const EVENT: u64 = 36;
pub(super) const CALL: u64 = 48;
pub(super) const RESULT: u64 = 50;
pub(super) const REGISTERED: u64 = 65;
pub(super) const INVOCATION: u64 = 68;
pub(super) const YIELD: u64 = 70;

const HELLO: u64 = 1;
const SUBSCRIBE: u64 = 32;
const REGISTER: u64 = 64;

/// The longest an id can be on the wire: 16 digits of 2^53, or nine octets.
const MAX_ID: usize = 20;

/// Serializer of a bench session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Serializer {
    /// `wamp.2.json`, text frames.
    Json,
    /// `wamp.2.msgpack`, binary frames.
    Msgpack,
}

impl Serializer {
    /// The WebSocket subprotocol.
    pub(super) fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "wamp.2.json",
            Self::Msgpack => "wamp.2.msgpack",
        }
    }

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Msgpack => "msgpack",
        }
    }

    fn encode(self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Json => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Msgpack => msgpack(value, &mut out),
        }
        out
    }
}

/// `[1, realm, {roles, authmethods: ["anonymous"]}]`
pub(super) fn hello(serializer: Serializer, realm: &str) -> Vec<u8> {
    let roles = json!({ "publisher": {}, "subscriber": {}, "caller": {}, "callee": {} });
    let details =
        json!({ "roles": roles, "agent": "perilune-bench", "authmethods": ["anonymous"] });
    serializer.encode(&json!([HELLO, realm, details]))
}

/// `[64, request, {}, procedure]`
pub(super) fn register(serializer: Serializer, request: u64, procedure: &str) -> Vec<u8> {
    serializer.encode(&json!([REGISTER, request, {}, procedure]))
}

/// `[32, request, {}, topic]`
pub(super) fn subscribe(serializer: Serializer, request: u64, topic: &str) -> Vec<u8> {
    serializer.encode(&json!([SUBSCRIBE, request, {}, topic]))
}

/// `[32, request, {"match": policy}, pattern]`
pub(super) fn subscribe_to(
    serializer: Serializer,
    request: u64,
    policy: &str,
    pattern: &str,
) -> Vec<u8> {
    serializer.encode(&json!([SUBSCRIBE, request, { "match": policy }, pattern]))
}

/// A message whose second element, the id, is filled in for each copy.
pub(super) struct Template {
    serializer: Serializer,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Template {
    /// `[48, id, {}, procedure, ["xxx…"]]` with `payload` octets of text.
    pub(super) fn call(serializer: Serializer, procedure: &str, payload: usize) -> Self {
        let args = json!(["x".repeat(payload)]);
        Self::new(serializer, CALL, &[json!({}), json!(procedure), args])
    }

    /// `[70, id, {}, ["xxx…"]]`
    pub(super) fn yield_(serializer: Serializer, payload: usize) -> Self {
        let args = json!(["x".repeat(payload)]);
        Self::new(serializer, YIELD, &[json!({}), args])
    }

    /// `[16, id, {}, topic, ["xxx…"]]`
    pub(super) fn publish(serializer: Serializer, topic: &str, payload: usize) -> Self {
        let args = json!(["x".repeat(payload)]);
        Self::new(serializer, PUBLISH, &[json!({}), json!(topic), args])
    }

    fn new(serializer: Serializer, code: u64, rest: &[Value]) -> Self {
        let mut head = Vec::new();
        let mut tail = Vec::new();
        match serializer {
            Serializer::Json => {
                head.extend_from_slice(format!("[{code},").as_bytes());
                for value in rest {
                    tail.push(b',');
                    tail.extend(serializer.encode(value));
                }
                tail.push(b']');
            }
            Serializer::Msgpack => {
                array_header(rest.len() + 2, &mut head);
                uint(code, &mut head);
                for value in rest {
                    tail.extend(serializer.encode(value));
                }
            }
        }
        Self {
            serializer,
            head,
            tail,
        }
    }

    /// An upper bound of a copy's length.
    pub(super) fn max_len(&self) -> usize {
        self.head.len() + MAX_ID + self.tail.len()
    }

    /// Appends the message with `id`.
    pub(super) fn write(&self, id: u64, out: &mut BytesMut) {
        out.extend_from_slice(&self.head);
        match self.serializer {
            Serializer::Json => decimal(id, out),
            Serializer::Msgpack => uint(id, out),
        }
        out.extend_from_slice(&self.tail);
    }
}

/// Type code and second element of a message, read from its first octets. The second element is the request id of
/// everything the bench measures; it is 0 where a message has something else there (ERROR, ABORT, WELCOME keep a
/// number or a dict in that place, which nobody reads).
pub(super) fn head(serializer: Serializer, frame: &[u8]) -> Result<(u64, u64)> {
    let mut at = 0;
    match serializer {
        Serializer::Json => {
            let mut number = |open: u8| -> Option<u64> {
                skip_space(frame, &mut at);
                if frame.get(at) != Some(&open) {
                    return None;
                }
                at += 1;
                skip_space(frame, &mut at);
                let digits = frame[at..].iter().take_while(|b| b.is_ascii_digit());
                let mut value = None;
                for digit in digits {
                    at += 1;
                    let so_far: u64 = value.unwrap_or(0);
                    value = Some(
                        so_far
                            .checked_mul(10)?
                            .checked_add(u64::from(digit - b'0'))?,
                    );
                }
                value
            };
            let code = number(b'[').context("no type code")?;
            Ok((code, number(b',').unwrap_or(0)))
        }
        Serializer::Msgpack => {
            match frame.first() {
                Some(0x90..=0x9f) => at += 1,
                Some(0xdc) => at += 3,
                _ => bail!("not a list"),
            }
            let code = read_uint(frame, &mut at).context("no type code")?;
            Ok((code, read_uint(frame, &mut at).unwrap_or(0)))
        }
    }
}

fn skip_space(frame: &[u8], at: &mut usize) {
    while frame.get(*at).is_some_and(u8::is_ascii_whitespace) {
        *at += 1;
    }
}

fn decimal(mut value: u64, out: &mut BytesMut) {
    let mut digits = [0; MAX_ID];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn read_uint(frame: &[u8], at: &mut usize) -> Option<u64> {
    let width = match *frame.get(*at)? {
        small @ 0..=0x7f => {
            *at += 1;
            return Some(u64::from(small));
        }
        0xcc => 1,
        0xcd => 2,
        0xce => 4,
        0xcf => 8,
        _ => return None,
    };
    let octets = frame.get(*at + 1..*at + 1 + width)?;
    *at += 1 + width;
    Some(octets.iter().fold(0, |value, b| value << 8 | u64::from(*b)))
}

fn uint(value: u64, out: &mut impl BufMut) {
    match value {
        0..=0x7f => out.put_u8(value as u8),
        0x80..=0xff => {
            out.put_u8(0xcc);
            out.put_u8(value as u8);
        }
        0x100..=0xffff => {
            out.put_u8(0xcd);
            out.put_u16(value as u16);
        }
        0x1_0000..=0xffff_ffff => {
            out.put_u8(0xce);
            out.put_u32(value as u32);
        }
        _ => {
            out.put_u8(0xcf);
            out.put_u64(value);
        }
    }
}

fn array_header(len: usize, out: &mut Vec<u8>) {
    match len {
        0..=15 => out.push(0x90 | len as u8),
        _ => {
            out.push(0xdc);
            out.put_u16(len as u16);
        }
    }
}

/// MessagePack of what the templates contain: text, unsigned numbers, small lists and dicts.
fn msgpack(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => uint(number.as_u64().unwrap_or_default(), out),
        Value::String(text) => {
            match text.len() {
                len @ 0..=31 => out.push(0xa0 | len as u8),
                len @ 32..=0xff => out.extend_from_slice(&[0xd9, len as u8]),
                len @ 0x100..=0xffff => {
                    out.push(0xda);
                    out.put_u16(len as u16);
                }
                len => {
                    out.push(0xdb);
                    out.put_u32(len as u32);
                }
            }
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            array_header(items.len(), out);
            items.iter().for_each(|item| msgpack(item, out));
        }
        Value::Object(map) => {
            debug_assert!(map.len() <= 15);
            out.push(0x80 | map.len() as u8);
            for (key, item) in map {
                msgpack(&Value::from(key.as_str()), out);
                msgpack(item, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(serializer: Serializer, bytes: &[u8]) -> Value {
        match serializer {
            Serializer::Json => serde_json::from_slice(bytes).unwrap(),
            Serializer::Msgpack => rmp_serde::from_slice(bytes).unwrap(),
        }
    }

    #[test]
    fn templates_are_the_messages_they_say_for_every_width_of_id() {
        for serializer in [Serializer::Json, Serializer::Msgpack] {
            let call = Template::call(serializer, "bench.echo", 40);
            for id in [1, 127, 128, 255, 256, 65_535, 65_536, 1 << 32, 1 << 53] {
                let mut bytes = BytesMut::new();
                call.write(id, &mut bytes);
                assert!(bytes.len() <= call.max_len());
                let expected = json!([48, id, {}, "bench.echo", ["x".repeat(40)]]);
                assert_eq!(decode(serializer, &bytes), expected);
                assert_eq!(head(serializer, &bytes).unwrap(), (CALL, id));
            }
        }
    }

    #[test]
    fn hello_register_and_subscribe_have_their_wire_form() {
        for serializer in [Serializer::Json, Serializer::Msgpack] {
            let hello = decode(serializer, &hello(serializer, "realm1"));
            assert_eq!(hello[0], 1);
            assert_eq!(hello[1], "realm1");
            assert_eq!(hello[2]["authmethods"], json!(["anonymous"]));
            assert_eq!(hello[2]["roles"]["callee"], json!({}));
            let register = decode(serializer, &register(serializer, 1, "a.b"));
            assert_eq!(register, json!([64, 1, {}, "a.b"]));
            let subscribe = decode(serializer, &subscribe(serializer, 300, "a.b"));
            assert_eq!(subscribe, json!([32, 300, {}, "a.b"]));
        }
    }

    #[test]
    fn head_takes_spaces_and_refuses_other_things() {
        let spaced = b" [ 50 , 17, {}]";
        assert_eq!(head(Serializer::Json, spaced).unwrap(), (50, 17));
        let abort = br#"[3,{"message":"no"},"wamp.error.no_such_realm"]"#;
        assert_eq!(head(Serializer::Json, abort).unwrap(), (3, 0));
        assert!(head(Serializer::Json, b"{}").is_err());
        assert!(head(Serializer::Json, b"[99999999999999999999999").is_err());
        assert!(head(Serializer::Msgpack, b"\x81\x01").is_err());
        assert!(head(Serializer::Msgpack, b"").is_err());
    }
}

//! Whom a request comes from: the peer of the connection, or who is behind the proxy that the peer is, by the headers
//! that proxies add (`Forwarded` of RFC 7239, `X-Forwarded-For`, `X-Real-IP`).
//!
//! Whoever is no proxy of ours may write there what they like. So the headers are read from their end, where the proxy
//! next to us has written, and only for as long as the one who wrote is trusted.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, VIA};

use super::reply::Refusal;
use crate::server::listener::Newcomer;
use crate::server::settings::RouterLimits;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who sent a request, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// Counted, locked out and shown; `None`: a unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Nobody from another machine had a part in it.
    pub(super) local: bool,
    /// The address it reached us at is a loopback address, and the client itself asked for it.
    pub(super) at_loopback: bool,
    /// TLS is spoken all the way, so that the client has seen that we are who it meant.
    pub(super) secure: bool,
}

impl Sender {
    /// Of a request that came in on this connection.
    pub(super) fn of(
        newcomer: &Newcomer,
        limits: &RouterLimits,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let at_loopback = newcomer
            .local
            .is_some_and(|local| local.to_canonical().is_loopback());
        let direct = Self {
            peer: newcomer.peer,
            local: at_loopback || newcomer.local.is_none(),
            at_loopback,
            secure: newcomer.tls.is_some(),
        };
        if !is_relayed(headers) {
            return Ok(direct);
        }
        let relayed = Self {
            local: false,
            at_loopback: false,
            ..direct
        };
        if !limits.trusts(newcomer.peer.map(|peer| peer.ip())) {
            return Ok(relayed);
        }
        let local = direct.local && names_only_loopback(headers);
        let relayed = Self { local, ..relayed };
        if !newcomer.settings.forwarded {
            return Ok(relayed);
        }
        let client = client(limits, headers).map_err(Refusal::Forwarded)?;
        Ok(Self {
            peer: client.or(newcomer.peer),
            secure: is_secure(headers).unwrap_or(direct.secure),
            ..relayed
        })
    }
}

/// Whether a proxy says that it has passed the request on.
fn is_relayed(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        *name == FORWARDED
            || *name == X_REAL_IP
            || *name == VIA
            || name.as_str().starts_with("x-forwarded-")
    })
}

/// The client by all headers that name one, which must agree: a proxy that sets one of them and passes on the others
/// would let anybody be whoever they like.
fn client(limits: &RouterLimits, headers: &HeaderMap) -> Result<Option<SocketAddr>, &'static str> {
    let mut client = None;
    for name in [FORWARDED, X_FORWARDED_FOR, X_REAL_IP] {
        if !headers.contains_key(&name) {
            continue;
        }
        let found = nearest_stranger(limits, &nodes(headers, &name)?)?;
        if client.is_some_and(|other: Option<SocketAddr>| {
            other.map(|it| it.ip()) != found.map(|it| it.ip())
        }) {
            return Err("the headers of the proxy name different clients");
        }
        client = Some(client.flatten().or(found));
    }
    Ok(client.flatten())
}

/// Whether every hop before the proxy next to us was on its own machine, too.
fn names_only_loopback(headers: &HeaderMap) -> bool {
    let nodes = [FORWARDED, X_FORWARDED_FOR, X_REAL_IP].map(|name| nodes(headers, &name));
    let is_loopback =
        |node: &Option<&str>| node.and_then(parse).is_some_and(|it| it.ip().is_loopback());
    nodes
        .iter()
        .any(|nodes| nodes.as_ref().is_ok_and(|nodes| !nodes.is_empty()))
        && nodes.iter().all(|nodes| {
            nodes
                .as_ref()
                .is_ok_and(|nodes| nodes.iter().all(is_loopback))
        })
}

/// From the end of the list: the first whom we do not trust, else the one furthest away. `None`: it is kept from us.
fn nearest_stranger(
    limits: &RouterLimits,
    nodes: &[Option<&str>],
) -> Result<Option<SocketAddr>, &'static str> {
    let mut client = None;
    for node in nodes.iter().rev() {
        let Some(node) = node.filter(|node| !is_hidden(node)) else {
            return Ok(client);
        };
        let address = parse(node).ok_or("a header of the proxy names no address")?;
        client = Some(address);
        if !limits.trusts(Some(address.ip())) {
            break;
        }
    }
    Ok(client)
}

/// Who sent the request on, hop by hop; `None`: that hop does not say.
fn nodes<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Vec<Option<&'h str>>, &'static str> {
    let entries = entries(headers, name)?.into_iter();
    Ok(match *name == FORWARDED {
        true => entries.map(|element| parameter(element, "for")).collect(),
        false => entries.map(Some).collect(),
    })
}

/// The comma-separated entries of a header, those of its repetitions too.
fn entries<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Vec<&'h str>, &'static str> {
    let mut entries = Vec::new();
    for value in headers.get_all(name) {
        let value = value.to_str();
        let value = value.map_err(|_| "a header of the proxy is no text")?;
        if value.matches('"').count() % 2 == 1 {
            // What the client began to quote would swallow what the proxy wrote behind it.
            return Err("a header of the proxy has a quote without an end");
        }
        entries.extend(split(value, ',').map(str::trim));
    }
    entries.retain(|entry| !entry.is_empty());
    Ok(entries)
}

/// At the separators outside of quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |letter| {
        quoted ^= letter == '"';
        letter == separator && !quoted
    })
}

/// Of one element of `Forwarded`.
fn parameter<'e>(element: &'e str, wanted: &str) -> Option<&'e str> {
    split(element, ';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let found = name.trim().eq_ignore_ascii_case(wanted);
        found.then(|| value.trim().trim_matches('"'))
    })
}

/// `unknown`, or a name that means something to the proxy alone.
fn is_hidden(node: &str) -> bool {
    node.starts_with('_') || node.eq_ignore_ascii_case("unknown")
}

/// `192.0.2.7`, `192.0.2.7:4660`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:4660`; without a port it is 0.
fn parse(node: &str) -> Option<SocketAddr> {
    let bare = node
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(node).parse::<IpAddr>();
    let address = address.map(|address| SocketAddr::new(address, 0));
    let address = address.or_else(|_| node.parse::<SocketAddr>()).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// What the proxy next to us says of its own client's connection.
fn is_secure(headers: &HeaderMap) -> Option<bool> {
    let last = |name| entries(headers, &name).ok()?.pop();
    let plain = last(X_FORWARDED_PROTO);
    let scheme = plain.or_else(|| parameter(last(FORWARDED)?, "proto"))?;
    Some(scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss"))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn named(headers: &[(&'static str, &'static str)]) -> Result<Option<String>, &'static str> {
        let limits = RouterLimits {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..RouterLimits::default()
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Ok(client(&limits, &map)?.map(|client| client.to_string()))
    }

    #[test]
    fn the_nearest_that_is_not_trusted_is_the_client() {
        for (name, value, expected) in [
            ("x-forwarded-for", "203.0.113.5", "203.0.113.5:0"),
            ("x-forwarded-for", "127.0.0.1, 203.0.113.5", "203.0.113.5:0"),
            (
                "x-forwarded-for",
                "evil, 203.0.113.5:99, 10.1.2.3",
                "203.0.113.5:99",
            ),
            ("x-forwarded-for", "10.9.9.9, 10.1.2.3", "10.9.9.9:0"),
            ("x-forwarded-for", "::ffff:203.0.113.5", "203.0.113.5:0"),
            ("x-real-ip", "2001:db8::7", "[2001:db8::7]:0"),
            ("forwarded", "for=192.0.2.43", "192.0.2.43:0"),
            (
                "forwarded",
                "for=1.1.1.1, For=\"[2001:db8:cafe::17]:4711\";by=\"a,b;c\"",
                "[2001:db8:cafe::17]:4711",
            ),
            (
                "forwarded",
                "for=1.1.1.1, for=_hidden, for=10.0.0.3",
                "10.0.0.3:0",
            ),
        ] {
            let found = named(&[(name, value)]);
            assert_eq!(found, Ok(Some(expected.to_owned())), "{name}: {value}");
        }
        for hidden in ["for=unknown", "proto=https", "for=_secret"] {
            assert_eq!(named(&[("forwarded", hidden)]), Ok(None), "{hidden}");
        }
    }

    #[test]
    fn repeated_headers_are_one_list_and_different_ones_must_agree() {
        let x = "x-forwarded-for";
        let found = named(&[(x, "127.0.0.1"), (x, "203.0.113.5")]);
        assert_eq!(found, Ok(Some("203.0.113.5:0".into())));
        let good = [(x, "1.1.1.1, 203.0.113.5"), ("x-real-ip", "203.0.113.5")];
        assert!(named(&good).is_ok());
        let forged = [(x, "203.0.113.5"), ("forwarded", "for=127.0.0.1")];
        assert!(named(&forged).is_err());
        let hidden = [(x, "203.0.113.5"), ("forwarded", "for=unknown")];
        assert!(named(&hidden).is_err());
        assert!(named(&[(x, "somebody")]).is_err());
        assert!(named(&[(x, "10.0.0.1, [::1")]).is_err());
        let swallows = "for=127.0.0.1;x=\", for=203.0.113.5";
        assert!(named(&[("forwarded", swallows)]).is_err());
    }
}

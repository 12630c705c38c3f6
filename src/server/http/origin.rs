//! Which pages may use this router from a browser.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request};

use super::forwarded::Sender;
use super::reply::Refusal;
use crate::server::settings::ListenerSettings;

/// Browsers say which page wants to connect. Without `origins`: pages of our own host and of loopback.
///
/// A page elsewhere can have its own host name resolve to our address (DNS rebinding) and looks like a page of our host
/// then. So the host must be one of ours: a loopback name for a request that came in on loopback, elsewhere one that
/// nobody can point at us ([`is_own`]), unless TLS has proved who we are.
pub(super) fn check_origin(
    settings: &ListenerSettings,
    sender: &Sender,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        // Only what a page asks for without reading the answer comes without an Origin.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        return match site {
            Some(b"cross-site") => Err(Refusal::CrossSite),
            _ => Ok(()),
        };
    };
    let origin = String::from_utf8_lossy(origin.as_bytes()).into_owned();
    let allowed = match &settings.origins {
        Some(_) => is_listed(settings, &origin),
        None => {
            let host = host(headers);
            if sender.at_loopback {
                is_loopback_page(&origin) && host.is_some_and(is_loopback_authority)
            } else {
                let own = host.filter(|host| sender.secure || is_own(host));
                is_own_host(&origin, own) || is_loopback_page(&origin)
            }
        }
    };
    match allowed {
        true => Ok(()),
        false => Err(Refusal::Origin(origin)),
    }
}

/// Where nothing else is shown than that one can ask: a page of the same origin reads events without an `Origin`, so
/// that only `Host` tells whether a foreign name was pointed at us.
pub(super) fn check_host(
    settings: &ListenerSettings,
    sender: &Sender,
    request: &Request<impl Sized>,
) -> Result<(), Refusal> {
    let Some(host) = host(request.headers()) else {
        return Ok(()); // HTTP/1.0: no browser.
    };
    let named = ["http://", "https://"].map(|scheme| format!("{scheme}{host}"));
    let good = sender.secure
        || named.iter().any(|origin| is_listed(settings, origin))
        || match sender.at_loopback {
            true => is_loopback_authority(host),
            // What pages post has an `Origin`; no page reaches a unix socket but through a proxy.
            false => request.method() != Method::GET || sender.peer.is_none() || is_own(host),
        };
    match good {
        true => Ok(()),
        false => Err(Refusal::Host(host.to_owned())),
    }
}

fn is_listed(settings: &ListenerSettings, origin: &str) -> bool {
    let patterns = settings.origins.iter().flatten();
    patterns
        .into_iter()
        .any(|pattern| matches_pattern(pattern, origin))
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST).and_then(|host| host.to_str().ok())
}

/// Whether the DNS of others cannot make this name mean us: an address, a name of one label, or of the local network.
fn is_own(authority: &str) -> bool {
    let host = host_of(authority).trim_end_matches('.');
    let host = host.to_ascii_lowercase();
    host.parse::<IpAddr>().is_ok()
        || !host.contains('.')
        || [".local", ".localhost", ".internal", ".home.arpa"]
            .iter()
            .any(|local| host.ends_with(local))
}

fn is_own_host(origin: &str, host: Option<&str>) -> bool {
    let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| {
        authority
            .strip_suffix(default_port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

fn is_loopback_page(origin: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| is_loopback_authority(authority))
}

/// Host and perhaps port, as in `Host`.
fn is_loopback_authority(authority: &str) -> bool {
    let host = host_of(authority);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn host_of(authority: &str) -> &str {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    host.unwrap_or_default()
}

/// `*` stands for any run of characters.
pub(super) fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

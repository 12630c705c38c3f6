//! Which pages may use this router from a browser.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};

use super::reply::Refusal;
use crate::server::settings::ListenerSettings;

/// Browsers say which page wants to connect. Without `origins`: pages of our own host and of loopback.
///
/// A page elsewhere can have its own host name resolve to 127.0.0.1 (DNS rebinding) and looks like a page of our host
/// then. So, a request that came in on loopback must name loopback itself, too.
pub(super) fn check_origin(
    settings: &ListenerSettings,
    local: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = String::from_utf8_lossy(origin.as_bytes()).into_owned();
    let allowed = match &settings.origins {
        Some(patterns) => patterns
            .iter()
            .any(|pattern| matches_pattern(pattern, &origin)),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            let on_loopback = local.is_some_and(|address| address.to_canonical().is_loopback());
            if on_loopback {
                is_loopback_page(&origin) && host.is_some_and(is_loopback_authority)
            } else {
                is_own_host(&origin, host) || is_loopback_page(&origin)
            }
        }
    };
    if allowed {
        Ok(())
    } else {
        Err(Refusal::Origin(origin))
    }
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
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    };
    host.is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
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

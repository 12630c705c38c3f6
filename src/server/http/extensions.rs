//! Which extension a WebSocket gets: permessage-deflate, as the client offers and the listener grants it (RFC 7692, 7.1).

use hyper::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::upgrade::tokens;
use crate::server::deflate::{Deflate, Window};
use crate::server::settings::DeflateSettings;

const NAME: &str = "permessage-deflate";
const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

const MOST_BITS: u8 = 15;
/// What compressors know; an offer of less for our side is not taken.
const LEAST_BITS: u8 = 9;

/// What a client offers.
#[derive(Default)]
struct Offer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// `Some(None)`: it would heed any.
    client_bits: Option<Option<u8>>,
}

/// The first offer that can be taken, and the answer to it.
pub(super) fn agree(
    settings: DeflateSettings,
    headers: &HeaderMap,
) -> Option<(Deflate, HeaderValue)> {
    let offers = tokens(headers, SEC_WEBSOCKET_EXTENSIONS).filter_map(Offer::parse);
    let most = u8::try_from(settings.window_bits).unwrap_or(MOST_BITS);
    for offer in offers {
        let to_peer = Window {
            bits: offer.server_bits.unwrap_or(MOST_BITS).min(most),
            takeover: settings.context_takeover && !offer.server_no_takeover,
        };
        if to_peer.bits < LEAST_BITS {
            continue;
        }
        let from_peer = Window {
            // Who has not said that they heed a smaller window may use the largest.
            bits: offer
                .client_bits
                .map_or(MOST_BITS, |bits| bits.unwrap_or(MOST_BITS).min(most)),
            takeover: settings.context_takeover && !offer.client_no_takeover,
        };
        let agreed = Deflate { to_peer, from_peer };
        let answer = HeaderValue::from_str(&answer(agreed)).ok()?;
        return Some((agreed, answer));
    }
    None
}

fn answer(Deflate { to_peer, from_peer }: Deflate) -> String {
    let mut answer = NAME.to_owned();
    let mut say = |parameter: &str| answer.extend(["; ", parameter]);
    for (name, window) in [
        (SERVER_NO_TAKEOVER, to_peer),
        (CLIENT_NO_TAKEOVER, from_peer),
    ] {
        if !window.takeover {
            say(name);
        }
    }
    for (name, window) in [(SERVER_BITS, to_peer), (CLIENT_BITS, from_peer)] {
        if window.bits < MOST_BITS {
            say(&format!("{name}={}", window.bits));
        }
    }
    answer
}

impl Offer {
    /// `None`: another extension, or one with parameters that RFC 7692 does not know, or says otherwise, or twice.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut offer = Self::default();
        for parameter in parts {
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (parameter, None),
            };
            let is_new = match (name, value) {
                (SERVER_NO_TAKEOVER, None) => {
                    !std::mem::replace(&mut offer.server_no_takeover, true)
                }
                (CLIENT_NO_TAKEOVER, None) => {
                    !std::mem::replace(&mut offer.client_no_takeover, true)
                }
                (SERVER_BITS, Some(value)) => offer.server_bits.replace(bits(value)?).is_none(),
                (CLIENT_BITS, None) => offer.client_bits.replace(None).is_none(),
                (CLIENT_BITS, Some(value)) => {
                    offer.client_bits.replace(Some(bits(value)?)).is_none()
                }
                _ => false,
            };
            if !is_new {
                return None;
            }
        }
        Some(offer)
    }
}

/// 8 to 15 without leading zeros, perhaps in quotation marks.
fn bits(value: &str) -> Option<u8> {
    let unquoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let value = unquoted.unwrap_or(value);
    (8..=MOST_BITS).find(|bits| bits.to_string() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(settings: DeflateSettings, offers: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, offer.parse().unwrap());
        }
        let (_, answer) = agree(settings, &headers)?;
        Some(answer.to_str().unwrap().to_owned())
    }

    const NEITHER: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn takeover(window_bits: usize) -> DeflateSettings {
        DeflateSettings {
            context_takeover: true,
            window_bits,
        }
    }

    #[test]
    fn unless_it_is_configured_nothing_is_taken_over() {
        let settings = DeflateSettings::default();
        for offer in [
            "permessage-deflate",
            "PerMessage-Deflate ; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ] {
            assert_eq!(
                answered(settings, &[offer]).as_deref(),
                Some(NEITHER),
                "{offer}"
            );
        }
    }

    #[test]
    fn takeover_is_what_both_sides_want() {
        for (offer, expected) in [
            ("permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover",
            ),
            (
                "permessage-deflate; client_no_context_takeover",
                "permessage-deflate; client_no_context_takeover",
            ),
        ] {
            assert_eq!(answered(takeover(15), &[offer]).as_deref(), Some(expected));
        }
    }

    #[test]
    fn windows_are_as_small_as_either_side_wants() {
        for (window, offer, expected) in [
            (15, "; client_max_window_bits", ""),
            (
                15,
                "; client_max_window_bits=10",
                "; client_max_window_bits=10",
            ),
            (
                12,
                "; client_max_window_bits",
                "; server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                12,
                "; client_max_window_bits=\"8\"",
                "; server_max_window_bits=12; client_max_window_bits=8",
            ),
            // Who does not say that they heed it is not asked to.
            (12, "", "; server_max_window_bits=12"),
            (
                12,
                "; server_max_window_bits=9",
                "; server_max_window_bits=9",
            ),
            (
                9,
                "; server_max_window_bits=15",
                "; server_max_window_bits=9",
            ),
        ] {
            let answer = answered(takeover(window), &[&format!("permessage-deflate{offer}")]);
            assert_eq!(
                answer,
                Some(format!("permessage-deflate{expected}")),
                "{window} {offer}"
            );
        }
    }

    #[test]
    fn offers_that_cannot_be_taken_are_passed_over() {
        let settings = DeflateSettings::default();
        for nonsense in [
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; level=9",
            "permessage-deflate;",
            "permessage-deflatex",
            "permessage-bzip2",
            "x-webkit-deflate-frame",
            "",
        ] {
            assert_eq!(answered(settings, &[nonsense]), None, "{nonsense}");
            let behind = format!("{nonsense}, permessage-deflate; client_no_context_takeover");
            assert_eq!(answered(settings, &[&behind]).as_deref(), Some(NEITHER));
            assert_eq!(
                answered(settings, &[nonsense, "permessage-deflate"]).as_deref(),
                Some(NEITHER)
            );
        }
    }
}

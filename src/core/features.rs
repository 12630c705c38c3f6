//! What WELCOME announces: exactly what works (conformance section 6).

use std::sync::Arc;

use super::credentials::Principal;
use super::policy::MetaApi;
use crate::wire::Welcome;
use crate::words::{Dict, SessionId, Uri, Value};

/// The router's name and version, as in `WELCOME.Details.agent`.
pub const AGENT: &str = concat!("Perilune-", env!("CARGO_PKG_VERSION"));

const BROKER: [&str; 5] = [
    "publisher_identification",
    "publisher_exclusion",
    "subscriber_blackwhite_listing",
    "pattern_based_subscription",
    "subscription_revocation",
];

const DEALER: [&str; 7] = [
    "progressive_call_results",
    "call_timeout",
    "call_canceling",
    "caller_identification",
    "pattern_based_registration",
    "shared_registration",
    "registration_revocation",
];

/// What the broker announces besides, unless the realm has `meta = false`.
const BROKER_META: [&str; 2] = ["session_meta_api", "subscription_meta_api"];

/// The same for the dealer.
const DEALER_META: [&str; 3] = [
    "session_meta_api",
    "registration_meta_api",
    "testament_meta_api",
];

/// `[2, session, {…}]` (`SES-02`, `SES-09`, `SES-10`).
pub(super) fn welcome(
    session: SessionId,
    realm: &Uri,
    principal: &Arc<Principal>,
    meta: MetaApi,
) -> Welcome {
    let roles = Dict::new()
        .with("broker", announced(&BROKER, &BROKER_META, meta))
        .with("dealer", announced(&DEALER, &DEALER_META, meta));
    let mut details = Dict::new()
        .with("roles", roles)
        .with("agent", AGENT)
        .with("realm", realm.as_str())
        .with("authid", principal.authid.as_str())
        .with("authrole", principal.authrole.as_str())
        .with("authmethod", principal.authmethod.as_str())
        .with("authprovider", principal.authprovider.as_str());
    if !principal.extra.is_empty() {
        details = details.with("authextra", principal.extra.clone());
    }
    Welcome { session, details }
}

fn announced(flags: &[&str], meta_flags: &[&str], meta: MetaApi) -> Dict {
    let features = flags
        .iter()
        .chain(meta_flags.iter().filter(|_| meta.is_on()))
        .map(|flag| ((*flag).to_owned(), Value::Bool(true)))
        .collect();
    Dict::new().with("features", Dict(features))
}

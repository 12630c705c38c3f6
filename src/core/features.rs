//! What WELCOME announces: exactly what works (conformance section 6).

use std::sync::Arc;

use super::credentials::Principal;
use super::policy::{RealmPolicy, Retention};
use crate::wire::Welcome;
use crate::words::{Dict, SessionId, Uri, Value};

/// The router's name and version, as in `WELCOME.Details.agent`.
pub const AGENT: &str = concat!("Perilune-", env!("CARGO_PKG_VERSION"));

const BROKER: [&str; 5] = [
    "publisher_identification",
    "publisher_exclusion",
    "subscriber_blackwhite_listing",
    "pattern_based_subscription",
    "sharded_subscription",
];

const DEALER: [&str; 6] = [
    "progressive_call_results",
    "call_timeout",
    "call_canceling",
    "caller_identification",
    "pattern_based_registration",
    "shared_registration",
];

/// `[2, session, {…}]` (`SES-02`, `SES-09`, `SES-10`).
pub(super) fn welcome(
    session: SessionId,
    realm: &Uri,
    principal: &Arc<Principal>,
    policy: &RealmPolicy,
) -> Welcome {
    let mut broker = BROKER.to_vec();
    if policy.retention != Retention::Off {
        broker.push("event_retention"); // RET-12
    }
    if !policy.history.is_empty() {
        broker.push("event_history");
    }
    let roles = Dict::new()
        .with("broker", announced(&broker))
        .with("dealer", announced(&DEALER));
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

fn announced(flags: &[&str]) -> Dict {
    let features = flags
        .iter()
        .map(|flag| ((*flag).to_owned(), Value::Bool(true)))
        .collect();
    Dict::new().with("features", Dict(features))
}

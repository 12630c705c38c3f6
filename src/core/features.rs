//! What WELCOME announces: exactly what works (conformance section 6).

use std::sync::Arc;

use super::credentials::Principal;
use super::policy::{MetaApi, RealmPolicy, Retention};
use crate::wire::Welcome;
use crate::words::{Dict, SessionId, Uri, Value};

/// The router's name and version, as in `WELCOME.Details.agent`.
pub const AGENT: &str = concat!("Perilune-", env!("CARGO_PKG_VERSION"));

/// A flag, and in which realms it is announced.
type Feature = (&'static str, fn(&RealmPolicy) -> bool);

const ALWAYS: fn(&RealmPolicy) -> bool = |_| true;
const META: fn(&RealmPolicy) -> bool = |policy| policy.meta == MetaApi::On;
const TRUST: fn(&RealmPolicy) -> bool = |policy| !policy.trust.is_empty();

const RETENTION: fn(&RealmPolicy) -> bool = |policy| policy.retention != Retention::Off; // RET-12
const HISTORY: fn(&RealmPolicy) -> bool = |policy| !policy.history.is_empty();

const BROKER: &[Feature] = &[
    ("publisher_identification", ALWAYS),
    ("publisher_exclusion", ALWAYS),
    ("subscriber_blackwhite_listing", ALWAYS),
    ("pattern_based_subscription", ALWAYS),
    ("payload_passthru_mode", ALWAYS),
    ("session_meta_api", META),
    ("subscription_meta_api", META),
    ("subscription_revocation", ALWAYS),
    ("publication_trustlevels", TRUST),
    ("sharded_subscription", ALWAYS),
    ("event_retention", RETENTION),
    ("event_history", HISTORY),
];

const DEALER: &[Feature] = &[
    ("progressive_call_results", ALWAYS),
    ("call_timeout", ALWAYS),
    ("call_canceling", ALWAYS),
    ("caller_identification", ALWAYS),
    ("pattern_based_registration", ALWAYS),
    ("shared_registration", ALWAYS),
    ("sharded_registration", ALWAYS),
    ("progressive_call_invocations", ALWAYS),
    ("call_reroute", ALWAYS),
    ("payload_passthru_mode", ALWAYS),
    ("session_meta_api", META),
    ("registration_meta_api", META),
    ("testament_meta_api", META),
    ("registration_revocation", ALWAYS),
    ("call_trustlevels", TRUST),
];

/// `[2, session, {…}]` (`SES-02`, `SES-09`, `SES-10`).
pub(super) fn welcome(
    session: SessionId,
    realm: &Uri,
    policy: &RealmPolicy,
    principal: &Arc<Principal>,
) -> Welcome {
    let roles = Dict::new()
        .with("broker", announced(BROKER, policy))
        .with("dealer", announced(DEALER, policy));
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

fn announced(features: &[Feature], policy: &RealmPolicy) -> Dict {
    let offered = features.iter().filter(|(_, offered)| offered(policy));
    let flags = offered.map(|(flag, _)| ((*flag).to_owned(), Value::Bool(true)));
    let role = Dict::new().with("features", Dict(flags.collect()));
    match policy.meta {
        MetaApi::On => role.with("reflection", true), // FEAT-26: beside the flags, not among them.
        MetaApi::Off => role,
    }
}

//! The conformance suite: one file per chapter, each test named by the requirement it holds.

mod authentication;
mod authorization;
mod cancel_timeout;
mod features;
mod ids_and_uris;
mod limits;
mod lockout;
mod login;
mod messages;
mod meta_events;
mod meta_registrations;
mod meta_sessions;
mod meta_subscriptions;
mod ordering;
mod patterns;
mod progressive_results;
mod properties;
mod publish_subscribe;
mod requirements;
mod revocation;
mod rpc;
mod session;
mod shared_registration;
mod support;
mod testaments;
mod violations;

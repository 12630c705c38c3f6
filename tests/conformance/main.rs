//! The conformance suite: one file per chapter, each test named by the requirement it holds.

mod authentication;
mod authorization;
mod cancel_timeout;
mod features;
mod history;
mod ids_and_uris;
mod limits;
mod lockout;
mod login;
mod messages;
mod meta_events;
mod ordering;
mod patterns;
mod progressive_results;
mod properties;
mod publish_subscribe;
mod requirements;
mod retention;
mod rpc;
mod session;
mod sharded_subscription;
mod shared_registration;
mod support;
mod violations;

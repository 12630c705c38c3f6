//! The words of the protocol: ids, URIs, match policies and plain values. Knows no message and no bytes on a wire.

mod id;
mod uri;
mod value;
mod visible;

pub use id::{
    Id, InvalidId, MAX_ID, PublicationId, RegistrationId, RequestId, SessionId, SubscriptionId,
};
pub use uri::{InvalidUri, MOST_COMPONENTS, MatchPolicy, Uri, UriRules};
pub use value::{Dict, Value};
pub use visible::{Visible, is_hidden, visible_json};

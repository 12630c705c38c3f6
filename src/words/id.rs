//! WAMP ids: integers from 1 to 2^53 (conformance section 2).

use std::fmt;

/// The largest WAMP id, 2^53.
pub const MAX_ID: u64 = 1 << 53;

/// An integer that is no WAMP id: 0 or above 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAMP id (1 to 2^53)")]
pub struct InvalidId(pub u64);

/// What all id types share; lets codecs and random draws be written once.
pub trait Id: Copy + Sized {
    /// Checks the range 1..=2^53.
    fn new(value: u64) -> Result<Self, InvalidId>;
    /// The integer that goes on the wire.
    fn value(self) -> u64;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl Id for $name {
            fn new(value: u64) -> Result<Self, InvalidId> {
                if (1..=MAX_ID).contains(&value) { Ok(Self(value)) } else { Err(InvalidId(value)) }
            }
            fn value(self) -> u64 {
                self.0
            }
        }

        impl $name {
            /// For tests and counters whose range is known; panics outside 1..=2^53.
            pub const fn from_raw(value: u64) -> Self {
                assert!(value >= 1 && value <= MAX_ID, "id out of range");
                Self(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A session, random over the whole range, unique among the router's live sessions.
    SessionId
    /// A request of one session and direction (session scope: 1, 2, 3 …). INVOCATION.Request is one too.
    RequestId
    /// A subscription object (router scope, per realm).
    SubscriptionId
    /// A registration object (router scope, per realm).
    RegistrationId
    /// One publication, random over the whole range.
    PublicationId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_01_range_is_1_to_2_pow_53() {
        assert_eq!(SessionId::new(0), Err(InvalidId(0)));
        assert_eq!(SessionId::new(1).map(Id::value), Ok(1));
        assert_eq!(
            SessionId::new(MAX_ID).map(Id::value),
            Ok(9_007_199_254_740_992)
        );
        assert_eq!(SessionId::new(MAX_ID + 1), Err(InvalidId(MAX_ID + 1)));
    }
}

//! Black and white lists of a publication.

use super::*;

/// The lists of an [`Audience`] made ready for many receivers: lists and receivers may both be long, and the realm
/// stands still while they are gone through.
pub(super) struct Lists<'a> {
    sessions: Two<'a, SessionId>,
    authids: Two<'a, str>,
    authroles: Two<'a, str>,
}

/// Who may and who must not, by one property; `None`: everybody, nobody. Hashed with a secret: peers write the lists.
struct Two<'a, T: ?Sized> {
    eligible: Option<HashSet<&'a T>>,
    exclude: Option<HashSet<&'a T>>,
}

impl<'a, T: ?Sized + Eq + std::hash::Hash> Two<'a, T> {
    fn new<O: std::borrow::Borrow<T>>(
        eligible: &'a Option<Vec<O>>,
        exclude: &'a Option<Vec<O>>,
    ) -> Self {
        let set = |list: &'a Option<Vec<O>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(std::borrow::Borrow::borrow).collect())
        };
        Self {
            eligible: set(eligible),
            exclude: set(exclude),
        }
    }

    fn includes(&self, value: &T) -> bool {
        self.eligible
            .as_ref()
            .is_none_or(|list| list.contains(value))
            && !self
                .exclude
                .as_ref()
                .is_some_and(|list| list.contains(value))
    }
}

impl<'a> Lists<'a> {
    pub(super) fn new(audience: &'a Audience) -> Self {
        Self {
            sessions: Two::new(&audience.eligible, &audience.exclude),
            authids: Two::new(&audience.eligible_authid, &audience.exclude_authid),
            authroles: Two::new(&audience.eligible_authrole, &audience.exclude_authrole),
        }
    }

    /// `BWL-02`: in every eligible list that is there, and in no exclude list.
    pub(super) fn include(&self, session: &Session) -> bool {
        self.sessions.includes(&session.id)
            && self.authids.includes(&session.principal.authid)
            && self.authroles.includes(&session.principal.authrole)
    }
}

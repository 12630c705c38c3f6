//! The method `tls`: who a client's certificate, verified by the transport, stands for (`AUTH-13`).

use std::collections::BTreeMap;
use std::time::SystemTime;

/// What the login conversation knows of a verified certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The subject's alternative names: DNS names and mail addresses.
    pub names: Vec<AltName>,
    /// SHA-256 of the whole certificate, in lower-case hex.
    pub fingerprint: String,
    /// Its `notAfter`: with it ends what it was good for.
    pub expires: Option<SystemTime>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    Dns(String),
    Email(String),
}

/// `auth.tls` of a realm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsPolicy {
    /// authid -> user.
    pub users: BTreeMap<String, TlsUser>,
    /// The role of all other certificates; their common name is the authid.
    pub role: Option<String>,
}

/// Whom a certificate must be of: all that is given must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsUser {
    pub role: String,
    pub fingerprint: Option<String>,
    pub cn: Option<String>,
    pub dns: Option<String>,
    pub email: Option<String>,
}

impl TlsUser {
    /// All that a certificate must have.
    pub(super) fn demands(&self) -> [&Option<String>; 4] {
        [&self.fingerprint, &self.cn, &self.dns, &self.email]
    }

    fn fits(&self, shown: &Certificate) -> bool {
        // Names of hosts and mail addresses are the same in any case.
        let has = |wanted: &str, mail: bool| {
            shown.names.iter().any(|name| match name {
                AltName::Dns(name) => !mail && name.eq_ignore_ascii_case(wanted),
                AltName::Email(name) => mail && name.eq_ignore_ascii_case(wanted),
            })
        };
        let fingerprint = self.fingerprint.as_ref();
        let checks = [
            fingerprint.map(|wanted| *wanted == shown.fingerprint),
            (self.cn.as_ref()).map(|wanted| shown.common_name.as_ref() == Some(wanted)),
            self.dns.as_ref().map(|wanted| has(wanted, false)),
            self.email.as_ref().map(|wanted| has(wanted, true)),
        ];
        let mut given = checks.into_iter().flatten().peekable();
        given.peek().is_some() && given.all(|fits| fits)
    }
}

impl TlsPolicy {
    /// Authid and role of who showed the certificate. It may be of several users: `claimed` chooses among them, else a
    /// fingerprint is more than a name.
    pub(super) fn find(
        &self,
        shown: &Certificate,
        claimed: Option<&str>,
    ) -> Option<(String, String)> {
        let fitting = |(authid, user): &(&String, &TlsUser)| {
            claimed.is_none_or(|claimed| claimed == *authid) && user.fits(shown)
        };
        let users = self.users.iter().filter(fitting);
        let best = users.min_by_key(|(_, user)| user.fingerprint.is_none());
        if let Some((authid, user)) = best {
            return Some((authid.clone(), user.role.clone()));
        }
        let name = (shown.common_name.as_ref()).filter(|name| !name.is_empty())?;
        // Nobody gets a user's name without being that user.
        let free = !self.users.contains_key(name) && claimed.is_none_or(|claimed| claimed == name);
        Some((name.clone(), self.role.clone()?)).filter(|_| free)
    }

    /// Whether somebody of this name may have this role.
    pub(super) fn may_give(&self, authid: &str, role: &str) -> bool {
        match self.users.get(authid) {
            Some(user) => user.role == role,
            None => self.role.as_deref() == Some(role),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Certificate {
        Certificate {
            common_name: Some("hub".into()),
            names: vec![AltName::Dns("Hub.example".into())],
            fingerprint: "ab".repeat(32),
            expires: None,
        }
    }

    fn user(role: &str) -> TlsUser {
        TlsUser {
            role: role.into(),
            ..TlsUser::default()
        }
    }

    #[test]
    fn auth_13_all_that_is_given_must_fit() {
        let find = |user: TlsUser| {
            let users = BTreeMap::from([("joe".to_owned(), user)]);
            let policy = TlsPolicy { users, role: None };
            policy.find(&shown(), None).is_some()
        };
        let cn = |cn: &str| Some(cn.to_owned());
        assert!(!find(user("r")), "nothing is given");
        assert!(find(TlsUser {
            cn: cn("hub"),
            ..user("r")
        }));
        assert!(!find(TlsUser {
            cn: cn("Hub"),
            ..user("r")
        }));
        assert!(find(TlsUser {
            dns: cn("hub.EXAMPLE"),
            ..user("r")
        }));
        assert!(!find(TlsUser {
            email: cn("hub.example"),
            ..user("r")
        }));
        let both = TlsUser {
            cn: cn("hub"),
            fingerprint: cn("cd"),
            ..user("r")
        };
        assert!(!find(both));
    }

    #[test]
    fn auth_13_the_claimed_name_chooses_and_takes_nobodys() {
        let users = [("ann", "a"), ("bob", "b")].map(|(name, role)| {
            let cn = Some("hub".to_owned());
            (name.to_owned(), TlsUser { cn, ..user(role) })
        });
        let mut policy = TlsPolicy {
            users: BTreeMap::from(users),
            role: Some("device".into()),
        };
        let found = |policy: &TlsPolicy, claimed| policy.find(&shown(), claimed);
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(found(&policy, Some("bob")), pair("bob", "b"));
        assert_eq!(found(&policy, Some("eve")), None);
        policy.users.clear();
        assert_eq!(found(&policy, None), pair("hub", "device"));
        policy.users.insert("hub".into(), user("root"));
        assert_eq!(found(&policy, None), None, "the name is taken");
    }
}

//! The method `cookie`: which cookies a realm takes, and those that the router has issued itself.
//!
//! What a browser sends along names nobody by itself: a cookie is known by a table, by the [`Jar`], or by a function.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::Now;
use super::credentials::{AuthPolicy, Principal, Proof, Secret};
use crate::words::Uri;

/// The name of the cookie unless the configuration says another.
pub const COOKIE_NAME: &str = "wampauth";

/// `auth.cookie` of a realm.
#[derive(Debug, Clone, PartialEq)]
pub struct CookiePolicy {
    pub name: String,
    /// authid -> user.
    pub users: BTreeMap<String, CookieUser>,
    /// Cookies that pass the gate and name nobody.
    pub values: Vec<Secret>,
    /// A cookie must pass before any other method; it logs nobody in then.
    pub gate: bool,
    /// The router issues cookies to those who logged in otherwise.
    pub issue: Option<IssuePolicy>,
}

impl Default for CookiePolicy {
    fn default() -> Self {
        Self {
            name: COOKIE_NAME.to_owned(),
            users: BTreeMap::new(),
            values: Vec::new(),
            gate: false,
            issue: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CookieUser {
    pub secret: Secret,
    /// Absent where the cookie is only a gate.
    pub role: String,
}

/// How cookies are issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuePolicy {
    pub max_age: Duration,
    /// `None`: on connections with TLS.
    pub secure: Option<bool>,
    pub http_only: bool,
    pub same_site: SameSite,
}

impl Default for IssuePolicy {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(7 * 24 * 3600),
            secure: None,
            http_only: true,
            same_site: SameSite::Lax,
        }
    }
}

/// From which sites' pages a browser sends the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    None,
}

impl SameSite {
    pub const ALL: [Self; 3] = [Self::Strict, Self::Lax, Self::None];

    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lax => "lax",
            Self::None => "none",
        }
    }
}

impl CookiePolicy {
    /// Whose cookie it is, by the table. Every entry is compared: the time tells nothing.
    pub(super) fn user(&self, cookie: &Secret) -> Option<(&str, &str)> {
        let plain = decoded(cookie);
        let mut found = None;
        for (authid, user) in &self.users {
            if (user.secret == *cookie) | (user.secret == plain) {
                found = Some((authid.as_str(), user.role.as_str()));
            }
        }
        found
    }

    /// Whether it is one of `values`.
    pub(super) fn lists(&self, cookie: &Secret) -> bool {
        let plain = decoded(cookie);
        let matches = self
            .values
            .iter()
            .filter(|value| (**value == *cookie) | (**value == plain));
        matches.count() > 0
    }
}

/// A cookie's value without percent encoding, `+` as a space (as forms write it, and Wiola reads it).
pub(super) fn decoded(cookie: &Secret) -> Secret {
    let octets = cookie.expose();
    let mut plain = Vec::with_capacity(octets.len());
    let mut at = 0;
    while let Some(&octet) = octets.get(at) {
        let hex = |at: usize| {
            let digit = char::from(*octets.get(at)?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (octet, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', ..) => plain.push(b' '),
            _ => plain.push(octet),
        }
        at += 1;
    }
    Secret::new(plain)
}

/// How many issued cookies are remembered; beyond it the one that ends first is forgotten.
const MOST: usize = 100_000;

/// The cookies that the router has issued and bound to somebody, known by their hash: so the octets are never compared
/// one by one, and are not kept.
#[derive(Debug, Default)]
pub struct Jar {
    bound: FxHashMap<Hash, Bound>,
    ends: BTreeSet<(Duration, Hash)>,
}

type Hash = [u8; 32];

#[derive(Debug)]
struct Bound {
    realm: Uri,
    owner: Remembered,
    end: Duration,
}

/// Who got a cookie, and by what login. It is good for as long as that login would be.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    pub principal: Principal,
    /// When what they proved themselves with ends: a token, a certificate.
    pub expires: Option<SystemTime>,
    /// What the tables said of them.
    proof: Proof,
}

impl Remembered {
    /// Somebody who has just logged in.
    pub fn new(auth: &AuthPolicy, principal: Principal, expires: Option<SystemTime>) -> Self {
        Self {
            proof: auth.proof(&principal),
            principal,
            expires,
        }
    }

    /// Whether they could log in as they did.
    pub(super) fn is_good(&self, auth: &AuthPolicy) -> bool {
        auth.still_offers(&self.principal)
            && auth.still_admits(&self.principal)
            && auth.proof(&self.principal) == self.proof
    }
}

impl Jar {
    /// From now on the cookie logs in its owner, for `max_age` or as long as their login lasts.
    pub fn bind(
        &mut self,
        now: Now,
        cookie: &Secret,
        realm: &Uri,
        owner: Remembered,
        max_age: Duration,
    ) {
        self.expire(now.mono);
        if self.bound.len() >= MOST
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.bound.remove(&first);
        }
        let hash = hash(cookie);
        let lasts = (owner.expires).map(|at| at.duration_since(now.wall).unwrap_or_default());
        let end = (now.mono).saturating_add(lasts.map_or(max_age, |lasts| lasts.min(max_age)));
        let bound = Bound {
            realm: realm.detached(),
            owner,
            end,
        };
        if let Some(before) = self.bound.insert(hash, bound) {
            self.ends.remove(&(before.end, hash));
        }
        self.ends.insert((end, hash));
    }

    /// Who got the cookie, if it was in this realm.
    pub fn find(&self, now: Now, realm: &str, cookie: &Secret) -> Option<&Remembered> {
        let bound = self.bound.get(&hash(cookie))?;
        let over = bound.end <= now.mono || bound.owner.expires.is_some_and(|at| at <= now.wall);
        (!over && &*bound.realm == realm).then_some(&bound.owner)
    }

    /// Whether it is bound in any realm.
    pub fn knows(&self, now: Duration, cookie: &Secret) -> bool {
        self.bound
            .get(&hash(cookie))
            .is_some_and(|bound| bound.end > now)
    }

    /// None of their cookies logs them in any more.
    pub fn forget(&mut self, realm: &str, authid: &str) {
        let ends = &mut self.ends;
        self.bound.retain(|hash, bound| {
            let theirs = &*bound.realm == realm && bound.owner.principal.authid == authid;
            if theirs {
                ends.remove(&(bound.end, *hash));
            }
            !theirs
        });
    }

    pub fn len(&self) -> usize {
        self.bound.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    fn expire(&mut self, now: Duration) {
        while let Some((end, hash)) = self.ends.first().copied()
            && end <= now
        {
            self.ends.remove(&(end, hash));
            self.bound.remove(&hash);
        }
    }
}

fn hash(cookie: &Secret) -> Hash {
    Sha256::digest(cookie.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Dict;

    fn ann() -> Principal {
        Principal {
            authid: "ann".into(),
            authrole: "user".into(),
            authmethod: "ticket".into(),
            authprovider: "static".into(),
            extra: Dict::new(),
        }
    }

    #[test]
    fn an_issued_cookie_ends_with_its_time_or_its_user() {
        let mut jar = Jar::default();
        let (home, work) = (Uri::from("home"), Uri::from("work"));
        let hour = Duration::from_secs(3600);
        let at = |mono| Now {
            mono,
            wall: SystemTime::UNIX_EPOCH + mono,
        };
        let ann = || Remembered::new(&AuthPolicy::default(), ann(), None);
        let cookie = |name: &str| Secret::new(name);
        jar.bind(at(Duration::ZERO), &cookie("one"), &home, ann(), hour);
        assert_eq!(
            jar.find(at(hour / 2), "home", &cookie("one")),
            Some(&ann()),
            "found"
        );
        assert_eq!(jar.find(at(hour / 2), "work", &cookie("one")), None);
        assert_eq!(jar.find(at(hour), "home", &cookie("one")), None, "too old");
        assert!(!jar.knows(hour, &cookie("one")));
        jar.bind(at(hour), &cookie("two"), &work, ann(), hour);
        assert_eq!(jar.len(), 1, "the expired one makes room");
        jar.bind(at(hour), &cookie("three"), &home, ann(), hour);
        jar.forget("home", "ann");
        assert!(!jar.knows(hour, &cookie("three")));
        assert!(jar.knows(hour, &cookie("two")), "another realm's Ann");
        assert_eq!(jar.ends.len(), jar.len());
    }

    #[test]
    fn a_cookie_is_read_as_forms_write_it() {
        for (sent, plain) in [("a%20b+c", "a b c"), ("%4", "%4"), ("%zz", "%zz"), ("", "")] {
            assert_eq!(decoded(&Secret::new(sent)), Secret::new(plain), "{sent}");
        }
    }
}

//! Cookies that the router issues: set with the answer to a WebSocket's request, bound to whoever logs in on that
//! connection, taken as a login on later ones. They are kept in memory only.
//!
//! What a request brings is never bound: who plants a cookie in another's browser does not get their login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{HeaderMap, HeaderValue, SET_COOKIE};
use parking_lot::{Mutex, RwLock};
use rand::RngCore;

use super::hooks::TransportInfo;
use super::settings::{RealmSettings, Settings};
use crate::core::Now;
use crate::core::cookies::{IssuePolicy, Jar, Remembered, SameSite};
use crate::core::credentials::{AuthMethod, Principal, Secret};
use crate::core::policy::RealmPolicy;
use crate::words::Uri;

/// See the module.
#[derive(Default)]
pub(crate) struct Cookies {
    jar: Mutex<Jar>,
    /// By the name of the cookie; realms that share one share its attributes.
    issuing: RwLock<Arc<BTreeMap<String, IssuePolicy>>>,
}

impl Cookies {
    /// What the realms issue from now on.
    pub(crate) fn configure(&self, settings: &Settings) {
        let on_demand = settings.on_demand.as_ref().map(|demand| &demand.realm);
        let policy = |realm: &RealmSettings| {
            let cookie = realm.policy.auth.cookie.as_ref()?;
            Some((cookie.name.clone(), cookie.issue.clone()?))
        };
        let realms = settings.realms.values().chain(on_demand);
        *self.issuing.write() = Arc::new(realms.filter_map(policy).collect());
    }

    /// Sets cookies for a client that brought none we know; they mean nothing before a login.
    pub(crate) fn issue(
        &self,
        now: Duration,
        transport: &mut TransportInfo,
        tls: bool,
        headers: &mut HeaderMap,
    ) {
        let issuing = self.issuing.read().clone();
        for (name, policy) in issuing.iter() {
            let known = transport.cookies().any(|(found, value)| {
                found == name && self.jar.lock().knows(now, &Secret::new(value))
            });
            if known {
                continue;
            }
            let mut octets = [0; 32];
            rand::rng().fill_bytes(&mut octets);
            let value = URL_SAFE_NO_PAD.encode(octets);
            if let Ok(header) = HeaderValue::from_str(&set_cookie(name, &value, policy, tls)) {
                headers.append(SET_COOKIE, header);
                transport.issued.push((name.clone(), Secret::new(value)));
            }
        }
    }

    /// They have logged in on this connection: what it was given is theirs. True: cookies of theirs may be known.
    pub(crate) fn bind(
        &self,
        now: Now,
        transport: &TransportInfo,
        (realm, policy): (&Uri, &RealmPolicy),
        (principal, expires): (&Principal, Option<SystemTime>),
    ) -> bool {
        let Some(cookie) = &policy.auth.cookie else {
            return false;
        };
        let Some(issue) = &cookie.issue else {
            return false;
        };
        let method = AuthMethod::parse(&principal.authmethod);
        if matches!(
            method,
            Some(AuthMethod::Anonymous | AuthMethod::Cookie) | None
        ) {
            return method == Some(AuthMethod::Cookie);
        }
        let mut issued = transport.issued.iter();
        if let Some((_, value)) = issued.find(|(name, _)| *name == cookie.name) {
            let mut principal = principal.clone();
            // What proved the router to the client then proves nothing later.
            if method == Some(AuthMethod::Scram) {
                principal.extra = Default::default();
            }
            let owner = Remembered::new(&policy.auth, principal, expires);
            let mut jar = self.jar.lock();
            jar.bind(now, value, realm, owner, issue.max_age);
        }
        true
    }

    /// Who got this cookie.
    pub(crate) fn find(&self, now: Now, realm: &Uri, cookie: &Secret) -> Option<Remembered> {
        self.jar.lock().find(now, realm, cookie).cloned()
    }

    /// The router has sent them away: no cookie brings them back.
    pub(crate) fn forget(&self, realm: &Uri, authid: &str) {
        self.jar.lock().forget(realm, authid);
    }
}

fn set_cookie(name: &str, value: &str, policy: &IssuePolicy, tls: bool) -> String {
    let mut text = format!(
        "{name}={value}; Path=/; Max-Age={}; SameSite={}",
        policy.max_age.as_secs(),
        match policy.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        }
    );
    if policy.http_only {
        text.push_str("; HttpOnly");
    }
    if policy.secure.unwrap_or(tls) {
        text.push_str("; Secure");
    }
    text
}

//! JSON Web Tokens: who a signed token says somebody is.
//!
//! RFC 7519 over RFC 7515 (compact form), with the advice of RFC 8725: the key decides which algorithms it may be used
//! with, never the token alone; there is no `none`; what a token demands and we do not know (`crit`) refuses it. Reads
//! no clock: the caller says what time it is. Keys come from the configuration (`core::jwt_keys` reads their forms),
//! nothing is fetched.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value as Json};

use super::jwt_keys::{Algorithm, JwtKey};
use crate::words::{Dict, Value};

/// Octets of a token; longer ones are not looked at.
pub(super) const LONGEST_TOKEN: usize = 16 * 1024;

/// The tokens a realm accepts.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtPolicy {
    pub keys: Vec<JwtKey>,
    /// Accepted values of `iss`; empty: not looked at.
    pub issuer: Vec<String>,
    /// Accepted values of `aud`; empty: a token for a particular audience is not for us.
    pub audience: Vec<String>,
    /// By how much the clocks may differ.
    pub leeway: Duration,
    /// The claim that is the authid.
    pub authid: String,
    pub role: RoleClaim,
}

/// How a token's role is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleClaim {
    /// The claim: a text, or a list of which the first that counts is taken.
    pub claim: String,
    /// Value of the claim -> role; `None`: the value is the role.
    pub roles: Option<BTreeMap<String, String>>,
    /// The role where the claim yields none.
    pub default: Option<String>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub authid: String,
    pub role: Option<String>,
    pub claims: Dict,
    /// Up to then it is good, and so is what it was good for: `exp` with the leeway.
    pub expires: SystemTime,
}

/// Why a token is not accepted; for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("the token is longer than {LONGEST_TOKEN} octets")]
    TooLong,
    /// Signed by a key of ours all the same.
    #[error("the token's claims are malformed: {0}")]
    Claims(&'static str),
    #[error("the token has the algorithm {0:?}, which no key of this realm accepts")]
    Algorithm(String),
    #[error("the token names a key that this realm does not have ({0:?})")]
    UnknownKey(String),
    #[error("the token's signature is not from a key of this realm")]
    Signature,
    #[error("the token has no `exp` that is a number")]
    NoExpiry,
    #[error("the token expired {0} s ago")]
    Expired(u64),
    #[error("the token is valid only in {0} s")]
    NotYet(u64),
    #[error("the token's issuer is not accepted ({0:?})")]
    Issuer(String),
    #[error("the token is not for this audience")]
    Audience,
    #[error("the token has no claim {0:?} to take the authid from")]
    NoAuthid(String),
    #[error("the token is not {0:?}'s, whom HELLO names")]
    OtherAuthid(String),
    #[error("the token gives no role")]
    NoRole,
}

impl JwtError {
    /// Whether a known key vouches for the token, so that nobody else need be asked.
    pub(super) fn is_known_key(&self) -> bool {
        !matches!(
            self,
            Self::Malformed(_) | Self::Algorithm(_) | Self::UnknownKey(_) | Self::Signature
        )
    }
}

impl JwtPolicy {
    /// Checks signature, times, issuer and audience. Of use to whatever takes bearer tokens.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Token, JwtError> {
        let claims = self.signed(token)?;
        let expires = self.check(&claims, now)?;
        let authid = match claim(&claims, &self.authid) {
            Some(Json::String(authid)) if !authid.is_empty() => authid.clone(),
            Some(Json::Number(authid)) => authid.to_string(),
            _ => return Err(JwtError::NoAuthid(self.authid.clone())),
        };
        Ok(Token {
            authid,
            role: self.role.of(&claims),
            claims: dict(claims),
            expires,
        })
    }

    /// Whether a token may yield this role.
    pub(super) fn may_give(&self, role: &str) -> bool {
        let RoleClaim { roles, default, .. } = &self.role;
        default.as_deref() == Some(role)
            || roles
                .as_ref()
                .is_none_or(|roles| roles.values().any(|given| given == role))
    }

    /// The claims, if a key of ours signed them.
    fn signed(&self, token: &str) -> Result<Map<String, Json>, JwtError> {
        let malformed = JwtError::Malformed;
        if token.len() > LONGEST_TOKEN {
            return Err(JwtError::TooLong);
        }
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(malformed("it has not three parts"));
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let header = object(header).ok_or(malformed("its header is no JSON object"))?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| malformed("its signature is not Base64"))?;
        if header.contains_key("crit") {
            return Err(malformed("its header demands extensions (`crit`)"));
        }
        let name = header.get("alg").and_then(Json::as_str).unwrap_or_default();
        let refused = || JwtError::Algorithm(name.chars().take(16).collect());
        let algorithm = Algorithm::parse(name).ok_or_else(refused)?;
        let fitting: Vec<&JwtKey> = self
            .keys
            .iter()
            .filter(|key| key.accepts(algorithm))
            .collect();
        if fitting.is_empty() {
            return Err(refused());
        }
        let kid = header.get("kid").and_then(Json::as_str);
        let named = |key: &&&JwtKey| match (kid, &key.id) {
            (Some(kid), Some(id)) => kid == id,
            _ => true,
        };
        let mut candidates = fitting.iter().filter(named).peekable();
        if let (None, Some(kid)) = (candidates.peek(), kid) {
            return Err(JwtError::UnknownKey(kid.chars().take(64).collect()));
        }
        if !candidates.any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
            return Err(JwtError::Signature);
        }
        object(payload).ok_or(JwtError::Claims("they are no JSON object"))
    }

    fn check(&self, claims: &Map<String, Json>, now: SystemTime) -> Result<SystemTime, JwtError> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let expiry = claims.get("exp").and_then(Json::as_f64);
        let expiry = expiry.ok_or(JwtError::NoExpiry)?;
        let over = now - expiry;
        if over >= leeway {
            return Err(JwtError::Expired(over as u64));
        }
        if let Some(begin) = claims.get("nbf") {
            let begin = begin
                .as_f64()
                .ok_or(JwtError::Claims("`nbf` is no number"))?;
            if begin - now > leeway {
                return Err(JwtError::NotYet((begin - now) as u64));
            }
        }
        let issuer = claims.get("iss").and_then(Json::as_str);
        if !self.issuer.is_empty()
            && !issuer.is_some_and(|issuer| self.issuer.iter().any(|ours| ours == issuer))
        {
            let shown = issuer.unwrap_or_default().chars().take(128).collect();
            return Err(JwtError::Issuer(shown));
        }
        let audience = texts(claims.get("aud"));
        let open = self.audience.is_empty() && claims.get("aud").is_none();
        if !open
            && !audience
                .iter()
                .any(|aud| self.audience.iter().any(|ours| ours == aud))
        {
            return Err(JwtError::Audience);
        }
        let end = Duration::try_from_secs_f64(expiry + leeway).ok();
        let end = end.and_then(|end| SystemTime::UNIX_EPOCH.checked_add(end));
        // What never ends was not meant so, or is meant to be never taken back.
        end.ok_or(JwtError::Claims("`exp` is beyond all time"))
    }
}

impl RoleClaim {
    fn of(&self, claims: &Map<String, Json>) -> Option<String> {
        let values = texts(claim(claims, &self.claim));
        let given = match &self.roles {
            Some(roles) => values.iter().find_map(|value| roles.get(*value).cloned()),
            None => values.first().map(|value| (*value).to_owned()),
        };
        given.or_else(|| self.default.clone())
    }
}

/// A claim by its name, or by its path: `realm_access.roles`.
fn claim<'c>(claims: &'c Map<String, Json>, name: &str) -> Option<&'c Json> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

/// A text, or the texts of a list.
fn texts(value: Option<&Json>) -> Vec<&str> {
    match value {
        Some(Json::String(text)) => vec![text],
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn object(part: &str) -> Option<Map<String, Json>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn dict(claims: Map<String, Json>) -> Dict {
    Dict(
        claims
            .into_iter()
            .map(|(key, value)| (key, value_of(value)))
            .collect(),
    )
}

fn value_of(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => flag.into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => text.into(),
        Json::Array(list) => Value::List(list.into_iter().map(value_of).collect()),
        Json::Object(map) => dict(map).into(),
    }
}

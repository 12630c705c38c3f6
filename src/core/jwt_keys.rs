//! The keys of JSON Web Tokens: shared secrets, public keys in PEM form, key sets (RFC 7517), and what each is good for.
//!
//! Every key knows its algorithms, so a public key never serves as a shared secret. The signatures are checked by the
//! library that does the router's TLS.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value as Json;

use super::credentials::Secret;
use super::cryptosign::PublicKey;

/// The signature algorithms on offer. There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Self; 9] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// As in a token's `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The inverse of [`Algorithm::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }
}

/// A key that tokens may be signed with.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtKey {
    /// `kid` of a key set.
    pub(super) id: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq)]
enum Material {
    Shared(Secret),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("holds no `-----BEGIN PUBLIC KEY-----`")]
    NotPem,
    #[error("holds a private key: give the public one, the router only verifies")]
    Private,
    #[error("holds no RSA, P-256, P-384 or Ed25519 public key that can be read")]
    Unknown,
    #[error("is a key in PEM form, no shared secret: public keys go into `key`")]
    Public,
    #[error("is too short: at least {0} octets")]
    Short(usize),
    #[error("is no JSON Web Key Set: {0}")]
    NotJwks(String),
    #[error("key {0} of the set: {1}")]
    InSet(usize, &'static str),
    #[error("holds no key for signatures that can be used here")]
    NoKeys,
}

/// The fewest octets of a shared secret: the hash's own size (RFC 7518, 3.2), of the shortest hash.
const LEAST_SECRET: usize = 32;
/// How texts of public keys begin: as a shared secret everybody would know it.
const PEM: &[u8] = b"-----BEGIN";
/// The fewest octets of an RSA modulus.
const LEAST_RSA: usize = 256;

impl JwtKey {
    /// Feeds a digest with all that makes it this key.
    pub(super) fn mark(&self, mut part: impl FnMut(&[u8])) {
        part(self.id.as_deref().unwrap_or_default().as_bytes());
        for algorithm in &self.algorithms {
            part(algorithm.as_str().as_bytes());
        }
        match &self.material {
            Material::Shared(secret) => part(secret.expose()),
            Material::Rsa { n, e } => {
                part(n);
                part(e);
            }
            Material::P256(key) | Material::P384(key) | Material::Ed25519(key) => part(key),
        }
    }
}

impl Material {
    fn algorithms(&self) -> &'static [Algorithm] {
        use Algorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Rs256, Rs384, Rs512};
        match self {
            Self::Shared(_) => &[Hs256, Hs384, Hs512],
            Self::Rsa { .. } => &[Rs256, Rs384, Rs512],
            Self::P256(_) => &[Es256],
            Self::P384(_) => &[Es384],
            Self::Ed25519(_) => &[EdDsa],
        }
    }

    fn key(self) -> JwtKey {
        JwtKey {
            id: None,
            algorithms: self.algorithms().to_vec(),
            material: self,
        }
    }
}

impl JwtKey {
    /// A shared secret.
    pub fn secret(octets: &[u8]) -> Result<Self, KeyError> {
        if octets.len() < LEAST_SECRET {
            return Err(KeyError::Short(LEAST_SECRET));
        }
        if octets.windows(PEM.len()).any(|part| part == PEM) {
            return Err(KeyError::Public);
        }
        Ok(Material::Shared(Secret::new(octets)).key())
    }

    /// The public keys in a PEM text.
    pub fn pem(text: &str) -> Result<Vec<Self>, KeyError> {
        const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        let blocks = text.split(BEGIN).skip(1);
        let keys: Result<Vec<_>, _> = blocks
            .map(|block| {
                let body = block.split("-----END").next().unwrap_or_default();
                let body: String = body.split_whitespace().collect();
                let der = STANDARD.decode(body).ok();
                der.and_then(|der| public_key(&der))
                    .map(Material::key)
                    .ok_or(KeyError::Unknown)
            })
            .collect();
        let keys = keys?;
        if keys.is_empty() {
            return Err(KeyError::NotPem);
        }
        Ok(keys)
    }

    /// A JSON Web Key Set. Keys for other uses and of unknown kinds are passed over.
    pub fn set(text: &str) -> Result<Vec<Self>, KeyError> {
        let set: Json =
            serde_json::from_str(text).map_err(|error| KeyError::NotJwks(error.to_string()))?;
        let keys = set.get("keys").and_then(Json::as_array);
        let keys = keys.ok_or_else(|| KeyError::NotJwks("it has no list `keys`".into()))?;
        let mut found = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            found.extend(jwk(key).map_err(|problem| KeyError::InSet(at + 1, problem))?);
        }
        if found.is_empty() {
            return Err(KeyError::NoKeys);
        }
        Ok(found)
    }

    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Accepts none but these of its algorithms.
    pub fn restrict(&mut self, algorithms: &[Algorithm]) {
        self.algorithms.retain(|known| algorithms.contains(known));
    }

    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether this key made the signature. An algorithm that is not the key's says no.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], made: &[u8]) -> bool {
        let shared = |hash| match &self.material {
            Material::Shared(secret) => {
                hmac::verify(&hmac::Key::new(hash, secret.expose()), message, made).is_ok()
            }
            _ => false,
        };
        let rsa = |parameters| match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(parameters, message, made)
                .is_ok(),
            _ => false,
        };
        let point = |point: &Vec<u8>, kind: &'static dyn signature::VerificationAlgorithm| {
            UnparsedPublicKey::new(kind, point)
                .verify(message, made)
                .is_ok()
        };
        match (algorithm, &self.material) {
            (Algorithm::Hs256, _) => shared(hmac::HMAC_SHA256),
            (Algorithm::Hs384, _) => shared(hmac::HMAC_SHA384),
            (Algorithm::Hs512, _) => shared(hmac::HMAC_SHA512),
            (Algorithm::Rs256, _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            (Algorithm::Rs384, _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            (Algorithm::Rs512, _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            (Algorithm::Es256, Material::P256(key)) => {
                point(key, &signature::ECDSA_P256_SHA256_FIXED)
            }
            (Algorithm::Es384, Material::P384(key)) => {
                point(key, &signature::ECDSA_P384_SHA384_FIXED)
            }
            (Algorithm::EdDsa, Material::Ed25519(key)) => point(key, &signature::ED25519),
            (Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa, _) => false,
        }
    }
}

/// One key of a set; `None`: not for us.
fn jwk(key: &Json) -> Result<Option<JwtKey>, &'static str> {
    let text = |name| key.get(name).and_then(Json::as_str);
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let octets = |name, missing| {
        let octets = text(name).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        octets.filter(|octets| !octets.is_empty()).ok_or(missing)
    };
    let point = |size: usize| -> Result<Vec<u8>, &'static str> {
        let wrong = "`x` and `y` are no point of its curve";
        let (x, y) = (octets("x", wrong)?, octets("y", wrong)?);
        if (x.len(), y.len()) != (size, size) {
            return Err(wrong);
        }
        Ok([&[4], &x[..], &y[..]].concat())
    };
    if key.get("d").is_some() {
        return Err("holds a private key: give the public one, the router only verifies");
    }
    let material = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let n = octets("n", "`n` is missing or not Base64")?;
            let e = octets("e", "`e` is missing or not Base64")?;
            let (n, e) = (unsigned(&n), unsigned(&e));
            if n.len() < LEAST_RSA {
                return Err("`n` is too short: at least 2048 bits");
            }
            if !is_exponent(&e) {
                return Err("`e` must be odd and at least 3");
            }
            Material::Rsa { n, e }
        }
        (Some("EC"), Some("P-256")) => Material::P256(point(32)?),
        (Some("EC"), Some("P-384")) => Material::P384(point(48)?),
        (Some("OKP"), Some("Ed25519")) => {
            let x = octets("x", "`x` is missing or not Base64")?;
            ed25519(&x).ok_or("`x` is no Ed25519 key")?
        }
        (Some("oct"), _) => {
            let secret = octets("k", "`k` is missing or not Base64")?;
            if secret.len() < LEAST_SECRET {
                return Err("`k` is too short: at least 32 octets");
            }
            Material::Shared(Secret::new(secret))
        }
        _ => return Ok(None),
    };
    let mut key = JwtKey {
        id: text("kid").map(str::to_owned),
        ..material.key()
    };
    if let Some(name) = text("alg") {
        match Algorithm::parse(name).filter(|algorithm| key.accepts(*algorithm)) {
            Some(algorithm) => key.restrict(&[algorithm]),
            None => return Ok(None),
        }
    }
    Ok(Some(key))
}

/// SubjectPublicKeyInfo (RFC 5280, 4.1): `SEQUENCE { SEQUENCE { OID, parameters }, BIT STRING }`.
fn public_key(der: &[u8]) -> Option<Material> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let (info, rest) = der_item(der, 0x30)?;
    let (algorithm, key) = der_item(info, 0x30)?;
    let (kind, parameters) = der_item(algorithm, 0x06)?;
    let (key, behind) = der_item(key, 0x03)?;
    // The first octet counts unused bits.
    let key = key.strip_prefix(&[0])?;
    if !rest.is_empty() || !behind.is_empty() {
        return None;
    }
    match kind {
        RSA => {
            // The parameters are NULL.
            let (numbers, behind) = der_item(key, 0x30)?;
            let (n, e) = der_item(numbers, 0x02)?;
            let (e, rest) = der_item(e, 0x02)?;
            let (n, e) = (unsigned(n), unsigned(e));
            let whole = behind.is_empty() && rest.is_empty() && matches!(parameters, [] | [5, 0]);
            (whole && n.len() >= LEAST_RSA && is_exponent(&e)).then_some(Material::Rsa { n, e })
        }
        EC => match der_item(parameters, 0x06)? {
            (P256, []) => uncompressed(key, 65).map(Material::P256),
            (P384, []) => uncompressed(key, 97).map(Material::P384),
            _ => None,
        },
        ED25519 if parameters.is_empty() => ed25519(key),
        _ => None,
    }
}

/// Without leading zeros.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    number[zeros..].to_vec()
}

/// Odd, and at least 3.
fn is_exponent(e: &[u8]) -> bool {
    e.last().is_some_and(|last| last & 1 == 1) && e != [1]
}

fn uncompressed(point: &[u8], length: usize) -> Option<Vec<u8>> {
    (point.len() == length && point[0] == 4).then(|| point.to_vec())
}

/// A point of the curve, and none of small order, with which anybody could sign.
fn ed25519(octets: &[u8]) -> Option<Material> {
    PublicKey::of(octets.try_into().ok()?)?;
    Some(Material::Ed25519(octets.to_vec()))
}

/// The content of an item with this tag, and what follows it.
fn der_item(octets: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = octets.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            let length = length
                .iter()
                .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            (length, rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length))?
}

//! Signatures over a manifest, and the keys that verify them: minisign's, and cosign's with a key pair (ECDSA over
//! P-256).
//!
//! A minisign signature covers the manifest's bytes, so `minisign -V -m manifest.json` verifies it too; its trusted
//! comment contains `repository=...`, so that it cannot be moved to another policy. A cosign signature covers a small
//! document with the manifest's digest and the whole name of the repository ("simple signing").

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::PublicKey;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_core::policy::Digest;

use crate::artifact::Image;

/// The prefix of a DER-encoded P-256 public key; the point follows.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point of P-256.
const POINT: usize = 65;
/// Bytes of a minisign key or signature before the key itself: two letters and the key's number.
const NUMBER: std::ops::Range<usize> = 2..10;

/// A signature, in the form stored in a registry and beside the policy on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signature {
    /// The text of a `.minisig` file.
    Minisign {
        /// Its four lines.
        text: String,
    },
    /// The output of `cosign sign --key`.
    Cosign {
        /// The document that was signed.
        payload: String,
        /// Base64 of the signature.
        signature: String,
    },
    /// Of a kind that this version does not know. It is kept as it is, and verifies nothing.
    #[serde(untagged)]
    Unknown(Value),
}

// === impl Signature ===

impl Signature {
    /// Returns the claimed signer, for people.
    #[must_use]
    pub fn signer(&self) -> String {
        match self {
            Self::Minisign { text } => format!("minisign key {}", number_of(text).unwrap_or_else(|| "?".to_owned())),
            Self::Cosign { .. } => "a cosign key".to_owned(),
            Self::Unknown(_signature) => "a signature of an unknown kind".to_owned(),
        }
    }
}

/// What a signature must cover.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The policy's image.
    pub image: &'a Image,
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// Their digest.
    pub digest: &'a Digest,
}

/// The result of checking a signature with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It belongs to this key, and covers this manifest.
    Valid,
    /// It belongs to another key.
    Others,
    /// It claims this key, but is invalid.
    Bad(String),
}

/// A public key.
#[derive(Clone)]
pub enum Key {
    /// Of minisign.
    Minisign {
        /// The key.
        key: PublicKey,
        /// Its base64 form.
        text: String,
        /// Its number, as minisign shows it.
        number: String,
    },
    /// Of cosign.
    Cosign {
        /// The point.
        point: Vec<u8>,
    },
}

// === impl Key ===

impl Key {
    /// Parses a minisign key: its base64 form, or a `.pub` file's two lines.
    ///
    /// # Errors
    ///
    /// A text with the mistake.
    pub fn minisign(text: &str) -> Result<Self, String> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let key = PublicKey::from_base64(line).map_err(|error| format!("it is not a minisign public key: {error}"))?;
        let number = number(line).ok_or("it is not a minisign public key")?;
        Ok(Self::Minisign { key, text: line.to_owned(), number })
    }

    /// Parses a cosign public key: PEM, as in `cosign.pub`.
    ///
    /// # Errors
    ///
    /// A text with the mistake.
    pub fn cosign(pem: &str) -> Result<Self, String> {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let off = || "it is not a PEM of a public key on P-256, as `cosign generate-key-pair` writes it".to_owned();
        if !pem.contains("-----BEGIN PUBLIC KEY-----") {
            return Err(off());
        }
        let der = STANDARD.decode(body).map_err(|_not_base64| off())?;
        match der.strip_prefix(&P256_HEAD) {
            Some(point) if point.len() == POINT => Ok(Self::Cosign { point: point.to_vec() }),
            _ => Err(off()),
        }
    }

    /// Returns whether two keys are the same.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Minisign { text, .. }, Self::Minisign { text: other, .. }) => text == other,
            (Self::Cosign { point }, Self::Cosign { point: other }) => point == other,
            _ => false,
        }
    }

    /// Checks a signature.
    #[must_use]
    pub fn check(&self, signature: &Signature, signed: &Signed<'_>) -> Check {
        match (self, signature) {
            (Self::Minisign { key, number, .. }, Signature::Minisign { text }) => {
                if number_of(text).as_deref() != Some(number) {
                    return Check::Others;
                }
                minisign(key, text, signed).map_or_else(Check::Bad, |()| Check::Valid)
            }
            (Self::Cosign { point }, Signature::Cosign { payload, signature }) => {
                let Ok(bytes) = STANDARD.decode(signature) else {
                    return Check::Bad("it is not valid base64".to_owned());
                };
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
                // It has no key id: if it does not verify, it may belong to any key.
                if key.verify(payload.as_bytes(), &bytes).is_err() {
                    return Check::Others;
                }
                cosign(payload, signed).map_or_else(Check::Bad, |()| Check::Valid)
            }
            _ => Check::Others,
        }
    }
}

/// The displayed form of a key.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minisign { number, .. } => write!(f, "minisign key {number}"),
            Self::Cosign { point } => {
                let hex = Digest::new(point).hex();
                write!(f, "cosign key {}", hex.get(..12).unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn minisign(key: &PublicKey, text: &str, signed: &Signed<'_>) -> Result<(), String> {
    let signature = minisign_verify::Signature::decode(text).map_err(|error| error.to_string())?;
    // Accept both forms of minisign: older versions sign the bytes themselves, newer ones their hash.
    key.verify(signed.manifest, &signature, true)
        .map_err(|_invalid| "signature, trusted comment or manifest were changed".to_owned())?;
    let words = signature.trusted_comment().split_whitespace();
    let mut repositories = words.filter_map(|word| word.strip_prefix("repository="));
    let repository = repositories.next().ok_or("its trusted comment has no repository=..., so it could be of any")?;
    belongs(signed, repository)
}

/// Checks that a signature for a repository belongs to the image. A mirror may keep the whole path below its own.
fn belongs(signed: &Signed<'_>, repository: &str) -> Result<(), String> {
    let here = signed.image.repository();
    let of_mirror = |mirror: &str| mirror.ends_with('/') && !repository.is_empty();
    if here == repository || here.strip_suffix(repository).is_some_and(of_mirror) {
        return Ok(());
    }
    Err(format!("it is for the repository {repository}, not for {here}"))
}

fn cosign(payload: &str, signed: &Signed<'_>) -> Result<(), String> {
    let document: Value =
        serde_json::from_str(payload).map_err(|error| format!("its payload is not valid JSON: {error}"))?;
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/critical/type");
    if kind != "cosign container image signature" {
        return Err(format!("its payload has the type {kind:?}"));
    }
    let digest = text("/critical/image/docker-manifest-digest");
    if Digest::parse(&digest).as_ref() != Some(signed.digest) {
        return Err(format!("it is of the manifest {digest}"));
    }
    let name = text("/critical/identity/docker-reference");
    if name.is_empty() {
        return Err("its payload has no docker-reference, so it could be of any repository".to_owned());
    }
    // A mirror has another registry, so only the path counts, as for minisign. `cosign --sign-container-identity` may
    // write a tag or a digest, too.
    match Image::parse(&name) {
        Ok(image) => belongs(signed, image.repository()),
        Err(error) => Err(format!("its docker-reference names no repository: {error}")),
    }
}

/// Returns the key's number in a signature's second line.
fn number_of(signature: &str) -> Option<String> {
    number(signature.lines().nth(1)?.trim())
}

/// Returns the number in the base64 of a key or a signature, formatted like minisign.
fn number(base64: &str) -> Option<String> {
    let bytes = STANDARD.decode(base64).ok()?;
    let number: [u8; 8] = bytes.get(NUMBER)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(number)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// The example of minisign's own documentation.
    const PUBLIC: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_minisign_key_is_shown_as_minisign_does() {
        let file = format!("untrusted comment: minisign public key E7620F1842B4E81F\n{PUBLIC}\n");
        for text in [PUBLIC, &file] {
            assert_eq!(Key::minisign(text).unwrap().to_string(), "minisign key E7620F1842B4E81F");
        }
        assert!(Key::minisign("").is_err() && Key::minisign("RWQf").is_err());
    }

    #[test]
    fn a_cosign_key_is_on_p256() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n";
        assert!(Key::cosign(pem).is_err(), "the point is missing");
        assert!(Key::cosign(PUBLIC).is_err());
    }
}

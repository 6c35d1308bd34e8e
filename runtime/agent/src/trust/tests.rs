//! Tests a trust file with signatures made here by ring: each refusal and its text. The suite `registry` tests
//! signatures of minisign and openssl.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod records;

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use weft_core::policy::{Digest, Pin, PolicyRef};

use super::*;

const MANIFEST: &[u8] = br#"{"schemaVersion": 2}"#;

/// A minisign key pair. Its signatures are in minisign's older form, over the bytes themselves.
struct Minisign {
    number: [u8; 8],
    pair: Ed25519KeyPair,
}

impl Minisign {
    fn new(number: u8) -> Self {
        Self { number: [number; 8], pair: Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap() }
    }

    fn public(&self) -> String {
        STANDARD.encode([b"Ed".as_slice(), &self.number, self.pair.public_key().as_ref()].concat())
    }

    fn sign(&self, manifest: &[u8], comment: &str) -> Signature {
        let signature = self.pair.sign(manifest);
        let line = STANDARD.encode([b"Ed".as_slice(), &self.number, signature.as_ref()].concat());
        let global = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let global = STANDARD.encode(global.as_ref());
        Signature::Minisign { text: format!("untrusted comment: x\n{line}\ntrusted comment: {comment}\n{global}\n") }
    }
}

/// A cosign key's PEM and a signature of it.
fn cosign(digest: &Digest) -> (String, Signature) {
    cosign_for(digest, "registry.example/net/rack")
}

/// The same for a repository.
fn cosign_for(digest: &Digest, repository: &str) -> (String, Signature) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let head = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
    let der = STANDARD.encode([head, pair.public_key().as_ref().to_vec()].concat());
    let payload = json!({"critical": {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest.to_string()}, "type": "cosign container image signature",
    }});
    let payload = payload.to_string();
    let signature = STANDARD.encode(pair.sign(&random, payload.as_bytes()).unwrap().as_ref());
    (format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"), Signature::Cosign { payload, signature })
}

fn trust(document: &Value) -> Result<Trust, TrustError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.json");
    fs::write(&path, document.to_string()).unwrap();
    Ok(Trust::read(&path)?.unwrap())
}

/// Judges a manifest with signatures by a trust file.
fn judged(document: &Value, image: &str, manifest: &[u8], signatures: &[Signature]) -> Result<Vec<String>, String> {
    let image = Image::parse(image).unwrap();
    let digest = Digest::new(manifest);
    let signed = Signed { image: &image, manifest, digest: &digest };
    let verdict = trust(document).unwrap().judge(&signed, Some("1.2.0"), signatures);
    verdict.map(|verdict| verdict.keys).map_err(|error| error.to_string())
}

const IMAGE: &str = "registry.example/net/rack:1";

#[test]
fn all_of_requires_every_key_and_names_the_missing_one() {
    let (team, release) = (Minisign::new(1), Minisign::new(2));
    let document = json!({
        "version": 1, "keys": {"team": {"minisign": team.public()}, "release": {"minisign": release.public()}},
        "registries": [{"prefix": "registry.example/net", "allOf": ["team", "release"]}],
    });
    let (first, second) =
        (team.sign(MANIFEST, "repository=net/rack"), release.sign(MANIFEST, "repository=net/rack version=1"));
    assert_eq!(judged(&document, IMAGE, MANIFEST, &[first.clone(), second]).unwrap(), ["team", "release"]);
    let error = judged(&document, IMAGE, MANIFEST, &[first]).unwrap_err();
    assert!(error.contains("release (minisign key 0202020202020202)"), "{error}");
    assert!(error.contains("found: minisign key 0101010101010101"), "{error}");
    let error = judged(&document, IMAGE, MANIFEST, &[]).unwrap_err();
    assert!(error.contains("it has no signature"), "{error}");
}

#[test]
fn any_of_requires_the_stated_number_of_keys() {
    let keys: Vec<_> = (1..=3).map(Minisign::new).collect();
    let named: Value =
        keys.iter().enumerate().map(|(at, key)| (format!("k{at}"), json!({"minisign": key.public()}))).collect();
    let document = json!({
        "version": 1, "keys": named,
        "registries": [{"prefix": "registry.example", "anyOf": {"keys": ["k0", "k1", "k2"], "minimum": 2}}],
    });
    let sign = |at: usize| keys[at].sign(MANIFEST, "repository=net/rack");
    assert_eq!(judged(&document, IMAGE, MANIFEST, &[sign(0), sign(2)]).unwrap(), ["k0", "k2"]);
    // Two uses of one key count once.
    let error = judged(&document, IMAGE, MANIFEST, &[sign(1), sign(1)]).unwrap_err();
    assert!(error.contains("is signed by 1 of the keys") && error.contains("requires 2"), "{error}");
}

#[test]
fn a_revoked_key_a_changed_manifest_and_a_moved_signature_have_messages_of_their_own() {
    let team = Minisign::new(1);
    let document = |revoked: Option<&str>| {
        json!({
            "version": 1, "keys": {"team": {"minisign": team.public(), "revoked": revoked}},
            "registries": [{"prefix": "registry.example", "allOf": ["team"]}],
        })
    };
    let good = team.sign(MANIFEST, "repository=net/rack");
    let refused = |document: &Value, manifest: &[u8], signature: &Signature| {
        judged(document, IMAGE, manifest, std::slice::from_ref(signature)).unwrap_err()
    };
    let error = refused(&document(Some("laptop lost")), MANIFEST, &good);
    assert!(error.contains("is revoked") && error.contains("laptop lost"), "{error}");
    let error = refused(&document(None), b"{}", &good);
    assert!(error.contains("is not valid") && error.contains("were changed"), "{error}");
    let Signature::Minisign { text } = &good else { panic!("a minisign signature") };
    let moved = Signature::Minisign { text: text.replace("net/rack", "net/evil") };
    let error = refused(&document(None), MANIFEST, &moved);
    assert!(error.contains("were changed"), "{error}");
    for (comment, part) in [("repository=net/evil", "for the repository net/evil"), ("hello", "no repository=")] {
        let error = refused(&document(None), MANIFEST, &team.sign(MANIFEST, comment));
        assert!(error.contains(part), "{error}");
    }
    // A mirror keeps the path below its own.
    let mirror = judged(&document(None), "registry.example/mirror/net/rack:1", MANIFEST, &[good]);
    assert_eq!(mirror.unwrap(), ["team"]);
}

#[test]
fn cosign_signs_the_digest() {
    let digest = Digest::new(MANIFEST);
    let (pem, good) = cosign(&digest);
    let (_other, others) = cosign(&digest);
    let document = json!({
        "version": 1, "keys": {"ci": {"cosign": pem}}, "registries": [{"prefix": "registry.example", "allOf": ["ci"]}],
    });
    assert_eq!(judged(&document, IMAGE, MANIFEST, &[others.clone(), good.clone()]).unwrap(), ["ci"]);
    assert!(judged(&document, IMAGE, MANIFEST, &[others]).unwrap_err().contains("has no signature by ci (cosign key"));
    let error = judged(&document, IMAGE, b"{}", std::slice::from_ref(&good)).unwrap_err();
    assert!(error.contains("is not valid") && error.contains(&digest.to_string()), "{error}");
    let Signature::Cosign { payload, signature } = good else { panic!("a cosign signature") };
    let changed =
        Signature::Cosign { payload: payload.replace(&digest.to_string(), &Digest::new(b"{}").to_string()), signature };
    assert!(judged(&document, IMAGE, b"{}", &[changed]).unwrap_err().contains("has no signature by"));
}

#[test]
fn a_cosign_signature_is_of_its_repository_and_its_mirrors() {
    let digest = Digest::new(MANIFEST);
    let judged = |repository: &str, image: &str| {
        let (pem, signature) = cosign_for(&digest, repository);
        let document = json!({
            "version": 1, "keys": {"ci": {"cosign": pem}}, "registries": [{"prefix": "", "allOf": ["ci"]}],
        });
        judged(&document, image, MANIFEST, &[signature])
    };
    for repository in
        ["registry.example/net/rack", "registry.example/net/rack:1", &format!("registry.example/net/rack@{digest}")]
    {
        for image in [IMAGE, "mirror.local:5000/net/rack:1", "mirror.local/cache/net/rack:1"] {
            assert_eq!(judged(repository, image).unwrap(), ["ci"], "{repository} at {image}");
        }
    }
    for (repository, part) in [
        ("registry.example/net/evil", "for the repository net/evil, not for net/rack"),
        ("registry.example/ack", "for the repository ack"),
        ("", "no docker-reference"),
        ("rack", "names no repository"),
    ] {
        let error = judged(repository, IMAGE).unwrap_err();
        assert!(error.contains("is not valid") && error.contains(part), "{repository}: {error}");
    }
}

#[test]
fn the_longest_prefix_counts_and_ends_at_a_slash() {
    let team = Minisign::new(1);
    let document = json!({
        "version": 1, "keys": {"team": {"minisign": team.public()}},
        "registries": [
            {"prefix": "registry.example/net/", "unsigned": true, "minVersion": "1.1.0"},
            {"prefix": "registry.example", "allOf": ["team"]},
        ],
    });
    assert_eq!(judged(&document, IMAGE, MANIFEST, &[]).unwrap(), Vec::<String>::new());
    assert!(
        judged(&document, "registry.example/network/rack:1", MANIFEST, &[])
            .unwrap_err()
            .contains("has no signature by team")
    );
    let error = judged(&document, "registry.example.evil/net/rack:1", MANIFEST, &[]).unwrap_err();
    assert!(error.contains("no rule in"), "{error}");
    let mut strict = document;
    strict["registries"][0]["minVersion"] = json!("1.10.0");
    let error = judged(&strict, IMAGE, MANIFEST, &[]).unwrap_err();
    assert!(error.contains("has version 1.2.0") && error.contains("at least 1.10.0"), "{error}");
}

#[test]
fn an_import_needs_its_grant() {
    let imports = |grants: Value| {
        let document = json!({
            "version": 1, "registries": [{"prefix": "", "unsigned": true, "grants": grants}],
        });
        let reach = Reach {
            imports: vec!["weft:policy/log@0.1.1".to_owned(), "wasi:cli/stdout@0.2.6".to_owned()],
            exports: Vec::new(),
        };
        trust(&document).unwrap().judge_imports(&Image::parse(IMAGE).unwrap(), &reach)
    };
    for grant in ["wasi", "wasi:cli", "wasi:cli/stdout", "wasi:cli/stdout@0.2.6"] {
        assert_eq!(imports(json!([grant])), Ok(()), "{grant}");
    }
    for grants in [json!([]), json!(["wasi:clocks"]), json!(["wasi:cl"]), json!(["was"])] {
        let error = imports(grants).unwrap_err().to_string();
        assert!(error.contains("imports wasi:cli/stdout@0.2.6") && error.contains("\"grants\""), "{error}");
    }
}

#[test]
fn a_file_that_could_trust_too_much_is_refused() {
    let key = Minisign::new(1).public();
    let rule = |rule: Value| json!({"version": 1, "keys": {"a": {"minisign": key}}, "registries": [rule]});
    for (document, part) in [
        (json!({"version": 2, "registries": []}), "version 2"),
        (rule(json!({"prefix": "r"})), "it requires no key"),
        (rule(json!({"prefix": "r", "allof": ["a"]})), "allof"),
        (rule(json!({"prefix": "r", "allOf": ["b"]})), "no key \"b\""),
        (rule(json!({"prefix": "r", "allOf": ["a"], "unsigned": true})), "unsigned"),
        (rule(json!({"prefix": "r", "anyOf": {"keys": ["a", "a"], "minimum": 2}})), "1 keys, but requires 2"),
        (rule(json!({"prefix": "r", "anyOf": {"keys": ["a"], "minimum": 0}})), "requires 0"),
        (rule(json!({"prefix": "r", "allOf": ["a"], "minVersion": "new"})), "not a version"),
        (rule(json!({"prefix": "r", "allOf": ["a"], "grants": [""]})), "empty grant"),
        (
            json!({"version": 1, "keys": {"a": {"minisign": key}, "b": {"minisign": key}}, "registries": []}),
            "the same key",
        ),
        (json!({"version": 1, "keys": {"a": {}}, "registries": []}), "either"),
        (
            json!({"version": 1, "registries": [{"prefix": "r", "unsigned": true}, {"prefix": "r/", "unsigned": true}]}),
            "two rules",
        ),
    ] {
        let error = trust(&document).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn an_image_and_a_reference_name_the_same_repository() {
    let hex = "ab".repeat(32);
    for name in
        ["registry.example/net/rack", "localhost/rack", "127.0.0.1:5000/a/b/c", "docker.io/p", "index.docker.io/p"]
    {
        for rest in [format!(":1@sha256:{hex}"), format!("@sha256:{hex}")] {
            let image = Image::parse(&format!("{name}{rest}")).unwrap();
            let named = PolicyRef::parse(&format!("oci://{name}{rest}")).unwrap();
            assert_eq!(named.repository(), Some(image.name()), "{name}");
            assert_eq!(
                Pin::from_policy(&named),
                Pin::from_policy(&PolicyRef::parse(&image.to_string()).unwrap()),
                "{name}"
            );
        }
    }
}

#[test]
fn a_file_that_was_named_has_to_be_there() {
    let state = tempfile::tempdir().unwrap();
    assert!(Trust::of_node(None, state.path()).unwrap().is_none());
    let named = state.path().join("away.json");
    assert_eq!(Trust::of_node(Some(&named), state.path()).unwrap_err(), TrustError::Absent { path: named.clone() });
    fs::write(&named, json!({ "version": 1, "registries": [] }).to_string()).unwrap();
    assert!(Trust::of_node(Some(&named), state.path()).unwrap().is_some());
}

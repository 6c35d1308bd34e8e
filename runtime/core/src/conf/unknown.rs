//! Unknown keys: suggests the intended key, and reports all of them at once.
//!
//! Under `"type": "weft"` every object of ours is closed. A policy's schema lists its keys in `ipam` (`attach`).

use serde_json::Value;

use super::cluster::ledger_keys;
use super::duplicates::DUPLICATES;
use super::error::unknown_key;
use super::monitor::{MONITOR, SELECT_MONITOR};
use super::select::OWN;
use super::terms::{GRANTS, LIMITS};
use super::weft::{KEYS, RESERVED, SHARED, STEP_SHARED};
use super::{ConfError, Object};
use crate::keys::did_you_mean;
use crate::{delegate, step};

/// Returns every unknown key of a `"type": "weft"` configuration outside `ipam`.
pub(super) fn of_network(object: &Object) -> Vec<ConfError> {
    let mut found = unknown_top_level_keys(object);
    found.extend(of_terms(object));
    if let Ok(Some(own)) = object.object("delegate") {
        found.extend(of_delegate(&own, "delegate"));
    }
    for entry in object.objects("delegates").ok().flatten().unwrap_or_default() {
        let mut own = entry.clone();
        OWN.into_iter().for_each(|key| own.remove(key));
        let place = format!("delegates.{}", entry.text("name").ok().flatten().unwrap_or_default());
        found.extend(of_delegate(&own, &place));
    }
    if let Ok(Some(select)) = object.object("select")
        && let Ok(Some(monitor)) = select.object("monitor")
    {
        found.extend(in_object(&monitor, "select.monitor", &SELECT_MONITOR));
    }
    for own in object.objects("steps").ok().flatten().unwrap_or_default() {
        found.extend(of_step(&own));
    }
    found
}

/// Returns every unknown key of `limits`, `grants`, `duplicates`, `monitor` and `ledger`.
pub(super) fn of_terms(object: &Object) -> Vec<ConfError> {
    let mut found = Vec::new();
    let closed =
        [("limits", &LIMITS[..]), ("grants", &GRANTS[..]), ("duplicates", &DUPLICATES[..]), ("monitor", &MONITOR[..])];
    for (key, known) in closed {
        if let Ok(Some(inner)) = object.object(key) {
            found.extend(in_object(&inner, &object.path_text(key), known));
        }
    }
    // If the ledger's type is unknown, only that is the error.
    if let Ok(Some(ledger)) = object.object("ledger")
        && let Ok(Some(known)) = ledger.text("type").map(|kind| ledger_keys(kind.unwrap_or("node")))
    {
        found.extend(in_object(&ledger, &object.path_text("ledger"), &known));
        if let Ok(Some(blocks)) = ledger.object("blocks") {
            found.extend(in_object(&blocks, &ledger.path_text("blocks"), &["size", "strict"]));
        }
    }
    found
}

/// Returns the unknown keys of an object.
pub(super) fn in_object(object: &Object, place: &str, known: &[&str]) -> Vec<ConfError> {
    let error = |key| unknown_key(key, place, known, || format!("known are {}", known.join(", ")));
    object.unknown(known).map(error).collect()
}

fn unknown_top_level_keys(object: &Object) -> Vec<ConfError> {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let of_delegates: Vec<&str> =
        delegate::kinds().filter_map(delegate::find).flat_map(delegate::Delegate::keys).copied().collect();
    let of_steps: Vec<&str> = step::kinds().filter_map(step::find).flat_map(step::Step::keys).copied().collect();
    let error = |key: &str| {
        let elsewhere = if of_delegates.iter().any(|own| same(own, key)) {
            Some("move it into \"delegate\"")
        } else if of_steps.iter().any(|own| same(own, key)) {
            Some("move it into an entry of \"steps\"")
        } else if same(key, "plugins") {
            Some("this is a plugin list; weft expects one plugin of it")
        } else {
            None
        };
        match elsewhere {
            Some(hint) => ConfError::UnknownKey { key: key.to_owned(), place: String::new(), hint: hint.to_owned() },
            None => unknown_key(key, "", &KEYS, || format!("known are {}", KEYS.join(", "))),
        }
    };
    object.unknown(&KEYS).filter(|key| !key.starts_with(RESERVED)).map(error).collect()
}

fn of_delegate(own: &Object, place: &str) -> Vec<ConfError> {
    // An unknown type is another plugin's.
    let found = own.text("type").ok().flatten().and_then(delegate::find);
    let Some(found) = found else { return Vec::new() };
    let known: Vec<&str> = [&["type"], found.keys()].concat();
    let error = |key: &str| match SHARED.iter().any(|shared| shared.eq_ignore_ascii_case(key)) {
        true => {
            let hint = "it belongs beside \"delegate\"".to_owned();
            ConfError::UnknownKey { key: key.to_owned(), place: format!(" in {place:?}"), hint }
        }
        false => unknown_key(key, place, &known, || format!("a {} knows {}", found.kind(), known.join(", "))),
    };
    own.unknown(&known).map(error).collect()
}

fn of_step(own: &Object) -> Vec<ConfError> {
    let found = own.text("type").ok().flatten().and_then(step::find);
    let Some(found) = found else { return Vec::new() };
    let known: Vec<&str> = [&["type"], found.keys()].concat();
    let error = |key: &str| match STEP_SHARED.iter().any(|shared| shared.eq_ignore_ascii_case(key)) {
        true => {
            let hint = "it belongs beside \"steps\"".to_owned();
            ConfError::UnknownKey { key: key.to_owned(), place: " in \"steps\"".to_owned(), hint }
        }
        false => unknown_key(key, "steps", &known, || format!("a {} knows {}", found.kind(), known.join(", "))),
    };
    own.unknown(&known).map(error).collect()
}

/// Keys of `ipam` that weft itself reads for every type; a policy has its own besides.
pub const IPAM_KEYS: [&str; 11] = [
    "type",
    "policy",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "routes",
    "resolvConf",
    "dataDir",
    "addresses",
];

/// Additional keys of `ipam` if the top of the configuration is another plugin's.
pub const IPAM_TERMS: [&str; 6] = ["limits", "grants", "ledger", "duplicates", "fallback", "monitor"];

/// Keys of a range.
const RANGE: [&str; 4] = ["subnet", "rangeStart", "rangeEnd", "gateway"];

/// Returns keys of `ipam` that look like misspellings of those that weft itself reads: the name, the intended key, and
/// its place (a JSON pointer). A policy may nevertheless have such a key.
#[must_use]
pub fn likely_mistakes(ipam: &Value) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let mut check_keys = |value: &Value, at: &str, known: &[&'static str]| {
        for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
            let is_known = known.iter().any(|known| known.eq_ignore_ascii_case(key));
            if let Some(meant) = did_you_mean(key, known.iter().copied()).filter(|_| !is_known) {
                found.push((format!("{at}/{key}"), meant));
            }
        }
    };
    check_keys(ipam, "", &IPAM_KEYS);
    let object = Object::from_value(ipam.clone()).unwrap_or_default();
    for (at, set) in object.list("ranges").ok().flatten().into_iter().flatten().enumerate() {
        let (ranges, at) = match set.get("ranges") {
            Some(ranges) => (ranges, format!("/ranges/{at}/ranges")),
            None => (set, format!("/ranges/{at}")),
        };
        for (index, range) in ranges.as_array().into_iter().flatten().enumerate() {
            check_keys(range, &format!("{at}/{index}"), &RANGE);
        }
    }
    found
}

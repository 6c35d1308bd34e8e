//! Configuration keys that several delegates and steps share, with one parser each. Pure.

use crate::cni::{Mistyped, Object};
use crate::plan::Mac;

/// Returns the known text that was most likely meant, if one is similar.
#[must_use]
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&written, &known.to_ascii_lowercase());
    let close = known.into_iter().map(|known| (distance(known), known));
    // One typing error in a short word, two in a longer one.
    let close = close.filter(|(distance, known)| *distance <= (known.len().max(written.len()) / 4).clamp(1, 2));
    close
        .min_by_key(|(distance, _known)| *distance)
        .filter(|(distance, _)| *distance < written.len())
        .map(|(_, known)| known)
}

/// An unusable key, in the stock plugins' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// A value of the wrong type, in the stock plugins' words.
pub(crate) fn mistyped(error: Mistyped) -> KeyError {
    KeyError(format!("failed to load netconf: {error}"))
}

/// Reads `mtu`; 0 leaves the choice to the kernel.
pub(crate) fn mtu(conf: &Object) -> Result<Option<u32>, KeyError> {
    let Some(mtu) = conf.int("mtu").map_err(mistyped)? else { return Ok(None) };
    let fits = u32::try_from(mtu).ok().filter(|mtu| i32::try_from(*mtu).is_ok());
    let mtu = fits.ok_or_else(|| KeyError(format!("invalid MTU {mtu}, must be 0 or more")))?;
    Ok((mtu != 0).then_some(mtu))
}

/// Reads `ipMasq`, and checks that `ipMasqBackend` exists. Both backends are equivalent here: weft always uses
/// nftables.
pub(crate) fn masquerade(conf: &Object) -> Result<bool, KeyError> {
    match conf.str("ipMasqBackend").map_err(mistyped)? {
        None | Some("iptables" | "nftables") => {}
        Some(other) => return Err(KeyError(format!("unknown ipmasq backend {other:?}"))),
    }
    flag(conf, "ipMasq")
}

/// Reads a boolean whose default is false.
pub(crate) fn flag(conf: &Object, key: &str) -> Result<bool, KeyError> {
    Ok(conf.bool(key).map_err(mistyped)?.unwrap_or_default())
}

/// Returns whether the configuration names an IPAM plugin.
pub(crate) fn has_ipam(conf: &Object) -> Result<bool, KeyError> {
    let ipam = conf.object_or_empty("ipam").map_err(mistyped)?;
    Ok(ipam.text("type").map_err(mistyped)?.is_some())
}

/// Reads `runtimeConfig.mac`, the `mac` capability.
pub(crate) fn runtime_mac(conf: &Object) -> Result<Option<String>, KeyError> {
    let runtime = conf.object_or_empty("runtimeConfig").map_err(mistyped)?;
    Ok(runtime.text("mac").map_err(mistyped)?.map(ToOwned::to_owned))
}

/// Reads `args.cni.mac`.
pub(crate) fn args_mac(conf: &Object) -> Result<Option<String>, KeyError> {
    let args = conf.object_or_empty("args").map_err(mistyped)?.object_or_empty("cni").map_err(mistyped)?;
    Ok(args.text("mac").map_err(mistyped)?.map(ToOwned::to_owned))
}

/// Reads `MAC` of `CNI_ARGS`; as in the stock plugins, the last one counts.
pub(crate) fn cni_args_mac(cni_args: &[(String, String)]) -> Option<String> {
    let found = cni_args.iter().rev().find(|(key, _)| key == "MAC");
    found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
}

/// Parses a MAC address; errors have Go's words.
pub(crate) fn parse_mac(text: &str) -> Result<Mac, String> {
    text.parse().map_err(|_bad: crate::plan::BadMac| format!("address {text}: invalid MAC address"))
}

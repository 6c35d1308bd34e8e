//! Configuration keys that several delegates have, read one way.

use super::DelegateError;
use crate::cni::{Mistyped, Object};
use crate::plan::Mac;

/// A value of the wrong type, in the stock plugins' words.
pub(super) fn mistyped(error: Mistyped) -> DelegateError {
    DelegateError::Conf(format!("failed to load netconf: {error}"))
}

/// `mtu`; 0 leaves it to the kernel.
pub(super) fn mtu(conf: &Object) -> Result<Option<u32>, DelegateError> {
    let Some(mtu) = conf.int("mtu").map_err(mistyped)? else { return Ok(None) };
    let fits = u32::try_from(mtu).ok().filter(|mtu| i32::try_from(*mtu).is_ok());
    let mtu = fits.ok_or_else(|| DelegateError::Conf(format!("invalid MTU {mtu}, must be 0 or more")))?;
    Ok((mtu != 0).then_some(mtu))
}

/// `ipMasq`, and that `ipMasqBackend` is one there is. Both backends mean the same here: weft always uses nftables.
pub(super) fn masquerade(conf: &Object) -> Result<bool, DelegateError> {
    match conf.str("ipMasqBackend").map_err(mistyped)? {
        None | Some("iptables" | "nftables") => {}
        Some(other) => return Err(DelegateError::Conf(format!("unknown ipmasq backend {other:?}"))),
    }
    flag(conf, "ipMasq")
}

/// A boolean that is false where it is not set.
pub(super) fn flag(conf: &Object, key: &str) -> Result<bool, DelegateError> {
    Ok(conf.bool(key).map_err(mistyped)?.unwrap_or_default())
}

/// Whether the configuration names an IPAM plugin.
pub(super) fn has_ipam(conf: &Object) -> Result<bool, DelegateError> {
    let ipam = conf.object_or_empty("ipam").map_err(mistyped)?;
    Ok(ipam.text("type").map_err(mistyped)?.is_some())
}

/// `runtimeConfig.mac`, the `mac` capability.
pub(super) fn runtime_mac(conf: &Object) -> Result<Option<String>, DelegateError> {
    let runtime = conf.object_or_empty("runtimeConfig").map_err(mistyped)?;
    Ok(runtime.text("mac").map_err(mistyped)?.map(ToOwned::to_owned))
}

/// `args.cni.mac`.
pub(super) fn args_mac(conf: &Object) -> Result<Option<String>, DelegateError> {
    let args = conf.object_or_empty("args").map_err(mistyped)?.object_or_empty("cni").map_err(mistyped)?;
    Ok(args.text("mac").map_err(mistyped)?.map(ToOwned::to_owned))
}

/// `MAC` of `CNI_ARGS`; of several the last, as the stock plugins have it.
pub(super) fn cni_args_mac(cni_args: &[(String, String)]) -> Option<String> {
    let found = cni_args.iter().rev().find(|(key, _)| key == "MAC");
    found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
}

/// A MAC address out of a text; what is wrong with it is said in Go's words.
pub(super) fn parse_mac(text: &str) -> Result<Mac, String> {
    text.parse().map_err(|_bad: crate::plan::BadMac| format!("address {text}: invalid MAC address"))
}

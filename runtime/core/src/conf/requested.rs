//! Requested addresses: `IP` of `CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`, in this order.

use std::net::IpAddr;

use weft_host_abi::types::{RequestSource, Requested};

use super::{ConfError, IpamKind};
use crate::cni::{Object, read_net};

/// Reads all of them. host-local accepts a single `IP`; for the others it is a comma-separated list. An invalid address
/// is host-local's error here; for others, the policy checks it.
pub(super) fn read(
    kind: &IpamKind,
    cni_args: &[(String, String)],
    args: &Object,
    runtime_config: &Object,
) -> Result<Vec<Requested>, ConfError> {
    let host_local = kind.is_shipped("host-local");
    let mut texts: Vec<(RequestSource, String)> = Vec::new();
    let last = cni_args.iter().rev().find(|(key, _)| key == "IP").map(|(_, value)| value.as_str());
    if let Some(value) = last.filter(|value| !value.is_empty()) {
        if host_local {
            texts.push((RequestSource::CniArgs, value.to_owned()));
        } else {
            texts.extend(value.split(',').map(|text| (RequestSource::CniArgs, text.trim().to_owned())));
        }
    }
    let mut list = |source, object: &Object| {
        let found = object.strings("ips")?.unwrap_or_default();
        texts.extend(found.into_iter().map(|text| (source, text)));
        Ok::<_, ConfError>(())
    };
    list(RequestSource::Args, args)?;
    list(RequestSource::RuntimeConfig, runtime_config)?;

    let requested: Vec<Requested> = texts.into_iter().map(|(source, text)| parse(source, text)).collect();
    match requested.iter().find(|asked| asked.address.is_none()) {
        Some(bad) if host_local => {
            let text = bad.text.clone();
            let in_args = || format!("ARGS: error parsing value of pair {:?}: ", format!("IP={text}"));
            let place = if bad.source == RequestSource::CniArgs { in_args() } else { String::new() };
            Err(ConfError::RequestedAddress { place, text })
        }
        _ => Ok(requested),
    }
}

fn parse(source: RequestSource, text: String) -> Requested {
    let (address, length) = match text.split_once('/') {
        None => (text.parse::<IpAddr>().ok(), None),
        Some(_) => {
            let net = read_net(&text);
            (net.map(|net| net.addr()), net.map(|net| net.prefix_len()))
        }
    };
    Requested { text, address: address.map(|address| address.to_canonical()), length, source }
}

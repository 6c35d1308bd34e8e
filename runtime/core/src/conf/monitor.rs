//! `monitor`: a policy that is asked in addition to the deciding one.
//!
//! Invariant: both have the same address domain, so that each can replace the other.

use super::ipam::Context;
use super::ipam_kind::plugin_name;
use super::{ConfError, IpamConf, IpamKind, Object};

/// Keys of `monitor` beside the policy that picks the delegate.
pub(super) const SELECT_MONITOR: [&str; 3] = ["policy", "promoted", "select"];

/// Keys of `monitor` beside the policy of the addresses.
pub(super) const MONITOR: [&str; 3] = ["policy", "promoted", "ipam"];

/// A policy that is asked in addition to the deciding one, and whose decisions are only recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorConf {
    /// The policy.
    pub kind: IpamKind,
    /// Its own configuration; `None` means the network's.
    pub ipam: Option<Box<IpamConf>>,
    /// Whether it decides, and the network's own policy is only recorded.
    pub promoted: bool,
}

impl MonitorConf {
    /// Reads `monitor` of an object, without its `ipam`.
    pub(super) fn read(object: &Object) -> Result<Option<Self>, ConfError> {
        let Some(own) = object.object("monitor")? else { return Ok(None) };
        let hint = "name the policy whose decisions are to be compared";
        let policy = own.text("policy")?.filter(|policy| !policy.is_empty());
        let policy = policy.ok_or(ConfError::Missing { key: "monitor.policy", hint })?.to_owned();
        let kind =
            if policy.contains("://") { IpamKind::Wasm { policy } } else { IpamKind::Shipped(plugin_name(&policy)?) };
        Ok(Some(Self { kind, ipam: None, promoted: own.bool("promoted")?.unwrap_or_default() }))
    }

    /// Reads the `ipam` of `monitor`; `network` is that of the network.
    pub(super) fn read_ipam(
        &mut self,
        object: &Object,
        network: &IpamConf,
        context: &Context<'_>,
    ) -> Result<(), ConfError> {
        let Some(mut own) = object.object_or_empty("monitor")?.object("ipam")? else { return Ok(()) };
        let bad = |key: &str, value: String, want| Err(ConfError::BadValue { key: own.path_text(key), value, want });
        if let Some((key, value)) = ["ledger", "duplicates"].iter().find_map(|key| Some((*key, own.get(key)?))) {
            return bad(key, value.to_string(), "in the network's own configuration, for both policies");
        }
        if let Some(named) = other_policy(&self.kind, &own)? {
            return bad("type", named, "absent, or the policy that \"monitor\" names");
        }
        name(&self.kind, &mut own);
        let place = own.path_text("dataDir");
        let mut own = IpamConf::read(self.kind.clone(), own, context)
            .map_err(|error| ConfError::Monitor { error: Box::new(error) })?;
        if let Some(dir) = own.object.text("dataDir")?.filter(|_dir| own.scope != network.scope) {
            let want = "left out, or that of the network's own \"ipam\": both policies give out the same addresses";
            return Err(ConfError::BadValue { key: place, value: dir.to_owned(), want });
        }
        own.scope.clone_from(&network.scope);
        self.ipam = Some(Box::new(own));
        Ok(())
    }

    /// Swaps it with the network's own policy.
    pub(super) fn swap_with_own(&mut self, network: &mut IpamConf) {
        match &mut self.ipam {
            // Each keeps its configuration.
            Some(own) => {
                std::mem::swap(own.as_mut(), network);
                self.kind.clone_from(&own.kind);
            }
            None => std::mem::swap(&mut self.kind, &mut network.kind),
        }
    }
}

/// Returns the policy that `type` and `policy` name, if it is another one.
fn other_policy(kind: &IpamKind, own: &Object) -> Result<Option<String>, ConfError> {
    let (Some(named), Some(policy)) = (own.text("type")?, kind.policy()) else { return Ok(None) };
    let by_policy = matches!(named, "wasm" | "weft-ipam");
    let named = if by_policy { own.text("policy")?.unwrap_or(policy) } else { named };
    Ok((named != policy).then(|| named.to_owned()))
}

/// Adds a missing `type` and `policy`: the policy gets the same object as it would get as the network's own.
fn name(kind: &IpamKind, own: &mut Object) {
    match kind {
        IpamKind::Shipped(name) if own.get("type").is_none() => own.set("type", name.as_str()),
        IpamKind::Wasm { policy } => {
            if own.get("type").is_none() {
                own.set("type", "wasm");
            }
            own.set("policy", policy.as_str());
        }
        IpamKind::Shipped(_) | IpamKind::Dhcp | IpamKind::External(_) => {}
    }
}

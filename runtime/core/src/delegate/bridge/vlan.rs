//! VLANs of a bridge port: `vlan` (one, untagged) and `vlanTrunk` (many, tagged).

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use crate::cni::Object;
use crate::delegate::DelegateError;
use crate::keys;
use crate::plan::Op;

/// Highest VLAN id there is.
const MAX_ID: i64 = 4094;
/// What a trunk port has untagged where no `vlan` is given: the VLAN that a bridge gives its ports by default.
const DEFAULT_ID: u16 = 1;

/// `vlan`.
pub(super) fn access(conf: &Object) -> Result<u16, DelegateError> {
    let id = conf.int("vlan").map_err(keys::mistyped)?.unwrap_or_default();
    let fits = u16::try_from(id).ok().filter(|_| (0..=MAX_ID).contains(&id));
    fits.ok_or_else(|| DelegateError::Conf(format!("invalid VLAN ID {id} (must be between 0 and {MAX_ID})")))
}

/// `vlanTrunk`: the ids of all its items, sorted.
pub(super) fn trunk(conf: &Object) -> Result<Option<Vec<u16>>, DelegateError> {
    let Some(items) = conf.objects("vlanTrunk").map_err(keys::mistyped)? else { return Ok(None) };
    let mut ids = BTreeSet::new();
    for item in &items {
        let number = |key| item.int(key).map_err(keys::mistyped);
        match (number("minID")?, number("maxID")?) {
            (Some(min), Some(max)) => {
                let (min, max) = (trunk_id(min, "minID")?, trunk_id(max, "maxID")?);
                if max < min {
                    return Err(DelegateError::Conf("minID is greater than maxID in trunk parameter".to_owned()));
                }
                ids.extend(min..=max);
            }
            (None, None) => {}
            (min, _) => {
                let missing = if min.is_none() { "minID" } else { "maxID" };
                return Err(DelegateError::Conf(format!(
                    "minID and maxID should be configured simultaneously, {missing} is missing"
                )));
            }
        }
        if let Some(id) = number("id")? {
            ids.insert(trunk_id(id, "id")?);
        }
    }
    Ok(Some(ids.into_iter().collect()))
}

fn trunk_id(id: i64, key: &str) -> Result<u16, DelegateError> {
    let fits = u16::try_from(id).ok().filter(|_| (1..=MAX_ID).contains(&id));
    fits.ok_or_else(|| DelegateError::Conf(format!("incorrect trunk {key} parameter")))
}

impl Settings {
    /// Whether the bridge is made with VLAN filtering.
    pub(super) fn vlan_filtering(&self) -> bool {
        self.vlan != 0 || self.trunk.is_some()
    }

    /// The VLANs of the port, where it gets any.
    pub(super) fn port_vlans(&self, link: &str) -> Option<Op> {
        let trunk = self.trunk.as_deref().unwrap_or_default();
        if self.vlan == 0 && trunk.is_empty() {
            return None;
        }
        let pvid = if self.vlan == 0 { DEFAULT_ID } else { self.vlan };
        Some(Op::BridgeVlans {
            link: link.to_owned(),
            drop_existing: !self.preserve_default_vlan,
            pvid: Some(pvid),
            // Adding the same id once more as a tagged one would take its untagged role away.
            tagged: trunk.iter().copied().filter(|id| *id != pvid).collect(),
        })
    }

    /// The host link that carries the gateway of the access VLAN.
    ///
    /// Its peer on the bridge has a name that follows from the bridge and the VLAN, so that a plan is the same each time.
    pub(super) fn ensure_vlan_gateway(&self) -> Op {
        let name = self.vlan_gateway();
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(&name));
        let peer = format!("veth{:08x}", u32::from_be_bytes([a, b, c, d]));
        let drop_existing = !self.preserve_default_vlan;
        Op::EnsureVlanGateway { bridge: self.bridge.clone(), vlan: self.vlan, name, peer, drop_existing }
    }
}

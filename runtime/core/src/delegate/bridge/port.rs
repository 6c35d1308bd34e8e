//! Derives the VLANs of a bridge port and its gateway from the configuration.

use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use crate::plan::Op;

/// The untagged VLAN of a trunk port without `vlan`: the default VLAN of a bridge's ports.
const DEFAULT_ID: u16 = 1;

impl Settings {
    /// Returns whether the bridge is made with VLAN filtering.
    pub(super) fn vlan_filtering(&self) -> bool {
        self.vlan != 0 || self.trunk.is_some()
    }

    /// Returns the op that sets the VLANs of the port, if it has any.
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
            // Adding the same id again as tagged would remove its untagged role.
            tagged: trunk.iter().copied().filter(|id| *id != pvid).collect(),
        })
    }

    /// Returns the op for the host link that carries the gateway of the access VLAN.
    ///
    /// The name of its peer on the bridge is derived from the bridge and the VLAN, so that plans are deterministic.
    pub(super) fn ensure_vlan_gateway(&self) -> Op {
        let name = self.vlan_gateway();
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(&name));
        let peer = format!("veth{:08x}", u32::from_be_bytes([a, b, c, d]));
        let drop_existing = !self.preserve_default_vlan;
        Op::EnsureVlanGateway { bridge: self.bridge.clone(), vlan: self.vlan, name, peer, drop_existing }
    }
}

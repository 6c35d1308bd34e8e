//! What the VLANs of a configuration make of a bridge port and its gateway.

use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use crate::plan::Op;

/// What a trunk port has untagged where no `vlan` is given: the VLAN that a bridge gives its ports by default.
const DEFAULT_ID: u16 = 1;

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

//! The configuration of `bridge`, checked on its own.

use super::vlan;
use crate::cni::{Object, check_ifname};
use crate::delegate::DelegateError;
use crate::keys;
use crate::plan::Mac;

/// The default name of the bridge.
const DEFAULT_BRIDGE: &str = "cni0";

/// The settings of `bridge`.
pub(super) struct Settings {
    pub(super) bridge: String,
    pub(super) is_gateway: bool,
    pub(super) is_default_gateway: bool,
    pub(super) force_address: bool,
    pub(super) masquerade: bool,
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promisc: bool,
    pub(super) isolated: bool,
    /// Access VLAN; 0 means none.
    pub(super) vlan: u16,
    /// Trunk VLANs; even an empty list enables VLAN filtering.
    pub(super) trunk: Option<Vec<u16>>,
    pub(super) preserve_default_vlan: bool,
    pub(super) spoof_check: bool,
    pub(super) enhanced_dad: bool,
    pub(super) link_stays_down: bool,
    pub(super) mac: Option<Mac>,
}

impl Settings {
    pub(super) fn read(conf: &Object, cni_args: &[(String, String)]) -> Result<Self, DelegateError> {
        let flag = |key| keys::flag(conf, key);
        let is_default_gateway = flag("isDefaultGateway")?;
        let settings = Self {
            bridge: conf.str("bridge").map_err(keys::mistyped)?.unwrap_or(DEFAULT_BRIDGE).to_owned(),
            is_gateway: flag("isGateway")? || is_default_gateway,
            is_default_gateway,
            force_address: flag("forceAddress")?,
            masquerade: keys::masquerade(conf)?,
            mtu: keys::mtu(conf)?,
            hairpin: flag("hairpinMode")?,
            promisc: flag("promiscMode")?,
            isolated: flag("portIsolation")?,
            vlan: vlan::access(conf)?,
            trunk: vlan::trunk(conf)?,
            preserve_default_vlan: flag("preserveDefaultVlan")?,
            spoof_check: flag("macspoofchk")?,
            enhanced_dad: flag("enabledad")?,
            link_stays_down: flag("disableContainerInterface")?,
            mac: mac(conf, cni_args)?,
        };
        settings.check(keys::has_ipam(conf)?)?;
        Ok(settings)
    }

    /// Checks for contradictory keys.
    fn check(&self, layer3: bool) -> Result<(), DelegateError> {
        let refuse = |text: &str| Err(DelegateError::Conf(text.to_owned()));
        if layer3 && self.link_stays_down {
            return refuse("cannot use IPAM when DisableContainerInterface flag is set");
        }
        if self.hairpin && self.promisc {
            return refuse("cannot set hairpin mode and promiscuous mode at the same time");
        }
        check_link_name(&self.bridge)?;
        if layer3 && self.is_gateway && self.vlan != 0 {
            check_link_name(&self.vlan_gateway())?;
        }
        Ok(())
    }

    /// Returns the name of the host link that carries the gateway of the access
    /// VLAN.
    pub(super) fn vlan_gateway(&self) -> String {
        format!("{}.{}", self.bridge, self.vlan)
    }
}

/// Checks a link's name. The stock plugin gets this error from the kernel, in
/// the middle of ADD.
fn check_link_name(name: &str) -> Result<(), DelegateError> {
    check_ifname(name).map_err(|e| DelegateError::Conf(format!("bad interface name {name:?}: {e}")))
}

/// Returns the requested MAC: the runtime's, otherwise that of `args`, otherwise
/// that of `CNI_ARGS`.
fn mac(conf: &Object, cni_args: &[(String, String)]) -> Result<Option<Mac>, DelegateError> {
    let asked = match keys::runtime_mac(conf)? {
        None => keys::args_mac(conf)?.or_else(|| keys::cni_args_mac(cni_args)),
        found => found,
    };
    asked.map(|text| keys::parse_mac(&text).map_err(DelegateError::Conf)).transpose()
}

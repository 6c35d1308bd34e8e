//! `vlan`: a link in one VLAN of a parent link of the host (or of the container).

use super::addressing::{self, ARP_NOTIFY, Dad, NDISC_NOTIFY, Probe};
use super::parent::{Parent, bounded_mtu, check_mtu};
use super::{Delegate, DelegateError, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{CreateVlan, LinkRef, Need, Op, Plan, Side};

/// The `vlan` delegate.
pub(super) struct Vlan;

/// The highest id that the reference accepts. 0 is a VLAN that only carries priorities.
const MAX_ID: i64 = 4094;

/// The configuration, checked on its own.
struct Settings {
    parent: Parent,
    id: u16,
}

impl Settings {
    fn read(conf: &Object) -> Result<Self, DelegateError> {
        let parent = Parent::read(conf)?;
        if !parent.is_named() {
            let text =
                "\"master\" field is required. It specifies the host interface name to create the VLAN for".to_owned();
            return Err(DelegateError::Conf(text));
        }
        check_mtu(conf)?;
        let asked = conf.int("vlanId").map_err(keys::mistyped)?.unwrap_or_default();
        let id = u16::try_from(asked).ok().filter(|_| asked <= MAX_ID);
        // The text has the reference's bounds, including their off-by-one error: people search for it.
        let refused = || DelegateError::Conf(format!("invalid VLAN ID {asked} (must be between 0 and 4095 inclusive)"));
        Ok(Self { parent, id: id.ok_or_else(refused)? })
    }
}

impl Delegate for Vlan {
    fn kind(&self) -> &'static str {
        "vlan"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["master", "vlanId", "mtu", "linkInContainer"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Required
    }

    fn without_ipam(&self) -> &'static str {
        "failed to execute IPAM delegate: no plugin name provided"
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        None
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Settings::read(conf).map(|_settings| ())
    }

    fn needs(&self, conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(vec![Settings::read(conf)?.parent.need()])
    }

    fn link_op(&self, ifname: &str) -> Op {
        let parent = LinkRef { side: Side::Host, name: String::new() };
        Op::CreateVlan(CreateVlan { name: ifname.to_owned(), parent, id: 0, mtu: None })
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let Settings { parent, id } = Settings::read(input.conf)?;
        let (parent, of_parent) = parent.parent_link(input.observed)?;
        let mtu = bounded_mtu(input.conf, of_parent)?;
        let addressing = input.addressing.unwrap_or(&addressing::NONE);
        let ips = addressing::required(addressing)?;
        let name = input.attachment.ifname.as_str();
        let mut ops = vec![Op::CreateVlan(CreateVlan { name: name.to_owned(), parent, id, mtu })];
        let (routes, dad, probe) =
            (&addressing.routes, Dad::for_addresses(addressing), Probe::from_addressing(addressing));
        // The kernel announces the addresses when the link comes up, or the probe has done so. `Announce` would write
        // the MAC, after which the link no longer follows changes of its parent's MAC.
        addressing::Link { name, ips, routes, dad, notify: &[ARP_NOTIFY, NDISC_NOTIFY], probe }.configure(&mut ops);
        Ok(Plan { ops, result: addressing::only_link(name, addressing, input.dns), ..Plan::default() })
    }
}

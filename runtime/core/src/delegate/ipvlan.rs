//! `ipvlan`: a link that shares its parent's MAC and is distinguished by its addresses. In a chain it works without
//! IPAM: it takes parent and addresses from the previous result.

use super::addressing::{self, ARP_NOTIFY, Dad, NDISC_NOTIFY};
use super::parent::Parent;
use super::{Addressing, Delegate, DelegateError, Given, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{CreateIpvlan, IpvlanMode, LinkRef, Need, Op, Plan, Side};

/// The `ipvlan` delegate.
pub(super) struct Ipvlan;

/// The configuration, checked on its own.
struct Settings {
    parent: Parent,
    mode: IpvlanMode,
    mtu: Option<u32>,
    has_ipam: bool,
}

impl Settings {
    fn read(conf: &Object) -> Result<Self, DelegateError> {
        Ok(Self {
            parent: Parent::read(conf)?,
            mode: mode(conf.str("mode").map_err(keys::mistyped)?.unwrap_or_default())?,
            mtu: keys::mtu(conf)?,
            has_ipam: keys::has_ipam(conf)?,
        })
    }
}

fn mode(name: &str) -> Result<IpvlanMode, DelegateError> {
    Ok(match name {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        other => return Err(DelegateError::Conf(format!("unknown ipvlan mode: {other:?}"))),
    })
}

/// Returns the addresses of the previous result, for a configuration without IPAM.
fn taken_over(previous: Option<&CniResult>) -> Result<Addressing, DelegateError> {
    match previous.filter(|previous| !previous.ips.is_empty()) {
        Some(previous) => Ok(Addressing {
            ips: previous.ips.iter().map(|ip| Given { address: ip.address, gateway: ip.gateway }).collect(),
            routes: previous.routes.clone(),
            dns: previous.dns.clone(),
            // They do not come from the ledger.
            unique: false,
            probe_ms: None,
        }),
        None => Err(DelegateError::Conf("no plugin name provided".to_owned())),
    }
}

impl Delegate for Ipvlan {
    fn kind(&self) -> &'static str {
        "ipvlan"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["master", "mode", "mtu", "linkInContainer"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Optional
    }

    /// The kernel delivers an ARP packet to the link that has its target address, and the answer to a probe has none.
    fn no_neighbours(&self) -> Option<&'static str> {
        Some("an ipvlan link gets no answer for an address that it does not have yet; use macvlan")
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn is_chained(&self) -> bool {
        true
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Settings::read(conf).map(|_settings| ())
    }

    fn needs(&self, conf: &Object, previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        let Settings { parent, has_ipam, .. } = Settings::read(conf)?;
        let parent = parent.or_of(previous)?;
        // Without IPAM it only works in a chain. STATUS does not know the previous result, so it requires no parent:
        // the default route's link may not be the parent.
        if !parent.is_named() && previous.is_none() && !has_ipam {
            return Ok(Vec::new());
        }
        Ok(vec![parent.need()])
    }

    fn link_op(&self, ifname: &str) -> Op {
        let parent = LinkRef { side: Side::Host, name: String::new() };
        Op::CreateIpvlan(CreateIpvlan { name: ifname.to_owned(), parent, mode: IpvlanMode::L2, mtu: None })
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let Settings { parent, mode, mtu, .. } = Settings::read(input.conf)?;
        let taken_over = match input.addressing {
            Some(_) => None,
            None => Some(taken_over(input.previous)?),
        };
        let addressing = input.addressing.or(taken_over.as_ref()).unwrap_or(&addressing::NONE);
        let (parent, _mtu) = parent.or_of(input.previous)?.parent_link(input.observed)?;
        let ips = addressing::required(addressing)?;
        let name = input.attachment.ifname.as_str();
        let mut ops = vec![Op::CreateIpvlan(CreateIpvlan { name: name.to_owned(), parent, mode, mtu })];
        let (routes, dad) = (&addressing.routes, Dad::for_addresses(addressing));
        // The kernel announces the addresses when the link comes up. `Announce` is not used because it writes the MAC,
        // and an ipvlan has its parent's.
        addressing::Link { name, ips, routes, dad, notify: &[ARP_NOTIFY, NDISC_NOTIFY], probe: None }
            .configure(&mut ops);
        Ok(Plan { ops, result: addressing::only_link(name, addressing, input.dns), ..Plan::default() })
    }
}

//! `macvlan`: a link with its own MAC on a parent link of the host (or of the container).

use super::addressing::{self, ARP_NOTIFY, Dad, NDISC_NOTIFY, Probe};
use super::parent::{Parent, bounded_mtu, check_mtu};
use super::{Delegate, DelegateError, Input, IpamUse, mac};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{LinkRef, Mac, MacvlanMode, Need, Op, Plan, ResultShape, Side};

/// The `macvlan` delegate.
pub(super) struct Macvlan;

/// The configuration, checked on its own.
struct Settings {
    parent: Parent,
    mode: MacvlanMode,
    mac: Option<Mac>,
    bc_queue_len: Option<u32>,
}

impl Settings {
    fn read(conf: &Object, cni_args: &[(String, String)]) -> Result<Self, DelegateError> {
        check_mtu(conf)?;
        Ok(Self {
            parent: Parent::read(conf)?,
            mode: mode(conf.str("mode").map_err(keys::mistyped)?.unwrap_or_default())?,
            mac: mac::requested_mac(conf, cni_args)?,
            bc_queue_len: conf.u32("bcqueuelen").map_err(keys::mistyped)?.filter(|length| *length != 0),
        })
    }
}

fn mode(name: &str) -> Result<MacvlanMode, DelegateError> {
    Ok(match name {
        "" | "bridge" => MacvlanMode::Bridge,
        "private" => MacvlanMode::Private,
        "vepa" => MacvlanMode::Vepa,
        "passthru" => MacvlanMode::Passthru,
        other => return Err(DelegateError::Conf(format!("unknown macvlan mode: {other:?}"))),
    })
}

impl Delegate for Macvlan {
    fn kind(&self) -> &'static str {
        "macvlan"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["master", "mode", "mtu", "mac", "linkInContainer", "bcqueuelen"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Optional
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        None
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &["MAC"]
    }

    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Settings::read(conf, cni_args).map(|_settings| ())
    }

    fn needs(&self, conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(vec![Settings::read(conf, &[])?.parent.need()])
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::CreateMacvlan {
            name: ifname.to_owned(),
            parent: LinkRef { side: Side::Host, name: String::new() },
            mode: MacvlanMode::Bridge,
            mtu: None,
            mac: None,
            bc_queue_len: None,
        }
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let settings = Settings::read(input.conf, input.cni_args)?;
        let (parent, of_parent) = settings.parent.parent_link(input.observed)?;
        let name = input.attachment.ifname.as_str();
        let mut ops = vec![Op::CreateMacvlan {
            name: name.to_owned(),
            mode: settings.mode,
            mtu: bounded_mtu(input.conf, of_parent)?,
            parent,
            mac: settings.mac,
            bc_queue_len: settings.bc_queue_len,
        }];
        // The stock plugin's result has the configuration's `dns`, even if unset; that of IPAM is dropped.
        let mut result = ResultShape {
            interfaces: vec![LinkRef::container(name)],
            dns: input.dns.cloned().unwrap_or_default(),
            ..ResultShape::default()
        };
        if let Some(addressing) = input.addressing {
            let ips = addressing::required(addressing)?;
            let dad = Dad::for_addresses(addressing);
            let notify = &[ARP_NOTIFY, NDISC_NOTIFY];
            addressing::Link {
                name,
                ips,
                routes: &addressing.routes,
                dad,
                notify,
                probe: Probe::from_addressing(addressing),
            }
            .configure(&mut ops);
            ops.push(addressing::announce(name, ips));
            result.ips = addressing::shape(ips, 0);
            result.routes.clone_from(&addressing.routes);
        } else {
            ops.push(Op::LinkUp { link: LinkRef::container(name) });
        }
        Ok(Plan { ops, result, ..Plan::default() })
    }
}

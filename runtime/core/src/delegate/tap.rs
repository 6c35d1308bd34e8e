//! `tap`: a link whose traffic goes to a program, such as a virtual machine.

use super::addressing::{self, ARP_NOTIFY, Dad};
use super::{Delegate, DelegateError, Input, IpamUse, mac};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{CreateTap, LinkRef, Need, Op, Plan, ResultShape};

/// The `tap` delegate.
pub(super) struct Tap;

fn read(conf: &Object, cni_args: &[(String, String)]) -> Result<CreateTap, DelegateError> {
    let text = |key: &str| Ok::<_, DelegateError>(conf.text(key).map_err(keys::mistyped)?.map(ToOwned::to_owned));
    let context = text("selinuxContext")?;
    if context.as_ref().is_some_and(|context| context.contains('\0')) {
        return Err(DelegateError::Conf("selinuxContext contains a zero byte".to_owned()));
    }
    Ok(CreateTap {
        name: String::new(),
        multi_queue: keys::flag(conf, "multiQueue")?,
        owner: conf.u32("owner").map_err(keys::mistyped)?,
        group: conf.u32("group").map_err(keys::mistyped)?,
        mtu: keys::mtu(conf)?,
        mac: mac::requested_mac(conf, cni_args)?,
        selinux_context: context,
        bridge: text("bridge")?,
    })
}

impl Delegate for Tap {
    fn kind(&self) -> &'static str {
        "tap"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["multiQueue", "mtu", "mac", "owner", "group", "selinuxContext", "bridge"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Optional
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        Some("the program behind the tap device does not run yet")
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &["MAC"]
    }

    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        read(conf, cni_args).map(|_tap| ())
    }

    fn needs(&self, _conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(Vec::new())
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::CreateTap(CreateTap { name: ifname.to_owned(), ..CreateTap::default() })
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let name = input.attachment.ifname.as_str();
        let mut ops = vec![Op::CreateTap(CreateTap { name: name.to_owned(), ..read(input.conf, input.cni_args)? })];
        let Some(addressing) = input.addressing else {
            ops.push(Op::LinkUp { link: LinkRef::container(name) });
            let interfaces = vec![LinkRef::container(name)];
            let result =
                ResultShape { interfaces, dns: input.dns.cloned().unwrap_or_default(), ..ResultShape::default() };
            return Ok(Plan { ops, result, ..Plan::default() });
        };
        let ips = addressing::required(addressing)?;
        let (routes, dad) = (&addressing.routes, Dad::for_addresses(addressing));
        // Until a program opens it, no neighbour can receive an announcement.
        addressing::Link { name, ips, routes, dad, notify: &[ARP_NOTIFY], probe: None }.configure(&mut ops);
        Ok(Plan { ops, result: addressing::only_link(name, addressing, input.dns), ..Plan::default() })
    }
}

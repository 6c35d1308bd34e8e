//! `dummy`: a link without a peer, which only carries addresses.

use super::addressing::{self, Dad};
use super::{Delegate, DelegateError, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::plan::{CreateDummy, Need, Op, Plan};

/// The `dummy` delegate.
pub(super) struct Dummy;

impl Delegate for Dummy {
    fn kind(&self) -> &'static str {
        "dummy"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Required
    }

    fn without_ipam(&self) -> &'static str {
        "dummy interface requires an IPAM configuration"
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        Some("a dummy link has no neighbours to ask")
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn validate(&self, _conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Ok(())
    }

    fn needs(&self, _conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(Vec::new())
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::CreateDummy(CreateDummy { name: ifname.to_owned() })
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let addressing = input.addressing.unwrap_or(&addressing::NONE);
        let ips = addressing::required(addressing)?;
        let name = input.attachment.ifname.as_str();
        let mut ops = vec![self.link_op(name)];
        let (routes, dad) = (&addressing.routes, Dad::for_addresses(addressing));
        // No neighbour needs an announcement of the addresses.
        addressing::Link { name, ips, routes, dad, notify: &[], probe: None }.configure(&mut ops);
        // The only stock plugin that keeps IPAM's DNS, whatever the configuration
        // says.
        let result = addressing::only_link(name, addressing, Some(&addressing.dns));
        Ok(Plan { ops, result, ..Plan::default() })
    }
}

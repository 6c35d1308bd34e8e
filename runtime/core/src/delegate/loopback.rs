//! `loopback`: brings `lo` of the container up, whatever `CNI_IFNAME` says.
//!
//! Not here: with a `prevResult`, that is printed (`attach`).

use super::{Delegate, DelegateError, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::plan::{LinkRef, Need, Op, Plan, ResultShape};

/// The container's loopback link.
const LO: &str = "lo";

/// The `loopback` delegate.
pub(super) struct Loopback;

impl Delegate for Loopback {
    fn kind(&self) -> &'static str {
        "loopback"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Never
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        Some("loopback has no neighbours to ask")
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn validate(&self, _conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        Ok(())
    }

    fn needs(&self, _conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(vec![Need::Link(LinkRef::container(LO))])
    }

    fn link_op(&self, _ifname: &str) -> Op {
        Op::LinkUp { link: LinkRef::container(LO) }
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let lo = LinkRef::container(LO);
        let addresses = input.observed.links.get(&lo).map_or(&[][..], |link| &link.addresses);
        if let Some(other) = addresses.iter().find(|net| !net.addr().is_loopback()) {
            let text = format!("loopback interface found with non-loopback address \"{}\"", other.addr());
            return Err(DelegateError::Host(text));
        }
        Ok(Plan {
            ops: vec![Op::LinkUp { link: lo.clone() }],
            result: ResultShape { interfaces: vec![lo], observed_addresses: true, ..ResultShape::default() },
            ..Plan::default()
        })
    }
}

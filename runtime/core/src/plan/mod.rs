//! Plans are data: the ops a delegate or step describes, and the executor in `netlink` applies, undoes, checks.
//!
//! Shared by `delegate` (which writes plans) and `netlink` (which reads them); it imports neither. Ops name links by
//! (side, name): the executor resolves indexes late. A plan is stored in the journal as JSON, so every type here is a
//! storage format: add fields with `#[serde(default)]`, never rename.
//!
//! Each op has two inverses. *Undo* is exact: the executor records what it found before it changed it, and a failed ADD
//! puts that back. *Teardown* needs the plan alone, and is what DEL and GC do, maybe after a crash half
//! way through ADD: it removes what belongs to the attachment and leaves what others share (a bridge, its address).

mod device;
mod facts;
mod filter;
mod lease;
mod links;
mod neighbour;
mod op;
mod result;
mod sbr;
mod shaping;
mod tap;
mod tuning;
mod vrf;

pub use device::{DeviceLink, DeviceQuery, FoundDevice, TakeDevice};
pub use facts::{LinkInfo, Need, Observed, Peer};
pub use filter::{
    Accept, Condition, EXCLUSIVE, FirewalldSource, HostPort, Ingress, IngressPolicy, Protocol, RouteLocalnet, Subject,
};
pub use lease::AgentLease;
pub use links::{CreateDummy, CreateIpvlan, CreateVlan, IpvlanMode};
pub use neighbour::ForgetNeighbours;
pub use op::{Family, MacvlanMode, Op};
pub use result::{ResultShape, ShapeIp};
pub use sbr::{Source, SourceRoutes};
pub use shaping::{CreateIfb, LimitRate, RedirectIngress};
pub use tap::CreateTap;
pub use tuning::{LinkAttributes, TuneLink, TuneSysctl};
pub use vrf::JoinVrf;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The steps the host will do for one attachment, and what its CNI result will look like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// In the order they are applied; teardown goes the other way.
    pub ops: Vec<Op>,
    /// What tells the container's namespace from others (`netlink::netns_identity`): a path may name another one later.
    #[serde(default)]
    pub container: Option<String>,
    /// The index that the link which the plan makes in the container gets, or the device that it moves there: chosen ahead, so
    /// that the journal knows the link before there is one. Not of a veth pair, which is known by its end on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_index: Option<u32>,
    /// The result to print once all ops are applied.
    #[serde(default)]
    pub result: ResultShape,
    /// The `ifalias` of the links it makes, by which they are known as weft's (`netlink::label`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The agent holds a lease for the attachment, or may: it is asked for through the plan's link. DEL gives it back while
    /// the link is there.
    #[serde(default)]
    pub lease: Option<AgentLease>,
}

impl Plan {
    /// An index for [`Plan::link_index`], of random numbers: far above what kernels count up to by themselves.
    #[must_use]
    pub fn chosen_index(random: [u8; 3]) -> u32 {
        let [i, j, k] = random;
        u32::from_be_bytes([1, i, j, k])
    }

    /// Whether a plan has chosen the index of a link, and not the kernel.
    #[must_use]
    pub fn is_chosen_index(index: u32) -> bool {
        index.to_be_bytes()[0] == 1
    }

    /// What is left to do of this plan when `done` has been applied. Both come from the same conf and host, so an op of both
    /// is the same thing.
    #[must_use]
    pub fn beyond(&self, done: &Self) -> Self {
        let ops = self.ops.iter().filter(|op| !done.ops.contains(op)).cloned().collect();
        Self { ops, ..self.clone() }
    }

    /// Names of things of this plan that other attachments may need too (an nftables element for an address, say).
    /// Teardown leaves those alone that another journal entry names as well. A name that begins with [`EXCLUSIVE`] is the other
    /// way round: two entries never hold it at once.
    #[must_use]
    pub fn shared(&self) -> Vec<String> {
        self.ops.iter().filter_map(Op::shared).collect()
    }
}

/// Which network namespace a link is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The one weft runs in.
    Host,
    /// The one named by `CNI_NETNS`.
    Container,
}

/// A link by where it is and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkRef {
    /// Its namespace.
    pub side: Side,
    /// Its name there.
    pub name: String,
}

impl LinkRef {
    /// A link of the host.
    pub fn host(name: impl Into<String>) -> Self {
        Self { side: Side::Host, name: name.into() }
    }

    /// A link of the container.
    pub fn container(name: impl Into<String>) -> Self {
        Self { side: Side::Container, name: name.into() }
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Host => write!(f, "{}", self.name),
            Side::Container => write!(f, "{} (in the container)", self.name),
        }
    }
}

/// A 48-bit hardware address; text form is lower-case with colons, as the kernel prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address (want six hexadecimal octets, as in 02:00:00:00:00:01)")]
pub struct BadMac(pub String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0_u8; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_not_hex| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_plan_is_what_it_does_not_have() {
        let up = Op::LinkUp { link: LinkRef::container("eth0") };
        let port = Op::WaitPort { link: "veth0".to_owned() };
        let pin = Op::PinMac { link: "br0".to_owned() };
        let done = Plan { ops: vec![port.clone(), up.clone()], ..Plan::default() };
        let full = Plan { ops: vec![port, pin.clone(), up], container: Some("4:7".to_owned()), ..Plan::default() };
        assert_eq!(full.beyond(&done), Plan { ops: vec![pin], ..full.clone() });
        assert_eq!(full.beyond(&Plan::default()), full);
    }

    #[test]
    fn plans_of_before_leases_are_read() {
        let plan: Plan = serde_json::from_str(r#"{"ops": []}"#).unwrap_or_default();
        assert_eq!(plan.lease, None);
    }
}

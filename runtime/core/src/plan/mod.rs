//! Plans are data: a delegate or step describes ops, and the executor in `netlink` applies, undoes and checks them.
//!
//! Shared by `delegate` (which writes plans) and `netlink` (which reads them); imports neither. Ops identify links by
//! (side, name): the executor resolves indexes late. A plan is stored in the journal as JSON, so every type here is a
//! storage format: add fields with `#[serde(default)]`, never rename.
//!
//! Each op has two inverses. *Undo* is exact: the executor records the previous state before it changes it, and a
//! failed ADD restores that. *Teardown* needs only the plan. DEL and GC use it, possibly after a crash in the middle of
//! ADD: it removes what belongs to the attachment and keeps what others share (a bridge, its address).

mod device;
mod facts;
mod family;
mod filter;
mod lease;
mod link;
mod links;
mod mac;
mod neighbour;
mod op;
mod probe;
mod result;
mod sbr;
mod shaping;
mod steps;
mod tap;
mod tuning;
mod vrf;

pub use device::{DeviceLink, DeviceQuery, FoundDevice, TakeDevice};
pub use facts::{LinkInfo, Need, Observed, Peer};
pub use family::Family;
pub use filter::{
    Accept, Condition, EXCLUSIVE, FirewalldSource, HostPort, Ingress, IngressPolicy, Protocol, RouteLocalnet, Subject,
};
pub use lease::AgentLease;
pub use link::{LinkRef, Side};
pub use links::{CreateDummy, CreateIpvlan, CreateVlan, IpvlanMode};
pub use mac::{BadMac, Mac};
pub use neighbour::ForgetNeighbours;
pub use op::{MacvlanMode, Op};
pub use probe::ProbeAddresses;
pub use result::{ResultShape, ShapeIp};
pub use sbr::{Source, SourceRoutes};
pub use shaping::{CreateIfb, LimitRate, RedirectIngress};
pub use steps::{FoundLink, Plan};
pub use tap::CreateTap;
pub use tuning::{LinkAttributes, TuneLink, TuneSysctl};
pub use vrf::JoinVrf;

//! The shape of a plan's CNI result. MAC addresses are read from the kernel after the plan is applied.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_host_abi::types::{Dns, Route};

use super::LinkRef;

/// One address of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeIp {
    /// Address and prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    pub interface: Option<usize>,
}

/// The contents of the CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResultShape {
    /// Interfaces in order. Container ones get `CNI_NETNS` as sandbox.
    pub interfaces: Vec<LinkRef>,
    /// Addresses in order.
    pub ips: Vec<ShapeIp>,
    /// Routes in order.
    pub routes: Vec<Route>,
    /// DNS.
    pub dns: Dns,
    /// Also list the first IPv4 and the first IPv6 address found on interface 0 (loopback).
    #[serde(default)]
    pub observed_addresses: bool,
    /// Whether the interfaces are not kernel links (a device driven from user space), so nothing is read from them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmanaged: bool,
}

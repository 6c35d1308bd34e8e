//! The CNI result, in one form for every version: `read` takes any version's document, `write` makes any version's.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use weft_host_abi::types::{Dns, Route};

pub use read::read_dns;

/// An interface of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// The namespace it is in; absent for one of the host.
    pub sandbox: Option<String>,
    /// A socket that belongs to it.
    pub socket_path: Option<String>,
    /// The PCI device it is.
    pub pci_id: Option<String>,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Address and prefix length; host bits are kept.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces. Absent in what an IPAM plugin prints.
    pub interface: Option<usize>,
}

/// What a successful ADD prints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CniResult {
    /// Interfaces, made or used.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
    /// Routes.
    pub routes: Vec<Route>,
    /// DNS.
    pub dns: Dns,
}

//! The CNI result, in one form for all versions: `read` parses a document of any version, `write` creates one.

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
    /// Its namespace; `None` for an interface of the host.
    pub sandbox: Option<String>,
    /// A socket that belongs to it.
    pub socket_path: Option<String>,
    /// Its PCI device.
    pub pci_id: Option<String>,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Address and prefix length; host bits are kept.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces. `None` in the output of an IPAM plugin.
    pub interface: Option<usize>,
}

/// The output of a successful ADD.
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

//! Ops of the node's packet filter: host ports, forwarding, ingress policies.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Family;

/// The prefix of a shared name that only one attachment may hold (`Plan::shared`). Its last part, after the last `/`,
/// may be `*`: then it conflicts with every name with the same preceding parts.
pub const EXCLUSIVE: &str = "only ";

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Maps a port of the host to one of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; `None` means any of the container's family.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address and port.
    pub to: SocketAddr,
    /// Connections from these networks get an address of the host as their source: otherwise, answers would bypass the
    /// host.
    #[serde(default)]
    pub masquerade: Vec<IpNet>,
    /// A packet must meet all of these conditions, if any.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Names the rule for the conditions; unique to attachment and mapping.
    #[serde(default)]
    pub tag: String,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The property to check.
    #[serde(flatten)]
    pub subject: Subject,
    /// Whether to negate the condition.
    #[serde(default)]
    pub not: bool,
}

/// The property that a condition checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Subject {
    /// The source address is in one of these networks.
    Source {
        /// The networks.
        nets: Vec<IpNet>,
    },
    /// The destination address is in one of these networks.
    Destination {
        /// The networks.
        nets: Vec<IpNet>,
    },
    /// The link through which it came in; a `*` at the end of a name matches anything.
    Input {
        /// The names.
        links: Vec<String>,
    },
    /// The link through which it leaves; only for the host's own packets.
    Output {
        /// The names.
        links: Vec<String>,
    },
    /// The packet mark, masked.
    Mark {
        /// The expected bits.
        value: u32,
        /// The mask.
        mask: u32,
    },
    /// The type of the source address (`RTN_*` of the kernel).
    SourceType {
        /// The type.
        kind: u8,
    },
    /// The source port is one of these ranges.
    SourcePort {
        /// First and last ports.
        ranges: Vec<(u16, u16)>,
    },
}

/// Lets 127.0.0.1 be routed to a container: sets `route_localnet` on the host's link to it. Shared: teardown keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLocalnet {
    /// The container's address.
    pub address: Ipv4Addr,
}

/// Accepts what the host forwards from a container, and the answers to it, where iptables would drop it by policy: two
/// rules in `CNI-FORWARD` of the `filter` table that `iptables` manages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The container's address.
    pub address: IpAddr,
    /// The chain of the same table in which the operator's own rules come first.
    pub admin_chain: String,
    /// Names the rules; unique to the attachment.
    pub tag: String,
}

/// Which containers may be reached from other containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ingress {
    /// Containers of the same bridge, but not from other bridges with a policy.
    SameBridge,
    /// Nobody.
    Isolated,
}

/// An ingress policy of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressPolicy {
    /// The bridge.
    pub bridge: String,
    /// The policy.
    pub policy: Ingress,
}

/// Makes an address a source of a firewalld zone, over D-Bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewalldSource {
    /// The zone.
    pub zone: String,
    /// The container's address.
    pub address: IpAddr,
}

// === impl Protocol ===

impl Protocol {
    /// Returns its number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Returns the protocol of a number in IP headers.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

// === impl HostPort ===

impl HostPort {
    /// Returns the name of what only one attachment may have: the port, on one address or on all. Mappings with
    /// conditions conflict only if their conditions are identical: other sets of conditions cannot be compared.
    #[must_use]
    pub fn exclusive(&self) -> String {
        let family = match Family::from_ip(self.to.ip()) {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let mut name = format!("{EXCLUSIVE}host port {}/{} on {family}", self.host_port, self.protocol);
        if !self.conditions.is_empty() {
            let conditions: Vec<String> = self.conditions.iter().map(ToString::to_string).collect();
            // Writing to a `String` cannot fail.
            write!(name, " if {}", conditions.join(" and ").replace('/', ":")).ok();
        }
        let address = self.host_ip.map_or_else(|| "*".to_owned(), |address| address.to_string());
        format!("{name}/{address}")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map host port {}/{}", self.host_port, self.protocol)?;
        if let Some(address) = self.host_ip {
            write!(f, " of {address}")?;
        }
        write!(f, " to {}", self.to)?;
        for (at, condition) in self.conditions.iter().enumerate() {
            write!(f, " {} {condition}", if at == 0 { "if" } else { "and" })?;
        }
        Ok(())
    }
}

// === impl Condition ===

impl Condition {
    /// Returns how many rules the condition alone needs: one for each value. Negated values fit one rule.
    #[must_use]
    pub fn rules(&self) -> usize {
        match &self.subject {
            _ if self.not => 1,
            Subject::Source { nets } | Subject::Destination { nets } => nets.len(),
            Subject::Input { links } | Subject::Output { links } => links.len(),
            Subject::SourcePort { ranges } => ranges.len(),
            Subject::Mark { .. } | Subject::SourceType { .. } => 1,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, values) = match &self.subject {
            Subject::Source { nets } => ("source", list(nets)),
            Subject::Destination { nets } => ("destination", list(nets)),
            Subject::Input { links } => ("input", list(links)),
            Subject::Output { links } => ("output", list(links)),
            Subject::Mark { value, mask } => ("mark", format!("{value:#x} of {mask:#x}")),
            Subject::SourceType { kind } => ("source type", kind.to_string()),
            Subject::SourcePort { ranges } => {
                let each = ranges.iter().map(|(first, last)| format!("{first}-{last}"));
                ("source port", each.collect::<Vec<_>>().join(" or "))
            }
        };
        write!(f, "{what} is {}{values}", if self.not { "not " } else { "" })
    }
}

fn list<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

// === the others ===

impl fmt::Display for RouteLocalnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "let 127.0.0.1 be routed to {}", self.address)
    }
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accept forwarded traffic of {}", self.address)
    }
}

impl fmt::Display for IngressPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            Ingress::SameBridge => write!(f, "admit to {} only what comes from the same bridge", self.bridge),
            Ingress::Isolated => write!(f, "admit nothing between containers of {}", self.bridge),
        }
    }
}

impl IngressPolicy {
    /// Every attachment of the bridge sets the same policy.
    #[must_use]
    pub fn shared_name(&self) -> String {
        let policy = match self.policy {
            Ingress::SameBridge => "same-bridge",
            Ingress::Isolated => "isolated",
        };
        format!("ingress {policy} {}", self.bridge)
    }
}

impl FirewalldSource {
    /// Two attachments with the same address are one source.
    #[must_use]
    pub fn shared_name(&self) -> String {
        format!("firewalld source {} {}", self.zone, self.address)
    }
}

impl fmt::Display for FirewalldSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "add {} to zone {} of firewalld", self.address, self.zone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn port(host_ip: Option<&str>, conditions: Vec<Condition>) -> HostPort {
        HostPort {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port: 8080,
            to: "10.1.2.3:80".parse().unwrap(),
            masquerade: Vec::new(),
            conditions,
            tag: String::new(),
        }
    }

    #[test]
    fn names_of_host_ports() {
        assert_eq!(port(None, vec![]).exclusive(), "only host port 8080/tcp on IPv4/*");
        assert_eq!(port(Some("192.0.2.1"), vec![]).exclusive(), "only host port 8080/tcp on IPv4/192.0.2.1");
        let from = Subject::Source { nets: vec!["10.0.0.0/8".parse().unwrap()] };
        let conditional = port(None, vec![Condition { subject: from, not: true }]);
        assert_eq!(conditional.exclusive(), "only host port 8080/tcp on IPv4 if source is not 10.0.0.0:8/*");
        assert_eq!(conditional.to_string(), "map host port 8080/tcp to 10.1.2.3:80 if source is not 10.0.0.0/8");
    }

    /// Checks the storage format, and that newer fields may be missing.
    #[test]
    fn stored() {
        let text = r#"{"protocol":"tcp","host_port":8080,"to":"10.1.2.3:80"}"#;
        assert_eq!(serde_json::from_str::<HostPort>(text).unwrap(), port(None, vec![]));
        let input = Condition { subject: Subject::Input { links: vec!["eth*".to_owned()] }, not: false };
        let text = serde_json::to_string(&input).unwrap();
        assert_eq!(text, r#"{"of":"input","links":["eth*"],"not":false}"#);
        assert_eq!(serde_json::from_str::<Condition>(&text).unwrap(), input);
    }
}

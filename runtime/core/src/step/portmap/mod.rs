//! `portmap`: maps ports of the host to the container.
//!
//! One implementation replaces both backends of the reference plugin: elements of nftables maps, and rules for mappings
//! with conditions in either syntax (`conditions`). Connection tracking's record of the original port identifies what
//! to masquerade, so no packet mark is used: `markMasqBit` has no effect, and with `externalSetMarkChain` weft itself
//! masquerades what that chain would have marked.

mod conditions;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use weft_host_abi::types::Attachment;

use super::tag::tag;
use super::{Step, StepError, StepInput, StepPlan};
use crate::cni::{Mistyped, Object};
use crate::plan::{Condition, Family, HostPort, Op, Protocol, RouteLocalnet};

/// The `portmap` step.
#[derive(Debug)]
pub(super) struct Portmap;

/// The most rules that the conditions of one call may need.
const MOST_RULES: usize = 4096;

/// One of `runtimeConfig.portMappings`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    host_port: u16,
    container_port: u16,
}

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    snat: bool,
    masquerade_all: bool,
    conditions4: Vec<Condition>,
    conditions6: Vec<Condition>,
    mappings: Vec<Mapping>,
}

impl Step for Portmap {
    fn kind(&self) -> &'static str {
        "portmap"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["backend", "snat", "conditionsV4", "conditionsV6", "masqAll", "markMasqBit", "externalSetMarkChain"]
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        Settings::read(conf).map(drop)
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let settings = Settings::read(input.conf)?;
        let previous =
            input.previous.ok_or_else(|| StepError::Previous("must be called as chained plugin".to_owned()))?;
        let mut ops = Vec::new();
        let nets: Vec<IpNet> = previous.own_addresses(&input.attachment.ifname).map(|ip| ip.address).collect();
        for family in [Family::V4, Family::V6] {
            let Some(net) = nets.iter().find(|net| Family::from_ip(net.addr()) == family) else { continue };
            let before = ops.len();
            for mapping in &settings.mappings {
                ops.extend(settings.op(mapping, *net, input.attachment).map(Op::HostPort));
            }
            // Without it, packets between 127.0.0.1 and the container are dropped in both directions.
            if let (IpAddr::V4(address), true, true) = (net.addr(), settings.snat, ops.len() > before) {
                ops.push(Op::RouteLocalnet(RouteLocalnet { address }));
            }
        }
        let mut once: Vec<Op> = Vec::new();
        for op in ops {
            if !once.contains(&op) {
                once.push(op);
            }
        }
        Ok(StepPlan { ops: once, ..StepPlan::default() })
    }
}

impl Settings {
    fn read(conf: &Object) -> Result<Self, StepError> {
        Self::parse(conf).map_err(|text| StepError::Conf(format!("failed to parse config: {text}")))
    }

    fn parse(conf: &Object) -> Result<Self, String> {
        let snat = conf.bool("snat").map_err(mistyped)?.unwrap_or(true);
        let masquerade_all = conf.bool("masqAll").map_err(mistyped)?.unwrap_or(false);
        let mark = conf.int("markMasqBit").map_err(mistyped)?;
        let chain = conf.str("externalSetMarkChain").map_err(mistyped)?;
        if mark.is_some() && chain.is_some() {
            return Err("Cannot specify externalSetMarkChain and markMasqBit".to_owned());
        }
        if !(0..=31).contains(&mark.unwrap_or(0)) {
            return Err("MasqMarkBit must be between 0 and 31".to_owned());
        }
        let dialects = [
            (chain.is_some().then_some(Dialect::Iptables), "externalSetMarkChain"),
            (dialect(conf, "conditionsV4")?, "conditionsV4"),
            (dialect(conf, "conditionsV6")?, "conditionsV6"),
        ];
        check_backend(conf.str("backend").map_err(mistyped)?, &dialects)?;
        let conditions = |key, family| {
            let words = conf.strings(key).map_err(mistyped)?.unwrap_or_default();
            conditions::read(&words, family).map_err(|problem| format!("{key}: {problem}"))
        };
        let settings = Self {
            snat,
            masquerade_all,
            conditions4: conditions("conditionsV4", Family::V4)?,
            conditions6: conditions("conditionsV6", Family::V6)?,
            mappings: mappings(conf)?,
        };
        settings.bounded()
    }

    /// Refuses conditions that need too many rules: one for each combination of their values, for each port.
    fn bounded(self) -> Result<Self, String> {
        let (ports, mut total) = (self.mappings.len().max(1), 0_usize);
        for (key, conditions) in [("conditionsV4", &self.conditions4), ("conditionsV6", &self.conditions6)] {
            if conditions.is_empty() {
                continue;
            }
            let each = conditions.iter().fold(1_usize, |rules, condition| rules.saturating_mul(condition.rules()));
            total = total.saturating_add(each.saturating_mul(ports));
            if total > MOST_RULES {
                return Err(format!(
                    "{key}: {each} combinations of values for each of {ports} ports need more than {MOST_RULES} rules; use larger networks and ranges of ports, or fewer values"
                ));
            }
        }
        Ok(self)
    }

    /// Returns the mapping to a container's address; `None` if it is for the other family.
    fn op(&self, mapping: &Mapping, net: IpNet, attachment: &Attachment) -> Option<HostPort> {
        let Mapping { protocol, host_ip, host_port, container_port } = *mapping;
        let family = Family::from_ip(net.addr());
        if host_ip.is_some_and(|address| Family::from_ip(address) != family) {
            return None;
        }
        let conditions = match family {
            Family::V4 => self.conditions4.clone(),
            Family::V6 => self.conditions6.clone(),
        };
        let to = SocketAddr::new(net.addr(), container_port);
        let host_ip = host_ip.filter(|address| !address.is_unspecified());
        let purpose = format!("port {protocol} {host_port} {host_ip:?} {to}");
        let tag = if conditions.is_empty() { String::new() } else { tag(attachment, &purpose) };
        Some(HostPort { protocol, host_ip, host_port, to, masquerade: self.sources(net), conditions, tag })
    }

    /// Returns the sources to masquerade: the container's own network, which would answer directly, and 127.0.0.1,
    /// which the container would take for itself.
    fn sources(&self, net: IpNet) -> Vec<IpNet> {
        let all = match net {
            IpNet::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpNet::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let localhost = IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST));
        match (self.snat, self.masquerade_all, net) {
            (false, ..) => Vec::new(),
            (true, true, _) => vec![all],
            (true, false, IpNet::V4(_)) if !net.contains(&localhost) => vec![net.trunc(), localhost],
            (true, false, _) => vec![net.trunc()],
        }
    }
}

/// The syntax of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Iptables,
    Nftables,
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

fn mistyped(error: Mistyped) -> String {
    super::mistyped(error).to_string()
}

/// Determines the syntax from the first character: only iptables options begin with it.
fn dialect(conf: &Object, key: &str) -> Result<Option<Dialect>, String> {
    let words = conf.strings(key).map_err(mistyped)?.unwrap_or_default();
    let Some(first) = words.first() else { return Ok(None) };
    Ok(Some(if first.starts_with(['-', '!']) { Dialect::Iptables } else { Dialect::Nftables }))
}

/// An explicit backend requires its own syntax. Without one, both are accepted.
fn check_backend(asked: Option<&str>, used: &[(Option<Dialect>, &str)]) -> Result<(), String> {
    let backend = match asked {
        None => return Ok(()),
        Some("iptables") => Dialect::Iptables,
        Some("nftables") => Dialect::Nftables,
        Some(other) => return Err(format!("unrecognized backend {other:?}")),
    };
    let wrong = |dialect: Option<Dialect>| dialect.filter(|dialect| *dialect != backend);
    let options: Vec<&str> =
        used.iter().filter(|(dialect, _)| wrong(*dialect).is_some()).map(|(_, option)| *option).collect();
    match used.iter().find_map(|(dialect, _)| wrong(*dialect)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "{} backend was requested but configuration contains {}-specific options [{}]",
            backend.name(),
            other.name(),
            options.join(" ")
        )),
    }
}

fn mappings(conf: &Object) -> Result<Vec<Mapping>, String> {
    let runtime = conf.object_or_empty("runtimeConfig").map_err(mistyped)?;
    let listed = runtime.objects("portMappings").map_err(mistyped)?.unwrap_or_default();
    listed.iter().map(mapping).collect()
}

fn mapping(entry: &Object) -> Result<Mapping, String> {
    let port = |key: &str, what: &str| {
        let number = entry.int(key).map_err(mistyped)?.unwrap_or(0);
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("Invalid {what} port number: {number}"))
    };
    let container_port = port("containerPort", "container")?;
    let host_port = port("hostPort", "host")?;
    let protocol = match entry.text("protocol").map_err(mistyped)?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some("sctp") => Protocol::Sctp,
        Some(other) => {
            return Err(format!("Invalid protocol {other:?} of host port {host_port}: want tcp, udp or sctp"));
        }
    };
    let host_ip = match entry.text("hostIP").map_err(mistyped)? {
        None => None,
        Some(text) => {
            let address: Result<IpAddr, _> = text.parse();
            Some(address.map_err(|_bad| format!("Invalid host IP {text:?} of host port {host_port}"))?.to_canonical())
        }
    };
    Ok(Mapping { protocol, host_ip, host_port, container_port })
}

#[cfg(test)]
mod tests;

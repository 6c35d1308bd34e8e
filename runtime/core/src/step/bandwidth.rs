//! `bandwidth`: limits the rates of traffic to the container (ingress) and from it (egress) at the host's end of its
//! veth.

use std::fmt::Write;

use sha2::{Digest, Sha512};
use weft_host_abi::types::Attachment;

use super::{Previous, Step, StepError, StepInput, StepPlan, mistyped};
use crate::cni::{Object, Version};
use crate::plan::{CreateIfb, LimitRate, LinkRef, Need, Op, Peer, RedirectIngress, Side};

/// Keys of the configuration, and of `runtimeConfig.bandwidth`.
const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// Length and prefix of the names of intermediate devices.
const IFB_LENGTH: usize = 15;
const IFB_PREFIX: &str = "bwp";

/// The only interface whose intermediate device has the name that the stock plugin uses.
const MAIN_INTERFACE: &str = "eth0";

/// The `bandwidth` step.
pub(super) struct Bandwidth;

/// A rate in bytes per second, and the bytes that may be sent at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    rate: u64,
    burst: u32,
}

/// A configuration, read.
struct Settings {
    ingress: Option<Rate>,
    egress: Option<Rate>,
}

impl Step for Bandwidth {
    fn kind(&self) -> &'static str {
        "bandwidth"
    }

    fn keys(&self) -> &'static [&'static str] {
        &KEYS
    }

    fn oldest(&self) -> Version {
        Version::V0_3_0
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        Settings::read(conf).map(drop)
    }

    fn needs(&self, _conf: &Object, attachment: &Attachment) -> Result<Vec<Need>, StepError> {
        Ok(vec![Need::Peer(LinkRef::container(attachment.ifname.as_str()))])
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let Settings { ingress, egress } = Settings::read(input.conf)?;
        let mut plan = StepPlan::default();
        if ingress.is_none() && egress.is_none() {
            return Ok(plan);
        }
        let missing = || StepError::Previous("must be called as chained plugin".to_owned());
        let host = host_end(input, input.previous.ok_or_else(missing)?)?;
        if let Some(Rate { rate, burst }) = ingress {
            plan.ops.push(Op::LimitRate(LimitRate { link: host.clone(), rate, burst }));
        }
        if let Some(Rate { rate, burst }) = egress {
            let name = ifb_name(input.attachment);
            plan.ops.push(Op::CreateIfb(CreateIfb { name: name.clone(), like: host.clone() }));
            // Set the limit first: nothing is sent there before the redirection.
            plan.ops.push(Op::LimitRate(LimitRate { link: name.clone(), rate, burst }));
            plan.ops.push(Op::RedirectIngress(RedirectIngress { from: host, to: name.clone() }));
            plan.interfaces.push(LinkRef::host(name));
        }
        Ok(plan)
    }
}

/// Returns the name of the host's end of the container's veth, made by the plan or found.
fn host_end(input: &StepInput<'_>, previous: &Previous) -> Result<String, StepError> {
    let ifname = &input.attachment.ifname;
    if previous.interfaces.is_empty() {
        return Err(StepError::Previous("no interfaces provided".to_owned()));
    }
    let made = input.before.iter().rev().find_map(|op| match op {
        Op::CreateVeth { container, host, .. } if container == ifname => Some(host),
        _ => None,
    });
    let no_peer = |why: String| StepError::Host(format!("container interface {ifname} has no veth peer: {why}"));
    let not_veth = || no_peer(format!("interface {ifname:?} was not a veth interface"));
    let host = match (made, input.observed.peers.get(&LinkRef::container(ifname.as_str()))) {
        (Some(host), _) => host,
        (None, _) if input.interface_is_made() => return Err(not_veth()),
        (None, Some(Peer::Host(name))) => name,
        (None, Some(Peer::NotVeth)) => return Err(not_veth()),
        (None, Some(Peer::Elsewhere(index))) => {
            return Err(StepError::Host(format!("veth peer with index {index} is not in host ns")));
        }
        (None, Some(Peer::NoLink) | None) => {
            return Err(no_peer(format!("could not look up {ifname:?}: Link not found")));
        }
    };
    if previous.interfaces.iter().any(|link| link.side == Side::Host && link.name == *host) {
        Ok(host.clone())
    } else {
        Err(StepError::Previous("no veth peer of container interface found in host ns".to_owned()))
    }
}

/// Returns the name of the intermediate device. The stock plugin's name ignores the interface, so a second one on the
/// same network collides with the first. The main interface keeps that name; every other one has its own.
#[must_use]
pub fn ifb_name(attachment: &Attachment) -> String {
    let Attachment { network, container_id, ifname } = attachment;
    // None of the three contains a slash, so different attachments have different seeds.
    let seed = if ifname == MAIN_INTERFACE {
        format!("{network}{container_id}")
    } else {
        format!("{network}/{container_id}/{ifname}")
    };
    let mut name = IFB_PREFIX.to_owned();
    for byte in Sha512::digest(seed) {
        // Writing to a string cannot fail.
        write!(name, "{byte:02x}").ok();
    }
    name.truncate(IFB_LENGTH);
    name
}

impl Settings {
    /// Reads the configuration's own numbers if it has any, otherwise the runtime's.
    fn read(conf: &Object) -> Result<Self, StepError> {
        // A `null` counts as one of its own, too.
        let own = conf.keys().any(|key| KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)));
        let runtime = conf.object_or_empty("runtimeConfig").map_err(mistyped)?;
        let runtime = runtime.object_or_empty("bandwidth").map_err(mistyped)?;
        let from = if own { conf } else { &runtime };
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = KEYS;
        Ok(Self {
            ingress: Rate::read(from, ingress_rate, ingress_burst)?,
            egress: Rate::read(from, egress_rate, egress_burst)?,
        })
    }
}

impl Rate {
    fn read(conf: &Object, rate_key: &str, burst_key: &str) -> Result<Option<Self>, StepError> {
        let number = |key| conf.u64(key).map_err(mistyped).map(Option::unwrap_or_default);
        let (rate, burst) = (number(rate_key)?, number(burst_key)?);
        let refuse = |text: &str| Err(StepError::Conf(text.to_owned()));
        match (rate, burst) {
            (0, 0) => return Ok(None),
            (_, 0) => return refuse("if rate is set, burst must also be set"),
            (0, _) => return refuse("if burst is set, rate must also be set"),
            _ => {}
        }
        let Some(bytes) = u32::try_from(burst / 8).ok().filter(|bytes| *bytes < u32::MAX) else {
            return refuse("burst cannot be more than 4GB");
        };
        // The kernel counts bytes, and a rate of 0 bytes would block everything.
        for (key, bits) in [(rate_key, rate), (burst_key, burst)] {
            if bits < 8 {
                return Err(StepError::Conf(format!("{key} {bits} is less than 8 bits")));
            }
        }
        Ok(Some(Self { rate: rate / 8, burst: bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(network: &str, container: &str, ifname: &str) -> String {
        ifb_name(&Attachment {
            network: network.to_owned(),
            container_id: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    #[test]
    fn names_of_intermediate_devices() {
        assert_eq!(name("cni-plugin-bandwidth-test", "dummy", "eth0"), "bwpa8eda89404b7", "the stock plugin's");
        let names = [
            name("net", "c1", "eth0"),
            name("net", "c1", "net1"),
            name("net", "c1", "net2"),
            name("netc", "1", "net1"),
            name("net", "c", "1net1"),
        ];
        for (at, one) in names.iter().enumerate() {
            assert_eq!(one.len(), 15);
            assert!(!names.iter().skip(at + 1).any(|other| other == one), "{one}");
        }
    }
}

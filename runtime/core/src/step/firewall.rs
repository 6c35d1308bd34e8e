//! `firewall`: accepts what the host forwards from and to a container, and optionally isolates bridges.
//!
//! The `iptables` backend makes the same rules in the same chains, over netlink. The `firewalld` backend makes the
//! addresses sources of a zone. Ingress policies are sets of bridges with either backend.

use weft_host_abi::types::Attachment;

use super::tag::tag;
use super::{Step, StepError, StepInput, StepPlan};
use crate::cni::{Object, Version};
use crate::keys;
use crate::plan::{Accept, FirewalldSource, Ingress, IngressPolicy, Need, Op};

/// Names of `iptables` chains are shorter than this.
const CHAIN_NAME: usize = 29;

/// The `firewall` step.
#[derive(Debug)]
pub(super) struct Firewall;

/// What the configuration says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    backend: Backend,
    admin_chain: String,
    zone: String,
    ingress: Option<Ingress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Iptables,
    Firewalld,
    /// firewalld if it runs, otherwise iptables. The reference plugin treats any other name like this.
    Either,
}

impl Step for Firewall {
    fn kind(&self) -> &'static str {
        "firewall"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["backend", "iptablesAdminChainName", "firewalldZone", "ingressPolicy"]
    }

    fn oldest(&self) -> Version {
        Version::V0_4_0
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        Settings::read(conf).map(drop)
    }

    fn needs(&self, conf: &Object, _attachment: &Attachment) -> Result<Vec<Need>, StepError> {
        let asks = Settings::read(conf)?.backend == Backend::Either;
        Ok(if asks { vec![Need::Firewalld] } else { Vec::new() })
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let settings = Settings::read(input.conf)?;
        let previous =
            input.previous.ok_or_else(|| StepError::Previous("missing prevResult from earlier plugin".to_owned()))?;
        let firewalld = match settings.backend {
            Backend::Iptables => false,
            Backend::Firewalld => true,
            Backend::Either => input.observed.firewalld,
        };
        let tag = tag(input.attachment, "firewall");
        let mut ops: Vec<Op> = Vec::new();
        for address in previous.ips.iter().map(|ip| ip.address.addr()) {
            let op = if firewalld {
                Op::FirewalldSource(FirewalldSource { zone: settings.zone.clone(), address })
            } else {
                let tag = format!("{tag} {address}");
                Op::Accept(Accept { address, admin_chain: settings.admin_chain.clone(), tag })
            };
            if !ops.contains(&op) {
                ops.push(op);
            }
        }
        if let Some(policy) = settings.ingress {
            let bridge = previous.interfaces.first().map(|link| link.name.clone()).unwrap_or_default();
            if bridge.is_empty() {
                return Err(StepError::Previous(format!(
                    "interface needs to be set for ingress policy {:?}, make sure to chain \"firewall\" plugin with \"bridge\"",
                    name(policy)
                )));
            }
            ops.push(Op::IngressPolicy(IngressPolicy { bridge, policy }));
        }
        Ok(StepPlan { ops, ..StepPlan::default() })
    }
}

fn name(policy: Ingress) -> &'static str {
    match policy {
        Ingress::SameBridge => "same-bridge",
        Ingress::Isolated => "isolated",
    }
}

impl Settings {
    fn read(conf: &Object) -> Result<Self, StepError> {
        let text = |key| conf.text(key).map_err(keys::mistyped);
        let backend = match text("backend")? {
            Some("iptables") => Backend::Iptables,
            Some("firewalld") => Backend::Firewalld,
            _ => Backend::Either,
        };
        let ingress = match text("ingressPolicy")? {
            None | Some("open") => None,
            Some("same-bridge") => Some(Ingress::SameBridge),
            Some("isolated") => Some(Ingress::Isolated),
            Some(other) => return Err(StepError::Conf(format!("unknown ingress policy: {other:?}"))),
        };
        let admin_chain = text("iptablesAdminChainName")?.unwrap_or("CNI-ADMIN").to_owned();
        let plain = admin_chain.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || admin_chain.len() >= CHAIN_NAME || admin_chain.starts_with(['-', '!']) {
            return Err(StepError::Conf(format!(
                "iptablesAdminChainName {admin_chain:?} is not a valid name of a chain (at most {} plain characters)",
                CHAIN_NAME - 1
            )));
        }
        let zone = text("firewalldZone")?.unwrap_or("trusted").to_owned();
        Ok(Self { backend, admin_chain, zone, ingress })
    }
}

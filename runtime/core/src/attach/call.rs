//! One CNI call, read: the environment and the configuration. It never changes; where a policy picks the delegate, a new one
//! takes its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::error::AttachError;
use super::node::Context;
use super::trace::{ChoiceTrace, Trace, Traces};
use crate::cni::{self, CniError, CniResult, Environment, Verb, Version};
use crate::conf::{DhcpConf, Network, Object, Persona};
use crate::facts::{self, FactsError, PodFacts};
use crate::netlink;
use crate::plan::AgentLease;
use crate::store::{Key, Role};
use weft_host_abi::types::{Attachment, Node, Pod};

/// The link that loopback is about.
pub(super) const LOOPBACK: &str = "lo";
const LOOPBACK_PLUGIN: &str = "loopback";

/// What every verb starts from.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) persona: Persona,
    pub(super) env: Environment,
    pub(super) pairs: Vec<(String, String)>,
    /// stdin.
    pub(super) stdin: Arc<[u8]>,
    /// The configuration as it stood on stdin, or as the choice of the delegate made it.
    pub(super) conf: Object,
    pub(super) network: Network,
    /// How the delegate was chosen, once it is: `conf` and `network` are then those of the choice.
    pub(super) choice: Option<ChoiceTrace>,
    /// What the API server says about the pod, where it was asked.
    pub(super) facts: Option<PodFacts>,
    /// Time of an external plugin.
    pub(super) plugin_limit: Duration,
}

impl Call {
    /// Reads the configuration as the verb needs it: DEL and GC take what they can get (invariant 4), the others insist.
    ///
    /// # Errors
    /// The configuration or `CNI_ARGS` cannot be used.
    pub fn read(context: &Context, persona: Persona, env: Environment, stdin: &[u8]) -> Result<Self, AttachError> {
        let conf = cni::read_network(stdin)?;
        cni::Version::of(&conf, env.verb)?;
        let lenient = matches!(env.verb, Verb::Del | Verb::Gc);
        let (pairs, unusable) = match cni::parse_pairs(&env.args) {
            Ok(pairs) => (pairs, None),
            Err(error) => (cni::usable_pairs(&env.args), Some(error)),
        };
        let is_shipped = |name: &str| context.has_policy(name);
        // Whether they matter at all shows once it is known who reads them.
        let read = if unusable.is_some() && persona != Persona::Ipam("dhcp") { &[] } else { pairs.as_slice() };
        let network = match env.verb {
            Verb::Del => Network::parse_for_del(persona, &conf, &is_shipped),
            Verb::Gc => Network::parse_for_gc(persona, &conf, &is_shipped)?,
            _ => Network::parse(persona, &conf, read, &is_shipped)?,
        };
        if let Some(error) = unusable.filter(|_error| !lenient && network.reads_cni_args(persona)) {
            return Err(error.into());
        }
        let plugin_limit = context.plugin_limit;
        Ok(Self { persona, env, pairs, stdin: stdin.into(), conf, network, choice: None, facts: None, plugin_limit })
    }

    /// The DEL of an attachment where no runtime calls: by hand, of an abandoned one, of one that was deleted under other work.
    /// The journal says the rest. `path` is where external plugins may be besides where their ADD found them.
    ///
    /// # Errors
    /// The network has a name that no configuration can have.
    pub fn del_of(context: &Context, attachment: &Attachment, path: Vec<PathBuf>) -> Result<Self, AttachError> {
        let conf = json!({ "cniVersion": Version::CURRENT.to_string(), "name": attachment.network, "type": "weft" });
        let env = Environment {
            verb: Verb::Del,
            container_id: attachment.container_id.clone(),
            netns: String::new(),
            ifname: attachment.ifname.clone(),
            args: String::new(),
            path,
            netns_override: true,
        };
        Self::read(context, Persona::Weft, env, conf.to_string().as_bytes())
    }

    /// The same call with what the API server says about its pod. Labels in `CNI_ARGS` and in the configuration then do not
    /// count.
    #[must_use]
    pub fn with_facts(self, facts: PodFacts) -> Self {
        Self { facts: Some(facts), ..self }
    }

    /// The same call with another configuration.
    pub(super) fn with_conf(&self, conf: Object, network: Network) -> Self {
        Self { conf, network, ..self.clone() }
    }

    /// The same call for attachments that it does not name: without what the runtime said of its own.
    pub(super) fn about_others(&self) -> Self {
        let mut call = self.clone();
        call.env.netns.clear();
        call.network.prev_result = None;
        call
    }

    /// The version that the result is printed in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.network.version
    }

    /// What the call is about.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        let ifname = if self.is_loopback() { LOOPBACK } else { &self.env.ifname };
        Attachment {
            network: self.network.name.clone(),
            container_id: self.env.container_id.clone(),
            ifname: ifname.to_owned(),
        }
    }

    /// Whether it is about the container's `lo`, which is there already and is one link for all of its interfaces: in a list with
    /// another plugin that makes a link, both have the same `CNI_IFNAME`.
    pub(super) fn is_loopback(&self) -> bool {
        self.network.delegate().is_some_and(|delegate| delegate.kind == LOOPBACK_PLUGIN)
    }

    /// What the plugin before this one printed, where the runtime sent it.
    pub(super) fn previous(&self) -> Result<Option<CniResult>, CniError> {
        let read = |value| CniResult::from_json(value, self.network.version);
        self.network.prev_result.as_ref().map(read).transpose()
    }

    /// The journal key of this call.
    pub(super) fn key(&self) -> Key {
        let role = match self.persona {
            persona if persona.is_ipam() => Role::Ipam,
            _ if self.network.is_chained() => Role::Steps,
            _ => Role::Attachment,
        };
        Key { attachment: self.attachment(), role }
    }

    /// The pod that the runtime says the container is of, with the facts of the API server where there are some.
    pub(super) fn pod(&self) -> Option<Pod> {
        let named = self.network.pod(&self.pairs);
        match &self.facts {
            Some(facts) => Some(facts.pod(named)),
            None => named,
        }
    }

    /// The node as policies see it.
    pub(super) fn node(&self, state_dir: &Path) -> Result<Node, FactsError> {
        let node = facts::node(state_dir)?;
        Ok(match &self.facts {
            Some(facts) => facts.node(node),
            None => node,
        })
    }

    /// The name that journal entries of one pod's interface on this network share, whatever the container: it finds those of
    /// earlier tries.
    pub(super) fn pod_name(&self) -> Option<String> {
        let uid = self.pod()?.uid;
        let (ifname, network) = (&self.env.ifname, &self.network.name);
        (!uid.is_empty()).then(|| format!("pod {uid} {ifname} on {network}"))
    }

    /// How the addresses are asked for, where a DHCP server gives them.
    pub(super) fn dhcp(&self) -> Option<&DhcpConf> {
        self.network.ipam.as_ref().and_then(|ipam| ipam.dhcp.as_ref())
    }

    /// What a plan of this call says about its lease.
    pub(super) fn lease(&self) -> Option<AgentLease> {
        self.dhcp().map(|conf| AgentLease { socket: conf.socket.clone() })
    }

    /// The journal's text about how this attachment came to be what it is.
    pub(super) fn traces(&self, decision: Option<Trace>) -> Result<String, AttachError> {
        Traces { choice: self.choice.clone(), decision, monitor: None, choice_monitor: None }
            .to_text()
            .map_err(AttachError::Encode)
    }

    /// The reference implementation's check: CNI_NETNS must not be the plugin's own namespace, unless the caller says so. A
    /// path that cannot be opened is not its business.
    pub(super) fn refuse_own_netns(&self) -> Result<(), AttachError> {
        if self.env.netns_override || self.env.netns.is_empty() {
            return Ok(());
        }
        match netlink::is_own_netns(Path::new(&self.env.netns)) {
            Ok(true) => Err(AttachError::SameNetns),
            Ok(false) | Err(_) => Ok(()),
        }
    }
}

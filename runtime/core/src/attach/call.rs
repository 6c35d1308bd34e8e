//! One CNI call, parsed: the environment and the configuration. A call never changes; when a policy picks the delegate,
//! a new call takes its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::error::AttachError;
use super::node::Context;
use super::record;
use super::trace::{ChoiceTrace, Trace, Traces};
use crate::cni::{self, CniError, CniResult, Environment, Verb, Version};
use crate::conf::{DhcpConf, Network, Object, Persona};
use crate::facts::{self, FactsError, PodFacts};
use crate::netlink;
use crate::plan::AgentLease;
use crate::store::{Key, Role};
use weft_host_abi::types::{Attachment, Node, Pod};

/// The loopback interface.
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
    /// The configuration as read from stdin, or as produced by the choice of a delegate.
    pub(super) conf: Object,
    pub(super) network: Network,
    /// How the delegate was chosen, once it is chosen. `conf` and `network` are then those of the choice.
    pub(super) choice: Option<ChoiceTrace>,
    /// What the API server says about the pod, if it was asked.
    pub(super) facts: Option<PodFacts>,
    /// Time limit of an external plugin.
    pub(super) plugin_limit: Duration,
    /// When everything that the call waits for must have ended: STATUS has such a limit.
    pub(super) due: Option<Instant>,
    /// The shared name of what `weft-pod` makes for the same pod, if it makes the call.
    pub(super) of_pod: Option<String>,
}

impl Call {
    /// Reads the configuration as strictly as the verb needs: DEL and GC use whatever is readable (invariant 4), the
    /// others require all of it.
    ///
    /// # Errors
    /// The configuration or `CNI_ARGS` cannot be used.
    pub fn read(context: &Context, persona: Persona, env: Environment, stdin: &[u8]) -> Result<Self, AttachError> {
        let conf = cni::read_network(stdin)?;
        cni::Version::from_conf(&conf, env.verb)?;
        let lenient = matches!(env.verb, Verb::Del | Verb::Gc);
        let (pairs, unusable) = match cni::parse_pairs(&env.args) {
            Ok(pairs) => (pairs, None),
            Err(error) => (cni::usable_pairs(&env.args), Some(error)),
        };
        let is_shipped = |name: &str| context.has_policy(name);
        // Whether they matter is only known once it is clear who reads them.
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
        Ok(Self {
            persona,
            env,
            pairs,
            stdin: stdin.into(),
            conf,
            network,
            choice: None,
            facts: None,
            plugin_limit,
            due: None,
            of_pod: None,
        })
    }

    /// Builds the DEL of an attachment without a runtime's call: a manual DEL, one of an abandoned attachment, or one
    /// that came during other work. The journal provides the rest. `path` adds directories in which to look for
    /// external plugins, besides the one where ADD found them.
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

    /// Returns the same call with what the API server says about its pod. Labels in `CNI_ARGS` and in the configuration
    /// are then ignored.
    #[must_use]
    pub fn with_facts(self, facts: PodFacts) -> Self {
        Self { facts: Some(facts), ..self }
    }

    /// Returns the same call, made by `weft-pod` for one of the networks of a pod, whose interface has this name for the
    /// runtime.
    #[must_use]
    pub fn for_pod(self, ifname: &str) -> Self {
        let of_pod = Some(record::pod_name(&self.env.container_id, ifname));
        Self { of_pod, ..self }
    }

    /// Returns the shared name of what `weft-pod` makes for the same pod, if it makes the call.
    pub(super) fn of_pod(&self) -> Option<String> {
        self.of_pod.clone()
    }

    /// Returns the same call with a time by which everything that it waits for must have ended. An earlier one stays.
    #[must_use]
    pub fn with_due_time(self, due: Instant) -> Self {
        let due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        Self { due, ..self }
    }

    /// Returns how long the call may wait for something that may take `limit`.
    pub(super) fn time_left(&self, limit: Duration) -> Duration {
        self.due.map_or(limit, |due| limit.min(due.saturating_duration_since(Instant::now())))
    }

    /// Returns the same call with the path under which this process finds the namespace of the call's attachment. It
    /// differs from the recorded one where the caller sees the node's files below a prefix.
    #[must_use]
    pub fn with_netns(mut self, path: &Path) -> Self {
        self.env.netns = path.display().to_string();
        self
    }

    /// Returns the same call with another configuration.
    pub(super) fn with_conf(&self, conf: Object, network: Network) -> Self {
        Self { conf, network, ..self.clone() }
    }

    /// Returns the same call for attachments that it does not name, without what the runtime said about its own
    /// attachment.
    pub(super) fn without_attachment(&self) -> Self {
        let mut call = self.clone();
        call.env.netns.clear();
        call.network.prev_result = None;
        call
    }

    /// Returns the CNI version of the result.
    #[must_use]
    pub fn version(&self) -> Version {
        self.network.version
    }

    /// Returns the attachment that the call names.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        let ifname = if self.is_loopback() { LOOPBACK } else { &self.env.ifname };
        Attachment {
            network: self.network.name.clone(),
            container_id: self.env.container_id.clone(),
            ifname: ifname.to_owned(),
        }
    }

    /// Returns whether the call is for the container's `lo`. That link always exists and is shared by all the
    /// container's interfaces: in a list with another plugin that makes a link, both have the same `CNI_IFNAME`.
    pub(super) fn is_loopback(&self) -> bool {
        self.network.delegate().is_some_and(|delegate| delegate.kind == LOOPBACK_PLUGIN)
    }

    /// Returns the result of the previous plugin, if the runtime sent it.
    pub(super) fn previous(&self) -> Result<Option<CniResult>, CniError> {
        let read = |value| CniResult::from_json(value, self.network.version);
        self.network.prev_result.as_ref().map(read).transpose()
    }

    /// Returns the journal key of this call.
    pub(super) fn key(&self) -> Key {
        let role = match self.persona {
            persona if persona.is_ipam() => Role::Ipam,
            _ if self.network.is_chained() => Role::Steps,
            _ => Role::Attachment,
        };
        Key { attachment: self.attachment(), role }
    }

    /// Returns the pod that the runtime names for the container, with the facts of the API server if there are any.
    pub(super) fn pod(&self) -> Option<Pod> {
        let named = self.network.pod(&self.pairs);
        match &self.facts {
            Some(facts) => Some(facts.pod(named)),
            None => named,
        }
    }

    /// Returns the node as policies see it.
    pub(super) fn node(&self, state_dir: &Path) -> Result<Node, FactsError> {
        let node = facts::node(state_dir)?;
        Ok(match &self.facts {
            Some(facts) => facts.node(node),
            None => node,
        })
    }

    /// Returns the name that the journal entries of one pod's interface on this network share across containers. It
    /// finds the entries of earlier tries.
    pub(super) fn pod_name(&self) -> Option<String> {
        let uid = self.pod()?.uid;
        let (ifname, network) = (&self.env.ifname, &self.network.name);
        (!uid.is_empty()).then(|| format!("pod {uid} {ifname} on {network}"))
    }

    /// Returns the names under which other calls find what this call makes.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.pod_name().into_iter().chain(self.of_pod())
    }

    /// Returns how to request addresses from a DHCP server, if the network uses one.
    pub(super) fn dhcp(&self) -> Option<&DhcpConf> {
        self.network.ipam.as_ref().and_then(|ipam| ipam.dhcp.as_ref())
    }

    /// Returns the lease for a plan of this call.
    pub(super) fn lease(&self) -> Option<AgentLease> {
        self.dhcp().map(|conf| AgentLease { socket: conf.socket.clone() })
    }

    /// Returns the journal text that explains how this attachment was decided.
    pub(super) fn traces(&self, decision: Option<Trace>) -> Result<String, AttachError> {
        Traces { choice: self.choice.clone(), decision, ..Traces::default() }.into_text().map_err(AttachError::Encode)
    }

    /// The reference implementation's check: CNI_NETNS must not be the plugin's own namespace, unless the caller allows
    /// it. A path that cannot be opened is ignored here.
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

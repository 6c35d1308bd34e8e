//! One CNI call with its inputs read: the environment, the configuration, the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::trace::{ChoiceTrace, Trace, Traces};
use super::{CommandError, Context};
use crate::cni::{self, CniError, CniResult, Environment, Verb};
use crate::conf::{Network, Object, Persona};
use crate::ledger::{Key, NodeStore, Role};
use crate::netlink;
use crate::policy::PolicyStore;
use weft_host_abi::types::{Attachment, Pod};

/// What every verb starts from.
pub(super) struct Call<'a> {
    pub(super) context: &'a Context,
    pub(super) persona: Persona,
    pub(super) env: Environment,
    pub(super) pairs: Vec<(String, String)>,
    /// The configuration as it stood on stdin.
    pub(super) conf: Object,
    pub(super) network: Network,
    /// How the delegate was chosen, once it is: `conf` and `network` are then those of the choice.
    pub(super) choice: Option<ChoiceTrace>,
    pub(super) policies: Policies,
    pub(super) log: &'a mut String,
}

/// The node's policies, opened by whichever thread wants them first. One store per process: it has the one engine.
#[derive(Clone)]
pub(super) struct Policies(Arc<(PathBuf, OnceLock<PolicyStore>)>);

impl Policies {
    fn new(context: &Context) -> Self {
        Self(Arc::new((context.state_dir.clone(), OnceLock::new())))
    }

    pub(super) fn get(&self) -> Result<&PolicyStore, CommandError> {
        let (state_dir, store) = &*self.0;
        if let Some(store) = store.get() {
            return Ok(store);
        }
        let new = PolicyStore::new(state_dir)?;
        Ok(store.get_or_init(|| new))
    }
}

impl<'a> Call<'a> {
    /// Reads the configuration as the verb needs it: DEL and GC take what they can get (invariant 4), the others insist.
    pub(super) fn new(
        context: &'a Context,
        persona: Persona,
        env: Environment,
        stdin: &[u8],
        log: &'a mut String,
    ) -> Result<Self, CommandError> {
        let conf = cni::read_network(stdin)?;
        cni::Version::of(&conf, env.verb)?;
        let lenient = matches!(env.verb, Verb::Del | Verb::Gc);
        let pairs = match cni::parse_pairs(&env.args) {
            Ok(pairs) => pairs,
            Err(_unusable) if lenient => Vec::new(),
            // That stock plugin takes what it can.
            Err(_unusable) if persona == Persona::Ipam("dhcp") => cni::usable_pairs(&env.args),
            Err(error) => return Err(error.into()),
        };
        let is_shipped = |name: &str| context.has_policy(name);
        let network = match env.verb {
            Verb::Del => Network::parse_for_del(persona, &conf, &is_shipped),
            Verb::Gc => Network::parse_for_gc(persona, &conf, &is_shipped)?,
            _ => Network::parse(persona, &conf, &pairs, &is_shipped)?,
        };
        Ok(Self { context, persona, env, pairs, conf, network, choice: None, policies: Policies::new(context), log })
    }

    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            network: self.network.name.clone(),
            container_id: self.env.container_id.clone(),
            ifname: self.env.ifname.clone(),
        }
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
            _ if self.network.steps_alone => Role::Steps,
            _ => Role::Attachment,
        };
        Key { attachment: self.attachment(), role }
    }

    pub(super) fn pod(&self) -> Option<Pod> {
        self.network.pod(&self.pairs)
    }

    /// The node's policies.
    pub(super) fn policies(&self) -> Result<&PolicyStore, CommandError> {
        self.policies.get()
    }

    /// The journal's text about how this attachment came to be what it is.
    pub(super) fn traces(&self, decision: Option<Trace>) -> Result<String, CommandError> {
        Traces { choice: self.choice.clone(), decision }.to_text().map_err(CommandError::Encode)
    }

    /// Opens the store. The first call after a boot releases what the boot before left: its namespaces, links and nftables
    /// elements went with that kernel. Entries that other plugins hold something for stay until DEL or GC.
    pub(super) fn open_store(&mut self) -> Result<NodeStore, CommandError> {
        let mut store = NodeStore::open(&self.context.state_dir, &netlink::boot_id()?)?;
        let now = crate::facts::now()?;
        let reaped = store.reap_previous_boots(&|entry| !super::external::stored(entry).is_empty(), now)?;
        if !reaped.is_empty() {
            self.say(&format!("released {} attachments that ended with the previous boot", reaped.len()));
        }
        Ok(store)
    }

    /// The reference implementation's check: CNI_NETNS must not be the plugin's own namespace, unless the caller says so. A
    /// path that cannot be opened is not its business.
    pub(super) fn refuse_own_netns(&self) -> Result<(), CommandError> {
        if self.env.netns_override || self.env.netns.is_empty() {
            return Ok(());
        }
        match netlink::is_own_netns(Path::new(&self.env.netns)) {
            Ok(true) => Err(CommandError::SameNetns),
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// A line for the log.
    pub(super) fn say(&mut self, line: &str) {
        self.log.push_str("weft: ");
        self.log.push_str(line);
        self.log.push('\n');
    }
}

//! The complete configuration of a call; `read` parses it.

use serde_json::Value;
use weft_host_abi::types::{Dns, RangeSet};

use super::ranges;
use super::select::SelectConf;
use super::{
    ConfError, DelegateConf, DuplicatesConf, IpamConf, IpamKind, LedgerKind, MonitorConf, Object, Persona, StepConf,
    Terms,
};
use crate::agent::claim::Blocks;
use crate::cni::{Version, check_known};
use crate::delegate::{self, IpamUse};
use crate::step;

/// What makes the interface.
#[derive(Debug, Clone, PartialEq)]
pub enum Maker {
    /// A policy picks the delegate; `ipam` is read with the choice ([`Network::chosen`]).
    Select(SelectConf),
    /// A delegate.
    Delegate(DelegateConf),
    /// The previous plugin of a list: this configuration only has steps.
    Before,
    /// Nothing: only addresses are requested, or a DEL could not read the delegate.
    Nobody,
}

/// A parsed network configuration. See `conf`.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// CNI version of the configuration and of the result.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// What makes the interface.
    pub maker: Maker,
    /// Changes to the interface afterwards, in order.
    pub steps: Vec<StepConf>,
    /// The `ipam` section; `None` for layer 2.
    ///
    /// An external delegate calls its IPAM plugin itself: its `conf` names `weft-ipam` if the section is ours.
    pub ipam: Option<IpamConf>,
    /// `dns`, where it is set.
    pub dns: Option<Dns>,
    /// `runtimeConfig`.
    pub runtime_config: Object,
    /// `args.cni`.
    pub args: Object,
    /// `prevResult`.
    pub prev_result: Option<Value>,
    /// The attachments that GC keeps: (container id, interface name). `None` if the runtime sent no list; an empty list
    /// keeps nothing.
    pub valid_attachments: Option<Vec<(String, String)>>,
    /// How policies run and where claims are stored.
    pub terms: Terms,
    /// The policy that is asked in addition and only recorded. If it is promoted, `ipam` has its policy and this the
    /// network's own.
    pub monitor: Option<MonitorConf>,
    /// Labels of the pod, from `args.cni.labels`, sorted by key.
    pub labels: Vec<(String, String)>,
    /// The configuration as it came.
    pub raw: Value,
}

impl Network {
    /// Returns the same network with the ranges of the pool that its ledger names. With `probe_ms`, neighbours are
    /// probed for the pool's addresses, in every network.
    ///
    /// # Errors
    /// The CNI version does not allow an address of each set, or neighbours cannot be probed in this network.
    pub fn with_pool(
        &self,
        domain: &str,
        sets: Vec<RangeSet>,
        (probe_ms, blocks): (Option<u32>, Option<Blocks>),
    ) -> Result<Self, ConfError> {
        let mut network = self.clone();
        if let (LedgerKind::Cluster(cluster), Some(_ipam)) = (&self.terms.ledger, &self.ipam) {
            ranges::check_version(&sets, self.version)?;
            let cluster = cluster.in_domain(domain, blocks);
            for ipam in network.ipam_confs() {
                ipam.scope = cluster.scope();
                ipam.range_sets.clone_from(&sets);
            }
            network.terms.ledger = LedgerKind::Cluster(cluster);
        }
        let of_pool = probe_ms.map(|wait_ms| DuplicatesConf { wait_ms });
        network.terms.duplicates = network.terms.duplicates.or(of_pool);
        network.check_duplicates("\"duplicates\" of the AddressPool")?;
        Ok(network)
    }

    /// Returns the `ipam` objects of the deciding policy and of the monitored one.
    pub(super) fn ipam_confs(&mut self) -> impl Iterator<Item = &mut IpamConf> {
        let monitored = self.monitor.as_mut().and_then(|monitor| monitor.ipam.as_deref_mut());
        self.ipam.iter_mut().chain(monitored)
    }

    /// Reads the parts that cannot fail.
    pub(super) fn unparsed(object: &Object) -> Self {
        let inner = |object: &Object, key| object.object_or_empty(key).unwrap_or_default();
        let version = object.str("cniVersion").ok().flatten().unwrap_or_default();
        Self {
            version: Version::reconcile(version).unwrap_or(Version::CURRENT),
            name: object.str("name").ok().flatten().unwrap_or_default().to_owned(),
            maker: Maker::Nobody,
            steps: Vec::new(),
            ipam: None,
            dns: None,
            runtime_config: inner(object, "runtimeConfig"),
            args: inner(&inner(object, "args"), "cni"),
            prev_result: object.get("prevResult").cloned(),
            valid_attachments: None,
            terms: Terms::default(),
            monitor: None,
            labels: Vec::new(),
            raw: object.as_value().clone(),
        }
    }

    /// Returns the delegate, if it is known.
    #[must_use]
    pub fn delegate(&self) -> Option<&DelegateConf> {
        match &self.maker {
            Maker::Delegate(delegate) => Some(delegate),
            Maker::Select(_) | Maker::Before | Maker::Nobody => None,
        }
    }

    /// Returns the delegate, if it is another vendor's plugin.
    #[must_use]
    pub fn external_delegate(&self) -> Option<&DelegateConf> {
        self.delegate().filter(|delegate| !delegate.builtin)
    }

    /// Returns the delegate selection, if a policy still has to choose.
    #[must_use]
    pub fn select(&self) -> Option<&SelectConf> {
        match &self.maker {
            Maker::Select(select) => Some(select),
            Maker::Delegate(_) | Maker::Before | Maker::Nobody => None,
        }
    }

    /// Returns whether there are only steps: a chained plugin.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        self.maker == Maker::Before
    }

    /// Returns how the delegate uses IPAM; an external one decides for itself.
    pub(super) fn ipam_use(&self) -> IpamUse {
        let found = self.delegate().and_then(|delegate| delegate::find(&delegate.kind));
        found.map_or(IpamUse::Optional, delegate::Delegate::ipam)
    }

    pub(super) fn check_ipam_use(&self, persona: Persona) -> Result<(), ConfError> {
        match (self.ipam_use(), &self.ipam, self.delegate()) {
            (IpamUse::Required, None, Some(delegate)) => {
                let text = delegate::find(&delegate.kind).map(delegate::Delegate::without_ipam);
                Err(ConfError::NoPlugin { text: text.unwrap_or_default() })
            }
            (IpamUse::Never, Some(_), Some(delegate)) if persona == Persona::Weft => {
                Err(ConfError::NoIpamWanted { kind: delegate.kind.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses duplicate detection if neighbours cannot be probed. If a policy picks the delegate, this is checked
    /// after the choice.
    pub(super) fn check_duplicates(&self, key: &str) -> Result<(), ConfError> {
        if self.terms.duplicates.is_none() || self.select().is_some() {
            return Ok(());
        }
        let built_in = self.delegate().and_then(|delegate| delegate::find(&delegate.kind));
        let why = match (built_in, &self.ipam) {
            _ if !self.ipam.as_ref().is_some_and(|ipam| ipam.kind.is_policy()) => {
                Some("a policy does not decide its addresses")
            }
            (None, _) => Some("another plugin makes its interface"),
            (Some(delegate), _) => delegate.no_neighbours(),
        };
        match why {
            Some(why) => Err(ConfError::NoDetection { key: key.to_owned(), why }),
            None => Ok(()),
        }
    }

    /// Called as a stock plugin, refuses unknown keys of `CNI_ARGS` if the plugin, or the IPAM plugin it would call,
    /// reads any. The keys that either reads are known.
    pub(super) fn check_cni_args(&self, persona: Persona, cni_args: &[(String, String)]) -> Result<(), ConfError> {
        let known = self.cni_args();
        if !persona.is_stock() || known.is_empty() {
            return Ok(());
        }
        Ok(check_known(cni_args, &known)?)
    }

    /// Returns whether a text in `CNI_ARGS` that is not a list of pairs is an error. A stock plugin that reads no key
    /// ignores it.
    #[must_use]
    pub fn reads_cni_args(&self, persona: Persona) -> bool {
        // flannel's delegate and its IPAM plugin read them.
        !persona.is_stock() || persona == Persona::Flannel || !self.cni_args().is_empty()
    }

    /// Returns the keys of `CNI_ARGS` that the plugin, or the IPAM plugin it would call, reads.
    fn cni_args(&self) -> Vec<&'static str> {
        let mut known = Vec::new();
        if let Some(found) = self.delegate().and_then(|delegate| delegate::find(&delegate.kind)) {
            known.extend(found.cni_args());
        }
        known.extend(self.ipam.iter().flat_map(|ipam| ipam.kind.cni_args()));
        known.extend(self.steps.iter().filter_map(|conf| step::find(&conf.kind)).flat_map(step::Step::cni_args));
        known
    }

    /// Returns the external IPAM plugin that a built-in delegate has to execute, if any.
    #[must_use]
    pub fn external_ipam(&self) -> Option<&str> {
        match self.ipam.as_ref().map(|ipam| &ipam.kind) {
            Some(IpamKind::External(name)) => Some(name),
            _ => None,
        }
    }
}

//! The whole configuration of a call.

use serde_json::Value;
use weft_host_abi::types::{Dns, RangeSet};

use super::attachments::valid_attachments;
use super::cluster::names_pool;
use super::ipam::{self, Context};
use super::pod::labels;
use super::select::{self, SelectConf};
use super::{
    ConfError, FallbackConf, GrantsConf, IpamConf, IpamKind, LedgerKind, LimitsConf, MonitorConf, Object, Persona,
};
use super::{flannel, ranges, unknown, weft};
use crate::cni::{Version, check_known, read_dns};
use crate::delegate::{self, IpamUse};
use crate::step;

/// What builds the interface.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegateConf {
    /// Its type.
    pub kind: String,
    /// Its configuration, as the plugin of that type would get it on stdin.
    pub conf: Object,
    /// Whether it is one of `delegate`; otherwise it is a binary in `CNI_PATH`.
    pub builtin: bool,
}

/// One step, done to what the delegate or the plugin before made.
#[derive(Debug, Clone, PartialEq)]
pub struct StepConf {
    /// Its type; always one of `step`.
    pub kind: String,
    /// Its configuration, as the plugin of that type would get it on stdin.
    pub conf: Object,
}

/// What makes the interface: exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Maker {
    /// A policy picks the delegate; `ipam` is read with what it picks ([`Network::chosen`]).
    Select(SelectConf),
    /// A delegate.
    Delegate(DelegateConf),
    /// The plugin before this one in a list: there are steps alone.
    Before,
    /// Nobody: addresses alone are wanted, or a DEL could read no delegate.
    Nobody,
}

/// How policies run and where claims are kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Limits of policy calls.
    pub limits: LimitsConf,
    /// What policies may do beyond the contract.
    pub grants: GrantsConf,
    /// Where claims are kept.
    pub ledger: LedgerKind,
    /// What is used where a policy cannot be.
    pub fallback: FallbackConf,
}

/// A network configuration, read. See `conf`.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// CNI version of the configuration and of the result.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// What makes the interface.
    pub maker: Maker,
    /// What is done to the interface afterwards, in order.
    pub steps: Vec<StepConf>,
    /// Who decides about addresses; `None` for layer 2.
    ///
    /// With an external delegate that one calls its IPAM plugin itself: its `conf` says `weft-ipam` where this is ours.
    pub ipam: Option<IpamConf>,
    /// `dns`, where it is set.
    pub dns: Option<Dns>,
    /// `runtimeConfig`.
    pub runtime_config: Object,
    /// `args.cni`.
    pub args: Object,
    /// `prevResult`.
    pub prev_result: Option<Value>,
    /// What GC keeps: (container id, interface name). `None` where the runtime sent no list; an empty one keeps nothing.
    pub valid_attachments: Option<Vec<(String, String)>>,
    /// How policies run and where claims are kept.
    pub terms: Terms,
    /// Who is asked besides, and not heeded. Where it is promoted, `ipam` has its policy and this the network's own.
    pub monitor: Option<MonitorConf>,
    /// Labels of the pod, from `args.cni.labels`, sorted by key.
    pub labels: Vec<(String, String)>,
    /// The configuration as it came.
    pub raw: Value,
}

impl Network {
    /// Reads a configuration as the plugin of that name.
    ///
    /// `is_shipped` tells the names of policies that come with weft.
    ///
    /// # Errors
    /// Something in it is wrong. What a built-in delegate thinks of its own keys is asked apart (`Delegate::validate`).
    pub fn parse(
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let problems = if persona == Persona::Weft { unknown::of_network(object) } else { Vec::new() };
        match Self::read(persona, object, cni_args, is_shipped) {
            // With another version, all else may be different.
            Err(error @ ConfError::Wire(_)) => Err(error),
            Err(error) => Err(error.after(problems)),
            Ok(network) => ConfError::all(problems).map_or(Ok(network), Err),
        }
    }

    fn read(
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let mut network = Self::bare(object);
        network.version = Version::reconcile_since(object.str("cniVersion")?.unwrap_or_default(), persona.oldest())?;
        network.runtime_config = object.object_or_empty("runtimeConfig")?;
        network.args = object.object_or_empty("args")?.object_or_empty("cni")?;
        network.dns = read_dns(object)?;
        network.valid_attachments = valid_attachments(object)?;
        network.labels = match labels(&network.args) {
            // No stock plugin looks at labels, so none fails on them.
            Err(_not_read) if persona.is_stock() => Vec::new(),
            read => read?,
        };
        if let Some(select) = read_select(persona, object, is_shipped)? {
            if persona == Persona::Weft {
                network.steps = weft::steps(object)?;
            }
            // What nothing can be set in has to be sound as it stands; of the others that shows when they are chosen.
            for (name, conf) in select.fixed() {
                // Unknown keys of `delegates` were found with the others.
                let read = if persona == Persona::Weft { Self::read } else { Self::parse };
                read(Persona::Weft, &conf, cni_args, is_shipped)
                    .map_err(|error| ConfError::Entry { name: name.to_owned(), error: Box::new(error) })?;
            }
            network.maker = Maker::Select(select);
            network.read_policy_terms(persona, object)?;
            return Ok(network);
        }
        network.ipam = network.read_ipam(persona, object, cni_args, is_shipped)?;
        network.maker = match persona {
            Persona::Weft if weft::steps_alone(object) => Maker::Before,
            Persona::Weft => Maker::Delegate(weft::delegate(object, network.ipam.as_ref())?),
            Persona::Delegate(kind) => Maker::Delegate(stock_delegate(kind, object)),
            Persona::Step(_) => Maker::Before,
            Persona::WeftIpam | Persona::Pod(_) | Persona::Ipam(_) | Persona::Flannel => Maker::Nobody,
        };
        network.steps = match persona {
            Persona::Weft => weft::steps(object)?,
            Persona::Step(kind) => vec![StepConf { kind: kind.to_owned(), conf: object.clone() }],
            Persona::WeftIpam | Persona::Pod(_) | Persona::Ipam(_) | Persona::Delegate(_) | Persona::Flannel => {
                Vec::new()
            }
        };
        network.check_ipam_use(persona)?;
        network.check_cni_args(persona, cni_args)?;

        network.read_policy_terms(persona, object)?;
        Ok(network)
    }

    /// Reads the configuration that a choice of the delegate policy led to ([`SelectConf::chosen`]).
    ///
    /// # Errors
    /// As `parse`.
    pub fn chosen(
        &self,
        conf: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        if !self.select().is_some_and(SelectConf::is_stock) {
            return Self::parse(Persona::Weft, conf, cni_args, is_shipped);
        }
        let kind = select::stock_kind(conf)?;
        let mut network = match delegate::find(&kind) {
            Some(found) => Self::parse(Persona::Delegate(found.kind()), conf, cni_args, is_shipped)?,
            // An external delegate calls its IPAM plugin itself.
            None => Self { maker: Maker::Delegate(select::by_kind(kind, conf.clone())), ..Self::bare(conf) },
        };
        network.version = self.version;
        // The plugin hands its delegate no `args`, but labels are facts about the pod.
        network.labels.clone_from(&self.labels);
        Ok(network)
    }

    /// As `chosen`, for DEL of what a stock plugin made by handing a delegate this configuration.
    ///
    /// # Errors
    /// It names no plugin.
    pub fn chosen_for_del(conf: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Result<Self, ConfError> {
        let kind = select::stock_kind(conf)?;
        Ok(match delegate::find(&kind) {
            Some(found) => Self::parse_for_del(Persona::Delegate(found.kind()), conf, is_shipped),
            None => Self { maker: Maker::Delegate(select::by_kind(kind, conf.clone())), ..Self::bare(conf) },
        })
    }

    /// `limits`, `grants`, `ledger`, `fallback` and `monitor`: ours at the top of a `weft` configuration. Elsewhere the top is another plugin's,
    /// so they are in `ipam`, where that is ours.
    fn read_policy_terms(&mut self, persona: Persona, object: &Object) -> Result<(), ConfError> {
        let ours = match &self.ipam {
            _ if persona == Persona::Weft => object,
            Some(ipam) if ipam.kind.is_policy() => &ipam.object,
            _ => return Ok(()),
        };
        // A policy of the operator's own may have any key; this one would leave the addresses to the node alone.
        if persona == Persona::Weft
            && let Some(ipam) = self.ipam.as_ref().filter(|ipam| ipam.kind.is_policy())
            && let Some(ledger) = ipam.object.get("ledger")
        {
            let want = "beside \"ipam\", at the top of the configuration";
            return Err(ConfError::BadValue { key: ipam.object.place("ledger"), value: ledger.to_string(), want });
        }
        if persona != Persona::Weft
            && let Some(error) = ConfError::all(unknown::of_terms(ours))
        {
            return Err(error);
        }
        self.terms = Terms {
            limits: LimitsConf::read(ours)?,
            grants: GrantsConf::read(ours)?,
            ledger: LedgerKind::read(ours)?,
            fallback: FallbackConf::read(ours)?,
        };
        self.monitor = MonitorConf::read(ours)?;
        let place = ours.place("monitor");
        let selects = self.select().is_some();
        match (&mut self.monitor, self.ipam.as_mut().filter(|ipam| ipam.kind.is_policy())) {
            (Some(monitor), Some(ipam)) if monitor.promoted => std::mem::swap(&mut monitor.kind, &mut ipam.kind),
            (Some(_monitor), None) if !selects => {
                let want = "a network whose \"ipam\" is a policy, which it is compared with";
                return Err(ConfError::BadValue { key: place, value: "{...}".to_owned(), want });
            }
            (None | Some(_), _) => {}
        }
        if let (LedgerKind::Cluster(cluster), Some(ipam)) = (&self.terms.ledger, &mut self.ipam) {
            ipam.scope = cluster.scope();
        }
        Ok(())
    }

    /// The same network with the ranges of the pool that its ledger names.
    ///
    /// # Errors
    /// The version has no room for an address of each.
    pub fn with_pool(&self, domain: &str, sets: Vec<RangeSet>) -> Result<Self, ConfError> {
        let mut network = self.clone();
        if let (LedgerKind::Cluster(cluster), Some(ipam)) = (&self.terms.ledger, &mut network.ipam) {
            ranges::check_version(&sets, self.version)?;
            let cluster = cluster.in_domain(domain);
            ipam.scope = cluster.scope();
            ipam.range_sets = sets;
            network.terms.ledger = LedgerKind::Cluster(cluster);
        }
        Ok(network)
    }

    /// Reads for DEL, which goes on whatever is wrong: the name is enough, everything else is taken where it can be.
    #[must_use]
    pub fn parse_for_del(persona: Persona, object: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Self {
        let mut network = Self::bare(object);
        if let Some(select) = read_select(persona, object, is_shipped).unwrap_or_default() {
            network.maker = Maker::Select(select);
            return network;
        }
        let ipam = object.object_or_empty("ipam").unwrap_or_default();
        let kind = ipam::kind(persona, &ipam, is_shipped).ok().flatten();
        network.ipam = kind.map(|kind| IpamConf::bare(kind, ipam, &network.name));
        network.maker = match persona {
            Persona::Weft if weft::steps_alone(object) => Maker::Before,
            Persona::Weft => weft::delegate(object, network.ipam.as_ref()).map_or(Maker::Nobody, Maker::Delegate),
            Persona::Delegate(kind) => Maker::Delegate(stock_delegate(kind, object)),
            Persona::Step(_) => Maker::Before,
            Persona::WeftIpam | Persona::Pod(_) | Persona::Ipam(_) | Persona::Flannel => Maker::Nobody,
        };
        if network.ipam_use() == IpamUse::Never {
            network.ipam = None;
        }
        network
    }

    /// Reads for GC, which needs no more than DEL and the list of what to keep.
    ///
    /// # Errors
    /// The list is malformed. Taken for an empty one, it would tear down attachments that are in use.
    pub fn parse_for_gc(
        persona: Persona,
        object: &Object,
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let valid_attachments = valid_attachments(object)?;
        Ok(Self { valid_attachments, ..Self::parse_for_del(persona, object, is_shipped) })
    }

    /// The parts that cannot fail.
    fn bare(object: &Object) -> Self {
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

    fn read_ipam(
        &self,
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Option<IpamConf>, ConfError> {
        let uses_none = |kind| delegate::find(kind).is_some_and(|found| found.ipam() == IpamUse::Never);
        let ignored = match persona {
            Persona::Delegate(kind) => uses_none(kind),
            Persona::Step(_) => true,
            Persona::Weft | Persona::WeftIpam | Persona::Pod(_) | Persona::Ipam(_) | Persona::Flannel => false,
        };
        if ignored {
            return Ok(None);
        }
        let ipam = match object.object("ipam")? {
            None if persona.is_ipam() => return Err(ConfError::MissingIpam),
            None => return Ok(None),
            Some(ipam) => ipam,
        };
        let Some(kind) = ipam::kind(persona, &ipam, is_shipped)? else { return Ok(None) };
        let context = Context {
            persona,
            network: &self.name,
            version: self.version,
            args: &self.args,
            runtime_config: &self.runtime_config,
            cni_args,
            pooled: names_pool(if persona == Persona::Weft { object } else { &ipam }),
        };
        IpamConf::read(kind, ipam, &context).map(Some)
    }

    /// The delegate, where there is one by now.
    #[must_use]
    pub fn delegate(&self) -> Option<&DelegateConf> {
        match &self.maker {
            Maker::Delegate(delegate) => Some(delegate),
            Maker::Select(_) | Maker::Before | Maker::Nobody => None,
        }
    }

    /// The delegate, where it is another vendor's plugin.
    #[must_use]
    pub fn external_delegate(&self) -> Option<&DelegateConf> {
        self.delegate().filter(|delegate| !delegate.builtin)
    }

    /// Who picks the delegate, where a policy does and has not yet.
    #[must_use]
    pub fn select(&self) -> Option<&SelectConf> {
        match &self.maker {
            Maker::Select(select) => Some(select),
            Maker::Delegate(_) | Maker::Before | Maker::Nobody => None,
        }
    }

    /// Whether there are steps alone: a chained plugin.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        self.maker == Maker::Before
    }

    /// How the delegate goes with IPAM; an external one decides for itself.
    fn ipam_use(&self) -> IpamUse {
        let found = self.delegate().and_then(|delegate| delegate::find(&delegate.kind));
        found.map_or(IpamUse::Optional, delegate::Delegate::ipam)
    }

    fn check_ipam_use(&self, persona: Persona) -> Result<(), ConfError> {
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

    /// Called as a stock plugin, unknown keys of `CNI_ARGS` are refused as that does: where the plugin, or the IPAM plugin
    /// it would call, reads any. What either of them reads is known.
    fn check_cni_args(&self, persona: Persona, cni_args: &[(String, String)]) -> Result<(), ConfError> {
        let known = self.cni_args();
        if !persona.is_stock() || known.is_empty() {
            return Ok(());
        }
        Ok(check_known(cni_args, &known)?)
    }

    /// Whether a text in `CNI_ARGS` that is no list of pairs is an error. A stock plugin that reads no key of it never looks.
    #[must_use]
    pub fn reads_cni_args(&self, persona: Persona) -> bool {
        // flannel's delegate reads them, and its IPAM plugin.
        !persona.is_stock() || persona == Persona::Flannel || !self.cni_args().is_empty()
    }

    /// Keys of `CNI_ARGS` that the plugin, or the IPAM plugin it would call, reads.
    fn cni_args(&self) -> Vec<&'static str> {
        let mut known = Vec::new();
        if let Some(found) = self.delegate().and_then(|delegate| delegate::find(&delegate.kind)) {
            known.extend(found.cni_args());
        }
        known.extend(self.ipam.iter().flat_map(|ipam| ipam.kind.cni_args()));
        known.extend(self.steps.iter().filter_map(|conf| step::find(&conf.kind)).flat_map(step::Step::cni_args));
        known
    }

    /// The external IPAM plugin that a built-in delegate has to exec, where there is one.
    #[must_use]
    pub fn external_ipam(&self) -> Option<&str> {
        match self.ipam.as_ref().map(|ipam| &ipam.kind) {
            Some(IpamKind::External(name)) => Some(name),
            _ => None,
        }
    }
}

fn read_select(
    persona: Persona,
    object: &Object,
    is_shipped: &dyn Fn(&str) -> bool,
) -> Result<Option<SelectConf>, ConfError> {
    match persona {
        Persona::Weft => select::read(object, is_shipped),
        Persona::Flannel => flannel::read(object).map(Some),
        Persona::WeftIpam | Persona::Pod(_) | Persona::Delegate(_) | Persona::Ipam(_) | Persona::Step(_) => Ok(None),
    }
}

/// Called by a delegate's name, the whole configuration is the delegate's.
fn stock_delegate(kind: &'static str, object: &Object) -> DelegateConf {
    DelegateConf { kind: kind.to_owned(), conf: object.clone(), builtin: true }
}

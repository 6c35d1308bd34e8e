//! Reads a configuration: strictly for ADD, CHECK and STATUS, as far as possible for DEL and GC.

use super::attachments::valid_attachments;
use super::cluster::names_pool;
use super::ipam::Context;
use super::labels::labels;
use super::select::{self, SelectConf};
use super::{
    ConfError, DelegateConf, DuplicatesConf, FallbackConf, GrantsConf, IpamConf, LedgerKind, LimitsConf, Maker,
    MonitorConf, Network, Object, Persona, StepConf, Terms,
};
use super::{flannel, ipam_kind, unknown, weft};
use crate::cni::{Version, read_dns};
use crate::delegate::{self, IpamUse};

impl Network {
    /// Reads a configuration as the plugin of that name.
    ///
    /// `is_shipped` returns whether a name is that of a shipped policy.
    ///
    /// # Errors
    /// The configuration is invalid. A built-in delegate checks its own keys separately (`Delegate::validate`).
    pub fn parse(
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let problems = if persona == Persona::Weft { unknown::of_network(object) } else { Vec::new() };
        match Self::read(persona, object, cni_args, is_shipped) {
            // With another version, everything else may be different.
            Err(error @ ConfError::Wire(_)) => Err(error),
            Err(error) => Err(error.append_to(problems)),
            Ok(network) => ConfError::combine(problems).map_or(Ok(network), Err),
        }
    }

    fn read(
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let mut network = Self::unparsed(object);
        network.version = Version::reconcile_since(object.str("cniVersion")?.unwrap_or_default(), persona.oldest())?;
        network.runtime_config = object.object_or_empty("runtimeConfig")?;
        network.args = object.object_or_empty("args")?.object_or_empty("cni")?;
        network.dns = read_dns(object)?;
        network.valid_attachments = valid_attachments(object)?;
        network.labels = match labels(&network.args) {
            // No stock plugin reads labels, so none fails because of them.
            Err(_not_read) if persona.is_stock() => Vec::new(),
            read => read?,
        };
        if let Some(select) = read_select(persona, object, is_shipped)? {
            if persona == Persona::Weft {
                network.steps = weft::steps(object)?;
            }
            // Delegates without settable keys must be valid as they are; the others are checked when they are chosen.
            for (name, conf) in select.fixed() {
                // Unknown keys of `delegates` were found with the others.
                let read = if persona == Persona::Weft { Self::read } else { Self::parse };
                read(Persona::Weft, &conf, cni_args, is_shipped)
                    .map_err(|error| ConfError::Entry { name: name.to_owned(), error: Box::new(error) })?;
            }
            network.maker = Maker::Select(select);
            network.read_policy_terms(persona, object, cni_args)?;
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

        network.read_policy_terms(persona, object, cni_args)?;
        Ok(network)
    }

    /// Reads the configuration that results from a choice of the delegate policy ([`SelectConf::chosen`]).
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
            None => Self { maker: Maker::Delegate(select::by_kind(kind, conf.clone())), ..Self::unparsed(conf) },
        };
        network.version = self.version;
        // The plugin passes its delegate no `args`, but labels are facts about the pod.
        network.labels.clone_from(&self.labels);
        Ok(network)
    }

    /// Like `chosen`, for DEL of what a stock plugin made by passing this configuration to a delegate.
    ///
    /// # Errors
    /// It names no plugin.
    pub fn delegate_for_stock_del(conf: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Result<Self, ConfError> {
        let kind = select::stock_kind(conf)?;
        Ok(match delegate::find(&kind) {
            Some(found) => Self::parse_for_del(Persona::Delegate(found.kind()), conf, is_shipped),
            None => Self { maker: Maker::Delegate(select::by_kind(kind, conf.clone())), ..Self::unparsed(conf) },
        })
    }

    /// Reads `limits`, `grants`, `ledger`, `duplicates`, `fallback` and `monitor`: they are at the top of a `weft`
    /// configuration. In other configurations the top belongs to another plugin, so they are in `ipam`, if that is
    /// ours.
    fn read_policy_terms(
        &mut self,
        persona: Persona,
        object: &Object,
        cni_args: &[(String, String)],
    ) -> Result<(), ConfError> {
        let ours = match &self.ipam {
            _ if persona == Persona::Weft => object,
            Some(ipam) if ipam.kind.is_policy() => &ipam.object,
            _ => return Ok(()),
        };
        // An operator's policy may have any key, but these would silently store the addresses only on the node, or
        // disable probes.
        if persona == Persona::Weft
            && let Some(ipam) = self.ipam.as_ref().filter(|ipam| ipam.kind.is_policy())
            && let Some((key, value)) =
                ["ledger", "duplicates"].iter().find_map(|key| Some((key, ipam.object.get(key)?)))
        {
            let want = "beside \"ipam\", at the top of the configuration";
            return Err(ConfError::BadValue { key: ipam.object.path_text(key), value: value.to_string(), want });
        }
        if persona != Persona::Weft
            && let Some(error) = ConfError::combine(unknown::of_terms(ours))
        {
            return Err(error);
        }
        self.terms = Terms {
            limits: LimitsConf::read(ours)?,
            grants: GrantsConf::read(ours)?,
            ledger: LedgerKind::read(ours)?,
            duplicates: DuplicatesConf::read(ours)?,
            fallback: FallbackConf::read(ours)?,
        };
        self.check_duplicates(&ours.path_text("duplicates"))?;
        self.monitor = self.read_monitor(persona, ours, cni_args)?;
        let ipam = self.ipam.as_mut().filter(|ipam| ipam.kind.is_policy());
        if let (Some(monitor), Some(ipam)) = (self.monitor.as_mut().filter(|monitor| monitor.promoted), ipam) {
            monitor.swap_with_own(ipam);
        }
        if let LedgerKind::Cluster(cluster) = &self.terms.ledger {
            let scope = cluster.scope();
            self.ipam_confs().for_each(|ipam| ipam.scope.clone_from(&scope));
        }
        Ok(())
    }

    fn read_monitor(
        &self,
        persona: Persona,
        ours: &Object,
        cni_args: &[(String, String)],
    ) -> Result<Option<MonitorConf>, ConfError> {
        let Some(mut monitor) = MonitorConf::read(ours)? else { return Ok(None) };
        match self.ipam.as_ref().filter(|ipam| ipam.kind.is_policy()) {
            Some(ipam) => monitor.read_ipam(ours, ipam, &self.ipam_context(persona, names_pool(ours), cni_args))?,
            None if self.select().is_some() => {}
            None => {
                let want = "a network whose \"ipam\" is a policy, which it is compared with";
                return Err(ConfError::BadValue { key: ours.path_text("monitor"), value: "{...}".to_owned(), want });
            }
        }
        Ok(Some(monitor))
    }

    /// Reads for DEL, which works with any mistake: it only requires the name, and uses everything else that is
    /// readable.
    #[must_use]
    pub fn parse_for_del(persona: Persona, object: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Self {
        let mut network = Self::unparsed(object);
        if let Some(select) = read_select(persona, object, is_shipped).unwrap_or_default() {
            network.maker = Maker::Select(select);
            return network;
        }
        let ipam = object.object_or_empty("ipam").unwrap_or_default();
        let kind = ipam_kind::kind(persona, &ipam, is_shipped).ok().flatten();
        network.ipam = kind.map(|kind| IpamConf::unparsed(kind, ipam, &network.name));
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

    /// Reads for GC, which needs the same as DEL and the list of what to keep.
    ///
    /// # Errors
    /// The list is malformed. If it counted as empty, GC would tear down attachments that are in use.
    pub fn parse_for_gc(
        persona: Persona,
        object: &Object,
        is_shipped: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ConfError> {
        let valid_attachments = valid_attachments(object)?;
        Ok(Self { valid_attachments, ..Self::parse_for_del(persona, object, is_shipped) })
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
        let Some(kind) = ipam_kind::kind(persona, &ipam, is_shipped)? else { return Ok(None) };
        let pooled = names_pool(if persona == Persona::Weft { object } else { &ipam });
        IpamConf::read(kind, ipam, &self.ipam_context(persona, pooled, cni_args)).map(Some)
    }

    fn ipam_context<'a>(&'a self, persona: Persona, pooled: bool, cni_args: &'a [(String, String)]) -> Context<'a> {
        Context {
            persona,
            network: &self.name,
            version: self.version,
            args: &self.args,
            runtime_config: &self.runtime_config,
            cni_args,
            pooled,
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

/// Called by a delegate's name, the whole configuration belongs to the delegate.
fn stock_delegate(kind: &'static str, object: &Object) -> DelegateConf {
    DelegateConf { kind: kind.to_owned(), conf: object.clone(), builtin: true }
}

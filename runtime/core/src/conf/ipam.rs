//! The `ipam` object: the kind of IPAM, and the operator's declarations.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use weft_host_abi::types::{RangeSet, RequestSource, Requested};

use super::{ConfError, DhcpConf, IpamKind, Object, Persona, ranges, requested};
use crate::cni::{Version, read_net};

/// host-local's default directory. The ledger needs no directory, but a configuration with another one means another
/// address domain.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The parsed `ipam` object.
#[derive(Debug, Clone, PartialEq)]
pub struct IpamConf {
    /// The kind of IPAM.
    pub kind: IpamKind,
    /// The object.
    pub object: Object,
    /// The object as JSON text: the policy's configuration, without the runtime's additions (`ipRanges`, `ips`).
    pub text: String,
    /// Ranges that addresses may come from, in order; empty for an external plugin.
    pub range_sets: Vec<RangeSet>,
    /// Additional single addresses that may be allocated.
    pub declared: Vec<IpNet>,
    /// Gateways that the configuration (`addresses[].gateway`) or `CNI_ARGS` (`GATEWAY`) name.
    pub gateways: Vec<IpAddr>,
    /// Addresses that were requested by name.
    pub requested: Vec<Requested>,
    /// `args.cni.ipam-claim-reference`: the IPAMClaim in the pod's namespace that keeps the addresses.
    pub claim_reference: Option<String>,
    /// `resolvConf`: the file with the container's DNS.
    pub resolv_conf: Option<PathBuf>,
    /// The address domain, in which an address is taken once.
    pub scope: String,
    /// The request to a DHCP server; only for that kind, and not for DEL.
    pub dhcp: Option<DhcpConf>,
}

/// The inputs of the parser besides the `ipam` object.
pub(super) struct Context<'a> {
    pub(super) persona: Persona,
    pub(super) network: &'a str,
    pub(super) version: Version,
    pub(super) args: &'a Object,
    pub(super) runtime_config: &'a Object,
    pub(super) cni_args: &'a [(String, String)],
    /// Whether a pool of the cluster ledger has the ranges.
    pub(super) pooled: bool,
}

impl IpamConf {
    /// Returns an object of a kind without parsing it.
    pub(super) fn unparsed(kind: IpamKind, object: Object, network: &str) -> Self {
        let scope = scope(&object, network);
        Self {
            kind,
            text: object.to_text(),
            object,
            range_sets: Vec::new(),
            declared: Vec::new(),
            gateways: Vec::new(),
            requested: Vec::new(),
            claim_reference: None,
            resolv_conf: None,
            scope,
            dhcp: None,
        }
    }

    /// Returns the place of the object in the configuration, for error texts: `ipam`, or `monitor.ipam`.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.object.path() {
            "" => "ipam",
            path => path,
        }
    }

    pub(super) fn read(kind: IpamKind, object: Object, context: &Context<'_>) -> Result<Self, ConfError> {
        let mut conf = Self::unparsed(kind, object, context.network);
        match conf.kind {
            IpamKind::External(_) => return Ok(conf),
            IpamKind::Dhcp => {
                let strict = !context.persona.is_stock();
                conf.dhcp = Some(DhcpConf::read(&conf.object, context.cni_args, strict)?);
                return Ok(conf);
            }
            IpamKind::Shipped(_) | IpamKind::Wasm { .. } => {}
        }
        // Each of the two stock plugins ignores the other's keys; a policy of another name uses both.
        if !conf.kind.is_shipped("static") {
            conf.range_sets = ranges::read(&conf.object, context.runtime_config)?;
        }
        if context.pooled && !conf.range_sets.is_empty() {
            return Err(ConfError::Either { one: "ledger.pool", other: "ipam.ranges" });
        }
        if conf.kind.is_shipped("host-local") {
            if conf.range_sets.is_empty() && !context.pooled {
                return Err(ConfError::NoRanges);
            }
            ranges::check_version(&conf.range_sets, context.version)?;
        } else {
            conf.gateways = gateways(&conf.object, context.cni_args);
        }
        conf.requested = requested::read(&conf.kind, context.cni_args, context.args, context.runtime_config)?;
        conf.claim_reference =
            context.args.text("ipam-claim-reference")?.filter(|name| !name.is_empty()).map(str::to_owned);
        if !conf.kind.is_shipped("host-local") {
            let declared = declared(&conf.object);
            // As in the stock plugin, addresses that the runtime replaces need not be well-formed.
            let replaced = conf.kind.is_shipped("static") && conf.requested.iter().any(replaces);
            conf.declared = if replaced { declared.unwrap_or_default() } else { declared? };
        }
        if conf.range_sets.is_empty() && !context.pooled {
            conf.declared.extend(conf.requested.iter().filter_map(as_net));
        }
        conf.resolv_conf = conf.object.text("resolvConf")?.map(PathBuf::from);
        conf.object.text("dataDir")?;
        Ok(conf)
    }
}

fn scope(ipam: &Object, network: &str) -> String {
    scope_of(network, ipam.text("dataDir").ok().flatten())
}

/// Returns the address domain of a network: with its own `dataDir`, host-local ignores allocations elsewhere.
#[must_use]
pub fn scope_of(network: &str, data_dir: Option<&str>) -> String {
    match data_dir.map(|dir| dir.trim_end_matches('/')) {
        Some(dir) if dir != DEFAULT_DATA_DIR => format!("{network}@{dir}"),
        _ => network.to_owned(),
    }
}

/// Returns the directory in which host-local stores the addresses of a scope of a network.
#[must_use]
pub fn data_dir_of<'a>(network: &str, scope: &'a str) -> &'a str {
    scope.strip_prefix(network).and_then(|rest| rest.strip_prefix('@')).unwrap_or(DEFAULT_DATA_DIR)
}

/// `addresses[].address`.
fn declared(ipam: &Object) -> Result<Vec<IpNet>, ConfError> {
    let items = ipam.objects("addresses")?.unwrap_or_default();
    let net = |item: Object| {
        // The stock plugin has a separate field `Address`.
        let item = item.without_exact_key("Address");
        let text = item.str("address")?.unwrap_or_default();
        read_net(text).ok_or_else(|| ConfError::DeclaredAddress { text: text.to_owned() })
    };
    items.into_iter().map(net).collect()
}

/// Returns the named gateways; the policy refuses an invalid address.
fn gateways(ipam: &Object, cni_args: &[(String, String)]) -> Vec<IpAddr> {
    let items = ipam.objects("addresses").ok().flatten().unwrap_or_default();
    let of_addresses = items.iter().filter_map(|item| item.str("gateway").ok().flatten().map(str::to_owned));
    let last = cni_args.iter().rev().find(|(key, _)| key == "GATEWAY").map(|(_, value)| value.as_str());
    let of_args = last.into_iter().flat_map(|list| list.split(',')).map(|text| text.trim().to_owned());
    let parsed = of_addresses.chain(of_args).filter_map(|text| text.parse::<IpAddr>().ok());
    parsed.map(|address| address.to_canonical()).collect()
}

/// Returns whether a requested address replaces those of a `static` configuration: all do, except those of `CNI_ARGS`.
fn replaces(asked: &Requested) -> bool {
    asked.source != RequestSource::CniArgs
}

fn as_net(asked: &Requested) -> Option<IpNet> {
    IpNet::new(asked.address?, asked.length?).ok()
}

//! What `weftctl ledger rebuild` sees on the node: the attachments that run, and what DEL must remove of them.
//!
//! Links of attachments carry a label with network, container and interface; libcni's cache lists the runtime's
//! attachments. An attachment that is only in the cache counts if one of its addresses is in use.
//!
//! nftables has what DEL must remove besides the links: it is found by the attachment's addresses, link and bridge.
//! firewalld has sources by address. The device that shapes what an attachment sends has a name that follows from the
//! attachment. What only exists in the container (`sbr`, `vrf`, `tuning`) ends with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use serde_json::Value;
use weft_core::attach;
use weft_core::commit::Running;
use weft_core::delegate;
use weft_core::facts::{Cached, cached};
use weft_core::journal::Record;
use weft_core::netlink::{self, FilterOf, Shaper, Survivor};
use weft_core::plan::{CreateIfb, Op, Plan};
use weft_core::step;
use weft_core::store::{Key, Role};
use weft_host_abi::types::Attachment;

use super::scopes::Scopes;

/// What was found.
pub(super) struct Seen {
    survivors: Vec<Survivor>,
    cache: Vec<Cached>,
    /// Ops whose effect exists, with what they name of their attachment.
    filters: Vec<(FilterOf, Op)>,
    /// Devices that shape what attachments send.
    pub(super) shapers: Vec<Shaper>,
}

impl Seen {
    /// Looks at the kernel, at firewalld, and at libcni's cache. `filters` is what nftables has.
    pub(super) fn look(cni_cache: &Path, mut filters: Vec<(FilterOf, Op)>) -> anyhow::Result<Self> {
        let survivors = netlink::survivors().context("cannot list what runs on this node")?;
        let cache = cached(cni_cache);
        let of_links = survivors.iter().flat_map(|survivor| &survivor.addresses).map(IpNet::addr);
        let addresses = of_links.chain(cache.iter().flat_map(|cached| cached.addresses.iter().copied())).collect();
        filters.extend(netlink::found_sources(&addresses)?);
        Ok(Self { survivors, cache, filters, shapers: netlink::shapers()? })
    }

    /// Returns all running attachments: those with a label, and unlabelled ones in the cache that use their address.
    pub(super) fn running(&self, in_use: &BTreeSet<IpAddr>, scopes: &mut Scopes) -> anyhow::Result<Vec<Running>> {
        let mut all = Vec::new();
        for survivor in &self.survivors {
            let attachment = Attachment {
                network: survivor.network.clone(),
                container_id: survivor.container_id.clone(),
                ifname: survivor.ifname.clone(),
            };
            let mut addresses: Vec<IpAddr> = survivor.addresses.iter().map(IpNet::addr).collect();
            let cached = self.cache.iter().find(|cached| is_same(cached, &attachment));
            if addresses.is_empty() {
                addresses.extend(cached.iter().flat_map(|cached| cached.addresses.iter().copied()));
            }
            let config = cached.and_then(|cached| cached.config.as_ref());
            all.push(Running {
                scopes: scopes.find(&attachment.network, config, !addresses.is_empty()),
                record: self.record(survivor, &attachment, &addresses)?,
                key: Key { attachment, role: Role::Attachment },
                addresses,
            });
        }
        for cached in &self.cache {
            let labelled = all.iter().any(|one| is_same(cached, &one.key.attachment));
            if labelled || !cached.addresses.iter().any(|address| in_use.contains(address)) {
                continue;
            }
            all.extend(self.of_other_link(cached, scopes)?);
        }
        Ok(all)
    }

    /// Returns the entries of an attachment whose link another plugin made: one for its addresses and what nothing else
    /// removes, and one for the chained plugins that weft is in its configuration.
    fn of_other_link(&self, cached: &Cached, scopes: &mut Scopes) -> anyhow::Result<Vec<Running>> {
        let attachment = Attachment {
            network: cached.network.clone(),
            container_id: cached.container_id.clone(),
            ifname: cached.ifname.clone(),
        };
        let is_its_own = |of: &FilterOf| matches!(of, FilterOf::Address(address) if cached.addresses.contains(address));
        let found = self.filters.iter().filter(|(of, _op)| is_its_own(of)).map(|(_of, op)| op.clone());
        let ops: Vec<Op> = found.chain(self.shaper(&attachment, "")).collect();
        let chained = chained_plugins(cached.config.as_ref());
        let is_chained = |op: &Op| step_of(op).is_some_and(|kind| chained.contains(&kind));
        let (steps, ops): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(is_chained);
        let netns = cached.netns.clone().unwrap_or_default();
        let of_ipam = if ops.is_empty() {
            Record { netns: netns.clone(), ..Record::default() }
        } else {
            planned(netns.clone(), Plan { ops, ..Plan::default() })?
        };
        let mut all = vec![Running {
            scopes: scopes.find(&attachment.network, cached.config.as_ref(), true),
            key: Key { attachment: attachment.clone(), role: Role::Ipam },
            addresses: cached.addresses.clone(),
            record: of_ipam,
        }];
        let of_kind = |kind: &&str| {
            let ops: Vec<Op> = steps.iter().filter(|op| step_of(op) == Some(kind)).cloned().collect();
            ((*kind).to_owned(), Plan { ops, ..Plan::default() })
        };
        let calls: Vec<(String, Plan)> =
            chained.iter().map(of_kind).filter(|(_kind, plan)| !plan.ops.is_empty()).collect();
        if let Some(record) = attach::chained_record(&netns, calls)? {
            let key = Key { attachment, role: Role::Steps };
            all.push(Running { scopes: Vec::new(), key, addresses: Vec::new(), record });
        }
        Ok(all)
    }

    /// Returns what DEL needs: the link by its kind, the device that shapes its traffic, and what nftables and firewalld
    /// have for it. Its addresses may be masqueraded.
    fn record(&self, survivor: &Survivor, attachment: &Attachment, addresses: &[IpAddr]) -> anyhow::Result<Record> {
        let link = match (survivor.kind.as_str(), &survivor.host_link) {
            ("veth", Some(host)) => {
                Some(Op::CreateVeth { container: survivor.ifname.clone(), host: host.clone(), mtu: None, mac: None })
            }
            ("tun", _) => delegate::find("tap").map(|delegate| delegate.link_op(&survivor.ifname)),
            (kind, _) => delegate::find(kind).map(|delegate| delegate.link_op(&survivor.ifname)),
        };
        let mut ops: Vec<Op> = link.into_iter().collect();
        ops.extend(self.shaper(attachment, survivor.host_link.as_deref().unwrap_or_default()));
        ops.extend(survivor.addresses.iter().map(|address| Op::Masquerade { address: *address }));
        let is_its_own = |of: &FilterOf| match of {
            FilterOf::Address(address) => addresses.contains(address),
            FilterOf::Link(link) => survivor.host_link.as_ref() == Some(link),
            FilterOf::Bridge(bridge) => survivor.bridge.as_ref() == Some(bridge),
        };
        for (_of, op) in self.filters.iter().filter(|(of, _op)| is_its_own(of)) {
            if !ops.contains(op) {
                ops.push(op.clone());
            }
        }
        let label = netlink::label(&survivor.network, &survivor.container_id, &survivor.ifname);
        let named = survivor.netns.as_ref();
        let netns = named.map(|netns| netns.path.display().to_string()).unwrap_or_default();
        let container = named.map(|netns| netns.identity.clone());
        let cookie = named.and_then(|netns| netns.cookie);
        planned(netns, Plan { ops, container, cookie, label, ..Plan::default() })
    }

    /// Returns the op of the device that shapes what an attachment sends, if it exists.
    fn shaper(&self, attachment: &Attachment, like: &str) -> Option<Op> {
        let name = step::ifb_name(attachment);
        let exists = self.shapers.iter().any(|shaper| shaper.name == name);
        exists.then(|| Op::CreateIfb(CreateIfb { name, like: like.to_owned() }))
    }
}

fn is_same(cached: &Cached, attachment: &Attachment) -> bool {
    cached.network == attachment.network
        && cached.container_id == attachment.container_id
        && cached.ifname == attachment.ifname
}

/// Returns the kinds of steps that a list calls as plugins.
fn chained_plugins(config: Option<&Value>) -> Vec<&'static str> {
    let plugins = config.and_then(|config| config.get("plugins")).and_then(Value::as_array);
    let types = plugins.into_iter().flatten().filter_map(|plugin| plugin.get("type").and_then(Value::as_str));
    let mut kinds: Vec<&'static str> = Vec::new();
    for step in types.filter_map(step::find) {
        if !kinds.contains(&step.kind()) {
            kinds.push(step.kind());
        }
    }
    kinds
}

/// Returns the kind of the step that has this op.
fn step_of(op: &Op) -> Option<&'static str> {
    match op {
        Op::HostPort(_) => Some("portmap"),
        Op::Accept(_) | Op::IngressPolicy(_) | Op::FirewalldSource(_) => Some("firewall"),
        Op::CreateIfb(_) => Some("bandwidth"),
        _ => None,
    }
}

fn planned(netns: String, plan: Plan) -> anyhow::Result<Record> {
    Ok(Record {
        netns,
        shared: plan.shared_names(),
        plan: serde_json::to_string(&plan).context("cannot write a plan")?,
        ..Record::default()
    })
}

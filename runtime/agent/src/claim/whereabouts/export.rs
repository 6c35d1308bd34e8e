//! Exports weft's claims as whereabouts' allocations and reservations, for a migration back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use kube::api::{ListParams, PostParams};
use kube::{Client, Error};
use tokio::runtime::Builder;

use super::objects::{self, Allocation, PoolObject, ReservationSpec};
use super::{Item, MACHINE, Moved, names};
use crate::claim::backend::kubernetes::Kubernetes;
use crate::claim::backend::{Backend, Listing};
use crate::claim::object::{ClaimSpec, ClaimState};
use crate::claim::operate::client;

/// How many times to try a pool with concurrent writers.
const TRIES: usize = 20;

/// The options of an export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Credentials for the API server; those of the environment if `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of whereabouts' objects.
    pub namespace: String,
    /// The domain to export.
    pub domain: String,
    /// `network_name` of the networks; empty for those without.
    pub network: String,
    /// Additional ranges without an IPPool, as written in the networks.
    pub ranges: Vec<IpNet>,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// Exports claims. whereabouts' allocations for other pods are left alone.
///
/// # Errors
/// The API server cannot be asked, or refuses.
pub fn export(options: &ExportOptions) -> anyhow::Result<Moved> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let client = client(options.kubeconfig.as_deref()).await?;
        let source = client.clone();
        let backend = Kubernetes::new(std::rc::Rc::new(move || Ok(source.clone())));
        let claims = backend.list(Listing::Domain(&options.domain)).await?;
        if let Some((name, why)) = backend.unreadable().first() {
            bail!("{name} cannot be read, so whereabouts would not learn of it: {why}; correct it, or delete it");
        }
        let specs: Vec<ClaimSpec> = claims
            .into_iter()
            .map(|claim| claim.spec)
            .filter(|spec| !spec.holders.iter().any(|holder| holder.machine == MACHINE))
            .collect();
        let mut moved = Moved::default();
        let reserved = reserved(&client, options).await?;
        let mut ranges: Vec<String> = Vec::new();
        for (network, pool) in objects::all_pools(&client, &options.namespace).await? {
            // A node slice has its own name and addresses.
            let name = names::of_pool(&options.network, &pool.spec.range);
            if network.as_ref() == Some(&options.network) && pool.metadata.name.as_ref() == Some(&name) {
                ranges.push(pool.spec.range);
            }
        }
        ranges.extend(
            options.ranges.iter().map(ToString::to_string).filter(|range| !ranges.contains(range)).collect::<Vec<_>>(),
        );
        let mut placed = vec![false; specs.len()];
        for range in &ranges {
            let Ok(net) = range.parse::<IpNet>() else {
                moved
                    .unreadable
                    .push(format!("IPPool {}: its range is {range:?}", names::of_pool(&options.network, range)));
                continue;
            };
            let mut own = Vec::new();
            for (spec, placed) in specs.iter().zip(&mut placed) {
                if let Some(offset) = objects::offset(net, spec.address).filter(|_offset| !*placed) {
                    *placed = true;
                    own.push((offset.to_string(), spec));
                }
            }
            fill(&client, options, range, &own, &reserved, &mut moved).await?;
        }
        for (spec, _placed) in specs.iter().zip(placed).filter(|(_spec, placed)| !placed) {
            moved.unreadable.push(format!("{}: no IPPool has it; name its range with --range", spec.address));
        }
        Ok(moved)
    })
}

/// Returns the holder of each reservation, by its name.
async fn reserved(client: &Client, options: &ExportOptions) -> anyhow::Result<BTreeMap<String, String>> {
    let listed = objects::reservations(client, &options.namespace).list(&ListParams::default()).await;
    let listed = listed.context("reservations of whereabouts cannot be listed; apply its resources first")?;
    let named = |object: objects::ReservationObject| Some((object.metadata.name?, object.spec.podref));
    Ok(listed.items.into_iter().filter_map(named).collect())
}

/// Returns what whereabouts would have written; `None` if no pod has the address.
fn allocation(spec: &ClaimSpec) -> Option<Allocation> {
    let owner = &spec.owner.owner;
    let holder = spec.holders.first();
    let of_owner = || (!owner.name.is_empty()).then(|| format!("{}/{}", owner.namespace, owner.name));
    let podref = holder.map(|holder| holder.pod.clone()).filter(|pod| !pod.is_empty()).or_else(of_owner)?;
    let ifname = holder.map_or(&spec.owner.interface, |holder| &holder.interface).clone();
    Some(Allocation { id: holder.map(|holder| holder.container_id.clone()).unwrap_or_default(), podref, ifname })
}

/// Writes the reservations and then, at once, the allocations of one pool.
async fn fill(
    client: &Client,
    options: &ExportOptions,
    range: &str,
    specs: &[(String, &ClaimSpec)],
    reserved: &BTreeMap<String, String>,
    moved: &mut Moved,
) -> anyhow::Result<()> {
    let name = names::of_pool(&options.network, range);
    let pools = objects::pools(client, &options.namespace);
    for _try in 0..TRIES {
        let found = pools.get_opt(&name).await.with_context(|| format!("IPPool {name} cannot be read"))?;
        let mut pool = found.clone().unwrap_or_else(|| objects::new_pool(&options.network, range));
        let mut round = Moved::default();
        let added = merge(&mut pool, options, specs, reserved, &mut round);
        if !added.is_empty() && !options.dry_run {
            reserve(client, options, &added).await?;
            let written = match found {
                Some(_) => pools.replace(&name, &PostParams::default(), &pool).await,
                None => pools.create(&PostParams::default(), &pool).await,
            };
            match written {
                Ok(_pool) => {}
                // whereabouts has changed it meanwhile.
                Err(Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(error).with_context(|| format!("IPPool {name} cannot be written")),
            }
        }
        moved.written.append(&mut round.written);
        moved.conflicts.append(&mut round.conflicts);
        moved.unreadable.append(&mut round.unreadable);
        moved.unchanged += round.unchanged;
        return Ok(());
    }
    bail!("IPPool {name} changes all the time; stop what uses whereabouts, and try again")
}

/// Merges claims into the free places of a pool.
fn merge<'s>(
    pool: &mut PoolObject,
    options: &ExportOptions,
    specs: &[(String, &'s ClaimSpec)],
    reserved: &BTreeMap<String, String>,
    moved: &mut Moved,
) -> Vec<(&'s ClaimSpec, Allocation)> {
    let mut added = Vec::new();
    for (offset, spec) in specs {
        let item = |who: String| Item { domain: spec.domain.clone(), address: spec.address, who };
        if spec.state == ClaimState::Conflict {
            moved.unreadable.push(format!("{}: it is in conflict, and no pod has it", spec.address));
            continue;
        }
        let Some(own) = allocation(spec) else {
            moved.unreadable.push(format!("{}: its owner is not a pod", spec.address));
            continue;
        };
        let name = names::of_address(&options.network, spec.address);
        let rival = pool.spec.allocations.get(offset).map(|there| &there.podref).or_else(|| reserved.get(&name));
        match rival {
            Some(rival) if *rival != own.podref => {
                moved.conflicts.push(item(format!("{}, and {rival} in whereabouts", own.podref)));
            }
            _ if pool.spec.allocations.get(offset) == Some(&own) => moved.unchanged += 1,
            _ => {
                moved.written.push(item(own.podref.clone()));
                pool.spec.allocations.insert(offset.clone(), own.clone());
                added.push((*spec, own));
            }
        }
    }
    added
}

async fn reserve(client: &Client, options: &ExportOptions, added: &[(&ClaimSpec, Allocation)]) -> anyhow::Result<()> {
    let reservations = objects::reservations(client, &options.namespace);
    for (spec, own) in added {
        let of_pod = ReservationSpec { podref: own.podref.clone(), ifname: own.ifname.clone() };
        let object = objects::new_reservation(&options.network, spec.address, of_pod);
        match reservations.create(&PostParams::default(), &object).await {
            Ok(_made) => {}
            // It belongs to this pod, or it would be a conflict; if it belongs to another one by now, the next run
            // finds it.
            Err(Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("the reservation of {} cannot be written", spec.address));
            }
        }
    }
    Ok(())
}

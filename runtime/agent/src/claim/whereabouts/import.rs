//! Creates a claim for every address that whereabouts has allocated. Another import updates the claims.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use sha2::{Digest, Sha256};
use tokio::runtime::Builder;
use weft_core::ledger::remote::Owner;

use super::objects::{self, AllocatedAddress, ReadObjects};
use super::source::Source;
use super::{Item, MACHINE, Moved};
use crate::claim::backend::kubernetes::Kubernetes;
use crate::claim::backend::{Backend, Listing, WriteError};
use crate::claim::object::{Claim, ClaimOwner, ClaimSpec, ClaimState, Holder, Sharing};
use crate::claim::operate::client;

/// The options of an import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Credentials for the API server; those of the environment if `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of whereabouts' objects.
    pub namespace: String,
    /// The domain of networks without `network_name`; other networks use their name.
    pub domain: String,
    /// Whether to skip addresses of pods that are gone.
    pub skip_stale: bool,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// Uid and node of each pod, by namespace and name.
type Pods = BTreeMap<String, (String, String)>;
type Wanted = BTreeMap<(String, IpAddr), ClaimSpec>;

/// Imports whereabouts' allocations.
///
/// # Errors
/// The API server cannot be asked, or refuses.
pub fn import(options: &ImportOptions) -> anyhow::Result<Moved> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let client = client(options.kubeconfig.as_deref()).await?;
        let source = client.clone();
        let backend = Kubernetes::new(std::rc::Rc::new(move || Ok(source.clone())));
        // List claims first, so that new allocations of whereabouts do not count as gone.
        let claims = backend.list(Listing::All).await?;
        let said = objects::read(&client, &options.namespace).await?;
        let pods = objects::all_pods(&client).await?;
        carry_out(&backend, &claims, said, &pods, options).await
    })
}

async fn carry_out<B: Backend>(
    backend: &B,
    claims: &[Claim],
    said: ReadObjects,
    pods: &Pods,
    options: &ImportOptions,
) -> anyhow::Result<Moved> {
    let source = Source::new(&said, options);
    let mut moved = Moved { unreadable: said.unreadable, ..Moved::default() };
    let wanted = wanted(said.given, pods, options, &mut moved);
    remove(backend, claims, &wanted, &source, options.dry_run, &mut moved).await?;
    import_claims(backend, claims, wanted, &source, options.dry_run, &mut moved).await?;
    Ok(moved)
}

/// Returns the wanted claims. An address that whereabouts has allocated twice in a domain is a conflict.
fn wanted(mut given: Vec<AllocatedAddress>, pods: &Pods, options: &ImportOptions, moved: &mut Moved) -> Wanted {
    let mut wanted = Wanted::new();
    // Of two pods with one address, the existing one gets it.
    given.sort_by_key(|given| !pods.contains_key(&given.allocation.podref));
    for given in given {
        let domain = if given.network.is_empty() { options.domain.clone() } else { given.network.clone() };
        let address = given.address.addr();
        let pod = pods.get(&given.allocation.podref);
        let item = |who: String| Item { domain: domain.clone(), address, who };
        if pod.is_none() {
            moved.stale.push(item(given.allocation.podref.clone()));
            if options.skip_stale {
                continue;
            }
        }
        let spec = claim(&given, &options.namespace, &domain, pod);
        match wanted.get(&(domain.clone(), address)) {
            Some(other) => {
                let who = format!("{} by {}, and {}", given.allocation.podref, given.object, describe_holder(other));
                moved.conflicts.push(item(who));
            }
            None => drop(wanted.insert((domain, address), spec)),
        }
    }
    wanted
}

fn describe_holder(spec: &ClaimSpec) -> String {
    match spec.holders.first() {
        Some(holder) => holder.describe(),
        None => format!("{} {}/{}", spec.owner.owner.kind, spec.owner.owner.namespace, spec.owner.owner.name),
    }
}

fn claim(given: &AllocatedAddress, source: &str, domain: &str, pod: Option<&(String, String)>) -> ClaimSpec {
    let allocation = &given.allocation;
    let (namespace, name) = allocation.podref.split_once('/').unwrap_or_default();
    let owner = match pod {
        Some((uid, _node)) => Owner {
            kind: "Pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            ..Owner::default()
        },
        None => {
            let uid = if allocation.id.is_empty() { MACHINE.to_owned() } else { allocation.id.clone() };
            Owner { kind: "Sandbox".to_owned(), uid, ..Owner::default() }
        }
    };
    let holder = Holder {
        node: pod.map(|(_uid, node)| node.clone()).unwrap_or_default(),
        machine: MACHINE.to_owned(),
        // Claims of another namespace are not this import's to remove.
        store_id: source.to_owned(),
        boot_id: MACHINE.to_owned(),
        nonce: nonce(&[domain, &given.address.to_string(), &allocation.podref, &allocation.id, &allocation.ifname]),
        pod: allocation.podref.clone(),
        container_id: allocation.id.clone(),
        interface: allocation.ifname.clone(),
    };
    ClaimSpec {
        domain: domain.to_owned(),
        address: given.address.addr(),
        owner: ClaimOwner { owner, network: given.object.clone(), interface: allocation.ifname.clone(), slot: 0 },
        pool: String::new(),
        prefix: given.address.prefix_len(),
        state: ClaimState::Active,
        sharing: Sharing::Exclusive,
        rest_seconds: 0,
        in_use_by: None,
        holders: vec![holder],
    }
}

/// Returns the same nonce for the same allocation, so that a second import finds its own claims.
fn nonce(parts: &[&str]) -> String {
    let hash = Sha256::digest(parts.join("\n").as_bytes());
    hash.iter().take(16).fold(String::new(), |text, octet| format!("{text}{octet:02x}"))
}

fn is_imported(spec: &ClaimSpec) -> bool {
    spec.holders.iter().any(|holder| holder.machine == MACHINE)
}

fn item(spec: &ClaimSpec, who: String) -> Item {
    Item { domain: spec.domain.clone(), address: spec.address, who }
}

/// Removes imported claims whose allocation is gone. Claims of other imports stay.
async fn remove<B: Backend>(
    backend: &B,
    claims: &[Claim],
    wanted: &Wanted,
    source: &Source,
    dry_run: bool,
    moved: &mut Moved,
) -> anyhow::Result<()> {
    let is_wanted = |spec: &ClaimSpec| wanted.contains_key(&(spec.domain.clone(), spec.address));
    for Claim { spec, versions, .. } in claims {
        if !is_imported(spec) || !source.is_source_of(spec) || is_wanted(spec) {
            continue;
        }
        if let Some(reason) = source.reason_to_keep(spec) {
            moved.kept.push(item(spec, format!("{}: {reason}", describe_holder(spec))));
            continue;
        }
        moved.removed.push(item(spec, describe_holder(spec)));
        if !dry_run {
            ignore_conflict(backend.delete(&spec.name(), versions).await.map(drop))?;
        }
    }
    Ok(())
}

/// Returns whether two claims are of one allocation.
fn is_same(claim: &ClaimSpec, other: &ClaimSpec) -> bool {
    other.holders.iter().any(|holder| claim.is_held_by(&holder.nonce))
}

async fn import_claims<B: Backend>(
    backend: &B,
    claims: &[Claim],
    wanted: Wanted,
    source: &Source,
    dry_run: bool,
    moved: &mut Moved,
) -> anyhow::Result<()> {
    let known: BTreeMap<_, _> =
        claims.iter().map(|claim| ((claim.spec.domain.clone(), claim.spec.address), claim)).collect();
    for (key, spec) in wanted {
        match known.get(&key) {
            Some(claim) if claim.spec.holders == spec.holders => moved.unchanged += 1,
            // The same allocation may have moved to another namespace, together with all of whereabouts.
            Some(claim)
                if is_imported(&claim.spec) && (source.is_source_of(&claim.spec) || is_same(&claim.spec, &spec)) =>
            {
                // The owner of a claim never changes, because the address would be free in between. Only the holders
                // count.
                let next = ClaimSpec { holders: spec.holders.clone(), ..claim.spec.clone() };
                if !dry_run {
                    ignore_conflict(backend.replace(&next, &claim.versions, None).await.map(drop))?;
                }
                moved.written.push(item(&spec, describe_holder(&spec)));
            }
            Some(claim) => moved
                .conflicts
                .push(item(&spec, format!("{}, and {}", describe_holder(&spec), describe_holder(&claim.spec)))),
            None if dry_run => moved.written.push(item(&spec, describe_holder(&spec))),
            None => match backend.create(&spec, None).await {
                Ok(_versions) => moved.written.push(item(&spec, describe_holder(&spec))),
                // Somebody was faster, or the answer to an earlier try was lost.
                Err(WriteError::Conflict | WriteError::NoAnswer(_)) => match backend.get(&spec.name()).await? {
                    Some(claim) if claim.spec.holders == spec.holders => {
                        moved.written.push(item(&spec, describe_holder(&spec)));
                    }
                    Some(claim) => {
                        moved.conflicts.push(item(
                            &spec,
                            format!("{}, and {}", describe_holder(&spec), describe_holder(&claim.spec)),
                        ));
                    }
                    None => anyhow::bail!("the claim on {} was not written; try again", spec.address),
                },
                Err(error) => return Err(error).context(format!("the claim on {}", spec.address)),
            },
        }
    }
    Ok(())
}

/// Concurrent changes are left to the next import.
fn ignore_conflict(outcome: Result<(), WriteError>) -> anyhow::Result<()> {
    match outcome {
        Ok(()) | Err(WriteError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::Allocation;
    use super::*;
    use crate::claim::backend::memory::Memory;
    use crate::claim::tests::{Machine, WEB, one_want};
    use crate::claim::{Granted, claim_name};
    use weft_host_abi::types::ReleaseRule;

    fn options() -> ImportOptions {
        let (namespace, domain) = ("kube-system".to_owned(), "default".to_owned());
        ImportOptions { kubeconfig: None, namespace, domain, skip_stale: false, dry_run: false }
    }

    fn given(network: &str, address: &str, pod: &str, id: &str) -> AllocatedAddress {
        let allocation = Allocation { id: id.to_owned(), podref: format!("ns/{pod}"), ifname: "net1".to_owned() };
        AllocatedAddress {
            network: network.to_owned(),
            address: address.parse().unwrap(),
            allocation,
            object: if network.is_empty() { "IPPool p".to_owned() } else { format!("IPPool {network}-p") },
        }
    }

    /// Everything readable: the pool `p` of each network, and reservations.
    async fn run(server: &Memory, given: Vec<AllocatedAddress>, options: &ImportOptions) -> Moved {
        run_on(server, said(given), options).await
    }

    fn said(given: Vec<AllocatedAddress>) -> ReadObjects {
        let pools = [("IPPool p".to_owned(), String::new()), ("IPPool lab-p".to_owned(), "lab".to_owned())];
        ReadObjects { given, pools: pools.into(), reservations: true, unreadable: Vec::new() }
    }

    async fn run_on(server: &Memory, said: ReadObjects, options: &ImportOptions) -> Moved {
        let pods = ["a", "b"].map(|name| (format!("ns/{name}"), (format!("uid-{name}"), "node-1".to_owned())));
        let claims = server.list(Listing::All).await.unwrap();
        carry_out(server, &claims, said, &pods.into(), options).await.unwrap()
    }

    #[tokio::test]
    async fn imported_claims_follow_whereabouts() {
        let server = Memory::default();
        let both = || vec![given("", "10.0.0.7/24", "a", "s1"), given("lab", "10.0.0.7/24", "b", "s2")];
        let dry = run(&server, both(), &ImportOptions { dry_run: true, ..options() }).await;
        assert_eq!((dry.written.len(), server.list(Listing::All).await.unwrap().len()), (2, 0));
        assert_eq!(run(&server, both(), &options()).await, dry);
        let claim = server.get(&claim_name("default", "10.0.0.7".parse().unwrap())).await.unwrap().unwrap();
        assert_eq!((claim.spec.owner.owner.uid.as_str(), claim.spec.holders[0].machine.as_str()), ("uid-a", MACHINE));
        let again = run(&server, both(), &options()).await;
        assert_eq!((again.unchanged, again.written.len(), again.removed.len()), (2, 0, 0));
        // The pod is recreated in another sandbox; the other pod is deleted.
        let later = run(&server, vec![given("", "10.0.0.7/24", "a", "s3")], &options()).await;
        assert_eq!((later.written.len(), later.removed.len()), (1, 1));
        assert_eq!(server.list(Listing::All).await.unwrap().len(), 1);
        assert_eq!(run(&server, Vec::new(), &options()).await.removed.len(), 1);
    }

    /// Each call reads less than the import before it, so it knows nothing about those addresses.
    #[tokio::test]
    async fn what_an_import_did_not_read_stays() {
        let server = Memory::default();
        let reserved = AllocatedAddress {
            object: "OverlappingRangeIPReservation 10.0.0.8".to_owned(),
            ..given("", "10.0.0.8/32", "b", "")
        };
        let all =
            || vec![given("", "10.0.0.7/24", "a", "s1"), given("lab", "10.0.0.7/24", "b", "s2"), reserved.clone()];
        assert_eq!(run(&server, all(), &options()).await.written.len(), 3);
        let elsewhere = ImportOptions { namespace: "openshift-multus".to_owned(), ..options() };
        let domain = ImportOptions { domain: "other".to_owned(), ..options() };
        let bad = || vec!["IPPool x".to_owned()];
        let mut without_lab = said(Vec::new());
        without_lab.pools.remove("IPPool lab-p");
        for (case, said, options, kept, removed) in [
            ("another namespace", said(Vec::new()), &elsewhere, 0, 0),
            ("no such objects", ReadObjects::default(), &options(), 3, 0),
            ("no IPPool", ReadObjects { reservations: true, ..ReadObjects::default() }, &options(), 3, 0),
            ("an unreadable object", ReadObjects { unreadable: bad(), ..said(Vec::new()) }, &options(), 3, 0),
            ("no reservations", ReadObjects { reservations: false, ..said(Vec::new()) }, &options(), 1, 2),
            ("another domain", said(Vec::new()), &domain, 2, 1),
            ("a pool is missing", without_lab, &options(), 1, 2),
        ] {
            let dry = run_on(&server, said, &ImportOptions { dry_run: true, ..options.clone() }).await;
            assert_eq!((dry.kept.len(), dry.removed.len()), (kept, removed), "{case}: {dry:?}");
        }
        assert_eq!(run(&server, Vec::new(), &options()).await.removed.len(), 3);
    }

    #[tokio::test]
    async fn two_namespaces_with_one_address_are_a_conflict() {
        let server = Memory::default();
        let elsewhere = ImportOptions { namespace: "openshift-multus".to_owned(), ..options() };
        run(&server, vec![given("", "10.0.0.7/24", "a", "s1")], &options()).await;
        let clash = run(&server, vec![given("", "10.0.0.7/24", "b", "s2")], &elsewhere).await;
        assert_eq!((clash.conflicts.len(), clash.written.len()), (1, 0));
        // The same allocation: whereabouts was moved.
        let moved = run(&server, vec![given("", "10.0.0.7/24", "a", "s1")], &elsewhere).await;
        assert_eq!((moved.conflicts.len(), moved.written.len()), (0, 1));
        assert_eq!(run(&server, Vec::new(), &options()).await.removed.len(), 0);
        assert_eq!(run(&server, Vec::new(), &elsewhere).await.removed.len(), 1);
    }

    #[tokio::test]
    async fn a_sweep_leaves_the_claims_of_whereabouts() {
        let server = Memory::default();
        let machine = Machine::new("node-1", "m1", &server);
        run(&server, vec![given("", "10.0.0.7/24", "a", "s1")], &options()).await;
        let swept = crate::claim::reverse_sweep(&server, &machine.store, &machine.identity).await.unwrap();
        assert_eq!((swept.removed, server.list(Listing::All).await.unwrap().len()), (0, 1));
    }

    #[tokio::test]
    async fn an_address_allocated_twice_is_reported_and_not_imported() {
        let server = Memory::default();
        let machine = Machine::new("node", "m1", &server);
        let nonce = machine.intend(&WEB, &one_want(), &ReleaseRule::Free);
        assert_eq!(machine.grant(&nonce).await.unwrap(), Granted::All);
        let twice = vec![
            given("", "10.0.0.1/24", "a", "s1"),
            given("", "10.0.0.9/24", "a", "s1"),
            given("", "10.0.0.9/16", "b", "s2"),
            given("", "10.0.0.10/24", "gone", "s4"),
        ];
        let moved = run(&server, twice.clone(), &options()).await;
        let conflicts: Vec<String> = moved.conflicts.iter().map(|item| item.address.to_string()).collect();
        assert_eq!(
            (conflicts, moved.stale.len(), moved.written.len()),
            (vec!["10.0.0.9".into(), "10.0.0.1".into()], 1, 2)
        );
        let live = server.get(&claim_name("default", "10.0.0.1".parse().unwrap())).await.unwrap().unwrap();
        assert!(live.spec.is_held_by(&nonce));
        let skipping = run(&server, twice, &ImportOptions { skip_stale: true, ..options() }).await;
        assert_eq!((skipping.removed.len(), skipping.unchanged), (1, 1));
    }
}

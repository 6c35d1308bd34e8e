//! `weftctl controller`: automatically gives back what fenced machines held, claims whose IPAMClaims are gone, and
//! addresses that were in use on the wire, and updates the status of AddressPools.
//!
//! Several replicas may run; a Lease selects one of them. That only saves work: two active replicas do no harm, because
//! each removal carries the versions on which it was decided. No rule compares clocks of two machines: a Lease has
//! ended if it did not change for its duration by this process's own clock.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, Error};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, timeout};

use super::backend::Backend as _;
use super::backend::kubernetes::Kubernetes;
use super::operate::client;
use super::pool::{self, PoolCount};
use super::{DrainError, Missing, Rests, collect_conflicts, collect_orphans, reclaim, reclaim_deleted};
use crate::gauges::{number, to_sample};
use crate::probes::{Kind, Metrics, ProbeAddress, Probes};
use crate::{Log, probes, signals};

/// The name of the Lease.
const LEASE: &str = "weft-controller";

/// The options of a controller.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// Credentials for the API server; those of the environment if `None`.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The unique name of this replica.
    pub identity: String,
    /// The time between two rounds.
    pub every: Duration,
    /// How long a silent leader still counts as the leader.
    pub lease: Duration,
    /// How long a Node must be gone to count as dead for a pool that wants that (`reclaimDeletedNodes`).
    pub deleted_grace: Duration,
    /// Where to serve probes and metrics.
    pub probes: Option<ProbeAddress>,
}

/// Facts about a controller's work, for metrics.
#[derive(Debug, Default)]
struct Done {
    leads: bool,
    /// Of the last round; empty if this replica does not lead.
    pools: Vec<PoolCount>,
    /// Whether the ledger is frozen; false if this replica does not lead.
    frozen: bool,
    given_back: usize,
    failed: usize,
}

impl Done {
    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        let leads = f64::from(u8::from(self.leads));
        metrics.add("weft_controller_leads", Kind::Gauge, "Whether this replica is the leader.", &[], leads);
        for PoolCount { name, used, free } in &self.pools {
            for (state, count) in [("used", used), ("free", free)] {
                let labels = [("pool", name.as_str()), ("state", state)];
                let count = to_sample(u64::try_from(*count).unwrap_or_default());
                metrics.add("weft_pool_addresses", Kind::Gauge, "Addresses of a pool.", &labels, count);
            }
        }
        let help = "Whether the cluster ledger is frozen: it grants no address.";
        metrics.add("weft_ledger_frozen", Kind::Gauge, help, &[], f64::from(u8::from(self.frozen)));
        let help = "Claims and cells given back for machines that are fenced, nodes that are deleted, IPAMClaims that are gone, and addresses that were in use.";
        metrics.add("weft_controller_given_back_total", Kind::Counter, help, &[], number(self.given_back));
        let help = "Failed rounds of the controller.";
        metrics.add("weft_controller_failures_total", Kind::Counter, help, &[], number(self.failed));
        metrics
    }
}

/// Runs until SIGTERM or SIGINT. The Lease expires by itself.
///
/// # Errors
/// There are no credentials.
pub fn control(options: &ControllerOptions) -> anyhow::Result<()> {
    let signals = signals::block()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    LocalSet::new().block_on(&runtime, async {
        let client = client(options.kubeconfig.as_deref()).await?;
        let election = Election::new(client.clone(), options);
        let backend = Kubernetes::new(Rc::new(move || Ok(client.clone())));
        let done: Rc<RefCell<Done>> = Rc::default();
        if let Some(address) = &options.probes {
            let done = Rc::clone(&done);
            // A running replica is ready, even if it only waits to lead.
            let probes = Probes { health: Rc::default(), metrics: Rc::new(move || done.borrow().metrics()) };
            // Another replica on this node may use the port, which must not stop the controller.
            if let Err(error) = probes::start(address, Rc::new(probes), Log).await {
                Log.warn(&format!("no metrics of this replica: {error:#}"));
            }
        }
        tokio::select! {
            signal = signals::wait(signals) => {
                Log.info(&format!("ended by {}", signal?));
                Ok(())
            }
            // The Lease is renewed however long a round takes.
            () = elect(election, &done) => Ok(()),
            () = work(&backend, options, &done) => Ok(()),
        }
    })
}

/// Takes the Lease, and renews it.
async fn elect(mut election: Election, done: &RefCell<Done>) {
    let mut tick = interval(election.duration / 3);
    loop {
        tick.tick().await;
        let leads = election.try_to_lead().await;
        done.borrow_mut().leads = leads;
    }
}

/// Repeats its rounds while this replica leads.
async fn work(backend: &Kubernetes, options: &ControllerOptions, done: &RefCell<Done>) {
    let mut tick = interval((options.lease / 3).min(options.every));
    let mut next = Instant::now();
    let mut times = Times::default();
    let mut trouble = String::new();
    loop {
        tick.tick().await;
        if done.borrow().leads && Instant::now() >= next {
            next = Instant::now() + options.every;
            let said = match look(backend, options.deleted_grace, &mut times, done).await {
                Ok(()) => String::new(),
                Err(error) => {
                    done.borrow_mut().failed += 1;
                    format!("{error:#}")
                }
            };
            // Once, not in every round.
            if !said.is_empty() && said != trouble {
                Log.warn(&said);
            }
            trouble = said;
        }
        // Another replica may have taken the Lease during the round.
        let mut done = done.borrow_mut();
        if !done.leads {
            done.pools.clear();
            done.frozen = false;
        }
    }
}

/// What this process knows since earlier rounds: since when it has known claims that expire.
#[derive(Default)]
struct Times {
    rests: Rests,
    marks: Rests,
    /// Since when Nodes have been gone.
    missing: Missing,
    /// Names of objects that cannot be read, and were logged.
    unreadable: BTreeSet<String>,
}

/// Does one round. Each part is tried even if an earlier one failed, so that one object that the API server does not
/// delete does not hold up the others.
async fn look(
    backend: &Kubernetes,
    deleted_grace: Duration,
    times: &mut Times,
    done: &RefCell<Done>,
) -> anyhow::Result<()> {
    // Read this first: a freeze may be why the rest fails.
    let state = backend.state().await.context("the ledger's state cannot be read")?;
    done.borrow_mut().frozen = state.frozen;
    let now = Instant::now().into_std();
    let fenced = reclaim(backend).await.context("what fenced machines held cannot be given back");
    let deleted = deleted_nodes(backend, &mut times.missing, (now, deleted_grace)).await;
    let deleted = deleted.context("what deleted nodes held cannot be given back");
    let orphans = collect_orphans(backend, &mut times.rests, now).await;
    let orphans = orphans.context("what IPAMClaims owned cannot be given back");
    let conflicts = collect_conflicts(backend, &mut times.marks, now).await;
    let conflicts = conflicts.context("addresses that were in use on the wire cannot be freed");
    let pools = pool::count_pools(backend).await.context("the pools' addresses cannot be counted");
    let counts = [&fenced, &deleted, &orphans, &conflicts].map(|outcome| *outcome.as_ref().unwrap_or(&0));
    done.borrow_mut().given_back += counts.iter().sum::<usize>();
    if counts.iter().any(|count| *count > 0) {
        let [fenced, deleted, orphans, conflicts] = counts;
        Log.info(&format!(
            "gave back {fenced} claims and cells of fenced machines, {deleted} of deleted nodes, {orphans} of IPAMClaims that are gone, and {conflicts} of addresses that were in use"
        ));
    }
    for (name, why) in backend.unreadable() {
        if times.unreadable.insert(name.clone()) {
            Log.warn(&format!("{name} cannot be read, and is left alone: {why}"));
        }
    }
    let counted = pools.map(|pools| done.borrow_mut().pools = pools);
    fenced.and(deleted).and(orphans).and(conflicts).and(counted)
}

/// Gives back what nodes that are gone held of pools that want that.
async fn deleted_nodes(
    backend: &Kubernetes,
    missing: &mut Missing,
    times: (std::time::Instant, Duration),
) -> Result<usize, DrainError> {
    let pools = backend.pools().await?.into_iter().filter(|pool| pool.spec.reclaim_deleted_nodes);
    let pools = pools.map(|pool| pool.name).collect();
    reclaim_deleted(backend, &pools, missing, times).await
}

/// One replica's view of the Lease.
struct Election {
    leases: Api<Lease>,
    identity: String,
    duration: Duration,
    /// The Lease's version, and when this process first saw it.
    seen: Option<(String, Instant)>,
    leads: bool,
}

impl Election {
    fn new(client: Client, options: &ControllerOptions) -> Self {
        Self {
            leases: Api::namespaced(client, &options.namespace),
            identity: options.identity.clone(),
            duration: options.lease,
            seen: None,
            leads: false,
        }
    }

    /// Takes or renews the Lease. Returns whether this replica has it.
    async fn try_to_lead(&mut self) -> bool {
        let (leases, duration) = (self.leases.clone(), self.duration);
        let leads = match timeout(duration / 3, self.claim(&leases)).await {
            Ok(Ok(leads)) => leads,
            // Somebody else was faster, or the outcome is unknown: this replica does not lead.
            Ok(Err(Error::Api(status))) if status.code == 409 => false,
            Ok(Err(error)) => {
                if self.leads {
                    Log.warn(&format!("the Lease {LEASE} cannot be renewed: {error}"));
                }
                false
            }
            Err(_late) => false,
        };
        if leads != self.leads {
            Log.info(if leads { "this replica leads" } else { "this replica does not lead any more" });
        }
        self.leads = leads;
        leads
    }

    async fn claim(&mut self, leases: &Api<Lease>) -> Result<bool, Error> {
        let Some(current) = leases.get_opt(LEASE).await? else {
            let lease = self.lease(ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() }, 0);
            return leases.create(&PostParams::default(), &lease).await.map(|_made| true);
        };
        let version = current.metadata.resource_version.clone().unwrap_or_default();
        let spec = current.spec.unwrap_or_default();
        let own = spec.holder_identity.as_deref() == Some(self.identity.as_str());
        if !own {
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    self.seen = Some((version, Instant::now()));
                    return Ok(false);
                }
            };
            if since.elapsed() < self.duration {
                return Ok(false);
            }
        }
        let changes = spec.lease_transitions.unwrap_or(0).saturating_add(i32::from(!own));
        let lease = self.lease(current.metadata, changes);
        // With the version that was read: if two replicas find it ended, only one gets it.
        leases.replace(LEASE, &PostParams::default(), &lease).await.map(|_replaced| true)
    }

    fn lease(&self, metadata: ObjectMeta, changes: i32) -> Lease {
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                lease_transitions: Some(changes),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }
}

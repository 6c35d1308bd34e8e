//! The node's daemon as a library: one thread, one event loop, one unix socket. `weftctl agent` runs it.
//!
//! A service is a module here that implements [`server::Handler`], its message types in `weft_core::agent`, and one
//! line in `start`. `dhcp` is the service `lease`, for work that takes longer than a CNI call and outlives it.
//!
//! Invariants: services fail independently, so a panic or an absent API server in one does not affect another. An
//! answer is in the store before it is sent. When the agent ends, for whatever reason, nothing is released. Blocking work
//! runs on threads of its own, never on the loop's, and only these threads enter namespaces.

pub mod artifact;
pub mod claim;
mod cluster;
mod devices;
mod dhcp;
mod events;
mod gauges;
mod grpc;
mod health;
pub mod inspect;
pub mod keep;
mod log;
mod pause;
mod pod;
mod policies;
mod probes;
pub mod registry;
pub mod server;
mod signals;
mod status;
mod sweep;
pub mod trust;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use weft_core::agent::counters::{Collector, Totals};
use weft_core::agent::{pod as pod_messages, status as status_messages};
pub use weft_dhcp::Pace;

use self::claim::{ClaimDoor, Claimant, ClientSource, Gate};
use self::cluster::Cluster;
pub use self::cluster::Source;
use self::devices::Devices;
use self::dhcp::{LeaseEvents, LeaseStore, Leases};
use self::events::Events;
use self::gauges::Sources;
use self::health::{Health, HealthHandler};
use self::keep::{Filters, Keeper};
pub use self::log::Log;
use self::pod::Pods;
use self::policies::Policies;
pub use self::policies::PolicyOptions;
pub use self::probes::ProbeAddress;
use self::probes::Probes;
use self::server::Services;
use self::status::Statuses;
use self::sweep::Sweep;
pub use self::sweep::SweepOptions;

/// How often to collect the counts of one-shot processes.
const COLLECT: Duration = Duration::from_secs(5);
/// The answer of a service that needs a cluster, without one.
const NO_CLUSTER: &str = "start \"weftctl agent\" with --node-name, and with --kubeconfig outside of a pod";

/// The options of an agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// The unix socket to listen on.
    pub socket: PathBuf,
    /// Prefix of every namespace path, for an agent that sees the host's files elsewhere.
    pub host_prefix: Option<PathBuf>,
    /// The file for the process id.
    pub pid_file: Option<PathBuf>,
    /// The timing of DHCP exchanges.
    pub pace: Pace,
    /// The cluster to serve, if any.
    pub kubernetes: Option<KubernetesOptions>,
    /// The address of probes and metrics.
    pub probes: Option<ProbeAddress>,
    /// The options of the sweep; `None` disables it.
    pub sweep: Option<SweepOptions>,
    /// The options for fetching policies.
    pub policies: PolicyOptions,
}

/// The options for serving a cluster.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// The name of this node's Node object. It is never derived from the host name.
    pub node: String,
    /// The source of credentials.
    pub source: Source,
    /// kubelet's directory, usually `/var/lib/kubelet`.
    pub kubelet: PathBuf,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The store or the socket cannot be opened, or another agent uses them.
pub fn run(options: &Options, state: &Path) -> anyhow::Result<()> {
    let log = Log;
    let store = LeaseStore::open(state)?;
    // Before any thread starts, so that all of them block the signals.
    let signals = signals::block()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let leases = Leases::new(store, options.pace, options.host_prefix.clone(), log);
        // Before the socket exists, so that the first caller finds the known leases.
        leases.resume()?;
        let services = start(options, state, leases, log).await?;
        let listener = server::listen(&options.socket)?;
        if let Some(file) = &options.pid_file {
            std::fs::write(file, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let names = services.names().collect::<Vec<_>>().join(", ");
        log.info(&format!("listening on {}, services: {names}", options.socket.display()));
        tokio::task::spawn_local(server::serve(listener, Rc::new(services), log));
        signals::wait(signals).await
    });
    // Remove only our own: another agent may have the path by now.
    if ended.is_ok() {
        std::fs::remove_file(&options.socket).ok();
        if let Some(file) = &options.pid_file {
            std::fs::remove_file(file).ok();
        }
    }
    let signal = ended?;
    log.info(&format!("ended by {signal}; leases continue with the next start"));
    // A thread that hangs must not delay the end of the agent.
    runtime.shutdown_background();
    Ok(())
}

/// Starts every part that the options request.
async fn start(options: &Options, state: &Path, leases: Rc<Leases>, log: Log) -> anyhow::Result<Services> {
    let health: Rc<Health> = Rc::default();
    let mut services = Services::default().with_handler(Rc::clone(&leases));
    let (mut cluster, mut statuses, mut events) = (None, None, None);
    if let Some(KubernetesOptions { node, source, kubelet }) = &options.kubernetes {
        let its = Cluster::start(source.clone(), node, log);
        report_cluster(&its, &health);
        let its_events = Events::start(Rc::clone(&its), log);
        let its_statuses = Statuses::start(Rc::clone(&its), its_events.clone(), state, log);
        services = services
            .with_handler(Pods::new(Rc::clone(&its), Rc::new(Devices::new(kubelet))))
            .with_handler(Rc::clone(&its_statuses));
        leases.send_events_with(LeaseEvents {
            events: its_events.clone(),
            node: node.clone(),
            state: state.to_owned(),
        });
        (cluster, statuses, events) = (Some(its), Some(its_statuses), Some((its_events, node.clone())));
    } else {
        services = services
            .with_disabled::<pod_messages::Pod>(NO_CLUSTER)
            .with_disabled::<status_messages::Status>(NO_CLUSTER);
    }
    let policies = Policies::start(cluster.clone(), &options.policies, state, log);
    services = services.with_handler(Rc::clone(&policies));
    let node = options.kubernetes.as_ref().map(|kubernetes| kubernetes.node.clone());
    let sender = events.as_ref().map(|(events, _node)| events.clone());
    let claims = claims(state, node.clone(), (cluster.as_ref(), sender.clone()), log);
    services = services.with_handler(Rc::clone(&claims));
    services = services.with_handler(Rc::new(HealthHandler { health: Rc::clone(&health), node }));
    let keeper = Keeper::start(state, Rc::clone(&health), events, log);
    let filters = Filters::start(state, log);
    let sweep = options
        .sweep
        .clone()
        .map(|sweep| Sweep::start(sweep, state, options.host_prefix.clone(), (cluster.clone(), sender), log));
    let counters = collect_counters(state, log);
    if let Some(address) = &options.probes {
        let sources = Sources {
            health: Rc::clone(&health),
            cluster,
            statuses,
            policies,
            claims,
            sweep,
            keeper,
            filters,
            counters,
        };
        let probes = Probes { health, metrics: Rc::new(move || sources.collect()) };
        probes::start(address, Rc::new(probes), log).await?;
    }
    Ok(services)
}

/// Creates the service of cluster ledgers: the cluster's own, and those in etcd that networks name.
fn claims(
    state: &Path,
    node: Option<String>,
    (cluster, events): (Option<&Rc<Cluster>>, Option<Events>),
    log: Log,
) -> Rc<ClaimDoor> {
    let kubernetes = cluster.map(|cluster| -> ClientSource {
        let cluster = Rc::clone(cluster);
        Rc::new(move || cluster.client().map_err(|error| error.to_string()))
    });
    let cluster = cluster.cloned();
    let gate: Gate = Rc::new(move || cluster.as_ref().and_then(|cluster| cluster.wrong_node()));
    ClaimDoor::start(state, Claimant { node, machine: None, kubernetes, gate, events }, log)
}

/// Until the first lists have arrived, the node is not ready. Afterwards the copies are used, whatever the API server
/// does. Under a wrong name the node is never ready.
fn report_cluster(cluster: &Rc<Cluster>, health: &Rc<Health>) {
    let (cluster, health) = (Rc::clone(cluster), Rc::clone(health));
    tokio::task::spawn_local(async move {
        while !cluster.is_synced() {
            let text = cluster.client().err().map(|error| error.to_string());
            let waiting = "pods and networks were not read from the API server yet".to_owned();
            health.set("cluster", Some(text.unwrap_or(waiting)));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        loop {
            cluster.check_node().await;
            health.set("cluster", cluster.node_fault());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
}

fn collect_counters(state: &Path, log: Log) -> Rc<Totals> {
    let totals: Rc<Totals> = Rc::default();
    let collector = match Collector::open(state) {
        Ok(collector) => collector,
        Err(error) => {
            log.warn(&format!("cannot collect counters in {}: {error}", state.display()));
            return totals;
        }
    };
    let collecting = Rc::clone(&totals);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(COLLECT).await;
            if let Err(error) = collector.collect(&collecting) {
                log.warn(&format!("cannot collect counters: {error}"));
            }
        }
    });
    totals
}

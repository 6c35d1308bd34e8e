//! Two nodes, one configuration, one etcd or API server: the fault that the cluster ledger prevents, and stops of the
//! agent, weft or the cluster. Observed from outside: results, the kernel's links, the keys in etcd, the rows in the
//! store.

mod among;
mod basics;
mod blocks;
mod cell_requests;
mod cells;
mod chaos;
mod check;
mod cluster;
mod conflict;
mod controller;
mod deleted;
mod ends;
mod fallback;
mod field;
mod gateway;
mod history;
mod ipam_claim;
mod keep;
mod machines;
mod many;
mod notices;
mod objects;
mod pools;
mod proxy;
mod requests;
mod restore;
mod retries;
mod scale;
mod secured;
mod traps;
mod whereabouts;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

use self::chaos::Fault;
use self::cluster::{Cluster, Shared};

/// A trial on a cluster.
type Trial = fn(&mut Cluster) -> Result<()>;

/// Trials for either backend.
const TRIALS: &[(&str, Trial)] = &[
    ("two-nodes-never-share-an-address", basics::never_twice),
    ("many-at-once-on-two-nodes", basics::many_at_once),
    ("del-without-the-cluster-leaves-a-tombstone-that-drains", basics::cluster_stopped),
    ("add-without-the-cluster-leaves-nothing", basics::add_without_cluster),
    ("add-without-an-agent-leaves-nothing", basics::add_without_agent),
    ("an-agent-that-is-killed-leaks-nothing", ends::agent_killed),
    ("a-weft-that-is-killed-leaks-nothing", ends::weft_killed),
    ("a-late-create-is-swept", ends::late_create),
    ("a-fence-by-hand-frees-what-a-dead-machine-held", ends::fenced_by_hand),
    ("an-address-that-a-person-releases-is-free-in-the-cluster", ends::released_by_hand),
    ("an-address-in-use-on-the-wire-is-marked", conflict::marked),
    ("a-range-in-use-on-the-wire-gives-nothing", conflict::none_left),
    ("a-restore-behind-a-freeze-duplicates-nothing", restore::frozen),
    ("a-restore-that-nobody-announced-is-noticed", restore::unannounced),
    ("a-grant-from-before-a-restore-is-not-used", restore::granted_before),
    ("a-machine-that-is-re-imaged-before-a-restore-gives-back", restore::re_imaged),
    ("a-create-that-is-delivered-late-is-swept", requests::late_create),
    ("a-delete-that-is-delivered-late-takes-nothing-from-a-retry", requests::late_delete),
    ("a-delete-that-is-delivered-late-takes-nothing-from-the-next-owner", requests::delete_of_the_next_owners),
    ("requests-that-are-lost-or-doubled", requests::lost_and_doubled),
    ("an-add-within-a-sweep-keeps-its-claim", requests::add_within_a_sweep),
    ("an-add-that-is-stopped-after-its-grant", requests::stopped_after_the_grant),
    ("field-2-a-pod-that-is-retried-a-hundred-times-has-one-address", retries::hundred),
    ("a-create-that-is-delivered-late-takes-nothing-from-a-retry", retries::beside_a_held_create),
    ("a-store-that-is-moved-away-frees-nothing", machines::store_moved_away),
    ("another-machine-of-the-same-name-frees-nothing", machines::of_one_name),
    ("an-add-that-loses-rounds-among-many-claims", many::lost_rounds),
    ("a-clock-that-is-moved-leaks-nothing", machines::moved_clock),
    ("a-random-history-is-that-of-the-model", history::of_a_cluster),
    ("blocks-cost-one-write-for-a-cell", blocks::one_write),
    ("blocks-are-confirmed-after-a-boot", blocks::rebooted),
    ("blocks-lend-nothing-that-is-asked-for-by-name", blocks::by_name),
    ("blocks-that-are-full", blocks::full_cell_borrows),
    ("blocks-of-a-dead-machine-wait-for-its-fence", blocks::fenced),
    ("blocks-come-back-behind-a-freeze", blocks::restored),
    ("requests-for-cells-that-are-lost-doubled-or-held", cell_requests::lost_doubled_and_held),
    ("field-16-a-stale-name-of-a-node-frees-nothing", field::stale_name),
    ("field-18-a-claim-that-cannot-be-read-stops-nothing-else", field::malformed),
    ("field-19-a-static-address-waits-for-its-old-link", field::static_address),
    ("field-21-requested-addresses-are-recorded", field::recorded),
    ("field-22-the-classes-of-duplicates", field::classes),
    ("chaos", chaos::weft_passes),
];

/// Trials of cells that do not depend on the backend.
const CELLS: &[(&str, Trial)] = &[
    ("blocks-of-a-disk-that-was-rolled-back", cells::rolled_back),
    ("blocks-of-a-machine-that-was-re-imaged", cells::re_imaged),
    ("blocks-of-two-families", cells::dual_stack),
];

/// Faults that the oracles of the chaos must detect, with the expected text.
const FAULTS: &[(&str, Fault, &str)] = &[
    ("stock-plugins", Fault::Stock, "at the same time"),
    ("lost-claims", Fault::LostClaims, "without a claim"),
    ("lost-cells", Fault::LostCells, "without a claim"),
    ("a-fence-that-lies", Fault::LyingFence, "without a claim"),
    ("a-leak", Fault::Leak, "after all is quiet: the claim"),
];

/// Trials for an etcd that requires certificates and passwords.
const SECURED: &[(&str, Trial)] = &[
    ("two-nodes-never-share-an-address", basics::never_twice),
    ("del-without-the-cluster-leaves-a-tombstone-that-drains", basics::cluster_stopped),
    ("without-certificate-or-password-nothing-is-given-out", secured::locked_out),
    ("a-token-that-has-ended-is-renewed", secured::token_renewed),
];

/// Trials only for an API server.
const OBJECTS: &[(&str, Trial)] = &[
    ("the-objects-keep-their-rules", objects::rules),
    ("a-freeze-holds-at-the-api-server", objects::freeze),
    ("a-restore-with-a-bumped-revision-is-noticed", restore::restore_with_new_epoch),
    ("the-agent-has-no-more-rights-than-it-needs", objects::rights),
    ("an-add-without-the-objects-says-what-to-apply", objects::missing),
    ("a-taint-frees-what-a-dead-machine-held", objects::fenced_by_taint),
    ("a-pool-may-take-a-deleted-node-for-dead", deleted::nodes),
    ("one-claim-that-is-refused-keeps-no-other", objects::refused),
    ("one-of-two-controllers-leads", controller::one_of_two_leads),
    ("a-controller-leads-through-a-long-round", controller::leads_through_a_long_round),
    ("a-delete-of-the-controller-that-is-delivered-late", traps::held_delete_of_the_controller),
    ("traps-of-kubernetes", traps::of_kubernetes),
    ("claims-are-shown-with-their-pods", traps::table),
    ("a-conflict-is-reported-to-both-pods", notices::conflict),
    ("a-full-pool-is-reported-once", notices::exhausted),
    ("blocks-keep-their-rules", blocks::rules::rules),
    ("pools-keep-their-rules", pools::rules),
    ("whereabouts-moves-in-and-out", whereabouts::both_ways),
    ("a-check-finds-what-is-wrong-and-repairs-what-is-safe", check::finds_and_repairs),
    ("networks-draw-on-a-pool", pools::drawn_on),
    ("many-agents-send-one-create-each", scale::one_create_each),
    ("one-add-costs-the-same-among-many-claims", among::one_add),
    ("an-agents-memory-follows-its-own-pods", scale::agent_memory),
    ("an-ordinal-keeps-its-address-through-a-scale-to-zero", keep::ordinal),
    ("a-pool-asks-the-wire-first", conflict::of_a_pool),
    ("an-ipam-claims-address-in-use-is-not-replaced", conflict::of_an_ipam_claim),
    ("field-17-the-hosts-name-is-not-the-nodes", field::host_name),
    ("field-20-two-pods-share-an-ipam-claim", field::shared_claim),
    ("r40-an-ipam-claim-keeps-its-address", ipam_claim::address_is_kept),
    ("a-cooldown-begins-when-the-ipam-claim-is-gone", ipam_claim::address_is_in_cooldown),
    ("r39-two-first-users-of-an-ipam-claim-get-one-address", ipam_claim::first_users),
    ("r38-an-ipam-claim-that-is-gone-or-made-again", ipam_claim::gone_or_made_again),
    ("r41-what-an-ipam-claim-keeps-is-claimed-again", ipam_claim::marked_again),
    ("an-ipam-claim-that-ends-before-its-status-is-written", requests::status_after_the_end),
    ("a-holder-that-is-written-late-is-swept", requests::late_holder),
];

fn main() -> ExitCode {
    sandbox::enter();
    let mut needs = vec![Need::Sandbox, Need::Weft, Need::Weftctl];
    needs.extend(["etcd", "ip", "nft", "sqlite3", "strace", "unshare"].map(Need::Tool));
    let beside = [needs.clone(), vec![Need::Reference]].concat();
    let with_kubernetes = [needs.clone(), vec![Need::Kubernetes, Need::Tool("openssl")]].concat();
    let mut suite = Suite::new();
    suite.test("stock-host-local-gives-an-address-twice", &beside, || {
        basics::stock_gives_it_twice(&mut Cluster::etcd()?)
    });
    suite.test("node/a-random-history-is-that-of-the-model", &needs, || history::of_a_node(&mut Cluster::etcd()?));
    suite.test("etcd/a-bridge-takes-no-address-that-pods-get", &needs, || {
        gateway::that_a_bridge_takes(&mut Cluster::etcd()?)
    });
    suite.test("etcd/a-named-fallback-decides", &needs, || fallback::shipped(&mut Cluster::etcd()?));
    suite.test("etcd/the-last-good-policy-decides", &needs, || fallback::last_good(&mut Cluster::etcd()?));
    suite.test("etcd/a-ledger-whose-server-was-replaced", &needs, || ends::server_replaced(&mut Cluster::etcd()?));
    // On the node, the same happens with an API server.
    suite.test("etcd/an-add-that-is-stopped-at-any-request-and-deleted", &needs, || {
        requests::stopped_at_every_request(&mut Cluster::etcd()?)
    });
    for (name, trial) in CELLS {
        suite.test(format!("etcd/{name}"), &needs, || trial(&mut Cluster::etcd()?));
    }
    for (name, fault, words) in FAULTS {
        suite.test(format!("chaos-oracle-notices-{name}"), &beside, || {
            chaos::notices(&mut Cluster::etcd()?, *fault, words)
        });
    }
    let shared = Shared::default();
    for (name, trial) in TRIALS {
        suite.test(format!("etcd/{name}"), &needs, || trial(&mut Cluster::etcd()?));
        let shared = shared.clone();
        suite.test(format!("kubernetes/{name}"), &with_kubernetes, move || shared.with_cluster(trial));
    }
    let secured = [needs.clone(), vec![Need::Tool("openssl")]].concat();
    for (name, trial) in SECURED {
        suite.test(format!("etcd-with-tls/{name}"), &secured, || trial(&mut Cluster::secured_etcd()?));
    }
    for (name, trial) in OBJECTS {
        let shared = shared.clone();
        suite.test(format!("kubernetes/{name}"), &with_kubernetes, move || shared.with_cluster(trial));
    }
    let with_whereabouts = [with_kubernetes, vec![Need::Whereabouts]].concat();
    let own = shared.clone();
    suite.test("kubernetes/whereabouts-and-weft-on-one-range", &with_whereabouts, move || {
        own.with_cluster(whereabouts::beside_its_program)
    });
    let own = shared.clone();
    suite.test("kubernetes/weft-writes-less-than-whereabouts", &with_whereabouts, move || {
        own.with_cluster(whereabouts::fewer_writes)
    });
    // They share the paths of the one sandbox.
    let code = suite.run_threads(Some(1));
    shared.stop();
    code
}

//! What a sweep keeps, and what it removes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;

use super::super::PolicyStore;
use super::*;
use crate::policy::{LockFile, Locked, add_pinned, is_added, keep_pinned, note_missed, remove_pinned, withdraw};

/// Sweeps a node on which networks name these policies, and none has attachments.
fn sweep(state: &Path, named: &[PolicyRef], now: u64) -> Result<Swept, PolicyError> {
    let networks = BTreeSet::from(["net".to_owned()]);
    sweep_pinned(state, &Needed { policies: named, networks: &networks, attached: &|| Some(BTreeSet::new()) }, now)
}

const DAY: u64 = 24 * 3600;
const NOW: u64 = 1_800_000_000;

fn policy(name: &str) -> PolicyRef {
    let manifest = Digest::new(name.as_bytes());
    PolicyRef::parse(&format!("oci://registry.example/{name}:1@{manifest}")).unwrap()
}

/// Adds a policy whose component is its name.
fn add(state: &Path, policy: &PolicyRef, component: &str) {
    add_pinned(state, policy, component.as_bytes(), None, &|_path| Ok(())).unwrap();
}

fn count(state: &Path) -> usize {
    fs::read_dir(pinned_dir(state)).unwrap().count()
}

fn age(file: &Path, by: Duration) {
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn unused_policies_are_removed_after_a_week() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let [kept, unused] = ["kept", "unused"].map(policy);
    let map = PolicyRef::parse(&format!("configmap://a/b/c@{}", Digest::new(b"map"))).unwrap();
    for (policy, component) in [(&kept, "kept"), (&unused, "unused"), (&map, "map")] {
        add(state, policy, component);
    }
    withdraw(state, &Pin::from_policy(&unused).unwrap(), "the key is revoked").unwrap();
    let named = [kept.clone()];
    assert_eq!(sweep(state, &named, NOW).unwrap(), Swept::default());
    assert_eq!(sweep(state, &named, NOW + 6 * DAY).unwrap(), Swept::default());
    // A network names it again, and then no more: the time starts again.
    sweep(state, &[kept.clone(), map.clone()], NOW + 6 * DAY).unwrap();
    let swept = sweep(state, &named, NOW + 8 * DAY).unwrap();
    assert_eq!(swept, Swept { files: 1, bytes: "the key is revoked".len() as u64 });
    assert!(is_added(state, &kept) && is_added(state, &map) && !is_added(state, &unused));
    assert_eq!(count(state), 3, "a manifest and two components");
    sweep(state, &named, NOW + 16 * DAY).unwrap();
    assert!(is_added(state, &kept) && !is_added(state, &map));
    assert_eq!(clock(state), BTreeMap::new());
}

#[test]
fn policies_that_the_node_needs_stay() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let store = PolicyStore::new(state).unwrap();
    let [good, locked, before] = ["good", "locked", "before"].map(policy);
    // A person added these before a network names them.
    let (by_hand, map) = (policy("by-hand"), format!("configmap://a/b/c@{}", Digest::new(b"map")));
    let map = PolicyRef::parse(&map).unwrap();
    for (policy, component) in [(&by_hand, "by hand"), (&map, "map")] {
        add(state, policy, component);
        keep_pinned(state, policy).unwrap();
    }
    // Another manifest names the same component, and goes alone.
    let other = policy("other");
    for (policy, component) in [(&good, "good"), (&locked, "locked"), (&before, "before"), (&other, "good")] {
        add(state, policy, component);
    }
    store.remember_good("net", &good, &Digest::new(b"good").to_string()).unwrap();
    let digest = |policy: &PolicyRef| policy.to_string().split_once('@').unwrap().1.to_owned();
    let mut file = LockFile::default();
    for (name, before) in [("locked", None), ("away", Some(digest(&before)))] {
        let entry = Locked { digest: digest(&policy(name)), version: None, before };
        let repository = if name == "away" { "before" } else { name };
        file.policies.insert(format!("oci://registry.example/{repository}:1"), entry);
    }
    file.write(&LockFile::path(state)).unwrap();
    for days in [0, 30, 60] {
        sweep(state, &[], NOW + days * DAY).unwrap();
    }
    assert!([&good, &locked, &before, &by_hand, &map].iter().all(|policy| is_here(state, policy)));
    assert!(!is_here(state, &other));
    for policy in [&by_hand, &map] {
        assert!(remove_pinned(state, policy).unwrap() && !is_here(state, policy));
    }
    assert!(store.last_good("net").is_some());
    // A lock file that cannot be read may name anything.
    fs::write(LockFile::path(state), "{").unwrap();
    sweep(state, &[], NOW).unwrap_err();
}

fn is_here(state: &Path, policy: &PolicyRef) -> bool {
    crate::policy::pinned_paths::is_here(state, policy)
}

#[test]
fn unused_policies_are_bounded_and_the_longest_unused_go_first() {
    let unit = |since, size| Unused { name: format!("{since}"), since, size };
    let since = |units: &[Unused]| units.iter().map(|unit| unit.since).collect::<Vec<_>>();
    let (gone, stays) = sort((0..100).map(|at| unit(NOW + at, 32 << 20)).collect(), NOW + 100);
    assert_eq!((gone.len(), stays.len()), (100 - 32, 32));
    assert!(since(&gone).iter().max() < since(&stays).iter().min());
    let (gone, stays) = sort((0..5000).map(|at| unit(NOW + at, 1)).collect(), NOW + 5000);
    assert_eq!((gone.len(), stays.len()), (5000 - FILES_MAX, FILES_MAX));
    assert!(since(&gone).iter().max() < since(&stays).iter().min());
}

#[test]
fn stale_reasons_and_unfinished_files_are_removed() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let [kept, unused, fresh] = ["kept", "unused", "fresh"].map(policy);
    for policy in [&kept, &unused, &fresh] {
        note_missed(state, policy, "the registry cannot be reached").unwrap();
    }
    let dir = pinned_dir(state);
    let [killed, running] = ["killed", "running"].map(|name| dir.join(format!("{INCOMING}{name}")));
    fs::write(&killed, "").unwrap();
    fs::write(&running, "").unwrap();
    let reason = |policy: &PolicyRef| dir.join(miss_name(policy).unwrap());
    age(&killed, WRITING * 2);
    age(&reason(&kept), FRESH * 2);
    age(&reason(&unused), FRESH * 2);
    assert_eq!(sweep(state, std::slice::from_ref(&kept), NOW).unwrap().files, 2);
    assert!(reason(&kept).exists() && reason(&fresh).exists() && running.exists());
    assert!(!reason(&unused).exists() && !killed.exists());
}

#[test]
fn the_compiled_form_goes_with_its_component_unless_it_is_installed() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let cache = state.join(CACHE);
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let entry = |component: &str| cache.join(format!("{}-key.cwasm", Digest::new(component.as_bytes()).hex()));
    for component in ["foreign", "installed"] {
        add(state, &policy(component), component);
        fs::write(entry(component), "").unwrap();
    }
    fs::write(policies_dir(state).join("installed.wasm"), "installed").unwrap();
    for days in [0, 8] {
        sweep(state, &[], NOW + days * DAY).unwrap();
    }
    assert_eq!(count(state), 0);
    assert!(!entry("foreign").exists() && entry("installed").exists());
}

#[test]
fn a_last_good_policy_stays_as_long_as_its_network() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let store = PolicyStore::new(state).unwrap();
    for name in ["defined", "attached", "gone"] {
        let policy = policy(name);
        add(state, &policy, name);
        store.remember_good(name, &policy, &Digest::new(name.as_bytes()).to_string()).unwrap();
    }
    fs::write(last_good::dir(state).join("damaged"), "nonsense").unwrap();
    let [defined, attached] = ["defined", "attached"].map(|name| BTreeSet::from([name.to_owned()]));
    let sweep_on = |days: u64, attached: &dyn Fn() -> Option<BTreeSet<String>>| {
        let needed = Needed { policies: &[], networks: &defined, attached };
        sweep_pinned(state, &needed, NOW + days * DAY).unwrap()
    };
    // Nobody can tell which networks have attachments.
    for days in [0, 8] {
        assert_eq!(sweep_on(days, &|| None), Swept::default());
    }
    let told = || Some(attached.clone());
    assert_eq!(sweep_on(8, &told), Swept::default(), "the time begins now");
    assert_eq!(sweep_on(14, &told), Swept::default());
    assert_eq!(sweep_on(16, &told).files, 2, "the one of the network that is gone, and the damaged one");
    assert!(store.last_good("gone").is_none() && is_here(state, &policy("gone")));
    // What it needed goes like everything that nobody uses.
    for days in [17, 25] {
        sweep_on(days, &told);
    }
    assert!(!is_here(state, &policy("gone")));
    for name in ["defined", "attached"] {
        assert!(store.last_good(name).is_some() && is_here(state, &policy(name)), "{name}");
    }
    assert_eq!(clock(state), BTreeMap::new());
}

#[test]
fn last_good_policies_of_networks_that_are_gone_are_bounded() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let store = PolicyStore::new(state).unwrap();
    let one = policy("one");
    add(state, &one, "one");
    for network in 0..FILES_MAX + 50 {
        store.remember_good(&format!("n{network}"), &one, &Digest::new(b"one").to_string()).unwrap();
    }
    assert_eq!(sweep(state, &[], NOW).unwrap().files, 50);
    assert_eq!(LastGood::read_all(state).len(), FILES_MAX);
}

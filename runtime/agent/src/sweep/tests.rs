//! The sweep over a real store: an entry without a namespace is removed, one with a namespace is kept.

#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::task::LocalSet;
use weft_core::journal::Record;
use weft_core::plan::Plan;
use weft_core::store::{Key, NodeStore, Role};

use super::pods::pod_of;
use super::*;

fn attachment(container: &str) -> Attachment {
    Attachment { network: "net".into(), container_id: container.into(), ifname: "eth0".into() }
}

fn write_entry(state: &Path, container: &str, netns: &Path) {
    let mut store = NodeStore::open(state, &netlink::boot_id().unwrap()).unwrap();
    let record = Record {
        netns: netns.display().to_string(),
        plan: serde_json::to_string(&Plan::default()).unwrap(),
        ..Record::default()
    };
    let key = Key { attachment: attachment(container), role: Role::Attachment };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    store.amend(&key, now, |_none| Ok::<_, ()>(Some(record))).unwrap();
}

fn containers(state: &Path) -> Vec<String> {
    entries(state, None).unwrap().into_iter().map(|entry| entry.attachment.container_id).collect()
}

fn sweep(state: &Path, grace: Duration) -> Sweep {
    Sweep {
        options: SweepOptions { every: Duration::from_secs(1), grace, runtime: Some(state.join("no-runtime.sock")) },
        state: state.to_owned(),
        prefix: None,
        cluster: None,
        events: None,
        swept: RefCell::default(),
        out_of_reach: RefCell::default(),
        first_seen: RefCell::default(),
        log: Log,
    }
}

#[test]
fn entries_without_a_namespace_are_removed_in_the_second_round() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    write_entry(&state, "dead", &dir.path().join("gone"));
    // This process's own namespace exists.
    write_entry(&state, "alive", Path::new("/proc/self/ns/net"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let sweep = sweep(&state, Duration::ZERO);
        let mut candidates = Candidates::default();
        // No runtime answers; the rounds continue and report that.
        assert!(sweep.look(&mut candidates, &mut Audit::default()).await.unwrap_err().contains("no-runtime.sock"));
        assert_eq!((containers(&state).len(), sweep.swept().candidates), (2, 1));
        assert!(sweep.look(&mut candidates, &mut Audit::default()).await.is_err());
        assert_eq!(containers(&state), ["alive"]);
        assert_eq!(sweep.swept().removed, BTreeMap::from([("netns-gone", 1)]));
        assert!(sweep.look(&mut candidates, &mut Audit::default()).await.is_err());
        assert_eq!((containers(&state).len(), sweep.swept().failed), (1, 0));
    });
}

#[test]
fn a_pod_goes_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone").display().to_string();
    write_entry(dir.path(), "sandbox", Path::new(&gone));
    let plan = serde_json::json!({
        "v": 1, "nonce": "n", "namespace": "a", "name": "b", "uid": "c", "netns": gone, "path": [],
        "plugin_timeout_seconds": 1, "attachments": [],
    });
    {
        let mut store = NodeStore::open(dir.path(), &netlink::boot_id().unwrap()).unwrap();
        let key = Key { attachment: Attachment { network: "pods".into(), ..attachment("sandbox") }, role: Role::Pod };
        let record = Record { netns: gone, plan: plan.to_string(), ..Record::default() };
        store.amend(&key, 1, |_none| Ok::<_, ()>(Some(record))).unwrap();
    }
    let found = entries(dir.path(), None).unwrap();
    // One candidate for the sandbox, with the pod's name.
    assert_eq!(found.len(), 1);
    assert!(found[0].is_pod);
    assert_eq!(found[0].pod.as_ref().map(|pod| pod.uid.as_str()), Some("c"));
    delete(dir.path(), &found[0]).unwrap();
    // An attachment that the pod's entry did not name has its own entry for the next round.
    let left = entries(dir.path(), None).unwrap();
    assert!(left.len() == 1 && !left[0].is_pod, "{left:?}");
}

/// An agent that sees the node's files below a prefix removes what is in the namespace where it found it.
#[test]
fn a_removal_uses_the_path_of_the_look() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (state, log) = (dir.path().join("state"), dir.path().join("log"));
    std::fs::create_dir(&state).unwrap();
    let script = format!("#!/bin/sh\necho \"$CNI_COMMAND $CNI_NETNS\" >> {}\n", log.display());
    let plugin = dir.path().join("theirs");
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let external = serde_json::json!([{
        "plugin": "theirs", "conf": {"cniVersion": "1.0.0", "name": "net", "type": "theirs"}, "path": [dir.path()],
        "args": "", "netns": "/run/netns/x",
    }]);
    {
        let mut store = NodeStore::open(&state, &netlink::boot_id().unwrap()).unwrap();
        let key = Key { attachment: attachment("sandbox"), role: Role::Attachment };
        let record = Record { netns: "/run/netns/x".to_owned(), externals: external.to_string(), ..Record::default() };
        store.amend(&key, 1, |_none| Ok::<_, ()>(Some(record))).unwrap();
    }
    let found = entries(&state, Some(dir.path())).unwrap();
    delete(&state, &found[0]).unwrap();
    let here = dir.path().join("run/netns/x");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("DEL {}\n", here.display()));
    assert!(entries(&state, None).unwrap().is_empty());
}

#[test]
fn a_grace_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    write_entry(dir.path(), "dead", &dir.path().join("gone"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let sweep = sweep(dir.path(), Duration::from_secs(3_600));
        let mut candidates = Candidates::default();
        for _look in 0..3 {
            assert!(sweep.look(&mut candidates, &mut Audit::default()).await.is_err());
        }
        assert_eq!(containers(dir.path()), ["dead"]);
    });
}

#[test]
fn a_namespace_that_cannot_be_seen_is_not_gone() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone").display().to_string();
    assert_eq!(has_netns(&gone, None), Some(false));
    // The directory does not exist in the agent's mount namespace.
    assert_eq!(has_netns("/nowhere/at/all/ns", None), None);
    assert_eq!(has_netns("", None), None);
    assert_eq!(has_netns("/proc/self/ns/net", None), Some(true));
    // A file that is not a namespace: the runtime's mount is gone, or is not visible in the agent's mount namespace.
    std::fs::write(dir.path().join("plain"), "").unwrap();
    assert_eq!(has_netns(&dir.path().join("plain").display().to_string(), None), None);
}

#[test]
fn the_pod_of_an_entry_is_that_of_its_request() {
    let pod = |text: &str| pod_of(text).map(|pod| format!("{}/{} {}", pod.namespace, pod.name, pod.uid));
    let trace = r#"{"request": {"pod": {"namespace": "a", "name": "b", "uid": "c", "labels": []}}}"#;
    assert_eq!(pod(trace), Some("a/b c".to_owned()));
    assert_eq!(
        pod(r#"{"choice": {"request": {"pod": {"namespace": "a", "name": "b", "uid": "c"}}}}"#),
        Some("a/b c".to_owned())
    );
    // Without a uid, the pod cannot be known to be gone.
    assert_eq!(pod(r#"{"request": {"pod": {"namespace": "a", "name": "b", "uid": ""}}}"#), None);
    assert_eq!(pod(r#"{"request": {"pod": null}}"#), None);
    assert_eq!(pod(""), None);
}

/// An ADD that runs while the time of day is set forward looks old by that clock, but not by the agent's own.
#[test]
fn an_entry_is_no_older_than_the_agent_has_known_it() {
    let dir = tempfile::tempdir().unwrap();
    write_entry(dir.path(), "a", Path::new("/run/netns/a"));
    let sweep = sweep(dir.path(), Duration::ZERO);
    let mut found = entries(dir.path(), None).unwrap();
    found[0].age = Duration::from_secs(86_400);
    assert_eq!(sweep.seen_for(&found), [Duration::ZERO]);
    std::thread::sleep(Duration::from_millis(5));
    let later = sweep.seen_for(&found)[0];
    assert!(later > Duration::ZERO && later < judge::SETTLED, "{later:?}");
    // It was removed and came back.
    assert!(sweep.seen_for(&[]).is_empty());
    assert_eq!(sweep.seen_for(&found), [Duration::ZERO]);
}

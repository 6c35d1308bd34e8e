//! The service `status`: one write per status, retried until it is there, and only of the pod that it is about.

use std::thread;
use std::time::Duration;

use serde_json::json;
use weft_core::agent::pod::Definition;
use weft_core::agent::status::StatusReply;

use super::{Place, wait_until};

#[test]
fn a_status_is_one_write_and_is_retried_until_it_is_there() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    assert_eq!(place.report("u1", "[1]", Duration::from_secs(20)), StatusReply::Written);
    assert_eq!(place.annotations(), [("u1".to_owned(), "[1]".to_owned())]);
    wait_until("the event is sent", || place.api.state().written.iter().any(|(resource, _)| resource == "events"));
    place.api.change(|state| state.hangs = true);
    let late = place.report("u1", "[2]", Duration::from_millis(600));
    assert!(matches!(late, StatusReply::Later { .. }), "{late:?}");
    // It would survive the agent.
    let kept = place.dir.path().join("state/agent/status");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1);
    let newer = place.report("u1", "[3]", Duration::from_millis(600));
    assert!(matches!(newer, StatusReply::Later { .. }), "{newer:?}");
    place.api.change(|state| state.hangs = false);
    wait_until("the newest status is written", || place.annotations().iter().any(|(_, text)| text == "[3]"));
    wait_until("nothing is left to write", || std::fs::read_dir(&kept).unwrap().count() == 0);
}

/// The caller of an older status gives up only after a newer one of the pod was written, and leaves nothing behind that
/// the next agent would write over it.
#[test]
fn an_old_status_that_times_out_is_not_kept() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    let accepts = |token: &str| place.api.change(|state| state.token = token.to_owned());
    accepts("another");
    thread::scope(|scope| {
        // After some refusals, its next try is seconds away.
        let old = scope.spawn(|| place.report("u1", "[\"old\"]", Duration::from_secs(5)));
        thread::sleep(Duration::from_millis(3_500));
        accepts("one");
        assert_eq!(place.report("u1", "[\"new\"]", Duration::from_secs(20)), StatusReply::Written);
        let old = old.join().unwrap();
        assert!(matches!(old, StatusReply::Later { .. }), "{old:?}");
    });
    let kept = place.dir.path().join("state/agent/status");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 0, "the next agent would write the old status");
    assert_eq!(place.annotations().last().unwrap().1, "[\"new\"]");
}

#[test]
fn an_old_status_is_not_written_after_two_newer_ones() {
    let place = Place::new();
    place.pod("web", "u1", json!({}));
    // Unlike a hanging request, a refused one is tried again after a pause.
    let accepts = |token: &str| place.api.change(|state| state.token = token.to_owned());
    accepts("another");
    let old = place.report("u1", "[1]", Duration::from_millis(600));
    assert!(matches!(old, StatusReply::Later { .. }), "{old:?}");
    accepts("one");
    assert_eq!(place.report("u1", "[2]", Duration::from_secs(20)), StatusReply::Written);
    accepts("another");
    let newest = place.report("u1", "[3]", Duration::from_millis(600));
    assert!(matches!(newest, StatusReply::Later { .. }), "{newest:?}");
    accepts("one");
    wait_until("the newest status is written", || place.annotations().iter().any(|(_, text)| text == "[3]"));
    let kept = place.dir.path().join("state/agent/status");
    wait_until("nothing is left to write", || std::fs::read_dir(&kept).unwrap().count() == 0);
    assert!(place.annotations().iter().all(|(_, text)| text != "[1]"), "{:?}", place.annotations());
}

#[test]
fn another_pod_of_that_name_is_never_changed_and_a_missing_right_is_reported() {
    let place = Place::new();
    place.pod("web", "u2", json!({}));
    assert_eq!(place.report("u1", "[]", Duration::from_secs(20)), StatusReply::Gone);
    assert!(place.annotations().is_empty());
    place.api.change(|state| state.forbidden.push(("patch".to_owned(), "pods/status".to_owned())));
    match place.report("u2", "[]", Duration::from_secs(20)) {
        StatusReply::Refused { message } => {
            assert!(message.contains("team/web") && message.contains("403"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    place.api.change(|state| state.forbidden = vec![("get".to_owned(), "network-attachment-definitions".to_owned())]);
    place.pod("web", "u2", json!({"k8s.v1.cni.cncf.io/networks": "a"}));
    wait_until("the definition cannot be read", || {
        matches!(place.info("web", "u2").networks.get("team/a"), Some(Definition::Failed { .. }))
    });
}

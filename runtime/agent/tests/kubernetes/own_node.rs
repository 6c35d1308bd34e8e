//! An agent with the name of another node, or of none.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weft_agent::PolicyOptions;
use weft_core::agent::claim::{ClaimRequest, ClusterClaims};
use weft_core::agent::{AgentError, ask};

use super::{LONG, NODE, Place, http, wait_until};

fn node(name: &str, boot_id: &str) -> Value {
    let info = json!({
        "bootID": boot_id, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
        "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
    });
    json!({"metadata": {"name": name}, "status": {"nodeInfo": info}})
}

impl Place {
    /// Checks that the agent is not ready, and says why.
    fn is_not_ready(&self, words: &[&str]) {
        let has_all = |text: &str| words.iter().all(|word| text.contains(word));
        wait_until("the fault of the node", || {
            self.faults().is_some_and(|faults| faults.iter().any(|fault| has_all(fault)))
        });
        let ready = http(&self.dir.path().join("http.sock"), "/readyz");
        assert!(ready.contains("503") && has_all(&ready), "{ready}");
    }

    /// Checks that the agent is not ready, answers no ADD and claims nothing, and that each of them says why.
    fn is_refused(&self, uid: &str, words: &[&str]) {
        self.is_not_ready(words);
        // The pod itself may show the mistake first, with another text.
        match self.query("web", uid, LONG).unwrap_err() {
            AgentError::Refused { message, .. } => assert!(message.contains("--node-name"), "{message}"),
            other => panic!("{other}"),
        }
        let request = ClaimRequest::Grant { nonce: "n".to_owned(), cell_size: 0, pool: String::new() };
        match ask::<ClusterClaims>(&self.socket, &request, LONG).unwrap_err() {
            AgentError::Refused { message, .. } => {
                assert!(message.contains("not served") && message.contains("--node-name"), "{message}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_node_name_that_no_node_has_is_an_error() {
    let place = Place::not_started();
    place.start_as("nobody", PolicyOptions::default());
    place.is_not_ready(&["no Node \"nobody\"", "--node-name"]);
    // It was only late.
    place.api.put_object("nodes", node("nobody", ""));
    wait_until("the agent is ready", || place.faults().is_some_and(|faults| faults.is_empty()));
}

#[test]
fn the_name_of_another_node_is_an_error() {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let place = Place::not_started();
    place.api.put_object("nodes", node(NODE, boot_id.trim()));
    place.api.put_object("nodes", node("n2", "11111111-2222-3333-4444-555555555555"));
    place.pod("web", "u1", json!({}));
    place.start_as("n2", PolicyOptions::default());
    place.is_refused("u1", &["this machine is node \"n1\"", "\"n2\"", "--node-name"]);
}

/// Nodes that say nothing about their boot: the first pod shows the mistake.
#[test]
fn a_pod_that_is_bound_to_another_node_is_an_error() {
    let place = Place::not_started();
    place.pod("web", "u1", json!({}));
    place.start_as("n2", PolicyOptions::default());
    wait_until("the agent is ready", || place.faults().is_some_and(|faults| faults.is_empty()));
    place.query("web", "u1", LONG).unwrap_err();
    place.is_refused("u1", &["team/web", "\"n1\"", "\"n2\"", "--node-name"]);
}

/// A Node that has not reported this boot yet is no other machine's.
#[test]
fn a_node_that_has_just_booted_is_not_called_wrong() {
    let place = Place::not_started();
    place.api.put_object("nodes", node(NODE, "11111111-2222-3333-4444-555555555555"));
    place.start(PolicyOptions::default());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(place.faults(), Some(Vec::new()));
}

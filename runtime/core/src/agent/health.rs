//! Service `health`: whether the node is ready, as far as the agent knows. STATUS asks it.

use serde::{Deserialize, Serialize};

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Health;

impl Service for Health {
    const NAME: &'static str = "health";
    const VERSION: u32 = 1;
    type Request = HealthRequest;
    type Reply = HealthReply;
}

/// Asks for the agent's health. It is answered from memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthRequest {}

/// The agent's health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReply {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The name of its Node object, if it serves Kubernetes.
    pub node: Option<String>,
    /// What prevents the node from being ready, one line each; empty if it is ready.
    pub faults: Vec<String>,
}

//! Service `policy`: the policies that networks name by digest, and whether they are on this
//! node.

use serde::{Deserialize, Serialize};

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Policy;

impl Service for Policy {
    const NAME: &'static str = "policy";
    const VERSION: u32 = 1;
    type Request = PolicyRequest;
    type Reply = PolicyReply;
}

/// Asks for the list. It is answered from memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyRequest {}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyReply {
    /// By reference.
    pub policies: Vec<PolicyRow>,
}

/// A policy that some network names by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The reference, with its digest.
    pub reference: String,
    /// The networks that name it, `NAMESPACE/NAME`.
    pub networks: Vec<String>,
    /// Whether it is here.
    pub state: PolicyState,
}

/// The state of a policy on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// It is being fetched or compiled.
    Fetching,
    /// It is verified and compiled.
    Ready,
    /// The last try failed; another one follows.
    Failed {
        /// Why.
        reason: String,
    },
}

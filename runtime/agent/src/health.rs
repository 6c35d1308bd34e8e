//! What prevents this node from being ready, by part of the agent. `/readyz` and the service `health` (used by STATUS)
//! use the same list.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use weft_core::agent::Refusal;
use weft_core::agent::health::{Health as HealthService, HealthReply, HealthRequest};

use crate::server::{Deadline, Handler};

/// The faults of the parts.
#[derive(Debug, Default)]
pub(crate) struct Health(RefCell<BTreeMap<&'static str, String>>);

impl Health {
    /// Sets or clears a part's fault.
    pub(crate) fn set(&self, part: &'static str, fault: Option<String>) {
        let mut faults = self.0.borrow_mut();
        match fault {
            Some(text) => faults.insert(part, text),
            None => faults.remove(part),
        };
    }

    /// Returns one line per fault.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.0.borrow().iter().map(|(part, fault)| format!("{part}: {fault}")).collect()
    }
}

/// The service.
pub(crate) struct HealthHandler {
    pub(crate) health: Rc<Health>,
    pub(crate) node: Option<String>,
}

impl Handler for HealthHandler {
    type Service = HealthService;

    async fn handle(&self, _request: HealthRequest, _deadline: Deadline) -> Result<HealthReply, Refusal> {
        Ok(HealthReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.node.clone(),
            faults: self.health.faults(),
        })
    }
}

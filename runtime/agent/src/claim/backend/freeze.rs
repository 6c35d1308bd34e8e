//! Freezing a ledger in Kubernetes: the admission policy in `deploy/crds` refuses claims based on the API server's own
//! copy of the LedgerState. Until that copy is updated, a frozen ledger would still give out addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weft_core::ledger::remote::Owner;

use super::contract::WriteError;
use super::kubernetes::Kubernetes;
use crate::claim::object::{ClaimOwner, ClaimSpec, ClaimState, Sharing};

/// How long the update of the API server's copy may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Waits until the API server refuses a claim. The claim is a dry run, which is never written.
///
/// # Errors
/// The API server accepts claims although the ledger is frozen: it lacks the admission policy.
pub(super) async fn wait_until_enforced(backend: &Kubernetes) -> Result<(), WriteError> {
    let owner = Owner { kind: "Sandbox".to_owned(), uid: "freeze".to_owned(), ..Owner::default() };
    let probe = ClaimSpec {
        domain: "weft-freeze-probe".to_owned(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        owner: ClaimOwner { owner, network: String::new(), interface: String::new(), slot: 0 },
        pool: String::new(),
        prefix: 32,
        state: ClaimState::Active,
        sharing: Sharing::Exclusive,
        rest_seconds: 0,
        in_use_by: None,
        holders: Vec::new(),
    };
    let end = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < end {
        match backend.dry_create(&probe).await {
            Err(WriteError::Frozen) => return Ok(()),
            Err(WriteError::Refused(text)) => return Err(WriteError::Refused(text)),
            Err(error) => last = format!(": {error}"),
            Ok(()) => last = "; apply deploy/crds/ipam.weft.dev.yaml, which has the admission policy".to_owned(),
        }
        sleep(PAUSE).await;
    }
    Err(WriteError::Refused(format!("the freeze is written, but the API server does not enforce it{last}")))
}

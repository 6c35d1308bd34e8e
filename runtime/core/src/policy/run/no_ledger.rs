//! The ledger of calls without one: `validate` and `config-schema`.

use std::net::IpAddr;

use weft_host_abi::types::{ClaimInfo, LastClaim, LedgerView, Range, Usage};

const NO_LEDGER: &str = "there is none to ask while a configuration is checked";

/// Answers no query.
pub(super) struct NoLedger;

impl LedgerView for NoLedger {
    fn claimed_by(&self, _address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn next_free(&self, _range: &Range, _from: IpAddr) -> Result<Option<IpAddr>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn usage(&self, _range: &Range) -> Result<Usage, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
        Err(NO_LEDGER.to_owned())
    }

    fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
        Err(NO_LEDGER.to_owned())
    }
}

//! The evidence of a call, with or without an answer: its log, its ledger queries, and its cost. With the request, this
//! is all that is needed to run the call again.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_host_abi::guest::LogLevel;
use weft_host_abi::types::{ClaimInfo, Denial, LastClaim, LedgerView, Range, Usage};

use crate::policy::PolicyError;

/// Maximum number of recorded queries; a call with more cannot be replayed.
const EXCHANGES_MAX: usize = 256;

/// Maximum number of claims in all recorded answers together.
const CLAIMS_MAX: usize = 512;

/// A ledger query and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are the arguments of `LedgerView`'s functions")]
pub enum Exchange {
    /// [`LedgerView::claimed_by`].
    ClaimedBy { address: IpAddr, answer: Option<ClaimInfo> },
    /// [`LedgerView::next_free`].
    NextFree { range: Range, from: IpAddr, answer: Option<IpAddr> },
    /// [`LedgerView::usage`].
    Usage { range: Range, answer: Usage },
    /// [`LedgerView::last_claimed`].
    LastClaimed { range: Range, answer: Option<LastClaim> },
    /// [`LedgerView::held_by`].
    HeldBy { owner: String, answer: Vec<ClaimInfo> },
}

/// The queries of a call, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exchanges {
    /// The recorded queries.
    pub recorded: Vec<Exchange>,
    /// How many later queries were not recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A line a policy logged; control characters are escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its level.
    pub level: LogLevel,
    /// Its text.
    pub text: String,
}

/// The evidence of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Fuel the call used; the same for the same request, ledger and component.
    pub fuel: u64,
    /// Bytes of linear memory at the end of the call, which is the guest's maximum.
    pub memory: usize,
    /// Host calls, including log lines.
    pub calls: u32,
    /// What the policy logged.
    pub log: Vec<LogLine>,
    /// Its ledger queries.
    pub ledger: Exchanges,
}

/// A call of a policy: its outcome and its evidence.
#[derive(Debug)]
pub struct Called<T> {
    /// The answer (not yet verified), the refusal, or why there is neither.
    pub outcome: Result<Result<T, Denial>, PolicyError>,
    /// What it left behind.
    pub evidence: Evidence,
    /// `sha256:...` of the component.
    pub digest: String,
    /// `sha256:...` of the granted data directory, if the component can read one.
    pub data_digest: Option<String>,
}

/// A policy's answer, and its cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// The answer (not yet verified), or the refusal.
    pub outcome: Result<T, Denial>,
    /// Fuel the call used.
    pub fuel: u64,
    /// Host calls, including log lines.
    pub calls: u32,
    /// What the policy logged.
    pub log: Vec<LogLine>,
    /// `sha256:...` of the component.
    pub digest: String,
    /// `sha256:...` of the granted data directory.
    pub data_digest: Option<String>,
}

// === impl Called ===

impl<T> Called<T> {
    /// Returns only the answer.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if there is none within the limits, or it is not a value of the contract.
    pub fn answered(self) -> Result<Answer<T>, PolicyError> {
        let Self { outcome, evidence: Evidence { fuel, calls, log, .. }, digest, data_digest } = self;
        Ok(Answer { outcome: outcome?, fuel, calls, log, digest, data_digest })
    }
}

// === impl Exchanges ===

impl Exchanges {
    /// Records a query, while there is room.
    pub(super) fn record(&mut self, exchange: Exchange) {
        let claims = |exchange: &Exchange| match exchange {
            Exchange::HeldBy { answer, .. } => answer.len(),
            _ => 0,
        };
        let held: usize = self.recorded.iter().map(claims).sum();
        if self.dropped > 0 || self.recorded.len() >= EXCHANGES_MAX || held + claims(&exchange) > CLAIMS_MAX {
            self.dropped += 1;
        } else {
            self.recorded.push(exchange);
        }
    }
}

/// A ledger that only knows what was recorded.
#[derive(Debug, Clone)]
pub struct ReplayLedger(Exchanges);

impl ReplayLedger {
    /// Creates a ledger that gives the recorded answers.
    #[must_use]
    pub fn new(exchanges: Exchanges) -> Self {
        Self(exchanges)
    }

    fn find<T>(&self, question: &str, answer: impl Fn(&Exchange) -> Option<T>) -> Result<T, String> {
        let more = match self.0.dropped {
            0 => String::new(),
            dropped => format!(" ({dropped} questions were too many to be recorded)"),
        };
        let unknown = || format!("the record has no answer to {question}{more}");
        self.0.recorded.iter().find_map(answer).ok_or_else(unknown)
    }
}

/// The ledger does not change during a call, so an answer is valid for any number and order of queries.
impl LedgerView for ReplayLedger {
    fn claimed_by(&self, wanted: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.find(&format!("claimed-by({wanted})"), |exchange| match exchange {
            Exchange::ClaimedBy { address, answer } if *address == wanted => Some(answer.clone()),
            _ => None,
        })
    }

    fn next_free(&self, wanted: &Range, start: IpAddr) -> Result<Option<IpAddr>, String> {
        let question = format!("next-free({}-{}, {start})", wanted.first, wanted.last);
        self.find(&question, |exchange| match exchange {
            Exchange::NextFree { range, from, answer } if range == wanted && *from == start => Some(*answer),
            _ => None,
        })
    }

    fn usage(&self, wanted: &Range) -> Result<Usage, String> {
        self.find(&format!("usage({}-{})", wanted.first, wanted.last), |exchange| match exchange {
            Exchange::Usage { range, answer } if range == wanted => Some(*answer),
            _ => None,
        })
    }

    fn last_claimed(&self, wanted: &Range) -> Result<Option<LastClaim>, String> {
        self.find(&format!("last-claimed({}-{})", wanted.first, wanted.last), |exchange| match exchange {
            Exchange::LastClaimed { range, answer } if range == wanted => Some(*answer),
            _ => None,
        })
    }

    fn held_by(&self, wanted: &str) -> Result<Vec<ClaimInfo>, String> {
        self.find(&format!("held-by({wanted:?})"), |exchange| match exchange {
            Exchange::HeldBy { owner, answer } if owner == wanted => Some(answer.clone()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_record_is_bounded_and_says_so() {
        let mut exchanges = Exchanges::default();
        for number in 0..=EXCHANGES_MAX {
            let address = IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()));
            exchanges.record(Exchange::ClaimedBy { address, answer: None });
        }
        assert_eq!((exchanges.recorded.len(), exchanges.dropped), (EXCHANGES_MAX, 1));
        let ledger = ReplayLedger::new(exchanges);
        assert_eq!(ledger.claimed_by("0.0.0.7".parse().unwrap()), Ok(None));
        let error = ledger.claimed_by("9.9.9.9".parse().unwrap()).unwrap_err();
        assert!(error.contains("claimed-by(9.9.9.9)") && error.contains("1 questions were too many"), "{error}");
    }
}

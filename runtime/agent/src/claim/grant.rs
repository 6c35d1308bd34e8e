//! Asks a cluster ledger for the addresses of an intent.
//!
//! `weft` has written the intent. This module sends its creates, one address after the other, and records the outcome
//! of each. The create decides who has the address. After a lost answer, a quorum read determines the outcome, which is
//! never guessed.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weft_core::ledger::remote::{AddressState, Answer, RemoteAddress, RemoteRow, Versions};
use weft_core::store::{NodeStore, StoreError};

use super::backend::{Backend, ReadError, WriteError};
use super::cells::{CellError, Sharing as CellSharing, Verdict};
use super::object::{Claim, ClaimSpec, ClaimState, Holder, Identity, Sharing};
use super::persist::{Persisted, ipam_claim, persist};

/// Pause between two requests to a ledger that does not answer.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// The outcome of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// Every wanted address has one candidate granted.
    All,
    /// All candidates of a want belong to somebody else.
    Lost {
        /// The index of the want.
        want: usize,
        /// Every address of this intent that turned out to be taken, with its holder.
        taken: Vec<(IpAddr, String)>,
    },
}

/// Why an intent was not granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The intent was ended by DEL, or because of its age.
    #[error("the request was withdrawn: its attachment was deleted, or it took too long; try again")]
    Withdrawn,
    /// The deadline passed.
    #[error("the cluster ledger did not answer in time; try again: {0}")]
    Deadline(String),
    /// The ledger is frozen, or refuses.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The IPAMClaim is gone, or another one has its name.
    #[error(
        "IPAMClaim {0} no longer exists; create it again, or remove ipam-claim-reference from the pod's annotation"
    )]
    NoIpamClaim(String),
    /// Another user of the IPAMClaim was first, with other addresses.
    #[error("another pod set different addresses in IPAMClaim {0} at the same time; try again")]
    OtherAddresses(String),
    /// `doubt`: its history differs from what was seen before.
    #[error(
        "the cluster ledger was restored from a backup ({0}) and grants no addresses; run \"weftctl ledger thaw\" once every node has confirmed, then try again"
    )]
    Doubt(String),
    /// A person has fenced this machine in this boot.
    #[error("a person has fenced this machine while it runs (weftctl ledger fence); reboot it")]
    Fenced,
    /// The cell of an address cannot be used.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The node's own store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outcome of one candidate.
enum Tried {
    Granted,
    Lost(String),
}

/// Requests for one candidate whose answers are unknown: a server may still execute them.
struct Sent {
    creates: u32,
    /// An update fails once the claim has changed, so it concerns only a claim that was not granted.
    adoption: bool,
}

impl Sent {
    fn is_unanswered(&self) -> bool {
        self.creates > 0 || self.adoption
    }

    /// The claim turned out to have this nonce, so one request was executed. If it may have been the adoption, the
    /// creates are still unknown.
    fn found(&mut self) {
        if !self.adoption {
            self.creates = self.creates.saturating_sub(1);
        }
    }
}

/// An intent being granted.
pub struct Grant<'a, B> {
    /// The cluster ledger.
    pub backend: &'a B,
    /// The node's store.
    pub store: &'a RefCell<NodeStore>,
    /// The requesting machine.
    pub identity: &'a Identity,
    /// When to give up.
    pub deadline: Instant,
    /// Set if the domain is in block mode: only addresses in a shared cell may be claimed.
    pub(in crate::claim) sharing: Option<CellSharing<'a>>,
    /// The AddressPool that the addresses are drawn from; empty if there is none.
    pub(in crate::claim) pool: &'a str,
    /// Counts creates that others were faster with.
    pub(in crate::claim) lost: &'a Cell<u64>,
}

impl<B: Backend> Grant<'_, B> {
    /// Asks for every wanted address, IPv4 first, so that two attachments never each hold one half of a dual-stack
    /// pair.
    ///
    /// # Errors
    /// See [`GrantError`]. The caller drops the intent; addresses that were requested then become tombstones.
    pub async fn run(&self, nonce: &str) -> Result<Granted, GrantError> {
        let row = self.store.borrow().remote_row(nonce)?.ok_or(GrantError::Withdrawn)?;
        let mut wants: Vec<(bool, usize)> =
            row.addresses.iter().map(|address| (address.address.addr().is_ipv6(), address.want)).collect();
        wants.sort_unstable();
        wants.dedup();
        let mut taken = Vec::new();
        for (_family, want) in wants {
            if !self.try_want(&row, want, &mut taken).await? {
                return Ok(Granted::Lost { want, taken });
            }
        }
        self.bind(&row).await?;
        self.certain()?;
        Ok(Granted::All)
    }

    /// `status_cas`: writes the addresses of an IPAMClaim into its status before any link is made. If another first
    /// user was faster, or the IPAMClaim is deleted, the addresses are given back.
    async fn bind(&self, row: &RemoteRow) -> Result<(), GrantError> {
        if !row.owner.is_ipam_claim() {
            return Ok(());
        }
        self.certain()?;
        let mut pause = RETRY;
        loop {
            let trouble = match persist(self.backend, self.store, row, AddressState::Intent).await? {
                Persisted::Written => return Ok(()),
                Persisted::Gone => return Err(GrantError::NoIpamClaim(ipam_claim(row))),
                Persisted::Others => return Err(GrantError::OtherAddresses(ipam_claim(row))),
                Persisted::Unclear(trouble) | Persisted::Refused(trouble) => trouble,
            };
            self.wait(&mut pause, trouble).await?;
        }
    }

    /// Tries the candidates of one want in order. Returns whether one was granted.
    async fn try_want(
        &self,
        row: &RemoteRow,
        want: usize,
        taken: &mut Vec<(IpAddr, String)>,
    ) -> Result<bool, GrantError> {
        for candidate in row.addresses.iter().filter(|candidate| candidate.want == want) {
            if candidate.state != AddressState::Intent {
                return Err(GrantError::Withdrawn);
            }
            match self.candidate(row, candidate).await? {
                Tried::Granted => return Ok(true),
                Tried::Lost(by) => {
                    self.lost.set(self.lost.get() + 1);
                    taken.push((candidate.address.addr(), by));
                }
            }
        }
        Ok(false)
    }

    /// POST; if the outcome is uncertain, a quorum GET decides.
    async fn candidate(&self, row: &RemoteRow, candidate: &RemoteAddress) -> Result<Tried, GrantError> {
        let address = candidate.address.addr();
        let spec = ClaimSpec::new(row, address, self.identity).ok_or(GrantError::Withdrawn)?;
        let spec = ClaimSpec { pool: self.pool.to_owned(), ..spec };
        if let Some(sharing) = &self.sharing
            && let Verdict::Others(by) = sharing.ensure(self.backend, (&row.domain, address), None).await?
        {
            return Ok(Tried::Lost(by));
        }
        let mut pause = RETRY;
        let mut sent = Sent { creates: u32::from(candidate.answer == Answer::None), adoption: false };
        loop {
            self.send_row(row, address)?;
            let trouble = match self.backend.create(&spec, None).await {
                Ok(versions) => return self.granted(row, address, &versions, &sent),
                Err(error @ (WriteError::Frozen | WriteError::Refused(_))) => {
                    // Not executed, so there is nothing to give back.
                    if !sent.is_unanswered() {
                        self.note(row, address, Answer::NotSent, None)?;
                    }
                    return Err(error.into());
                }
                Err(WriteError::Conflict) => None,
                Err(WriteError::NoAnswer(text)) => {
                    sent.creates += 1;
                    Some(text)
                }
            };
            match self.look(row, &spec, &mut sent).await {
                Ok(Some(tried)) => return Ok(tried),
                // The name is free: create again.
                Ok(None) => self.wait(&mut pause, trouble.unwrap_or_default()).await?,
                Err(Looked::Trouble(text)) => self.wait(&mut pause, text).await?,
                Err(Looked::Failed(error)) => return Err(error),
            }
        }
    }

    /// Returns the holder of the claim by a quorum read; `None` if there is none.
    async fn look(&self, row: &RemoteRow, spec: &ClaimSpec, sent: &mut Sent) -> Result<Option<Tried>, Looked> {
        let address = spec.address;
        let Some(claim) = self.backend.get(&spec.name()).await? else { return Ok(None) };
        if claim.spec.is_held_by(&row.nonce) {
            sent.found();
            return Ok(Some(self.granted(row, address, &claim.versions, sent)?));
        }
        if !self.may_adopt(&claim, spec)? {
            // A create that may still arrive leaves a tombstone.
            if !sent.is_unanswered() {
                self.note(row, address, Answer::Lost, None)?;
            }
            return Ok(Some(Tried::Lost(describe(&claim))));
        }
        // `adopt_write`: taking over a claim is a write, so that a concurrent removal fails.
        self.send_row(row, address)?;
        match self.backend.replace(&adopted(&claim, spec), &claim.versions, None).await {
            Ok(versions) => Ok(Some(self.granted(row, address, &versions, sent)?)),
            Err(WriteError::Conflict) => Err(Looked::Trouble("the claim changes all the time".to_owned())),
            Err(WriteError::NoAnswer(text)) => {
                sent.adoption = true;
                Err(Looked::Trouble(text))
            }
            Err(error) => Err(Looked::Failed(error.into())),
        }
    }

    /// `adopt_own`: a claim may be adopted if it has the same owner, only this machine holds it, and no attachment in
    /// this store uses it. Two sandboxes of one pod may be added at once; taking the claim from the other one would
    /// free its address when this ADD fails.
    fn may_adopt(&self, claim: &Claim, spec: &ClaimSpec) -> Result<bool, StoreError> {
        let same_owner = claim.spec.owner == spec.owner && claim.spec.state != ClaimState::Conflict;
        if !same_owner || claim.deleting {
            return Ok(false);
        }
        if claim.spec.sharing == Sharing::Shared {
            // One address on two interfaces of a pod is useless.
            let twin = |holder: &Holder| {
                spec.holders.iter().any(|new| holder.pod == new.pod && holder.interface != new.interface)
            };
            return Ok(!claim.spec.holders.iter().any(twin));
        }
        for holder in &claim.spec.holders {
            if holder.machine != self.identity.machine || self.is_in_use(&holder.nonce, spec.address)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether the store has the address under this nonce as an intent or an entry.
    fn is_in_use(&self, nonce: &str, address: IpAddr) -> Result<bool, StoreError> {
        let row = self.store.borrow().remote_row(nonce)?;
        let state = row.and_then(|row| row.address(address).map(|address| address.state));
        Ok(matches!(state, Some(AddressState::Intent | AddressState::Entry)))
    }

    /// `doubt`: answers of a restored ledger are not used.
    fn certain(&self) -> Result<(), GrantError> {
        self.backend.history().doubt().map_or(Ok(()), |why| Err(GrantError::Doubt(why)))
    }

    /// `send_row`: checks that the row is an intent at this instant.
    fn send_row(&self, row: &RemoteRow, address: IpAddr) -> Result<(), GrantError> {
        self.certain()?;
        let is_intent = self.store.borrow_mut().note_sending(&row.nonce, address)?;
        if is_intent { Ok(()) } else { Err(GrantError::Withdrawn) }
    }

    /// Notes a grant. A create that may still be executed is noted first: the address's tombstone will wait for it.
    fn granted(&self, row: &RemoteRow, address: IpAddr, versions: &Versions, sent: &Sent) -> Result<Tried, GrantError> {
        if sent.creates > 0 {
            self.store.borrow_mut().note_unanswered(&row.nonce, address)?;
        }
        self.note(row, address, Answer::Granted, kept_versions(self.backend, versions))?;
        Ok(Tried::Granted)
    }

    fn note(
        &self,
        row: &RemoteRow,
        address: IpAddr,
        answer: Answer,
        versions: Option<&Versions>,
    ) -> Result<(), GrantError> {
        Ok(self.store.borrow_mut().note_answer(&row.nonce, address, answer, versions)?)
    }

    /// Waits before the next try, with some jitter.
    async fn wait(&self, pause: &mut Duration, trouble: String) -> Result<(), GrantError> {
        let jittered = pause.mul_f64(0.5 + fastrand::f64());
        if Instant::now() + jittered >= self.deadline {
            return Err(GrantError::Deadline(trouble));
        }
        sleep(jittered).await;
        *pause = (*pause * 2).min(LONGEST_RETRY);
        Ok(())
    }
}

/// Why a read of a claim decided nothing.
enum Looked {
    /// Read again later.
    Trouble(String),
    Failed(GrantError),
}

impl From<ReadError> for Looked {
    fn from(error: ReadError) -> Self {
        Self::Trouble(error.0)
    }
}

impl From<StoreError> for Looked {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<GrantError> for Looked {
    fn from(error: GrantError) -> Self {
        Self::Failed(error)
    }
}

/// Returns the versions that are worth keeping: those with which the claim can be given back without a read.
pub(super) fn kept_versions<'a>(backend: &impl Backend, versions: &'a Versions) -> Option<&'a Versions> {
    Some(versions).filter(|_versions| backend.has_unique_versions())
}

/// Returns the claim with the new holder. An exclusive claim has only that one; a shared one loses the holder of this
/// machine's older sandbox of the same pod.
pub(super) fn adopted(claim: &Claim, spec: &ClaimSpec) -> ClaimSpec {
    let new: Vec<Holder> = spec.holders.clone();
    let same_pod = |holder: &Holder| {
        new.iter()
            .any(|new| holder.machine == new.machine && holder.pod == new.pod && holder.interface == new.interface)
    };
    let mut adopted = match claim.spec.sharing {
        Sharing::Exclusive => claim.spec.without_holders(|_holder| true),
        Sharing::Shared => claim.spec.without_holders(same_pod),
    };
    if !spec.pool.is_empty() {
        adopted.pool.clone_from(&spec.pool);
    }
    adopted.prefix = spec.prefix;
    adopted.rest_seconds = spec.rest_seconds;
    adopted.state = ClaimState::Active;
    adopted.in_use_by = None;
    adopted.holders.extend(new);
    adopted
}

/// Returns the holder of a claim, for messages.
pub(super) fn describe(claim: &Claim) -> String {
    if claim.spec.state == ClaimState::Conflict {
        return format!("{}, which answers for it on the wire", claim.spec.in_use_by.as_deref().unwrap_or("somebody"));
    }
    let holders: Vec<String> = claim.spec.holders.iter().map(Holder::describe).collect();
    match holders.is_empty() {
        true => format!(
            "{} {}/{}",
            claim.spec.owner.owner.kind, claim.spec.owner.owner.namespace, claim.spec.owner.owner.name
        ),
        false => holders.join(", "),
    }
}

//! Tests the protocol with a ledger in memory that loses, delays and duplicates requests. Each test names the rule that
//! it would break.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use weft_core::commit::ClaimError;
use weft_core::journal::Record;
use weft_core::ledger::remote::{AddressState, IntentAsk, Owner, scope};
use weft_core::ledger::{ClaimAsk, Want};
use weft_core::store::{Key, NodeStore, Role};
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::backend::memory::{Fault, Memory};
use super::record::write_record;
use super::{DrainError, Drained, Grant, GrantError, Granted, Identity, Looks, claim_name, drain, reverse_sweep};

/// The base of all times.
pub(super) const NOW: u64 = 1_000_000;
/// Late enough that a tombstone no longer waits for a late request.
pub(super) const LATER: u64 = NOW + 1000;

/// A machine with its store.
pub(super) struct Machine {
    pub(super) _dir: TempDir,
    pub(super) store: RefCell<NodeStore>,
    pub(super) identity: Identity,
    pub(super) server: Memory,
    pub(super) looks: RefCell<Looks>,
    /// `NOW` on this process's own clock.
    pub(super) start: std::time::Instant,
}

/// One attachment.
#[derive(Clone)]
pub(super) struct Pod {
    pub(super) uid: &'static str,
    container: &'static str,
}

impl Pod {
    pub(super) fn key(&self) -> Key {
        let attachment =
            Attachment { network: "storage".into(), container_id: self.container.into(), ifname: "net1".into() };
        Key { attachment, role: Role::Attachment }
    }

    fn owner(&self) -> Owner {
        let uid = self.uid.into();
        Owner { kind: "Pod".into(), namespace: "ns".into(), name: self.uid.into(), uid, ..Owner::default() }
    }
}

pub(super) const WEB: Pod = Pod { uid: "web", container: "sandbox-1" };
pub(super) const WEB_AGAIN: Pod = Pod { uid: "web", container: "sandbox-2" };
pub(super) const OTHER: Pod = Pod { uid: "other", container: "sandbox-3" };

pub(super) const THIRD: Pod = Pod { uid: "third", container: "sandbox-4" };

pub(super) fn wants(groups: &[&[&str]]) -> Vec<Want> {
    let candidates = |group: &[&str]| group.iter().map(|net| (net.parse().unwrap(), None)).collect();
    groups.iter().map(|group| Want { candidates: candidates(group), gateway: None }).collect()
}

pub(super) fn one_want() -> Vec<Want> {
    wants(&[&["10.0.0.1/24"]])
}

pub(super) fn address() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

impl Machine {
    pub(super) fn new(name: &str, machine: &str, server: &Memory) -> Self {
        Self::boot(TempDir::new().unwrap(), (name, machine, "boot-1"), server)
    }

    pub(super) fn boot(dir: TempDir, (name, machine, boot): (&str, &str, &str), server: &Memory) -> Self {
        let mut store = NodeStore::open(dir.path(), boot).unwrap();
        let identity = Identity {
            node: name.into(),
            machine: machine.into(),
            store_id: store.store_id().unwrap(),
            boot_id: boot.into(),
        };
        let (looks, start) = (RefCell::default(), std::time::Instant::now());
        Self { _dir: dir, store: RefCell::new(store), identity, server: server.clone(), looks, start }
    }

    pub(super) fn intend(&self, pod: &Pod, wants: &[Want], release: &ReleaseRule) -> String {
        self.intend_for(pod, &pod.owner(), wants, release)
    }

    pub(super) fn intend_for(&self, pod: &Pod, owner: &Owner, wants: &[Want], release: &ReleaseRule) -> String {
        let key = pod.key();
        let ask = IntentAsk { key: &key, ledger: "{}", domain: "default", owner, wants, release, now: NOW };
        self.store.borrow_mut().intend::<String>(&ask).unwrap()
    }

    pub(super) async fn grant(&self, nonce: &str) -> Result<Granted, GrantError> {
        let deadline = Instant::now() + Duration::from_millis(300);
        self.grant_from("", deadline, nonce).await.0
    }

    /// Also returns how many creates were lost to others.
    pub(super) async fn grant_from(
        &self,
        pool: &str,
        deadline: Instant,
        nonce: &str,
    ) -> (Result<Granted, GrantError>, u64) {
        let (backend, store, identity, lost) = (&self.server, &self.store, &self.identity, Cell::default());
        let granted = Grant { backend, store, identity, deadline, sharing: None, pool, lost: &lost }.run(nonce).await;
        (granted, lost.get())
    }

    pub(super) fn commit(
        &self,
        pod: &Pod,
        nonce: &str,
        wants: &[Want],
        release: &ReleaseRule,
    ) -> Result<(), ClaimError<String>> {
        let (key, scope) = (pod.key(), scope("default"));
        let ask = ClaimAsk { key: &key, scope: &scope, identities: &[], wants, release, now: NOW };
        let record = |_: &[_]| Ok(Record::default());
        self.store.borrow_mut().commit_intent(&ask, nonce, record).map(drop)
    }

    /// Writes this node's record, as its agent does before the first grant.
    pub(super) async fn write_record(&self) -> bool {
        write_record(&self.server, &self.identity, None).await.unwrap().outlives_taint
    }

    /// A whole ADD.
    pub(super) async fn add(&self, pod: &Pod) -> Result<String, GrantError> {
        let nonce = self.intend(pod, &one_want(), &ReleaseRule::Free);
        match self.grant(&nonce).await {
            Ok(Granted::All) => self.commit(pod, &nonce, &one_want(), &ReleaseRule::Free).unwrap(),
            Ok(Granted::Lost { .. }) => {
                self.give_up(&nonce);
                return Err(GrantError::Deadline("lost".into()));
            }
            Err(error) => {
                self.give_up(&nonce);
                return Err(error);
            }
        }
        Ok(nonce)
    }

    pub(super) fn give_up(&self, nonce: &str) {
        self.store.borrow_mut().give_up_intent(nonce, NOW).unwrap();
    }

    /// DEL, once the links are gone.
    pub(super) fn del(&self, pod: &Pod) {
        self.store.borrow_mut().release(&pod.key(), NOW).unwrap();
    }

    pub(super) async fn drain(&self, now: u64) -> usize {
        self.try_drain(now).await.unwrap().left
    }

    pub(super) async fn try_drain(&self, now: u64) -> Result<Drained, DrainError> {
        let at = self.start + Duration::from_secs(now.saturating_sub(NOW));
        let mut looks = self.looks.take();
        let drained = drain(&self.server, &self.store, |_row| true, &mut looks, (now, at)).await;
        self.looks.replace(looks);
        drained
    }

    pub(super) fn rows(&self, state: AddressState) -> usize {
        self.store.borrow().remote_rows(state).unwrap().len()
    }

    /// Removes holders that this machine's store does not know.
    pub(super) async fn sweep(&self) -> super::Swept {
        reverse_sweep(&self.server, &self.store, &self.identity).await.unwrap()
    }
}

impl Memory {
    pub(super) fn holder(&self) -> Option<String> {
        let server = self.0.borrow();
        let claim = server.claims.get(&claim_name("default", address()))?;
        claim.spec.holders.first().map(|holder| holder.nonce.clone())
    }
}

/// Each retry of a pod removes the earlier sandbox. Its address is not used up by a cooldown.
#[tokio::test]
async fn supersede_leaves_no_address_at_rest() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let rest = ReleaseRule::Cooldown(600);
    let nonce = a.intend(&WEB, &one_want(), &rest);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.store.borrow_mut().release_reserved(&WEB.key(), ("uid:web/net1", NOW + 60), NOW).unwrap();
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
    // A DEL begins the cooldown.
    let nonce = a.intend(&WEB_AGAIN, &one_want(), &rest);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB_AGAIN, &nonce, &one_want(), &rest).unwrap();
    a.del(&WEB_AGAIN);
    assert_eq!((a.drain(NOW).await, server.holder()), (1, Some(nonce)));
}

#[tokio::test]
async fn a_claim_that_waits_for_a_finalizer_is_not_taken_over() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    a.add(&WEB).await.unwrap();
    a.del(&WEB);
    let deletes = |deleting| {
        server.0.borrow_mut().claims.values_mut().for_each(|claim| claim.deleting = deleting);
    };
    deletes(true);
    assert!(a.add(&WEB_AGAIN).await.is_err());
    deletes(false);
    a.add(&WEB_AGAIN).await.unwrap();
}

#[tokio::test]
async fn a_claim_names_its_pool_and_lost_creates_are_counted() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let soon = || Instant::now() + Duration::from_millis(300);
    let pool =
        |address: &str| server.0.borrow().claims[&claim_name("default", address.parse().unwrap())].spec.pool.clone();
    let nonce = a.intend(&WEB, &one_want(), &ReleaseRule::Free);
    assert!(matches!(a.grant_from("storage", soon(), &nonce).await, (Ok(Granted::All), 0)));
    assert_eq!(pool("10.0.0.1"), "storage");
    // The second candidate is granted, and the first one counts as lost.
    let both = wants(&[&["10.0.0.1/24", "10.0.0.2/24"]]);
    let nonce = b.intend(&OTHER, &both, &ReleaseRule::Free);
    assert!(matches!(b.grant_from("", soon(), &nonce).await, (Ok(Granted::All), 1)));
    assert_eq!(pool("10.0.0.2"), "");
}

#[tokio::test]
async fn one_address_has_one_owner_and_costs_one_write() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let nonce = a.add(&WEB).await.unwrap();
    assert_eq!(server.0.borrow().writes, 1);
    let lost = b.intend(&OTHER, &one_want(), &ReleaseRule::Free);
    let granted = b.grant(&lost).await.unwrap();
    assert_eq!(granted, Granted::Lost { want: 0, taken: vec![(address(), "pod ns/web on node a".into())] });
    b.give_up(&lost);
    assert_eq!((b.rows(AddressState::Tombstone), server.holder()), (0, Some(nonce)));

    a.del(&WEB);
    assert_eq!((a.drain(NOW).await, server.holder(), a.rows(AddressState::Tombstone)), (0, None, 0));
    // One create, one lost create, one delete.
    assert_eq!(server.0.borrow().writes, 3);
    b.add(&OTHER).await.unwrap();
}

#[tokio::test]
async fn a_lost_race_goes_to_the_next_candidate() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    let wants = wants(&[&["10.0.0.1/24", "10.0.0.2/24"]]);
    let nonce = b.intend(&OTHER, &wants, &ReleaseRule::Free);
    assert_eq!(b.grant(&nonce).await.unwrap(), Granted::All);
    b.commit(&OTHER, &nonce, &wants, &ReleaseRule::Free).unwrap();
    let row = b.store.borrow().remote_row(&nonce).unwrap().unwrap();
    let held: Vec<_> = row.addresses.iter().map(|row| (row.address.to_string(), row.state)).collect();
    assert_eq!(held, [("10.0.0.2/24".to_owned(), AddressState::Entry)]);
}

#[tokio::test]
async fn dual_stack_is_all_or_nothing() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    a.add(&WEB).await.unwrap();
    let wants = wants(&[&["2001:db8::1/64"], &["10.0.0.1/24"]]);
    let nonce = b.intend(&OTHER, &wants, &ReleaseRule::Free);
    // IPv4 comes first: the other family was not requested.
    assert!(matches!(b.grant(&nonce).await.unwrap(), Granted::Lost { want: 1, .. }));
    b.give_up(&nonce);
    assert_eq!((b.rows(AddressState::Tombstone), server.0.borrow().claims.len()), (0, 1));

    // The other half is granted, this one is not: both are given back.
    let nonce = b.intend(&OTHER, &super::tests::wants(&[&["10.0.0.9/24"], &["10.0.0.1/24"]]), &ReleaseRule::Free);
    assert!(matches!(b.grant(&nonce).await.unwrap(), Granted::Lost { want: 1, .. }));
    b.give_up(&nonce);
    assert_eq!(b.drain(NOW).await, 0);
    assert_eq!(server.0.borrow().claims.len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_a_read() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    server.fail_next(&[Some(Fault::DropAnswer)]);
    let nonce = a.add(&WEB).await.unwrap();
    assert_eq!((server.holder(), server.0.borrow().creates), (Some(nonce), 1));
}

#[tokio::test]
async fn intent_first_and_reverse_sweep_find_a_late_create() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    // The create is delayed until long after the ADD has failed and its tombstone is drained.
    server.fail_next(&[
        Some(Fault::Hold),
        Some(Fault::DropRequest),
        Some(Fault::DropRequest),
        Some(Fault::DropRequest),
        Some(Fault::DropRequest),
        Some(Fault::DropRequest),
    ]);
    assert!(matches!(a.add(&WEB).await, Err(GrantError::Deadline(_))));
    server.fail_next(&[]);
    assert_eq!(a.drain(NOW).await, 1, "a tombstone whose request was not answered waits");
    assert_eq!((a.drain(LATER).await, a.rows(AddressState::Tombstone)), (0, 0));
    server.release();
    assert!(server.holder().is_some());
    assert_eq!(b.sweep().await.removed, 0, "another machine's holders are not judged");
    assert_eq!((a.sweep().await.removed, server.holder()), (1, None));
}

#[tokio::test]
async fn commit_cas_fails_an_add_whose_intent_was_given_up() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.intend(&WEB, &one_want(), &ReleaseRule::Free);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.store.borrow_mut().expire_intents(NOW + 1, NOW).unwrap();
    assert!(matches!(a.commit(&WEB, &nonce, &one_want(), &ReleaseRule::Free), Err(ClaimError::Withdrawn)));
    assert!(a.store.borrow().entry(&WEB.key()).unwrap().is_none(), "no journal entry, so no link");
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
}

#[tokio::test]
async fn send_row_stops_an_add_whose_intent_was_given_up() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let nonce = a.intend(&WEB, &one_want(), &ReleaseRule::Free);
    a.give_up(&nonce);
    assert!(matches!(a.grant(&nonce).await, Err(GrantError::Withdrawn)));
    assert_eq!(server.0.borrow().writes, 0);
}

#[tokio::test]
async fn a_cooldown_rests_in_the_cluster() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    let rest = ReleaseRule::Cooldown(300);
    let nonce = a.intend(&WEB, &one_want(), &rest);
    a.grant(&nonce).await.unwrap();
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.del(&WEB);
    assert_eq!((a.drain(NOW + 299).await, server.holder()), (1, Some(nonce)));
    assert_eq!((a.drain(NOW + 300).await, server.holder()), (0, None));
    // An ADD that failed has not used its address.
    let nonce = a.intend(&WEB, &one_want(), &rest);
    a.grant(&nonce).await.unwrap();
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.store.borrow_mut().abandon(&WEB.key(), &[], NOW).unwrap();
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
    // The same holds if it got no address of the other family, or was abandoned.
    let nonce = a.intend(&WEB, &one_want(), &rest);
    a.grant(&nonce).await.unwrap();
    a.give_up(&nonce);
    assert_eq!((a.drain(NOW).await, server.holder()), (0, None));
}

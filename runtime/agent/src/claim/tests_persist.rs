//! Tests claims of IPAMClaims with a ledger in memory (R38 to R41 of the multi-network standard).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_core::ledger::Want;
use weft_core::ledger::remote::{AddressState, Owner};
use weft_host_abi::types::ReleaseRule;

use super::backend::Backend;
use super::backend::memory::Memory;
use super::block::{BlockHolder, BlockSpec};
use super::object::{ClaimOwner, ClaimState, Sharing};
use super::tests::{LATER, Machine, NOW, OTHER, Pod, THIRD, WEB, WEB_AGAIN, address, one_want, wants};
use super::{
    Claimed, GrantError, Granted, LedgerState, Persistent, Rests, claim_name, collect_orphans, drop_intents, reassert,
    rewrite_claims,
};

const KEY: &str = "ns/vm";

impl Memory {
    fn make(&self, uid: &str) {
        let fresh = Persistent { uid: uid.to_owned(), version: "0".to_owned(), ..Persistent::default() };
        self.0.borrow_mut().persistent.insert(KEY.to_owned(), fresh);
    }

    fn ips(&self) -> Vec<String> {
        self.0.borrow().persistent[KEY].ips.clone()
    }

    /// Returns state and pods of the single address's claim.
    fn users(&self) -> Option<(ClaimState, Vec<String>)> {
        let server = self.0.borrow();
        let claim = server.claims.get(&claim_name("default", address()))?;
        Some((claim.spec.state, claim.spec.holders.iter().map(|holder| holder.pod.clone()).collect()))
    }
}

async fn collected(server: &Memory) -> Result<usize, super::DrainError> {
    collect_orphans(server, &mut Rests::default(), Instant::now()).await
}

fn owner(pod: &Pod) -> Owner {
    Owner::ipam_claim("ns", "vm", "uid-1", pod.uid)
}

async fn add(machine: &Machine, pod: &Pod, wants: &[Want]) -> Result<Granted, GrantError> {
    add_for(machine, pod, owner(pod), wants).await
}

async fn add_for(machine: &Machine, pod: &Pod, owner: Owner, wants: &[Want]) -> Result<Granted, GrantError> {
    let nonce = machine.intend_for(pod, &owner, wants, &ReleaseRule::Free);
    let granted = machine.grant(&nonce).await;
    match &granted {
        Ok(Granted::All) => machine.commit(pod, &nonce, wants, &ReleaseRule::Free).unwrap(),
        _ => machine.give_up(&nonce),
    }
    granted
}

#[tokio::test]
async fn r40_the_address_stays_until_the_ipam_claim_is_gone() {
    let server = Memory::default();
    server.make("uid-1");
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    assert_eq!(add(&a, &WEB, &one_want()).await.unwrap(), Granted::All);
    assert_eq!(server.ips(), ["10.0.0.1/24"]);
    a.del(&WEB);
    assert_eq!((a.drain(NOW).await, server.users()), (0, Some((ClaimState::Kept, Vec::new()))));
    // Nobody else gets it, but its next user does, on another machine.
    assert!(b.add(&OTHER).await.is_err());
    assert_eq!(collected(&server).await.unwrap(), 0);
    assert_eq!(add(&b, &OTHER, &one_want()).await.unwrap(), Granted::All);
    assert_eq!(server.users(), Some((ClaimState::Active, vec!["ns/other".to_owned()])));
    // `holders_empty`: the IPAMClaim is gone, but the claim is in use.
    server.0.borrow_mut().persistent.clear();
    assert_eq!(collected(&server).await.unwrap(), 0);
    b.del(&OTHER);
    b.drain(NOW).await;
    assert_eq!((collected(&server).await.unwrap(), server.users()), (1, None));
}

/// The controller's own clock decides, from its first view of the resting claim.
#[tokio::test]
async fn a_cooldown_begins_when_the_ipam_claim_is_gone() {
    let server = Memory::default();
    server.make("uid-1");
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let rest = ReleaseRule::Cooldown(300);
    let nonce = a.intend_for(&WEB, &owner(&WEB), &one_want(), &rest);
    assert_eq!(a.grant(&nonce).await.unwrap(), Granted::All);
    a.commit(&WEB, &nonce, &one_want(), &rest).unwrap();
    a.del(&WEB);
    // Its owner keeps it meanwhile, so that another user gets it at once.
    assert_eq!((a.drain(NOW).await, server.users()), (0, Some((ClaimState::Kept, Vec::new()))));
    server.0.borrow_mut().persistent.clear();
    let mut rests = Rests::default();
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    let round = async |rests: &mut Rests, seconds| collect_orphans(&server, rests, after(seconds)).await.unwrap();
    assert_eq!((round(&mut rests, 0).await, server.users()), (0, Some((ClaimState::Resting, Vec::new()))));
    assert_eq!(round(&mut rests, 100).await, 0);
    assert_eq!(round(&mut rests, 399).await, 0);
    assert!(b.add(&OTHER).await.is_err(), "it rests");
    // Another process starts over.
    assert_eq!(round(&mut Rests::default(), 400).await, 0);
    assert_eq!((round(&mut rests, 400).await, server.users()), (1, None));
    b.add(&OTHER).await.unwrap();
}

/// A thousand kept addresses of workloads that are scaled to zero.
#[tokio::test]
async fn kept_addresses_cost_no_read_each() {
    let server = Memory::default();
    for number in 0..1000_u32 {
        let ip = IpAddr::from((0x0a09_0000 + number).to_be_bytes());
        let (name, uid) = (format!("vm-{number}"), format!("uid-{number}"));
        let owner = ClaimOwner {
            owner: Owner { user: String::new(), ..Owner::ipam_claim("ns", &name, &uid, "") },
            network: "storage".into(),
            interface: String::new(),
            slot: 0,
        };
        let spec =
            serde_json::json!({"domain": "default", "address": ip, "owner": owner, "prefix": 16, "state": "Kept"});
        server.create(&serde_json::from_value(spec).unwrap(), None).await.unwrap();
        let ips = vec![format!("{ip}/16")];
        let keeper = Persistent { uid, version: "0".to_owned(), ips, ..Persistent::default() };
        server.0.borrow_mut().persistent.insert(format!("ns/{name}"), keeper);
    }
    let reads = || std::mem::take(&mut server.0.borrow_mut().owner_reads);
    assert_eq!((collected(&server).await.unwrap(), reads()), (0, 0));
    // One is gone, one was made again, and one has another address by now: each is looked at by itself.
    {
        let persistent = &mut server.0.borrow_mut().persistent;
        persistent.remove("ns/vm-1");
        persistent.get_mut("ns/vm-2").unwrap().uid = "another".to_owned();
        persistent.get_mut("ns/vm-3").unwrap().ips = vec!["10.9.255.1/16".to_owned()];
    }
    assert_eq!(collected(&server).await.unwrap(), 3);
    assert!((3..=6).contains(&reads()));
    assert_eq!((collected(&server).await.unwrap(), reads(), server.0.borrow().claims.len()), (0, 0, 997));
}

#[tokio::test]
async fn an_ipam_claim_that_weft_made_has_one_machine_at_a_time() {
    let server = Memory::default();
    server.make("uid-1");
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    let exclusive = |pod| Owner { exclusive: true, ..owner(pod) };
    assert_eq!(add_for(&a, &WEB, exclusive(&WEB), &one_want()).await.unwrap(), Granted::All);
    let wanted = one_want();
    let rival = || add_for(&b, &OTHER, exclusive(&OTHER), &wanted);
    assert!(matches!(rival().await.unwrap(), Granted::Lost { .. }));
    // Not after a restore either: the claim is written again for the machine with the link.
    b.drain(LATER).await;
    reassert(&server, &a.store, (&a.identity, 0), |_row| true).await.unwrap();
    assert_eq!(server.users(), Some((ClaimState::Active, vec!["ns/web".to_owned()])));
    a.del(&WEB);
    assert_eq!((a.drain(NOW).await, server.users()), (0, Some((ClaimState::Kept, Vec::new()))));
    assert_eq!(rival().await.unwrap(), Granted::All);
    let lost = reassert(&server, &b.store, (&b.identity, 0), |_row| true).await.unwrap();
    assert_eq!((lost.conflicts.len(), server.users().unwrap().1), (0, vec!["ns/other".to_owned()]));
}

#[tokio::test]
async fn several_holders_at_once_and_each_leaves_alone() {
    let server = Memory::default();
    server.make("uid-1");
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    add(&a, &WEB, &one_want()).await.unwrap();
    add(&b, &OTHER, &one_want()).await.unwrap();
    assert_eq!(server.users().unwrap().1, ["ns/web", "ns/other"]);
    a.del(&WEB);
    a.drain(NOW).await;
    assert_eq!(server.users().unwrap(), (ClaimState::Active, vec!["ns/other".to_owned()]));
    // A retried pod replaces its own older sandbox.
    add(&a, &WEB, &one_want()).await.unwrap();
    add(&a, &WEB_AGAIN, &one_want()).await.unwrap();
    assert_eq!(server.users().unwrap().1, ["ns/other", "ns/web"]);
    // The older sandbox's tombstone does not affect it.
    a.del(&WEB);
    assert_eq!(a.drain(LATER).await, 0);
    assert_eq!(server.users().unwrap().1, ["ns/other", "ns/web"]);
}

#[tokio::test]
async fn status_cas_lets_one_of_two_first_users_win() {
    let server = Memory::default();
    server.make("uid-1");
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    add(&a, &WEB, &one_want()).await.unwrap();
    let other = wants(&[&["10.0.0.2/24"]]);
    assert!(matches!(add(&b, &OTHER, &other).await, Err(GrantError::OtherAddresses(name)) if name == KEY));
    b.drain(LATER).await;
    // Nobody keeps what it got: the claim has no holder, and the status of its living IPAMClaim has another address.
    assert_eq!(collected(&server).await.unwrap(), 1);
    assert_eq!((server.ips(), server.0.borrow().claims.len()), (vec!["10.0.0.1/24".to_owned()], 1));
}

#[tokio::test]
async fn an_ipam_claim_deleted_before_its_status_is_written_gives_nothing_out() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    assert!(matches!(add(&a, &WEB, &one_want()).await, Err(GrantError::NoIpamClaim(_))));
    // It is deleted and created again under the same name.
    server.make("uid-2");
    assert!(matches!(add(&a, &OTHER, &one_want()).await, Err(GrantError::NoIpamClaim(_))));
    a.drain(LATER).await;
    assert_eq!(collected(&server).await.unwrap(), 1);
    assert!(server.users().is_none() && server.ips().is_empty());
}

#[tokio::test]
async fn another_ipam_claim_of_the_same_name_does_not_get_the_address() {
    let server = Memory::default();
    server.make("uid-1");
    let a = Machine::new("a", "m-a", &server);
    add(&a, &WEB, &one_want()).await.unwrap();
    server.make("uid-2");
    let owner = Owner::ipam_claim("ns", "vm", "uid-2", THIRD.uid);
    let nonce = a.intend_for(&THIRD, &owner, &one_want(), &ReleaseRule::Free);
    assert!(matches!(a.grant(&nonce).await, Ok(Granted::Lost { .. })));
    assert_eq!(server.users().unwrap().1, ["ns/web"]);
}

#[tokio::test]
async fn status_again_after_a_restore() {
    let server = Memory::default();
    server.make("uid-1");
    let a = Machine::new("a", "m-a", &server);
    add(&a, &WEB, &one_want()).await.unwrap();
    server.0.borrow_mut().claims.clear();
    server.make("uid-1");
    let frozen = LedgerState { epoch: 1, frozen: true };
    server.set_state(LedgerState::default(), frozen).await.unwrap();
    drop_intents(&a.store, NOW).unwrap();
    let done = reassert(&server, &a.store, (&a.identity, 1), |_row| true).await.unwrap();
    assert_eq!((done.written, done.conflicts.len()), (1, 0));
    assert_eq!((server.ips(), a.rows(AddressState::Entry)), (vec!["10.0.0.1/24".to_owned()], 1));
}

/// Makes an IPAMClaim with an address that no pod uses.
async fn make_unused_claim(server: &Memory, machine: &Machine) {
    server.make("uid-1");
    add(machine, &WEB, &one_want()).await.unwrap();
    machine.del(&WEB);
    assert_eq!((machine.drain(NOW).await, server.users()), (0, Some((ClaimState::Kept, Vec::new()))));
}

#[tokio::test]
async fn r41_an_address_that_is_kept_is_claimed_again() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    make_unused_claim(&server, &a).await;
    assert_eq!(rewrite_claims(&server, 0).await.unwrap().written, 0);
    let before = server.0.borrow_mut().claims.pop_first().unwrap().1;
    // Behind a freeze too.
    let frozen = LedgerState { epoch: 1, frozen: true };
    server.set_state(LedgerState::default(), frozen).await.unwrap();
    let done = rewrite_claims(&server, 1).await.unwrap();
    assert_eq!((done.written, done.lost.len()), (1, 0));
    assert_eq!(server.0.borrow().claims.values().next().unwrap().spec, before.spec);
    server.set_state(frozen, LedgerState { frozen: false, ..frozen }).await.unwrap();
    assert!(b.add(&OTHER).await.is_err(), "{:?}", server.users());
    assert_eq!(add(&b, &THIRD, &one_want()).await.unwrap(), Granted::All);
    assert_eq!(
        (server.users().unwrap().1, server.ips()),
        (vec!["ns/third".to_owned()], vec!["10.0.0.1/24".to_owned()])
    );
}

#[tokio::test]
async fn r41_what_somebody_else_has_by_now_is_reported_once_and_left_alone() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    make_unused_claim(&server, &a).await;
    server.0.borrow_mut().claims.clear();
    let nonce = b.add(&OTHER).await.unwrap();
    let done = rewrite_claims(&server, 0).await.unwrap();
    assert_eq!((done.written, done.lost.len(), server.holder()), (0, 1, Some(nonce)));
    let faulty = server.0.borrow().persistent[KEY].clone();
    assert!(faulty.has_fault && faulty.claimed.is_some() && faulty.ips == ["10.0.0.1/24"], "{faulty:?}");
    rewrite_claims(&server, 0).await.unwrap();
    assert_eq!(server.0.borrow().persistent[KEY], faulty);
    // It is free again: the owner's next user has it, and the fault is over.
    b.del(&OTHER);
    b.drain(NOW).await;
    add(&a, &WEB, &one_want()).await.unwrap();
    assert!(!server.0.borrow().persistent[KEY].has_fault);
}

#[tokio::test]
async fn r41_one_that_is_gone_or_of_another_program_is_not_claimed() {
    let server = Memory::default();
    let a = Machine::new("a", "m-a", &server);
    make_unused_claim(&server, &a).await;
    let listed = server.remembered().await.unwrap().unwrap();
    assert_eq!(listed.len(), 1);
    // Another program's status names no claims of weft.
    server.0.borrow_mut().claims.clear();
    server.0.borrow_mut().persistent.get_mut(KEY).unwrap().claimed = None;
    assert_eq!(rewrite_claims(&server, 0).await.unwrap().written, 0);
    server.0.borrow_mut().persistent.clear();
    assert_eq!((rewrite_claims(&server, 0).await.unwrap().written, server.users()), (0, None));
}

/// The backup contains the IPAMClaim, and its address is on the link of a pod that started later.
#[tokio::test]
async fn r41_holderless_yields_to_a_link() {
    let server = Memory::default();
    let (a, b) = (Machine::new("a", "m-a", &server), Machine::new("b", "m-b", &server));
    make_unused_claim(&server, &a).await;
    let remembered = server.0.borrow().persistent.clone();
    server.0.borrow_mut().persistent.clear();
    assert_eq!(collected(&server).await.unwrap(), 1);
    let nonce = b.add(&OTHER).await.unwrap();
    server.0.borrow_mut().claims.clear();
    server.0.borrow_mut().persistent = remembered;
    assert_eq!(rewrite_claims(&server, 1).await.unwrap().written, 1);
    let done = reassert(&server, &b.store, (&b.identity, 1), |_row| true).await.unwrap();
    assert_eq!((done.written, done.conflicts.len(), server.holder()), (1, 0, Some(nonce)));
}

/// In block mode a kept address lies in a shared cell, and domain and cell may be lost too.
#[tokio::test]
async fn r41_makes_the_shared_cell_again() {
    let server = Memory::default();
    server.make("uid-1");
    let claimed = Claimed {
        domain: "default".to_owned(),
        cell_size: 8,
        network: "storage".to_owned(),
        sharing: Sharing::Shared,
        rest_seconds: 0,
    };
    let status = Persistent { ips: vec!["10.0.0.1/24".to_owned()], claimed: Some(claimed), ..Persistent::default() };
    server.0.borrow_mut().persistent.insert(KEY.to_owned(), Persistent { uid: "uid-1".to_owned(), ..status });
    assert_eq!(rewrite_claims(&server, 0).await.unwrap().written, 1);
    let cell = server.0.borrow().blocks.values().next().unwrap().spec.clone();
    assert!(cell.shared && cell.first == "10.0.0.0".parse::<std::net::IpAddr>().unwrap(), "{cell:?}");
    assert_eq!((server.0.borrow().domains["default"].cell_size, server.users()), (8, Some((ClaimState::Kept, vec![]))));
    // A machine has taken the cell meanwhile.
    server.0.borrow_mut().claims.clear();
    let of_machine = BlockSpec { shared: false, holder: Some(BlockHolder::default()), ..cell };
    server.0.borrow_mut().blocks.values_mut().for_each(|block| block.spec = of_machine.clone());
    let done = rewrite_claims(&server, 0).await.unwrap();
    assert_eq!((done.written, done.lost.len(), server.users()), (0, 1, None), "{:?}", done.lost);
}

//! Addresses that somebody on the wire uses: marked in the transaction that takes back their claim.

use weft_host_abi::types::ClaimState;

use super::*;
use crate::ledger::remote::{AddressState, Answer, IntentAsk, Owner, scope};
use crate::ledger::{CONFLICT_SECONDS, ClaimFilter};

const BY: &str = "02:00:00:00:00:09";
const NOW: u64 = 1000;

fn in_use(address: &str) -> Vec<(IpAddr, String)> {
    vec![(ip(address), BY.to_owned())]
}

#[test]
fn a_marked_address_is_nobodys_until_its_time_is_over() {
    let pool = range("10.0.0.2", "10.0.0.4");
    for rule in [ReleaseRule::Free, ReleaseRule::Cooldown(60), ReleaseRule::Keep("pod:ns/web".to_owned())] {
        let mut disk = OnDisk::new();
        let wants = [want(&[ip("10.0.0.2")], &pool), want(&[ip("10.0.0.3")], &pool)];
        disk.store.claim(&ask(&key("a"), &wants, &rule), |_| Ok::<_, ()>(Record::default())).unwrap();
        disk.store.abandon(&key("a"), &in_use("10.0.0.2"), NOW).unwrap();
        assert!(disk.store.entries(None).unwrap().is_empty());
        let rows = disk.store.claims(&ClaimFilter { address: Some(ip("10.0.0.2")), ..ClaimFilter::default() }).unwrap();
        let end = NOW + CONFLICT_SECONDS;
        assert_eq!((rows[0].state, rows[0].owner.as_str(), rows[0].until), (ClaimState::Conflict, BY, Some(end)));
        assert_eq!(rows[0].network, key("a").attachment.network);
        // The other address is released by its rule, which is no cooldown.
        let kept = usize::from(matches!(rule, ReleaseRule::Keep(_)));
        assert_eq!(disk.store.claims(&ClaimFilter::default()).unwrap().len(), 1 + kept);
        let view = disk.store.view("s", NOW).unwrap();
        assert_eq!(view.claimed_by(ip("10.0.0.2")).unwrap().map(|claim| claim.state), Some(ClaimState::Conflict));
        assert_ne!(view.next_free(&pool, ip("10.0.0.2")).unwrap(), Some(ip("10.0.0.2")));
        drop(view);
        let taken =
            disk.store.claim(&ask(&key("b"), &wants[..1], &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default()));
        assert!(matches!(taken, Err(ClaimError::Lost { want: 0 })), "{taken:?}");
        assert_sound(disk.dir.path());
        assert_eq!(disk.store.purge_expired(end - 1).unwrap(), 0);
        assert_eq!(disk.store.purge_expired(end).unwrap(), 1);
        disk.store.claim(&ask(&key("b"), &wants[..1], &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default())).unwrap();
        assert_sound(disk.dir.path());
    }
}

#[test]
fn an_operator_frees_a_marked_address() {
    let mut disk = OnDisk::new();
    assert_eq!(claim_next(&mut disk, &key("a"), &range("10.0.0.2", "10.0.0.4")), Some(ip("10.0.0.2")));
    disk.store.abandon(&key("a"), &in_use("10.0.0.2"), NOW).unwrap();
    disk.store.release_address("s", ip("10.0.0.2"), (false, NOW)).unwrap();
    assert!(disk.store.claims(&ClaimFilter::default()).unwrap().is_empty());
    assert_sound(disk.dir.path());
}

/// An address of a cluster ledger is marked there; here its tombstone records that.
#[test]
fn the_mark_of_a_cluster_ledger_waits_in_its_tombstone() {
    let mut disk = OnDisk::new();
    let pool = range("10.0.0.2", "10.0.0.4");
    let wants = [want(&[ip("10.0.0.2")], &pool), want(&[ip("10.0.0.3")], &pool)];
    let (key, owner, scope) = (key("a"), Owner::default(), scope("default"));
    let release = ReleaseRule::Cooldown(60);
    let intent = IntentAsk {
        key: &key,
        ledger: "{}",
        domain: "default",
        owner: &owner,
        wants: &wants,
        release: &release,
        now: NOW,
    };
    let nonce = disk.store.intend::<()>(&intent).unwrap();
    for address in ["10.0.0.2", "10.0.0.3"] {
        disk.store.note_answer(&nonce, ip(address), Answer::Granted, None).unwrap();
    }
    let claim = ClaimAsk { scope: &scope, ..ask(&key, &wants, &release) };
    disk.store.commit_intent(&claim, &nonce, |_| Ok::<_, ()>(Record::default())).unwrap();
    disk.store.abandon(&key, &in_use("10.0.0.3"), NOW).unwrap();
    assert!(disk.store.claims(&ClaimFilter::default()).unwrap().is_empty(), "no key is the node's own");
    let rows = disk.store.remote_rows(AddressState::Tombstone).unwrap();
    let said: Vec<_> = rows[0].addresses.iter().map(|row| (row.answer, row.in_use_by.as_deref())).collect();
    assert_eq!(said, [(Answer::Granted, None), (Answer::InUse, Some(BY))]);
    assert_eq!(rows[0].release, ReleaseRule::Free);
    assert_sound(disk.dir.path());
}
